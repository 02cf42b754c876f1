"""Flashing: from a build folder, a vendor's image or an ESP-IDF project to a board that runs it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from picoformer.build_folder import load_manifest, read_target
from picoformer.errors import ConfigError, DeviceError, ModelError, PicoformerError, ToolError
from picoformer.files import file_hash
from picoformer.flash.devices import Port, choose_port, serial_ports
from picoformer.flash.esp_project import EspImage, project_arguments, read_project
from picoformer.flash.image import read_image
from picoformer.flash.interface import Flasher, Image, Job, Outcome, Phase
from picoformer.flash.registry import RESIDENT, flasher
from picoformer.flash.serial_line import parse_wiring
from picoformer.flash.uf2 import family_name
from picoformer.targets import Target, list_targets, load_target

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    """What a person asked for; empty where they left it to us."""

    out: Path
    port: str = ""
    target: str = ""
    method: str = ""
    address: int | None = None
    baud: int = 0
    wiring: str = ""
    whole: bool = False


@dataclass(frozen=True)
class Flashing:
    """What was done, or would be (`outcome` is None then); `next` is the command to try after it."""

    job: Job
    method: str
    steps: tuple[str, ...]
    outcome: Outcome | None
    next: str

    def to_json(self) -> dict[str, Any]:
        """The object of `flash --json`."""
        image, outcome = self.job.image, self.outcome
        return {
            "image": str(image.source),
            "target": self.job.target.name,
            "method": self.method,
            "port": self.job.port or None,
            "bytes": image.size,
            "segments": [{"address": segment.address, "bytes": len(segment.data)} for segment in image.segments],
            "sha256": file_hash(image.source),
            "dry_run": outcome is None,
            "steps": list(self.steps),
            "found": outcome.found or None if outcome else None,
            "erased_bytes": outcome.erased if outcome else None,
            "written_bytes": outcome.written if outcome else None,
            "verified": outcome.verified or None if outcome else None,
            "started": outcome.started if outcome else None,
            "notes": list(outcome.notes) if outcome else [],
            "next": self.next or None,
        }


class Interrupted(PicoformerError):
    """Somebody stopped it; the message says what the board holds now."""


class Watch:
    """What has been done to the board so far, by what the flasher says it is at."""

    def __init__(self, tick: Progress) -> None:
        self._tick = tick
        self.phase = Phase.CONNECT
        self.is_touched = False

    def __call__(self, phase: Phase, done: int, total: int) -> None:
        """Takes a flasher's progress."""
        self.phase = phase
        self.is_touched = self.is_touched or phase in (Phase.ERASE, Phase.WRITE)
        if phase is Phase.VERIFY and done >= total:
            self.is_touched = False
        self._tick(phase.value, done, total)

    @property
    def left_behind(self) -> str:
        """What a board is left with when it ends here."""
        if not self.is_touched:
            return "nothing on the board was changed" if self.phase is Phase.CONNECT else "the board holds the image"
        return "the board holds part of an image and will not start it; run the same command again, nothing is lost"


def flash_files(
    request: Request, dry_run: bool = False, tick: Progress | None = None, notice: Callable[[str], None] | None = None
) -> Flashing:
    """Do what `request` says, or only say what would be done.

    Raises what flashers raise (flash/interface.py), with what the board was left with; Interrupted on Ctrl-C.
    """
    image, target, folder = open_output(request)
    method = choose_method(target, request.method)
    way = flasher(method)
    _refuse_unheard(request, method, way)
    watch = Watch(tick or (lambda what, done, total: None))
    job = Job(
        image, target, request.port, request.baud, request.wiring, folder, watch, notice or (lambda line: None),
        request.whole,
    )  # fmt: skip
    steps = way.plan(job)
    ports: Sequence[Port] = []
    if way.reach == "serial" and not request.port:
        ports = serial_ports()
        try:
            job = replace(job, port=choose_port(target, ports, method))
        except DeviceError:
            if not dry_run:
                raise
        else:
            steps = way.plan(job)
    if way.reach == "serial" and job.port.startswith("/") and not dry_run and not Path(job.port).exists():
        raise DeviceError(f"{job.port}: there is no such port; `picoformer devices` lists what is connected")
    if dry_run:
        return Flashing(job, method, steps, None, "")
    try:
        outcome = way.flash(job)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped while {watch.phase.value}: {watch.left_behind}") from None
    except ToolError as error:
        others = [other for other in (target.flasher.others if target.flasher else []) if other != method]
        hint = f"; or another way: --method {' or '.join(others)}" if others and "not installed" in str(error) else ""
        raise type(error)(f"{_with_state(error, watch)}{hint}") from None
    except DeviceError as error:
        raise DeviceError(_with_state(error, watch)) from None
    return Flashing(job, method, steps, outcome, _next(job, ports or serial_ports()))


def _refuse_unheard(request: Request, method: str, way: Flasher) -> None:
    """Raise ConfigError for an option that says nothing to this way in, or nothing that it understands."""
    for option, is_given in (("baud", request.baud), ("wiring", request.wiring), ("all", request.whole)):
        if is_given and option not in way.hears:
            raise ConfigError(f"--{option} says nothing to {method}, by which this board is flashed; leave it away")
    parse_wiring(request.wiring)
    if way.reach == "probe" and ("/" in request.port or "\\" in request.port):
        raise ConfigError(f"--port {request.port}: {method} takes the id of a debug probe, no port or folder")


