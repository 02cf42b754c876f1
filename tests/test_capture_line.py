"""Recording over a bad line: what is kept is right and in its place, what is missing is counted, and nothing hangs."""

from __future__ import annotations

import contextlib
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faulty_transport import EVERYTHING, Faults, FaultyTransport
from picoformer.capturing import CaptureOptions, capture_files
from picoformer.emulator.session import emulator_for
from picoformer.errors import DeviceError
from picoformer.firmware import FirmwareBuild
from picoformer.link.capture import CaptureDevice, CaptureMessage, Channel, Readings, SensorDescription, Statistics
from picoformer.link.device import Device
from picoformer.link.frames import FrameReader, encode_frame
from picoformer.link.messages import WIRE_VERSION, Message
from picoformer.recording import Recording
from picoformer.targets import load_target
from recorded import RATE, firmware, synthetic

SECONDS, WINDOW, STRIDE = 10, 20, 10
LOSSES = Faults(drop=0.03, flip=0.03, lose_byte=0.02, double_byte=0.02, swap_bytes=0.02, cut=0.02)
ODD = Faults(double=0.1, late=0.1, swap=0.1, noise=0.05)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recorders")


def _record(
    build: FirmwareBuild, target: str, faults: Faults, seed: int, out: Path
) -> tuple[dict[str, Any], Recording]:
    """A recording over such a line, which takes all requests but those of the recording as they are."""
    running = emulator_for(load_target(target), count=False).start(build.elf, load_target(target))
    try:
        line = FaultyTransport(running.transport, Faults(), seed)
        device = Device(line, repeat_seconds=0.1, repeats=12, reply_seconds=5)
        seen: list[Recording] = []
        options = CaptureOptions("a", SECONDS, WINDOW, STRIDE, setting=1)
        recorder = CaptureDevice(device)

        def begin(sensor: SensorDescription) -> None:
            line.faults = faults

        figures = capture_files(recorder, out, options, begin, lambda recording, seconds: seen.append(recording))
        assert sum(line.happened.values()) > 0, "the line was a good one"
        return figures, seen[-1]
    finally:
        running.close()


def _check(figures: dict[str, Any], recording: Recording, out: Path) -> None:
    """Held against the sensor's own numbers, piece by piece between breaks."""
    pieces = recording._piece
    wanted = np.full((recording.most, 3), np.nan, np.float32)
    for piece, base in enumerate(recording.bases, start=1):
        places = np.flatnonzero(pieces == piece)
        wanted[places] = synthetic(1, recording.most)[places - base]
    places, readings = recording.times()
    np.testing.assert_array_equal(readings, wanted[places])
    assert figures["readings"] == len(places) and figures["lost"] == recording.places - len(places)
    starts = range(0, recording.places - WINDOW + 1, STRIDE)
    whole = [s for s in starts if len(set(pieces[s : s + WINDOW])) == 1 and pieces[s]]
    assert figures["samples"] == len(whole) and figures["dropped_windows"] == len(starts) - len(whole)
    if whole:
        np.testing.assert_array_equal(np.load(out)["x"], np.stack([wanted[s : s + WINDOW] for s in whole]))


