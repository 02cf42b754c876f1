"""A device that records a sensor: what the sensor is, its readings as they come, what became of a recording."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from picoformer.errors import DeviceError
from picoformer.link.device import Device, RefusedError
from picoformer.link.messages import Status

VERSION = 1
MOST_CHANNELS = 64
MOST_RATE = 1 << 30
SENSOR_FAILED = 0x10
"""The status of a start whose sensor does not answer."""
LEAST_SILENCE_SECONDS = 3.0
_HEAD = struct.Struct("<BBBHHII")
_START = struct.Struct("<BIIHI")
_STATISTICS = struct.Struct("<IIII")
_BEGUN, _READINGS, _ENDED = 0, 1, 2
_TYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<i2"), 2: np.dtype("<i4"), 3: np.dtype("<f4")}


class CaptureMessage(IntEnum):
    """Requests of firmware that records."""

    DESCRIBE_SENSOR = 0x30
    START_RECORDING = 0x31
    STOP_RECORDING = 0x32
    STATISTICS = 0x33


@dataclass(frozen=True)
class Channel:
    """One number of a reading: number · `scale` + `offset` is the reading in `unit`."""

    name: str
    unit: str
    scale: float
    offset: float


@dataclass(frozen=True)
class SensorDescription:
    """What a sensor says of itself. `rate` in readings a second, the usual and highest one; a board that is not
    `is_paced` has no clock, and its readings come as fast as the line takes them. `readings_a_frame`: at most."""

    name: str
    dtype: np.dtype[Any]
    channels: tuple[Channel, ...]
    rate: Fraction
    is_paced: bool
    readings_a_frame: int

    def real(self, raw: NDArray[Any]) -> NDArray[np.float32]:
        """Readings (…, channels) in the channels' units, rounded to float32 once."""
        scales, offsets = (np.array([getattr(c, key) for c in self.channels]) for key in ("scale", "offset"))
        return np.asarray(raw.astype(np.float64) * scales + offsets, np.float32)


@dataclass(frozen=True)
class Readings:
    """Consecutive readings: `raw` (readings, channels), the first at `place` of the recording's grid of time."""

    place: int
    raw: NDArray[Any]


@dataclass(frozen=True)
class Statistics:
    """What became of a recording: its `places` in time, of which `overruns` have no reading because the board or the
    line was late, `failures` because the sensor had none; `longest_read` in cycles, 0 where they are not counted."""

    places: int
    overruns: int
    failures: int
    longest_read: int


