"""Readings of a sensor as they come in, where some are missing, and the windows in which none is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from picoformer.link.capture import Readings, SensorDescription, Statistics

Array = NDArray[Any]


@dataclass
class Recording:
    """`most` places in time, of which those that came are kept, each in its place. A device that began anew in between
    leaves a break: how long it took nobody knows. No window spans a break or a place without a reading."""

    sensor: SensorDescription
    most: int
    raw: Array = field(init=False)
    _piece: Array = field(init=False)
    """Which piece between two breaks a place belongs to; 0 where there is no reading."""
    bases: list[int] = field(default_factory=lambda: [0])
    """The place that each piece begins at."""
    _seen: int = 0
    overruns: int = 0
    failures: int = 0

    def __post_init__(self) -> None:
        self.raw = np.zeros((self.most, len(self.sensor.channels)), self.sensor.dtype)
        self._piece = np.zeros(self.most, np.int32)

    @property
    def places(self) -> int:
        """Places in time that the recording has come to."""
        return self._seen

    @property
    def readings(self) -> int:
        """Readings that are there."""
        return int(np.count_nonzero(self._piece))

    @property
    def lost(self) -> int:
        """Places without a reading."""
        return self.places - self.readings

    @property
    def breaks(self) -> int:
        """How often the device began anew."""
        return len(self.bases) - 1

    def add(self, part: Readings) -> None:
        """Keep readings. One with a number that is not finite is none."""
        start = self.bases[-1] + part.place
        end = start + len(part.raw)
        is_there = np.isfinite(part.raw).all(axis=1)
        self.raw[start:end][is_there] = part.raw[is_there]
        self._piece[start:end] = np.where(is_there, len(self.bases), 0)
        self._seen = max(self._seen, end)
        self.failures += int(np.count_nonzero(~is_there))

    def end(self, found: Statistics) -> None:
        """The device says what became of the piece that it has ended, the end of which may have been lost."""
        self._seen = max(self._seen, min(self.bases[-1] + found.places, self.most))
        self.overruns += found.overruns
        self.failures += found.failures

    def begin_anew(self) -> None:
        """The device starts once more; its next place is the one behind all that came."""
        if self._seen > self.bases[-1]:
            self.bases.append(self._seen)

    def times(self) -> tuple[Array, Array]:
        """(readings,) places with a reading, and the readings in units, float32 (readings, channels)."""
        places = np.flatnonzero(self._piece)
        return places, self.sensor.real(self.raw[places])

    def windows(self, window: int, stride: int) -> tuple[Array, int]:
        """Windows of `window` readings that begin every `stride` places, in units: float32 (windows, window, channels),
        and how many others were dropped because a reading is missing in them."""
        starts = np.arange(0, self.places - window + 1, stride)
        missing = np.concatenate([[0], np.cumsum(self._piece == 0)])
        is_whole = missing[starts + window] == missing[starts]
        is_whole &= self._piece[starts] == self._piece[starts + window - 1]
        kept = starts[is_whole]
        places = kept[:, None] + np.arange(window)
        return self.sensor.real(self.raw[places]), len(starts) - len(kept)
