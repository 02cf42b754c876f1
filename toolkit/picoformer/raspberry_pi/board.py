"""What the board says of itself: its model and cores, clock and governor, temperature, throttling, memory."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

THROTTLED = {
    0: "under-voltage now", 1: "clock capped now", 2: "throttled now", 3: "soft temperature limit now",
    16: "under-voltage since it started", 17: "clock capped since it started", 18: "throttled since it started",
    19: "soft temperature limit since it started",
}  # fmt: skip
"""Bits of `vcgencmd get_throttled` (Raspberry Pi documentation, vcgencmd)."""
MOST = 1 << 16
"""Bytes that are read of any of these files."""


@dataclass(frozen=True)
class Board:
    """None is what this machine does not say. `throttled`: of Raspberry Pi's firmware, [] where nothing happened.
    `emulator`: what runs this process in place of a processor, whose times are nobody's."""

    model: str | None
    cpu: str | None
    machine: str
    cores: int
    memory_bytes: int | None
    governor: str | None
    clock_mhz: float | None
    temperature_celsius: float | None
    throttled: tuple[str, ...] | None
    emulator: str | None = None


def read_board(root: Path = Path("/"), vcgencmd: Callable[[], str | None] | None = None) -> Board:
    """The board under `root`; `vcgencmd` gives what the program of this name says of throttling."""
    info = _text(root / "proc/cpuinfo") or ""
    frequency = root / "sys/devices/system/cpu/cpu0/cpufreq"
    clock = _number(frequency / "scaling_cur_freq")
    memory = re.search(r"^MemTotal:\s+(\d+) kB", _text(root / "proc/meminfo") or "", re.MULTILINE)
    return Board(
        _text(root / "proc/device-tree/model"),
        _field(info, "model name") or _field(info, "Hardware"),
        platform.machine(),
        len(os.sched_getaffinity(0)),
        int(memory[1]) * 1024 if memory else None,
        _text(frequency / "scaling_governor"),
        None if clock is None else clock / 1000,
        read_temperature(root),
        read_throttled((vcgencmd or _vcgencmd)()),
        read_emulator(root),
    )


def read_emulator(root: Path = Path("/")) -> str | None:
    """The program that the kernel really runs, where that is QEMU's user emulator, which hides behind its guest."""
    name = _field(_text(root / "proc/self/status") or "", "Name") or ""
    return name if name.startswith("qemu-") else None


def read_temperature(root: Path = Path("/")) -> float | None:
    """Degrees Celsius of the processor: the zone that is called after it, else the first."""
    zones = []
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        value = _number(zone / "temp")
        if value is not None and -60_000 <= value <= 200_000:
            zones.append(("cpu" not in (_text(zone / "type") or "").lower(), value / 1000))
    return min(zones, key=lambda zone: zone[0])[1] if zones else None


def read_throttled(answer: str | None) -> tuple[str, ...] | None:
    """The meaning of "throttled=0x50005"; None for anything else."""
    found = re.fullmatch(r"throttled=0x([0-9a-fA-F]{1,8})\s*", answer or "")
    if found is None:
        return None
    bits = int(found[1], 16)
    return tuple(words for bit, words in THROTTLED.items() if bits >> bit & 1)


def peak_memory(root: Path = Path("/")) -> int | None:
    """Most bytes that this process has had in memory; None where the system does not say."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", _text(root / "proc/self/status") or "", re.MULTILINE)
    if found:
        return int(found[1]) * 1024
    with contextlib.suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return None


def _vcgencmd() -> str | None:
    if shutil.which("vcgencmd") is None:
        return None
    try:
        done = subprocess.run(["vcgencmd", "get_throttled"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout


def _text(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return stream.read(MOST).decode("utf-8", "replace").strip("\0\n ") or None
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text is not None and re.fullmatch(r"-?\d{1,12}", text) else None


def _field(text: str, name: str) -> str | None:
    found = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else None
