"""The one interface of everything that writes firmware to a board: what it is given, what it says, what it answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import ClassVar, Literal

from picoformer.targets import Target


@dataclass(frozen=True)
class Segment:
    """Bytes that lie at an address of the board's memory."""

    address: int
    data: bytes

    @property
    def end(self) -> int:
        """One past the last address."""
        return self.address + len(self.data)


@dataclass(frozen=True)
class Image:
    """What is to lie in the board's flash, from the file `source`.

    `segments` are in ascending order, do not overlap and are never empty: `image.py` sees to that, whatever the file
    was. `entry`: where an ELF says that execution starts (with the Thumb bit), None where the file does not say.
    `elf`: the ELF itself, where there is one. `family`: a UF2 file's own statement of the chip.
    """

    source: Path
    segments: tuple[Segment, ...]
    entry: int | None = None
    elf: Path | None = None
    family: int | None = None

    @property
    def size(self) -> int:
        """Bytes to write."""
        return sum(len(segment.data) for segment in self.segments)

    @property
    def start(self) -> int:
        """The first address."""
        return self.segments[0].address

    @property
    def end(self) -> int:
        """One past the last address."""
        return self.segments[-1].end


class Phase(Enum):
    """What a flasher is at; the value is what a person reads. From the first ERASE or WRITE on until VERIFY is done the
    board holds neither the old image nor the new one, and whoever stops then is told so."""

    CONNECT = "connecting"
    ERASE = "erasing"
    WRITE = "writing"
    VERIFY = "verifying"
    START = "starting"


Progress = Callable[[Phase, int, int], None]
"""What is under way, how much of it is done, how much there is (bytes, or sectors while erasing)."""


def _silent(phase: Phase, done: int, total: int) -> None:
    pass


def _unsaid(line: str) -> None:
    pass


@dataclass(frozen=True)
class Job:
    """One image for one board.

    `port`: a serial port or any URL of pyserial, a drive's folder, or empty where the way in needs none. `baud`: of the
    line to the way in, 0 for its usual one. `wiring`: which pins of the chip the port's modem lines reach, as
    serial_line.parse_wiring reads it. `folder`: the build folder that the image is from, None for another file.
    `notice` takes a line that a person must read while it lasts ("hold BOOTSEL …"); `progress` is called before and
    after each piece of work, so that nothing is silent for long.
    """

    image: Image
    target: Target
    port: str = ""
    baud: int = 0
    wiring: str = ""
    folder: Path | None = None
    progress: Progress = _silent
    notice: Callable[[str], None] = _unsaid
    whole: bool = False
    """Send also what the board holds already."""

    @property
    def enter(self) -> str:
        """What a person does to get this board into its bootloader."""
        return self.target.flasher.enter if self.target.flasher else ""


@dataclass(frozen=True)
class Outcome:
    """What was done to a board. `verified`: how it is known that it holds the image, in a few words; empty where the
    way in cannot tell. `started`: whether the firmware runs now. `erased` and `written` in bytes. `found`: what the
    board said of itself."""

    written: int
    verified: str
    started: bool
    erased: int = 0
    found: str = ""
    notes: tuple[str, ...] = field(default=())


class Flasher(ABC):
    """A way in to a board. It keeps nothing between jobs.

    Whatever the board or a program answers is hostile until checked; every wait has a bound. Errors: DeviceError for a
    board that is silent, refuses or is another chip, ToolError for a program that is missing or failed, FitError for an
    image outside the board's memory.
    """

    kind: ClassVar[str]
    """Its name in a target's [flasher] and in --method."""

    reach: ClassVar[Literal["serial", "drive", "probe"]] = "serial"
    """What a job's port is: a serial port, which must be named or found beforehand; a drive's folder, or a serial port
    whose touch brings the drive; a debug probe's id. Empty for the last two: the flasher looks for the only one."""

    hears: ClassVar[frozenset[str]] = frozenset()
    """Which of baud, wiring and all ("whole" of a job) it heeds."""

    @abstractmethod
    def plan(self, job: Job) -> tuple[str, ...]:
        """What `flash` would do, a line a step. Touches no board; raises what is wrong with the image or the job
        without one."""

    @abstractmethod
    def flash(self, job: Job) -> Outcome:
        """Check that the board is the right one, erase what must be, write, verify by reading back, start. Checks come
        before anything is erased."""
