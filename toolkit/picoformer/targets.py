"""Targets: what a board is (core, memory map, toolchain, emulator), one flat and validated TOML file each."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from picoformer.errors import ConfigError
from picoformer.toml_file import key_line, read_toml

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
Address = Annotated[int, Field(ge=0, lt=1 << 32)]

LIBRARY = "library"
"""The `port` of boards that the vendor's SDK starts."""

_BESIDE_WEIGHTS = 64 << 10
"""Room for code that is kept free beside a model's constants where they could lie elsewhere."""
_LARGEST_GUARD = 1 << 20


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class MemoryRegion(_Table):
    """A piece of the address space. The first region that holds data takes the stack, .data and .bss."""

    name: Identifier
    origin: Address
    length: Annotated[int, Field(gt=0, le=1 << 32)]
    holds: Literal["code", "data"]

    @property
    def end(self) -> int:
        """One past the last address."""
        return self.origin + self.length


class Toolchain(_Table):
    """How C is compiled: program `prefix + compiler` with `flags`."""

    prefix: str
    compiler: Literal["gcc", "clang"]
    optimize: Annotated[str, Field(pattern=r"^-O[0123sgz]$")] = "-O2"
    flags: list[str] = []
    link_flags: list[str] = []

    @property
    def program(self) -> str:
        """The compiler's name as a command."""
        return self.prefix + self.compiler


class RegisterBits(_Table):
    """Bits to set in the register at `address`, as those that give a peripheral its clock."""

    address: Annotated[int, Field(gt=0, lt=1 << 32)]
    bits: Annotated[int, Field(gt=0, lt=1 << 32)]


class Uart(_Table):
    """The serial port; `kind` names the port directory's file uart_<kind>.c.

    `clock_hz`: what feeds it, 0 for the core's clock. Pins as the kind counts them; `gpio` (the base of their port),
    `alternate` (their function's number) and `enable` (set in order before anything else) are for kinds that ask.
    """

    kind: Identifier
    base: Address
    baud: Annotated[int, Field(gt=0)] = 115200
    rx_irq: Annotated[int, Field(ge=0, lt=496)] = 0
    clock_hz: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    tx_pin: Annotated[int, Field(ge=0, lt=256)] = 0
    rx_pin: Annotated[int, Field(ge=0, lt=256)] = 0
    gpio: Address = 0
    alternate: Annotated[int, Field(ge=0, lt=16)] = 0
    enable: list[RegisterBits] = []


class Watchdog(_Table):
    """The longest one step may take, in seconds; `kind` names the port directory's file watchdog_<kind>.c.

    `irq`: where its expiry is an interrupt and no NMI. `clock_hz`: what it counts, 0 for the core's clock.
    """

    kind: Identifier
    seconds: Annotated[int, Field(gt=0, le=3600)]
    base: Address = 0
    irq: Annotated[int, Field(ge=0, lt=32)] = 0
    clock_hz: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    enable: list[RegisterBits] = []


class EmulatorChoice(_Table):
    """What runs the firmware without a board; `serial` is the number of the machine's serial port that is the wire."""

    kind: Literal["qemu", "host"]
    program: str = ""
    machine: str = ""
    args: list[str] = []
    serial: Annotated[int, Field(ge=0, lt=8)] = 0

    @model_validator(mode="after")
    def _complete(self) -> EmulatorChoice:
        if self.kind == "qemu" and not (self.program and self.machine):
            raise ValueError("kind 'qemu' needs `program` and `machine`")
        return self


class LibraryChoice(_Table):
    """A library to drop into a project of the vendor's `sdk`, in the form its build takes up."""

    form: Literal["cmake", "esp-idf"]
    sdk: str


class FlasherChoice(_Table):
    """What writes the firmware to a real board: `kind`, or one of `others` (`--method`), of flash/registry.py.

    `chip_ids`: what the way in calls the chip, so that another one is refused: an STM32's product id, the number in the
    header of an Espressif image, UF2 family ids (the first is that of files written here). `chip`: its name for
    esptool; `probe`: for pyocd. `drives`: what the board's drive says it is, a Board-ID of INFO_UF2.TXT or the first
    four digits of a DAPLink's unique id. `enter`: what a person does to get the board into its bootloader.
    """

    kind: Identifier
    others: list[Identifier] = []
    chip_ids: list[Address] = []
    chip: Annotated[str, Field(pattern=r"^[a-z0-9]*$")] = ""
    probe: Annotated[str, Field(pattern=r"^[a-z0-9_]*$")] = ""
    drives: list[str] = []
    enter: str = ""

    @model_validator(mode="after")
    def _known(self) -> FlasherChoice:
        if (self.kind in ("stm32", "esptool", "uf2")) and not self.chip_ids:
            raise ValueError(f"kind {self.kind!r} needs `chip_ids`, so that another chip is refused")
        if self.kind == "esptool" and not self.chip:
            raise ValueError("kind 'esptool' needs `chip`, the name that esptool has for it")
        if "pyocd" in (self.kind, *self.others) and not self.probe:
            raise ValueError("pyocd needs `probe`, the name that pyocd has for the chip")
        return self


