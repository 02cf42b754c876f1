"""Boards whose debug chip is a drive that takes .hex files: DAPLink (micro:bit), and the J-Link of Nordic's kits."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from picoformer.errors import DeviceError
from picoformer.flash.drives import MOUNTS, Drive, await_one, copy, find_drives, identify, wait_until
from picoformer.flash.image import refuse_unfit
from picoformer.flash.intel_hex import write_hex
from picoformer.flash.interface import Flasher, Job, Outcome, Phase

FILE = "FIRMWARE.HEX"
_MOST_FAIL = 2000


class Daplink(Flasher):
    """Copies a .hex; the drive is mounted anew when it is done, and has a FAIL.TXT where it failed."""

    kind = "daplink"
    reach = "drive"
    name: ClassVar[str] = "DAPLink drive"

    def __init__(self, appear: float = 60.0, again: float = 60.0, mounts: Path = MOUNTS) -> None:
        self._appear, self._again, self._mounts = appear, again, mounts

    def plan(self, job: Job) -> tuple[str, ...]:
        """See Flasher."""
        refuse_unfit(job.image, job.target)
        return (
            f"find the {self.name} of {job.target.name}{f' at {job.port}' if job.port else ''}",
            f"copy {job.image.size:,} bytes onto it as a .hex, and wait until it is mounted anew",
            "read FAIL.TXT, where it says what failed",
        )

    def flash(self, job: Job) -> Outcome:
        """See Flasher."""
        self.plan(job)
        job.progress(Phase.CONNECT, 0, 1)
        drive = self._find(job)
        job.progress(Phase.CONNECT, 1, 1)
        text = write_hex(job.image.segments).encode("ascii")
        copy(drive, FILE, text, lambda done, total: job.progress(Phase.WRITE, done, total))
        job.progress(Phase.VERIFY, 0, 1)
        is_done = wait_until(lambda: self._is_done(drive), self._again)
        came_back = wait_until(lambda: identify(drive.folder) is not None, self._again if is_done else 0.0)
        if failure := _failure(drive.folder):
            raise DeviceError(f"{drive.folder}/FAIL.TXT: the board's debug chip says: {failure}")
        job.progress(Phase.VERIFY, 1, 1)
        note = "such a drive cannot be read back, verify asks the firmware"
        if not came_back:
            note = (
                f"{drive.folder} was not mounted again, so whether it failed is not known; mount it: has it a FAIL.TXT?"
            )
        elif not is_done:
            note = f"{drive.folder} was not mounted anew in {self._again:g} s; whether it took the file is not known"
        done = is_done and came_back
        return Outcome(
            job.image.size,
            "the debug chip reports no failure" if done else "",
            done,
            found=drive.describe,
            notes=(note,),
        )

    def _is_done(self, drive: Drive) -> bool:
        now = identify(drive.folder)
        return now is None or now.count != drive.count or _has(drive.folder / "FAIL.TXT")

    def _fits(self, drive: Drive | None, job: Job) -> bool:
        wanted = job.target.flasher.drives if job.target.flasher else []
        return drive is not None and drive.kind == self.kind and (not wanted or drive.board in wanted)

    def _find(self, job: Job) -> Drive:
        if job.port and not Path(job.port).is_char_device():  # a serial port is that of the same board, as a rule
            found = identify(Path(job.port))
            if found is None or not self._fits(found, job):
                what = found.describe if found else job.port
                raise DeviceError(
                    f"{what}: is not the {self.name} of {job.target.name}; `picoformer devices` lists them"
                )
            return found
        return await_one(
            lambda: [drive for drive in find_drives(self._mounts) if self._fits(drive, job)],
            lambda: job.notice(f"{job.enter}; waiting {self._appear:g} s for it"),
            self._appear,
            f"{self.name} of {job.target.name}",
            job.enter,
        )


class JlinkDrive(Daplink):
    """The same by the drive that SEGGER's J-Link on board shows; it says nothing of which board it is on."""

    kind = "jlink"
    name = "J-Link drive"

    def _fits(self, drive: Drive | None, job: Job) -> bool:
        return drive is not None and drive.kind == self.kind


def _has(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _failure(folder: Path) -> str:
    """What FAIL.TXT says, in a line; empty where there is none."""
    try:
        with (folder / "FAIL.TXT").open("rb") as stream:
            text = stream.read(_MOST_FAIL).decode("latin-1")
    except OSError:
        return ""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split()) or "that it failed"
