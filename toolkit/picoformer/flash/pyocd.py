"""Any chip with a debug probe on it, through pyOCD, called as a program; read back through the probe."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picoformer.errors import ConfigError, DeviceError, ToolError
from picoformer.flash.image import refuse_unfit
from picoformer.flash.intel_hex import write_hex
from picoformer.flash.interface import Flasher, Job, Outcome, Phase
from picoformer.flash.program import find, lacking, last_words, run

MEND = "pip install pyocd"
_SECONDS = 300.0


@dataclass(frozen=True)
class Probe:
    """A debug probe as pyocd lists it: its unique id, what it is, the board it is on and that board's chip."""

    unique_id: str
    name: str
    board: str
    chip: str


def program() -> list[str]:
    """The command of pyocd; ToolError where there is none."""
    return find(["pyocd"], "pyocd", MEND)


def probes(command: list[str]) -> list[Probe]:
    """The probes that are connected; none where pyocd's answer makes no sense."""
    code, said = run([*command, "json", "--probes"], "pyocd", 60.0)
    start = said.find("{")
    try:
        boards = json.loads(said[start:])["boards"] if not code and start >= 0 else []
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    return [
        Probe(*(_text(board.get(key)) for key in ("unique_id", "info", "board_name", "target")))
        for board in (boards if isinstance(boards, list) else [])[:64]
        if isinstance(board, dict)
    ]


class Pyocd(Flasher):
    """Writes a .hex through a probe; `port` is the probe's id, or empty where there is but one."""

    kind = "pyocd"
    reach = "probe"

    def plan(self, job: Job) -> tuple[str, ...]:
        """See Flasher."""
        chip = self._chip(job)
        refuse_unfit(job.image, job.target)
        return (
            f"call pyocd for chip {chip} through probe {job.port or '(the only one)'}",
            f"erase the sectors of {job.image.size:,} bytes at {job.image.start:#010x}, write them, read them back",
            "reset the chip",
            *lacking(program),
        )

    def flash(self, job: Job) -> Outcome:
        """See Flasher."""
        self.plan(job)
        command = program()
        job.progress(Phase.CONNECT, 0, 1)
        uid = self._probe(command, job)
        job.progress(Phase.CONNECT, 1, 1)
        where = ["-W", "-t", self._chip(job), "-u", uid]
        size = job.image.size
        with tempfile.TemporaryDirectory(prefix="picoformer-") as place:
            path = Path(place) / "firmware.hex"
            path.write_text(write_hex(job.image.segments), encoding="ascii")

            def watch(line: str) -> None:
                if re.search(r"Loading|Eras|\[[-=|]|\d%", line):  # from here on the flash is changed
                    found = re.search(r"(\d{1,3})%", line)
                    job.progress(Phase.WRITE, size * min(int(found[1]), 100) // 100 if found else 0, size)

            load = ["load", *where, "-e", "sector", "--no-reset", "--format", "hex", str(path)]
            code, said = run([*command, *load], "pyocd", _SECONDS, watch)
            if code:
                raise self._failed(said, job)
            job.progress(Phase.VERIFY, 0, size)
            saves, files = [], []
            for number, segment in enumerate(job.image.segments):
                files.append(Path(place) / f"{number}.bin")
                saves += ["-c", f"savemem {segment.address:#x} {len(segment.data)} {files[-1]}"]
            code, said = run([*command, "commander", *where, *saves, "-c", "reset"], "pyocd", _SECONDS)
            if code:
                raise self._failed(said, job)
            for segment, file in zip(job.image.segments, files, strict=True):
                if not file.is_file() or file.read_bytes() != segment.data:
                    raise DeviceError(
                        f"the board does not hold what was written at {segment.address:#010x}; flash it again"
                    )
        job.progress(Phase.VERIFY, size, size)
        return Outcome(size, "read back through the probe, every byte", True, found=f"probe {uid}")

    def _chip(self, job: Job) -> str:
        if job.target.flasher is None or not job.target.flasher.probe:
            raise ConfigError(f"{job.target.name} has no name for pyocd; give its TOML a [flasher] with probe = …")
        return job.target.flasher.probe

    def _probe(self, command: list[str], job: Job) -> str:
        """The id of the probe that was asked for, or of the only one."""
        there = probes(command)
        found = [probe for probe in there if job.port in probe.unique_id]
        names = ", ".join(f"{probe.unique_id} ({probe.name})" for probe in there)
        if not there:
            raise DeviceError(f"no debug probe is connected; {job.enter}")
        if not found:
            raise DeviceError(f"no debug probe has the id {job.port}; there are {names}")
        if len(found) != 1:
            raise DeviceError(f"several debug probes: {names}; say which by --port ID")
        return found[0].unique_id

    def _failed(self, said: str, job: Job) -> ToolError | DeviceError:
        words = last_words(said, "pyocd")
        if "not recognized" in said or "unknown target" in said.lower():
            return ToolError(f"pyocd: {words}; bring the chip's pack: pyocd pack install {self._chip(job)}")
        return DeviceError(f"pyocd: {words}")


def _text(value: Any) -> str:
    return "".join(c for c in value[:120] if c.isprintable()) if isinstance(value, str) else ""