class CaptureDevice:
    """Recording on a device. Raises DeviceError when its firmware does not record, refuses, or makes no sense."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._name = device.hello().name

    def describe(self, setting: int = 0) -> SensorDescription:
        """The sensor with a setting of its own, 0 the usual one."""
        channels: list[Channel] = []
        while True:
            try:
                data = self._device.exchange.ask(
                    CaptureMessage.DESCRIBE_SENSOR, struct.pack("<BH", setting, len(channels))
                )
            except RefusedError as error:
                if error.status == Status.UNKNOWN_TYPE:
                    raise DeviceError(
                        f"the device runs '{self._name}', which records nothing; flash what `capture-firmware` builds"
                    ) from None
                if error.status == Status.OUT_OF_RANGE:
                    raise DeviceError(f"the sensor '{self._name}' has no setting {setting}; take another") from None
                raise
            try:
                head, found = _parse_description(data)
            except (struct.error, ValueError, IndexError, UnicodeDecodeError) as error:
                raise DeviceError(f"what the sensor says of itself makes no sense ({error}); mend its C") from None
            channels += found
            if len(channels) >= min(head[3], MOST_CHANNELS + 1):
                return _description(head, channels[: head[3]])

    def record(
        self, sensor: SensorDescription, places: int, rate: Fraction | None = None, setting: int = 0
    ) -> Iterator[Readings | Statistics]:
        """Readings as they come, Statistics last, when `places` are through or the device was made to end.

        `rate`: readings a second, None for the usual ones. Frames that the line damaged are not there: their places are
        missing; a frame may come late, or twice. Raises DeviceError for readings that cannot be, NoAnswerError when
        nothing comes any more, RestartedError when the device began anew.
        """
        wanted = sensor.rate if rate is None else rate
        count = max(1, min(sensor.readings_a_frame, int(wanted / 10)))
        asked = (0, 0) if rate is None else (rate.numerator, rate.denominator)
        silence = max(LEAST_SILENCE_SECONDS, 3 * count / float(wanted))
        exchange = self._device.exchange
        replies = exchange.replies(
            CaptureMessage.START_RECORDING,
            _START.pack(setting, *asked, count, places),
            seconds=silence,
            begin_seconds=exchange.reply_seconds,
            poke=False,
        )
        try:
            for data in replies:
                part = _parse_part(data, sensor, places)
                if part is not None:
                    yield part
                if isinstance(part, Statistics):
                    return
        except RefusedError as error:
            if error.status == SENSOR_FAILED:
                raise DeviceError(f"the sensor '{sensor.name}' does not answer; check its wiring") from None
            if error.status == Status.OUT_OF_RANGE:
                asked_for, most = float(wanted), float(sensor.rate)
                raise DeviceError(
                    f"the device cannot take {asked_for:g} readings a second; the sensor's most are {most:g}"
                ) from None
            raise

    def stop(self) -> Statistics:
        """End a recording, should one be under way; what became of the last one."""
        data = self._device.exchange.ask(CaptureMessage.STOP_RECORDING)
        return _parse_statistics(data)


def _parse_part(data: bytes, sensor: SensorDescription, places: int) -> Readings | Statistics | None:
    kind, size = data[:1], sensor.dtype.itemsize * len(sensor.channels)
    if kind == bytes([_READINGS]) and len(data) > 5 and (len(data) - 5) % size == 0:
        place = int(struct.unpack_from("<I", data, 1)[0])
        raw = np.frombuffer(data, sensor.dtype, offset=5).reshape(-1, len(sensor.channels))
        if place + len(raw) <= places:
            return Readings(place, raw)
    elif kind == bytes([_ENDED]):
        return _parse_statistics(data[1:])
    elif data == bytes([_BEGUN]):
        return None
    raise DeviceError("what the device records makes no sense; build its firmware again")


def _parse_statistics(data: bytes) -> Statistics:
    if len(data) != _STATISTICS.size:
        raise DeviceError("what the device says of its recording has the wrong length; build its firmware again")
    return Statistics(*_STATISTICS.unpack(data))


def _parse_description(data: bytes) -> tuple[tuple[int, ...], list[Channel]]:
    """The head's numbers, behind them the sensor's name, and the channels that one reply holds."""
    head = _HEAD.unpack_from(data)
    if head[0] != VERSION:
        raise ValueError(f"version {head[0]}, this is {VERSION}")
    name, at = _text(data, _HEAD.size, 1)
    channels = []
    while at < len(data):
        scale, offset = struct.unpack_from("<ff", data, at)
        channel, at = _text(data, at + 8, 1)
        unit, at = _text(data, at, 0)
        if not (math.isfinite(scale) and math.isfinite(offset)) or scale == 0:
            raise ValueError(f"channel '{channel}' has scale {scale} and offset {offset}")
        channels.append(Channel(channel, unit, scale, offset))
    if not channels:
        raise ValueError("no channel where there must be one")
    return (*head, name), channels


def _description(head: tuple[Any, ...], channels: list[Channel]) -> SensorDescription:
    _, flags, kind, _, most, numerator, denominator, name = head
    names = [channel.name for channel in channels]
    problem = ""
    if kind not in _TYPES:
        problem = f"numbers of type {kind}"
    elif not 1 <= len(channels) <= MOST_CHANNELS or len(set(names)) < len(names):
        problem = f"channels {', '.join(names)}"
    elif not 1 <= numerator <= MOST_RATE or not 1 <= denominator <= MOST_RATE:
        problem = f"a rate of {numerator}/{denominator}"
    elif most == 0:
        problem = "readings that fit no frame"
    if problem:
        raise DeviceError(f"what the sensor says of itself makes no sense ({problem}); mend its C")
    rate = Fraction(numerator, denominator)
    return SensorDescription(name, _TYPES[kind], tuple(channels), rate, bool(flags & 1), most)


def _text(data: bytes, at: int, least: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    text = data[at + 1 : end].decode("utf-8")
    if end > len(data) or len(text) < least or not text.isprintable():
        raise ValueError(f"the name {text!r}")
    return text, end
