"""Firmware that records, made once for each sensor and target, and the readings that the synthetic sensor must give."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np

from picoformer.capture_firmware import build_capture_firmware
from picoformer.capturing import with_own_time
from picoformer.emulator.session import open_device
from picoformer.firmware import FirmwareBuild
from picoformer.link.capture import CaptureDevice
from picoformer.targets import load_target

SENSORS = Path(__file__).resolve().parents[1] / "examples" / "capture"
RATE = 200
ONE_G = 4096
WAVES = {0: ((100, 20), (80, 20), (120, 20)), 1: ((100, 1200), (50, 800), (100, 2400)),
         2: ((20, 6000), (16, 4000), (25, 5000))}  # fmt: skip
"""Setting → (period, swing) of each axis."""


def synthetic(setting: int, count: int) -> np.ndarray:
    """The first readings of examples/capture/synthetic.c in g, float32 (count, 3), worked out anew."""
    noise, rows = 1 + setting, []
    for n in range(count):
        row = []
        for axis, (period, swing) in enumerate(WAVES[setting]):
            noise = (noise * 1664525 + 1013904223) % (1 << 32)
            at, half = n % period, period // 2
            rise = 2 * swing * at // half - swing
            fall = swing - 2 * swing * (at - half) // (period - half)
            row.append((ONE_G if axis == 2 else 0) + (rise if at < half else fall) + noise // (1 << 27) - 16)
        rows.append(row)
    return (np.array(rows).reshape(count, 3) / ONE_G).astype(np.float32)


@cache
def firmware(place: Path, target: str, sensor: Path = SENSORS / "synthetic.c") -> FirmwareBuild:
    """Built without a warning."""
    return build_capture_firmware(sensor, load_target(target), place / f"{sensor.stem}-{target}", strict=True)


@contextmanager
def recorder(build: FirmwareBuild, target: str) -> Iterator[CaptureDevice]:
    """Such firmware in its emulator."""
    with open_device(build, with_own_time(load_target(target)), count=False, emulator="qemu") as session:
        yield CaptureDevice(session.device)


def windows_of(readings: np.ndarray, window: int, stride: int) -> np.ndarray:
    """All windows of readings without a gap, (windows, window, channels)."""
    starts = range(0, len(readings) - window + 1, stride)
    return np.stack([readings[start : start + window] for start in starts])