def open_output(request: Request) -> tuple[Image, Target, Path | None]:
    """(image, target, the build folder where it is one) of whatever `request.out` is."""
    out = request.out
    if not out.exists():
        raise ModelError(f"{out}: is not there; give the folder of a build, or a vendor's .elf, .bin, .hex or .uf2")
    if out.is_dir() and (out / "build.json").is_file():
        return _of_build(request, out)
    if out.is_dir():
        arguments = project_arguments(out)
        if arguments is None and (out / "bootloader.hex").is_file():
            raise ModelError(f"{out}: is a bootloader's folder; give {out / 'bootloader.hex'} and --target")
        if arguments is None:
            looked = " or ".join(("build.json", "flasher_args.json", "build/flasher_args.json"))
            raise ModelError(f"{out}: is no build of picoformer and no built ESP-IDF project; it has no {looked}")
        if request.address is not None:
            raise ConfigError("--address: the project says itself where its files lie; leave it away")
        project = read_project(arguments)
        return project, load_target(request.target) if request.target else _of_chip(project), None
    image = read_image(out, request.address)
    if request.target:
        return image, load_target(request.target), None
    beside = out.absolute().parent.parent
    if out.name == "firmware.elf" and (beside / "build.json").is_file():
        return _of_build(replace(request, out=beside), beside)
    return image, _of_family(image), None


def choose_method(target: Target, method: str) -> str:
    """The way in: the one asked for, if the board has it, or the board's first; into a bootloader's slot, by that."""
    if target.in_slot:
        if method not in ("", RESIDENT):
            raise ConfigError(f"--method {method}: the build is for the bootloader of {target.name}, which takes it")
        return RESIDENT
    choice = target.flasher
    if choice is None:
        sdk = f"the tools of {target.library_sdk}" if target.library_sdk else "a TOML of its own with a [flasher]"
        what = "is this machine" if target.is_host else f"cannot be flashed from here; use {sdk}"
        raise ConfigError(f"{target.name} {what}")
    ways = [choice.kind, *choice.others]
    if method and method not in ways:
        raise ConfigError(f"--method {method}: {target.name} is flashed by {' or '.join(ways)}")
    return method or choice.kind


def _of_build(request: Request, folder: Path) -> tuple[Image, Target, Path]:
    if request.address is not None:
        raise ConfigError("--address: a build says itself where it lies; leave it away")
    manifest = load_manifest(folder)
    target = read_target(folder)
    if target.flasher is None and target.name in list_targets():  # built before the target said how it is flashed
        target = target.model_copy(update={"flasher": load_target(target.name).flasher})
    if request.target and load_target(request.target).name != target.name:
        raise ConfigError(
            f"--target {request.target}: {folder} was built for {target.name}; build it for {request.target} first"
        )
    if target.is_library:
        place = folder / target.name / manifest.prefix
        raise ModelError(
            f"{folder}: is a library for a project of {target.library_sdk}, no firmware; put {place} into one, build "
            f"it there, and give what that made: picoformer flash THAT --target {target.name}"
        )
    elf = folder / target.name / "firmware.elf"
    if target.is_host or not elf.is_file():
        what = "was built for this machine" if target.is_host else f"has no {target.name}/firmware.elf"
        raise ModelError(f"{folder}: {what}; build it with --target and a board")
    return read_image(elf), target, folder


def _of_chip(project: EspImage) -> Target:
    """The target with the chip that a project names."""
    boards = [load_target(name) for name in list_targets()]
    chips = {board.flasher.chip: board for board in boards if board.flasher and board.flasher.chip}
    if project.chip not in chips:
        raise ConfigError(
            f"{project.source}: is for {project.chip}, which no target has; known: {', '.join(sorted(chips))}, or give "
            "--target with a TOML of your own"
        )
    return chips[project.chip]


def _of_family(image: Image) -> Target:
    """The target that a UF2 file is for; every other file needs to be told."""
    boards = [load_target(name) for name in list_targets()]
    flashed = [board for board in boards if board.flasher is not None]
    if image.family is None:
        names = ", ".join(board.name for board in flashed)
        raise ConfigError(f"{image.source}: does not say which board it is for; give --target, one of {names}")
    for board in flashed:
        if board.flasher and board.flasher.kind == "uf2" and image.family in board.flasher.chip_ids:
            return board
    raise ConfigError(f"{image.source}: is for {family_name(image.family)}, which no target has; give --target")


def _with_state(error: PicoformerError, watch: Watch) -> str:
    return f"{error}; {watch.left_behind}" if watch.is_touched else str(error)


def _next(job: Job, ports: Sequence[Port]) -> str:
    """The command that shows that the board computes what the model computes; empty where there is no build."""
    if job.folder is None:
        return ""
    own = [port.device for port in ports if job.target.name in port.targets]
    port = own[0] if len(own) == 1 else "PORT"
    return f"picoformer verify {shlex.quote(str(job.folder))} --inputs SAMPLES.npz --port {port}"
