"""Drives that boards show to be written by copying a file: found, told apart, written, watched until they are gone."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from picoformer.errors import DeviceError

MOUNTS = Path("/proc/self/mounts")
_FILE_SYSTEMS = {"vfat", "msdos", "exfat", "fuseblk"}
_MOST_TEXT = 8192
_PIECE = 64 << 10

Tick = Callable[[int, int], None]


@dataclass(frozen=True)
class Drive:
    """`kind`: uf2, daplink or jlink. `board`: a UF2 drive's Board-ID, the first four digits of a DAPLink's unique id.
    `count`: how often a DAPLink drive was mounted anew, 0 where it does not say."""

    folder: Path
    kind: str
    name: str
    board: str
    count: int = 0

    @property
    def describe(self) -> str:
        """The drive for a person."""
        return f"{self.folder} ({self.name}{', ' + self.board if self.board else ''})"


def identify(folder: Path) -> Drive | None:
    """What a folder is the drive of, by the text files that the board shows; None where it is none or not there."""
    if (text := _read(folder / "INFO_UF2.TXT")) is not None:
        return Drive(folder, "uf2", _field(text, "Model") or "UF2 bootloader", _field(text, "Board-ID"))
    if (text := _read(folder / "DETAILS.TXT")) is not None and "DAPLink" in text:
        count = _field(text, "Remount count")
        return Drive(
            folder, "daplink", "DAPLink", _field(text, "Unique ID")[:4], int(count) if count.isdecimal() else 0
        )
    if _read(folder / "Segger.html") is not None or (folder.name.startswith("JLINK") and _is_folder(folder)):
        return Drive(folder, "jlink", "J-Link on board", "")
    return None


def find_drives(mounts: Path = MOUNTS) -> list[Drive]:
    """Every mounted drive of a board."""
    return [drive for folder in _mounted(mounts) if (drive := identify(folder)) is not None]


def await_one(
    look: Callable[[], list[Drive]], bring: Callable[[], None], seconds: float, what: str, enter: str
) -> Drive:
    """The only drive that `look` finds; where there is none, after `bring` and at most `seconds`. DeviceError with what
    to press, or with the list of several."""
    if not look():
        bring()
        wait_until(lambda: bool(look()), seconds)
    drives = look()
    if not drives:
        raise DeviceError(f"no {what} is mounted; {enter}")
    if len(drives) > 1:
        names = ", ".join(drive.describe for drive in drives)
        raise DeviceError(f"several drives fit: {names}; say which by --port FOLDER")
    return drives[0]


def copy(drive: Drive, name: str, data: bytes, tick: Tick) -> None:
    """Write a file onto a drive and let it reach the board; a drive that is gone after the last byte took it all."""
    written = 0
    try:
        with open(drive.folder / name, "wb", buffering=0) as stream:
            while written < len(data):
                tick(written, len(data))
                written += stream.write(data[written : written + _PIECE]) or 0
            os.fsync(stream.fileno())
    except OSError as error:
        if written < len(data) or identify(drive.folder) is not None:
            raise DeviceError(
                f"{drive.folder / name}: {error.strerror or error} after {written:,} of {len(data):,} bytes; plug the "
                "board in again and flash it anew"
            ) from None
    tick(len(data), len(data))


def wait_until(condition: Callable[[], bool], seconds: float, pause: float = 0.1) -> bool:
    """Whether it became true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(pause)
    return True


def _mounted(mounts: Path) -> Iterable[Path]:
    try:
        lines = mounts.read_text("utf-8", errors="replace").splitlines()
    except OSError:  # no Linux: macOS shows drives here
        volumes = Path("/Volumes")
        return sorted(volumes.iterdir()) if volumes.is_dir() else []
    rows = [line.split(" ") for line in lines]
    return [Path(_unescape(row[1])) for row in rows if len(row) > 2 and row[2] in _FILE_SYSTEMS]


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _read(path: Path) -> str | None:
    """The beginning of a small text file; None where there is none that can be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(_MOST_TEXT).decode("latin-1")
    except OSError:
        return None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _field(text: str, name: str) -> str:
    found = re.search(rf"^{re.escape(name)}:[ \t]*([ -~]{{0,80}})", text, re.MULTILINE)
    return found[1].strip() if found else ""
