"""Boards whose bootloader is a drive that takes UF2 files: the RP2040's and the RP2350's in ROM."""

from __future__ import annotations

import struct
from pathlib import Path

from picoformer.errors import ConfigError, DeviceError, ModelError
from picoformer.flash.boot2 import with_boot2
from picoformer.flash.devices import serial_ports
from picoformer.flash.drives import MOUNTS, Drive, await_one, copy, find_drives, identify, wait_until
from picoformer.flash.image import LARGEST, read_bounded, refuse_unfit
from picoformer.flash.interface import Flasher, Image, Job, Outcome, Phase
from picoformer.flash.serial_line import touch
from picoformer.flash.uf2 import BLOCK, PAYLOAD, family_name, write_uf2

RP2040 = 0xE48BFF56
RP2350 = {0xE48BFF59, 0xE48BFF5A}
_BLOCK_START = struct.pack("<I", 0xFFFFDED3)
"""Begins the block by which an RP2350's ROM knows an image (datasheet, section 5.9.1); within the first 4 KB."""
FILE = "FIRMWARE.UF2"


class Uf2Drive(Flasher):
    """Copies a UF2 file; the drive goes away when it has every block. `appear`, `vanish`: seconds."""

    kind = "uf2"
    reach = "drive"

    def __init__(self, appear: float = 60.0, vanish: float = 30.0, mounts: Path = MOUNTS) -> None:
        self._appear, self._vanish, self._mounts = appear, vanish, mounts

    def plan(self, job: Job) -> tuple[str, ...]:
        """See Flasher."""
        data, note = self._file(job)
        first = f"touch {job.port} at 1200 baud, and " if _is_serial(job) else ""
        family = family_name(self._families(job)[0])
        return (
            f"{first}wait for the drive {' or '.join(self._drives(job))}{f' at {job.port}' if _is_folder(job) else ''}",
            *([note] if note else []),
            f"copy {len(data) // BLOCK} blocks of {PAYLOAD} bytes for {family} onto it, and wait for it to go away",
        )

    def flash(self, job: Job) -> Outcome:
        """See Flasher."""
        data, note = self._file(job)
        job.progress(Phase.CONNECT, 0, 1)
        drive = self._find(job)
        job.progress(Phase.CONNECT, 1, 1)
        copy(drive, FILE, data, lambda done, total: job.progress(Phase.WRITE, done, total))
        job.progress(Phase.START, 0, 1)
        if not wait_until(lambda: identify(drive.folder) is None, self._vanish):
            raise DeviceError(
                f"{drive.folder}: is still there after {self._vanish:g} s, so the board did not take every block; plug "
                "it in again with BOOTSEL held and flash it anew"
            )
        job.progress(Phase.START, 1, 1)
        said = "the drive took every block and went away; such a drive cannot be read back, verify asks the firmware"
        return Outcome(job.image.size, "", True, found=drive.describe, notes=(*([note] if note else []), said))

    def _file(self, job: Job) -> tuple[bytes, str]:
        """(the UF2 file, what was mended of the image); raises what is wrong with the image."""
        image, families = job.image, self._families(job)
        if image.family is not None and image.family not in families:
            raise ModelError(
                f"{image.source}: is for {family_name(image.family)} and {job.target.name} is "
                f"{family_name(families[0])}; nothing was written"
            )
        refuse_unfit(image, job.target)
        mended, note = with_boot2(image) if families[0] == RP2040 else (image, "")
        if families[0] in RP2350 and _BLOCK_START not in _first_4k(image, job):
            raise ModelError(
                f"{image.source}: its first 4 KB hold no image definition, so the RP2350's ROM would not start it; "
                "link pico-sdk's in"
            )
        if image.family is not None and mended is image:
            return read_bounded(image.source, LARGEST), note  # checked, and with the blocks that only the ROM knows
        return write_uf2(mended.segments, families[0]), note

    def _find(self, job: Job) -> Drive:
        """The board's drive; brought about by the touch, or by a person who is told how."""
        wanted = self._drives(job)
        if _is_folder(job):
            found = identify(Path(job.port))
            if found is None or found.kind != "uf2" or found.board not in wanted:
                what = found.describe if found else f"{job.port}, which shows no INFO_UF2.TXT"
                raise DeviceError(f"{what}: is not the drive of {job.target.name} ({' or '.join(wanted)})")
            return found

        def matching() -> list[Drive]:
            return [drive for drive in find_drives(self._mounts) if drive.kind == "uf2" and drive.board in wanted]

        def bring() -> None:
            running = [port.device for port in serial_ports() if job.target.name in port.targets]
            if _is_serial(job) or len(running) == 1:
                touch(job.port or running[0])
            else:
                job.notice(f"{job.enter}; waiting {self._appear:g} s for it")

        return await_one(matching, bring, self._appear, f"drive of {job.target.name}", job.enter)

    def _families(self, job: Job) -> list[int]:
        if job.target.flasher is None or job.target.flasher.kind != self.kind:
            raise ConfigError(f"{job.target.name} takes no UF2 files; leave --method away")
        return job.target.flasher.chip_ids

    def _drives(self, job: Job) -> list[str]:
        return job.target.flasher.drives if job.target.flasher else []


def _is_folder(job: Job) -> bool:
    return bool(job.port) and Path(job.port).is_dir()


def _is_serial(job: Job) -> bool:
    return bool(job.port) and not Path(job.port).is_dir()


def _first_4k(image: Image, job: Job) -> bytes:
    origin = job.target.region("code").origin
    first = image.segments[0]
    return first.data[: 4096 - (first.address - origin)] if first.address - origin < 4096 else b""