class Target(_Table):
    """One board, or the host. Sizes in bytes, clocks in Hz.

    `clock_hz` is the clock that the firmware built here runs at (for a library: the SDK's default), `max_clock_hz` what
    the chip is rated for, 0 where that is the same. `multiply_cycles`: what the chip's maker chose where the core
    leaves a choice, 0 where that is not known. A board has an `emulator`, or names the target that `stands_in` for it
    when firmware is run without the board.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
    description: str
    architecture: str
    cpu: str
    isa: Annotated[list[Identifier], Field(min_length=1)]
    clock_hz: Annotated[int, Field(ge=0)]
    max_clock_hz: Annotated[int, Field(ge=0)] = 0
    multiply_cycles: Literal[0, 1, 32] = 0
    stack_bytes: Annotated[int, Field(ge=0, multiple_of=8)] = 0
    port: Identifier
    exit: Identifier | Literal[""] = ""
    frame_bytes: Annotated[int, Field(ge=320, le=4096)] = 1040
    memory: list[MemoryRegion] = []
    toolchain: Toolchain
    uart: Uart | None = None
    watchdog: Watchdog = Watchdog(kind="none", seconds=3600)
    emulator: EmulatorChoice | None = None
    stands_in: str = ""
    library: LibraryChoice | None = None
    flasher: FlasherChoice | None = None

    @property
    def is_host(self) -> bool:
        """Whether this is the machine we run on rather than a board."""
        return self.architecture == "host"

    @property
    def is_library(self) -> bool:
        """Whether a build is a library for the vendor's SDK rather than a linked image."""
        return self.port == LIBRARY

    @property
    def library_sdk(self) -> str:
        """The vendor's SDK that a library is for; empty for other targets."""
        return self.library.sdk if self.library else ""

    def region(self, holds: Literal["code", "data"]) -> MemoryRegion:
        """The first memory region for `holds`."""
        return next(region for region in self.memory if region.holds == holds)

    def weights_region(self, weights: int) -> MemoryRegion:
        """Where so many bytes of a model's constants go: beside the code, or, where they are too many for that, into
        the first other region for code that has room for all of them."""
        first = self.region("code")
        if weights + _BESIDE_WEIGHTS <= first.length:
            return first
        others = (region for region in self.memory if region.holds == "code" and region is not first)
        return next((region for region in others if weights <= region.length), first)

    @property
    def guard_bytes(self) -> int:
        """Size of the forbidden area right below the stack: a power of two that the stack's address is a
        multiple of, at most 1 MiB, overlapping no other region; 0 if there is no room for one."""
        if self.is_host:
            return 0
        start = self.region("data").origin
        size = min(_LARGEST_GUARD, start & -start) if start else 0
        while size >= 32 and any(r.origin < start and r.end > start - size for r in self.memory):
            size //= 2
        return size if size >= 32 else 0

    @model_validator(mode="after")
    def _whole(self) -> Target:
        if bool(self.stands_in) == (self.emulator is not None):
            raise ValueError("stands_in or [emulator]: say one of them, so that firmware can be run without the board")
        if self.is_host:
            return self
        self._check_memory()
        if 0 < self.max_clock_hz < self.clock_hz:
            raise ValueError("max_clock_hz is below clock_hz; leave it out where the two are the same")
        if self.multiply_cycles and not self.cpu.startswith("cortex-m0"):
            raise ValueError("multiply_cycles is the choice of a Cortex-M0 or M0+; remove it")
        if self.clock_hz <= 0:
            raise ValueError("clock_hz must be above 0 for a board")
        if self.is_library != (self.library is not None):
            raise ValueError('port = "library" and [library] go together; say both or neither')
        if self.is_library:
            if self.uart is not None or self.exit or self.emulator is not None:
                raise ValueError("port is a library: [uart], exit and [emulator] are the application's; remove them")
            return self
        if self.uart is None:
            raise ValueError("[uart] is missing; say which serial port carries the wire")
        if not self.exit:
            raise ValueError("exit is missing; say how the program ends")
        if not 512 <= self.stack_bytes <= self.region("data").length:
            raise ValueError("stack_bytes must be at least 512 and fit into the first data region")
        if self.watchdog.kind == "cmsdk" and self.watchdog.seconds * self.clock_hz >= 1 << 32:
            limit = ((1 << 32) - 1) // self.clock_hz
            raise ValueError(f"watchdog.seconds times clock_hz must fit into 32 bits; at most {limit} seconds")
        return self

    def _check_memory(self) -> None:
        kinds = [region.holds for region in self.memory]
        for holds in ("code", "data"):
            if holds not in kinds:
                raise ValueError(f"[[memory]] has no region with holds = {holds!r}; add one")
        for i, first in enumerate(self.memory):
            for second in self.memory[i + 1 :]:
                if first.name == second.name:
                    raise ValueError(f"two [[memory]] regions are called {first.name!r}; rename one")
                if first.origin < second.end and second.origin < first.end:
                    raise ValueError(f"[[memory]] {first.name!r} and {second.name!r} overlap; correct one of them")