@pytest.mark.parametrize("target", ["host", "mps2-an386"])
@pytest.mark.parametrize(("faults", "seed"), [(LOSSES, 1), (LOSSES, 2), (LOSSES, 3), (ODD, 4), (ODD, 5)])
def test_losses_are_gaps_and_never_wrong_readings(
    target: str, faults: Faults, seed: int, made: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if target != "host":
        request.getfixturevalue("arm_tools")
    figures, recording = _record(firmware(made, target), target, faults, seed, tmp_path / "a.npz")
    _check(figures, recording, tmp_path / "a.npz")
    if faults is LOSSES:
        assert figures["lost_on_the_line"] > 0 and figures["dropped_windows"] > 0 and figures["samples"] > 20
        assert recording.places == SECONDS * RATE


@pytest.mark.slow
def test_whatever_the_line_does(made: Path, tmp_path: Path) -> None:
    ended = 0
    for seed in range(40):
        out = tmp_path / f"{seed}.npz"
        try:
            figures, recording = _record(firmware(made, "host"), "host", EVERYTHING.scaled(3), seed, out)
        except DeviceError:
            continue
        _check(figures, recording, out)
        ended += 1
    assert ended > 30, "a bad line is mended as a rule"


class _Script:
    """A device that answers by a script: request type → payloads of its replies."""

    def __init__(self, answers: dict[int, list[bytes]], status: dict[int, int] | None = None) -> None:
        hello = struct.pack("<HH16s3HHII", WIRE_VERSION, 320, bytes(16), 0, 0, 0, 0, 0, 0) + b"odd"
        self._answers = {Message.HELLO: [hello], **answers}
        self._status = status or {}
        self._reader, self._waiting = FrameReader(), b""

    def write(self, data: bytes, timeout: float) -> None:
        for body in self._reader.feed(data):
            status = self._status.get(body[1], 0)
            for payload in self._answers.get(body[1], []) if not status else [b""]:
                self._waiting += encode_frame(bytes([body[0], body[1] | 0x80, status]) + payload)

    def read(self, timeout: float) -> bytes:
        data, self._waiting = self._waiting, b""
        return data

    def close(self) -> None:
        pass


def _description(
    version: int = 1, kind: int = 1, channels: int = 1, most: int = 100, rate: tuple[int, int] = (10, 1),
    records: list[tuple[float, float, str, str]] | None = None,
) -> bytes:  # fmt: skip
    data = struct.pack("<BBBHHII", version, 1, kind, channels, most, *rate) + _text("s")
    for scale, offset, channel, unit in [(1.0, 0.0, "ax", "g")] if records is None else records:
        data += struct.pack("<ff", scale, offset) + _text(channel) + _text(unit)
    return data


def _text(text: str) -> bytes:
    return bytes([len(text.encode())]) + text.encode()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (_description(version=2), "version 2, this is 1"),
        (_description(kind=4), "numbers of type 4"),
        (_description(records=[(float("nan"), 0, "ax", "g")]), "channel 'ax' has scale nan"),
        (_description(records=[(0.0, 0, "ax", "g")]), "channel 'ax' has scale 0.0"),
        (_description(records=[(1.0, float("inf"), "ax", "g")]), "offset inf"),
        (_description(records=[(1.0, 0, "a\x1b[2J", "g")]), r"the name 'a\x1b[2J'"),
        (_description(records=[(1.0, 0, "", "g")]), "the name ''"),
        (_description(channels=2, records=[(1, 0, "ax", "g"), (1, 0, "ax", "g")]), "channels ax, ax"),
        (_description(channels=0), "channels "),
        (_description(channels=65, records=[(1, 0, f"c{n}", "") for n in range(65)]), "channels c0, "),
        (_description(records=[]), "no channel where there must be one"),
        (_description(rate=(0, 1)), "a rate of 0/1"),
        (_description(rate=(1, (1 << 30) + 1)), "a rate of 1/1073741825"),
        (_description(most=0), "readings that fit no frame"),
        (_description()[:-1], "the name"),
        (_description()[:12], "unpack_from"),
        (b"", "unpack_from"),
        (_description() + b"\xff", "unpack_from"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(answer: bytes, said: str) -> None:
    device = CaptureDevice(Device(_Script({CaptureMessage.DESCRIBE_SENSOR: [answer]}), repeat_seconds=0.05))
    with pytest.raises(DeviceError, match="what the sensor says of itself makes no sense") as caught:
        device.describe()
    assert said in str(caught.value)


@given(st.lists(st.binary(max_size=80), max_size=5), st.booleans())
def test_anything_for_an_answer_is_read_or_refused(parts: list[bytes], is_described: bool) -> None:
    described = _description(rate=(100, 1))
    answers = {CaptureMessage.DESCRIBE_SENSOR: [described if is_described else b"".join(parts)],
               CaptureMessage.START_RECORDING: [BEGUN, *parts, ENDED]}  # fmt: skip
    device = CaptureDevice(Device(_Script(answers)))
    with contextlib.suppress(DeviceError):
        sensor = device.describe()
        for part in device.record(sensor, 30):
            assert isinstance(part, Statistics) or 0 <= part.place <= 30 - len(part.raw)


BEGUN, ENDED = b"\0", b"\2" + struct.pack("<IIII", 30, 0, 0, 0)


def _readings(place: int, count: int) -> bytes:
    return b"\1" + struct.pack("<I", place) + struct.pack(f"<{count}h", *range(place, place + count))


@pytest.mark.parametrize(
    "part",
    [b"", b"\3", b"\0\0", b"\1", b"\1" + bytes(4), _readings(0, 1) + b"\0", _readings(30, 1), _readings(29, 2),
     b"\1" + b"\xff" * 6, ENDED[:-1], ENDED + b"\0"],
)  # fmt: skip
def test_readings_that_cannot_be_end_the_recording_and_keep_what_was_there(part: bytes, tmp_path: Path) -> None:
    out = tmp_path / "a.npz"
    script = _Script(
        {
            CaptureMessage.DESCRIBE_SENSOR: [_description()],
            CaptureMessage.START_RECORDING: [BEGUN, _readings(0, 4), part],
        }
    )
    with pytest.raises(DeviceError, match=r"after 4 of 30 readings: what .*; what came before is in .*a\.npz"):
        capture_files(CaptureDevice(Device(script)), out, CaptureOptions("a", seconds=3))
    assert np.load(out)["x"].tolist() == [[0], [1], [2], [3]]


def test_frames_in_any_order_twice_and_an_end_that_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("picoformer.link.capture.LEAST_SILENCE_SECONDS", 0.1)
    parts = [_readings(10, 10), BEGUN, _readings(0, 10), _readings(0, 10)]
    script = _Script(
        {CaptureMessage.DESCRIBE_SENSOR: [_description(rate=(100, 1))], CaptureMessage.START_RECORDING: parts,
         CaptureMessage.STOP_RECORDING: [ENDED[1:]]}
    )  # fmt: skip
    figures = capture_files(CaptureDevice(Device(script)), tmp_path / "a.npz", CaptureOptions("a", seconds=0.3))
    assert (figures["readings"], figures["lost_on_the_line"], figures["breaks"]) == (20, 10, 0)
    assert np.load(tmp_path / "a.npz")["x"][:, 0].tolist() == list(range(20))


def test_a_device_that_hangs_is_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("picoformer.link.capture.LEAST_SILENCE_SECONDS", 0.1)
    script = _Script(
        {CaptureMessage.DESCRIBE_SENSOR: [_description(rate=(100, 1))], CaptureMessage.START_RECORDING: [BEGUN]}
    )
    device = CaptureDevice(Device(script, reply_seconds=0.3, repeat_seconds=0.05))
    with pytest.raises(DeviceError, match=r"after 0 of 30 readings: timeout: .* 'stop recording'"):
        capture_files(device, tmp_path / "a.npz", CaptureOptions("a", seconds=0.3))
    assert not (tmp_path / "a.npz").exists()


def test_a_device_that_always_begins_anew_is_given_up(tmp_path: Path) -> None:
    early = b"\2" + struct.pack("<IIII", 1, 0, 0, 0)
    script = _Script(
        {CaptureMessage.DESCRIBE_SENSOR: [_description()], CaptureMessage.START_RECORDING: [_readings(0, 1), early]}
    )
    with pytest.raises(DeviceError, match="after 11 of 30 readings: the recording broke off 11 times"):
        capture_files(CaptureDevice(Device(script)), tmp_path / "a.npz", CaptureOptions("a", seconds=3))


@pytest.mark.parametrize(
    ("request_type", "status", "said"),
    [
        (CaptureMessage.DESCRIBE_SENSOR, 4, "the device runs 'odd', which records nothing"),
        (CaptureMessage.DESCRIBE_SENSOR, 6, "the sensor 'odd' has no setting 0"),
        (CaptureMessage.START_RECORDING, 6, "cannot take 10 readings a second; the sensor's most are 10"),
        (CaptureMessage.START_RECORDING, 0x10, "the sensor 's' does not answer"),
        (CaptureMessage.START_RECORDING, 9, "the device refused 'start recording'"),
    ],
)
def test_refusals_say_what_is_meant(request_type: int, status: int, said: str, tmp_path: Path) -> None:
    script = _Script({CaptureMessage.DESCRIBE_SENSOR: [_description()]}, {request_type: status})
    with pytest.raises(DeviceError) as caught:
        capture_files(CaptureDevice(Device(script)), tmp_path / "a.npz", CaptureOptions("a", seconds=3))
    assert said in str(caught.value)


def test_windows_are_those_without_a_gap_or_a_break() -> None:
    sensor = SensorDescription("s", np.dtype("<i2"), (Channel("n", "", 1.0, 0.0),), Fraction(1), True, 9)
    recording = Recording(sensor, 40)

    def come(place: int, count: int) -> None:
        recording.add(Readings(place, np.arange(place, place + count, dtype=np.int16)[:, None]))

    come(0, 7)
    come(8, 6)  # 7 is missing
    recording.end(Statistics(14, 0, 0, 0))
    recording.begin_anew()
    come(0, 10)  # places 14 to 23
    recording.end(Statistics(26, 2, 0, 0))
    x, dropped = recording.windows(4, 2)
    starts = [0, 2, 8, 10, 14, 16, 18, 20]
    wanted = [[n if n < 14 else n - 14 for n in range(s, s + 4)] for s in starts]
    assert x[:, :, 0].tolist() == wanted
    assert dropped == len(range(0, 40 - 4 + 1, 2)) - len(starts)
    assert (recording.places, recording.readings, recording.lost, recording.breaks) == (40, 23, 17, 1)
