"""Arduino's Nano 33 BLE by its bootloader on USB, through Arduino's bossac, called as a program."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from picoformer.errors import DeviceError, ToolError
from picoformer.flash.devices import Port, serial_ports
from picoformer.flash.drives import wait_until
from picoformer.flash.image import refuse_unfit
from picoformer.flash.interface import Flasher, Job, Outcome, Phase
from picoformer.flash.program import find, lacking, last_words, run
from picoformer.flash.serial_line import touch

MEND = (
    "it comes with Arduino's boards package (arduino-cli core install arduino:mbed_nano); Debian's bossa-cli does not "
    "know this chip"
)
_SECONDS = 300.0
_APPEAR = 15.0


class Bossac(Flasher):
    """Erases and writes what lies behind the bootloader, verifies, resets."""

    kind = "bossac"

    def plan(self, job: Job) -> tuple[str, ...]:
        """See Flasher."""
        refuse_unfit(job.image, job.target)
        return (
            f"touch {job.port or 'the board'} at 1200 baud, and wait for its bootloader's port",
            f"call bossac: erase, write {job.image.end - job.target.region('code').origin:,} bytes, verify, reset",
            *lacking(program_of_arduino),
        )

    def flash(self, job: Job) -> Outcome:
        """See Flasher."""
        self.plan(job)
        program = program_of_arduino()
        job.progress(Phase.CONNECT, 0, 1)
        port = self._bootloader(job)
        job.progress(Phase.CONNECT, 1, 1)
        origin = job.target.region("code").origin
        data = bytearray(b"\xff" * (job.image.end - origin))
        for segment in job.image.segments:
            data[segment.address - origin : segment.end - origin] = segment.data

        def watch(line: str) -> None:
            phase = Phase.VERIFY if line.startswith("Verify") else Phase.WRITE
            if line.startswith("Erase"):
                job.progress(Phase.ERASE, 0, 1)
            elif found := re.search(r"(\d{1,3})% \(", line):
                job.progress(phase, len(data) * min(int(found[1]), 100) // 100, len(data))

        with tempfile.TemporaryDirectory(prefix="picoformer-") as place:
            path = Path(place) / "firmware.bin"
            path.write_bytes(data)
            words = ["-d", f"--port={port.removeprefix('/dev/')}", "-U", "-i", "-e", "-w", "-v", str(path), "-R"]
            try:
                code, said = run([*program, *words], "bossac", _SECONDS, watch)
            except KeyboardInterrupt:
                job.progress(Phase.WRITE, 0, len(data))  # it may be further than its buffered lines say
                raise
        if "not supported" in said or "unsupported" in said.lower():
            raise ToolError(f"this bossac does not know the chip ({last_words(said, 'bossac')}); {MEND}")
        if code or "Verify successful" not in said:
            raise DeviceError(f"bossac: {last_words(said, 'bossac')}; {job.enter}")
        job.progress(Phase.VERIFY, len(data), len(data))
        return Outcome(len(data), "bossac read it back", True, len(data))

    def _bootloader(self, job: Job) -> str:
        """The port of the bootloader: the one given, if it is that already, or the one that comes of the touch."""
        before = {port.device: port for port in serial_ports()}
        if (given := before.get(job.port)) is not None and given.is_bootloader:
            return job.port
        touch(job.port)
        found: list[Port] = []

        def appeared() -> bool:
            found[:] = [port for port in serial_ports() if port.is_bootloader and job.target.name in port.targets]
            return bool(found)

        if not wait_until(appeared, _APPEAR, 0.25):
            raise DeviceError(
                f"no bootloader came within {_APPEAR:g} s of the 1200-baud touch of {job.port}; {job.enter}"
            )
        if len(found) > 1:
            raise DeviceError(f"several bootloaders: {', '.join(p.device for p in found)}; say which by --port")
        return found[0].device


def program_of_arduino() -> list[str]:
    """The command of Arduino's bossac; ToolError where there is none."""
    places = sorted(Path.home().glob(".arduino15/packages/arduino/tools/bossac/*arduino*/bossac"))
    return [str(places[-1])] if places else find(["bossac"], "", MEND)