def in_binary(size: int) -> str:
    """Bytes of a memory as they are spoken of: `512 KB`, `4 MB`."""
    return f"{size >> 20} MB" if size % (1 << 20) == 0 else f"{size >> 10} KB"


def resource_root(kind: Literal["firmware", "targets"]) -> Path:
    """The folder of C sources or of target files: inside an installed wheel, else in the checkout.

    Raises ConfigError when neither is there.
    """
    here = Path(__file__).resolve().parent
    for candidate in (here / "_data" / kind, here.parents[1] / kind):
        if candidate.is_dir():
            return candidate
    raise ConfigError(f"the folder {kind!r} is missing from this installation; reinstall picoformer")


def list_targets() -> list[str]:
    """Names of the targets that come with picoformer, sorted."""
    return sorted(path.stem for path in resource_root("targets").glob("*.toml"))


def load_target(name_or_path: str | Path) -> Target:
    """Load a target by its name, or from a TOML file.

    Raises ConfigError naming the key and its line for an unknown key or a bad value.
    """
    text = str(name_or_path)
    path = Path(name_or_path)
    if not (text.endswith(".toml") or "/" in text):
        path = resource_root("targets") / f"{text}.toml"
        known = list_targets()
        if text not in known:
            close = difflib.get_close_matches(text, known, n=1)
            meant = f"did you mean {close[0]}? " if close else ""
            raise ConfigError(
                f"unknown target {text!r}; {meant}known: {', '.join(known)}, or give the path of a .toml file"
            )
    target = read_toml(path, Target)
    source = path.read_text(encoding="utf-8")
    _check_port(path, source, target)
    _check_stand_in(path, source, target)
    return target


def stand_in(target: Target) -> Target:
    """The target whose emulator runs firmware in place of `target`: itself, where it has one."""
    return load_target(target.stands_in) if target.stands_in else target


def _check_stand_in(path: Path, source: str, target: Target) -> None:
    """A board's stand-in is a target that comes along and has an emulator of its own."""
    if not target.stands_in:
        return
    place = f"{path}:{key_line(source, ('stands_in',))}: key 'stands_in': "
    other = resource_root("targets") / f"{target.stands_in}.toml"
    if target.stands_in not in list_targets():
        raise ConfigError(f"{place}unknown target {target.stands_in!r}; use one of {', '.join(_emulated())}")
    found = read_toml(other, Target)
    if found.emulator is None or found.is_host:
        raise ConfigError(f"{place}{target.stands_in} has no emulated core; use one of {', '.join(_emulated())}")


def _emulated() -> list[str]:
    found = [read_toml(path, Target) for path in sorted(resource_root("targets").glob("*.toml"))]
    return sorted(target.name for target in found if target.emulator is not None and not target.is_host)


def _check_port(path: Path, source: str, target: Target) -> None:
    """The port is a directory, and a board's choices name files in it: uart_<kind>.c and so on."""
    if target.is_library:
        return
    ports = resource_root("firmware") / "port"
    folder = ports / target.port
    known = sorted(entry.name for entry in ports.iterdir() if entry.is_dir())
    if target.port not in known:
        raise ConfigError(
            f"{path}:{key_line(source, ('port',))}: key 'port': no directory firmware/port/{target.port}; "
            f"use one of {', '.join(known)}"
        )
    if target.is_host or target.uart is None:
        return
    for role, kind, location in (
        ("uart", target.uart.kind, ("uart", "kind")),
        ("watchdog", target.watchdog.kind, ("watchdog", "kind")),
        ("exit", target.exit, ("exit",)),
    ):
        if f"{role}_{kind}.c" not in {entry.name for entry in folder.iterdir()}:
            known = sorted(entry.stem.removeprefix(f"{role}_") for entry in folder.glob(f"{role}_*.c"))
            raise ConfigError(
                f"{path}:{key_line(source, location)}: key '{'.'.join(location)}': firmware/port/{target.port} has no "
                f"{role}_{kind}.c; use one of {', '.join(known)}, or write that file"
            )
