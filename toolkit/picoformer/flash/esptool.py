"""Espressif's chips by esptool, which is called as a program and never imported: its licence is the GPL."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from picoformer.errors import ConfigError, DeviceError, ModelError, ToolError
from picoformer.flash.esp_project import EspImage, refuse_beyond, refuse_other_chip
from picoformer.flash.interface import Flasher, Job, Outcome, Phase
from picoformer.flash.program import find, lacking, last_words, run

BAUD = 460800
NAMES = ("esptool", "esptool.py")
MEND = "pip install 'picoformer[flash]', or use the shell of ESP-IDF"
_SECONDS = 600.0


class Esptool(Flasher):
    """Writes files at offsets; esptool compares each with the chip's MD5 of it."""

    kind = "esptool"
    hears = frozenset({"baud"})

    def plan(self, job: Job) -> tuple[str, ...]:
        """See Flasher."""
        self._check(job)
        image = _as_esp(job)
        lines = [f"call esptool for chip {image.chip} on {job.port or 'a serial port'} at {job.baud or BAUD} baud"]
        for segment, name in zip(image.segments, image.files, strict=True):
            lines.append(f"write {len(segment.data):,} bytes at {segment.address:#x}, {name}, and compare its MD5")
        lines.append(f"then: {image.after.replace('_', ' ')}")
        return (*lines, *lacking(program))

    def flash(self, job: Job) -> Outcome:
        """See Flasher."""
        self._check(job)
        image = _as_esp(job)
        command = program()
        dashes = _speaks_dashes(command)
        watch = _Watch(job, image.size)
        with tempfile.TemporaryDirectory(prefix="picoformer-") as place:
            files = []
            for number, segment in enumerate(image.segments):
                path = Path(place) / f"{number}.bin"  # the very bytes that were checked
                path.write_bytes(segment.data)
                files += [f"{segment.address:#x}", str(path)]
            words = ["--before", image.before, "--after", image.after]
            words += [] if image.uses_stub else ["--no-stub"]
            write = ["write_flash", "--flash_mode", "keep", "--flash_freq", "keep", "--flash_size", "keep"]
            command += ["--chip", image.chip, "--port", job.port, "--baud", str(job.baud or BAUD)]
            for word in (*words, *write):
                command.append(word.replace("_", "-") if dashes else word)
            job.progress(Phase.CONNECT, 0, 1)
            code, said = run([*command, *files], "esptool", _SECONDS, watch)
        if code:
            raise DeviceError(_explain(last_words(said, "esptool"), job))
        if said.count("Hash of data verified") != len(image.segments):
            raise DeviceError("esptool ended without having compared what it wrote; flash it again")
        job.progress(Phase.VERIFY, image.size, image.size)
        started = image.after != "no_reset"
        chip = re.search(r"^(?:Chip type:|Chip is)\s*(.+)$", said, re.MULTILINE)
        return Outcome(
            image.size, "MD5 of every file, computed by the chip", started, found=chip[1].strip() if chip else ""
        )

    def _check(self, job: Job) -> None:
        choice, image = job.target.flasher, job.image
        if choice is None or not choice.chip or not choice.chip_ids:
            raise ConfigError(f"{job.target.name} is no chip of Espressif's; give --target")
        if image.elf is not None:
            raise ModelError(
                f"{image.source}: an ELF is not what lies in the flash of this chip; give the project's folder, or a "
                ".bin with --address"
            )
        if isinstance(image, EspImage) and image.chip != choice.chip:
            raise ModelError(
                f"{image.source}: the project is for {image.chip} and {job.target.name} is {choice.chip}; nothing was "
                "written"
            )
        refuse_beyond(image, job.target.region("code").length, job.target.name)
        refuse_other_chip(image, choice.chip_ids[0], job.target.name)


def program() -> list[str]:
    """The command of esptool; ToolError where there is none."""
    return find(NAMES, "esptool", MEND)


class _Watch:
    """Reads esptool's lines for how far it is."""

    def __init__(self, job: Job, size: int) -> None:
        self._job, self._size = job, size

    def __call__(self, line: str) -> None:
        job, size = self._job, self._size
        if re.match(r"(Configuring flash size|Erasing|Flash will be erased)", line):
            job.progress(Phase.ERASE, 0, 1)
        elif found := re.search(r"\bat (0x[0-9a-f]{1,8})\b.*?(\d{1,3})(?:\.\d+)? ?%", line, re.I):
            before = sum(len(part.data) for part in job.image.segments if part.end <= int(found[1], 16))
            part = next((p for p in job.image.segments if p.address <= int(found[1], 16) < p.end), None)
            here = int(found[1], 16) - part.address if part else 0
            job.progress(Phase.WRITE, min(before + here, size), size)
        elif line.startswith("Verifying") or "Hash of data verified" in line:
            job.progress(Phase.VERIFY, 0, size)
        elif re.match(r"(Hard|Soft) resetting", line):
            job.progress(Phase.START, 1, 1)


def _as_esp(job: Job) -> EspImage:
    if isinstance(job.image, EspImage):
        return job.image
    chip = job.target.flasher.chip if job.target.flasher else ""
    names = tuple(job.image.source.name for _ in job.image.segments)
    return EspImage(job.image.source, job.image.segments, chip=chip, files=names)


def _speaks_dashes(program: list[str]) -> bool:
    """Whether it is version 5 or later, whose commands have dashes in place of underscores."""
    code, said = run([*program, "version"], "esptool", 60.0)
    found = re.search(r"\bv?(\d+)\.\d+", said)
    if code or found is None:
        raise ToolError(f"esptool does not say its version ({last_words(said, 'esptool')}); {MEND}")
    return int(found[1]) >= 5


def _explain(said: str, job: Job) -> str:
    """esptool's error with what helps."""
    said = re.sub(r"^(?:ERROR: )?(?:A fatal error occurred: )?", "", said).rstrip(".")
    silent = re.search(r"no serial data|failed to connect|timed out|wrong boot mode|invalid head", said, re.IGNORECASE)
    return f"esptool on {job.port}: {said}" + (f"; no bootloader answers: {job.enter}" if silent else "")
