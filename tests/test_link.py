"""The wire: frames, bad frames on a real device, and a host that never waits for ever."""

from __future__ import annotations

import struct
import time
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import device_fixture
from conftest import TinyFirmware
from picoformer.emulator.session import emulator_for, open_device
from picoformer.errors import DeviceError
from picoformer.link.device import Device, RefusedError
from picoformer.link.frames import FrameReader, decode_frame, encode_frame
from picoformer.link.messages import WIRE_VERSION, Message, RunFlags, Status, TensorInfo, parse_run
from picoformer.link.transport import TransportClosed


@given(st.lists(st.binary(max_size=600), max_size=4), st.integers(1, 50))
def test_frames_survive_any_cut(bodies: list[bytes], cut: int) -> None:
    line = b"".join(map(encode_frame, bodies))
    reader = FrameReader()
    received = [body for at in range(0, len(line), cut) for body in reader.feed(line[at : at + cut])]
    assert received == bodies
    assert reader.broken == 0


@given(st.binary(min_size=1, max_size=300), st.integers(0), st.integers(1, 255))
def test_a_changed_byte_never_passes(body: bytes, at: int, flip: int) -> None:
    line = bytearray(encode_frame(body)[:-1])
    line[at % len(line)] ^= flip
    parts = [part for part in bytes(line).split(b"\0") if part]
    assert all(decode_frame(part) is None for part in parts)


def test_a_run_reply_of_the_wrong_length_is_refused() -> None:
    tensors = [TensorInfo("y", 0, 3)]
    flags = RunFlags.CRC | RunFlags.CYCLES | RunFlags.OUTPUTS
    good = struct.pack("<IHIIIHIII", 9, 0, 5, 1, 10, 1, 6, 2, 20) + b"abc"
    result = parse_run(good, flags, None, tensors)
    assert (result.init_cycles, result.step_crcs, result.step_cycles) == (9, (1, 2), (10, 20))
    assert result.outputs == (b"abc",)
    with pytest.raises(ValueError, match="34 bytes, which is no whole number of calls"):
        parse_run(good[:-1], flags, None, tensors)


def test_a_counter_that_stands_still_has_counted_nothing() -> None:
    still = parse_run(struct.pack("<IHIHI", 0, 0, 0, 1, 0), RunFlags.CYCLES, None, [])
    assert still.calls == (0, 1) and still.init_cycles is None and still.step_cycles is None
    moved = parse_run(struct.pack("<IHIHI", 0, 0, 0, 1, 7), RunFlags.CYCLES, None, [])
    assert moved.init_cycles == 0 and moved.step_cycles == (0, 7)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6), st.integers(0, 5))
def test_a_step_in_pieces_has_the_checksum_of_the_whole(pieces: list[bytes], other: int) -> None:
    """Pieces of two steps take turns; a piece of no bytes changes nothing."""
    calls = [(step, piece) for piece in pieces for step in (0, 1)]
    stream = b"".join(struct.pack("<HIII", step, len(data), zlib.crc32(data), other) for step, data in calls)
    result = parse_run(struct.pack("<I", 3) + stream, RunFlags.CRC | RunFlags.CYCLES, None, [])
    assert result.step_crcs == (zlib.crc32(b"".join(pieces)),) * 2
    assert result.step_cycles == (other * len(pieces),) * 2
    assert result.calls == (0, 1) * len(pieces)


class _Raw:
    """The wire of a running device without the Device class: any bytes out, the next good frame in."""

    def __init__(self, transport: object) -> None:
        self._transport: Any = transport
        self._reader = FrameReader()
        for sequence in range(20, 30):  # what a device that starts up has not heard is said again
            self._transport.write(b"\0" + _request(Message.HELLO, sequence=sequence), 5.0)
            end = time.monotonic() + 1
            while time.monotonic() < end:
                for body in self._reader.feed(self._transport.read(0.2)):
                    if body[:3] == bytes([sequence, Message.HELLO | 0x80, Status.OK]):
                        return
        raise AssertionError("the device does not answer")

    def ask(self, line: bytes) -> bytes:
        return self.ask_all(line, 1)[0]

    def ask_all(self, line: bytes, count: int) -> list[bytes]:
        """Exactly `count` frames come back."""
        self._transport.write(line, 5.0)
        end, bodies = time.monotonic() + 5, list[bytes]()
        while len(bodies) < count and time.monotonic() < end:
            bodies += self._reader.feed(self._transport.read(0.5))
        assert len(bodies) == count
        return bodies


def _request(kind: int, payload: bytes = b"", sequence: int = 7) -> bytes:
    return encode_frame(bytes([sequence, kind]) + payload)


def _run(flags: int, until: int, mark: int = 0, *inputs: bytes) -> bytes:
    """SPEC, 0x04: the mark of the last reset and the inputs have a CRC-32 in common."""
    return struct.pack("<BHI", flags, until, zlib.crc32(struct.pack("<I", mark) + b"".join(inputs)))


def test_bad_requests_are_answered_and_change_nothing(device_target: str, tiny_firmware: TinyFirmware) -> None:
    build, target = tiny_firmware(device_target)
    running = emulator_for(target).start(build.elf, target)
    try:
        raw = _Raw(running.transport)
        healthy = raw.ask(_request(Message.HELLO))
        assert healthy[:3] == bytes([7, Message.HELLO | 0x80, Status.OK])

        damaged = bytearray(_request(Message.WRITE_INPUT, struct.pack("<HI", 0, 0) + b"abcd"))
        damaged[9] ^= 0x40
        unframed = b"\xff\x01\x02\0"
        for line, status in [
            (bytes(damaged), Status.BAD_CRC),
            (unframed, Status.BAD_FRAME),
            (b"\x01\0", Status.BAD_FRAME),
        ]:
            assert raw.ask(line) == bytes([0, 0x80, status])
        assert raw.ask(encode_frame(b"")) == bytes([0, 0x80, Status.BAD_FRAME])
        too_long = encode_frame(bytes([7, Message.WRITE_INPUT]) + bytes(range(1, 250)) * 6)
        assert raw.ask(too_long) == bytes([0, 0x80, Status.TOO_LONG])

        cases = [
            (0x00, b"", Status.UNKNOWN_TYPE),
            (0x10, b"image", Status.UNKNOWN_TYPE),  # reserved for load image
            (0x66, b"", Status.UNKNOWN_TYPE),
            (Message.HELLO, b"x", Status.BAD_LENGTH),
            (Message.DESCRIBE, b"\0", Status.BAD_LENGTH),
            (Message.DESCRIBE, struct.pack("<BH", 3, 0), Status.OUT_OF_RANGE),
            (Message.DESCRIBE, struct.pack("<BH", 2, 3), Status.OUT_OF_RANGE),
            (Message.WRITE_INPUT, b"\0" * 5, Status.BAD_LENGTH),
            (Message.WRITE_INPUT, struct.pack("<HI", 2, 0) + b"x", Status.OUT_OF_RANGE),
            (Message.WRITE_INPUT, struct.pack("<HI", 0, 1999) + b"xy", Status.OUT_OF_RANGE),
            (Message.WRITE_INPUT, struct.pack("<HI", 0, 0xFFFFFFFF) + b"xy", Status.OUT_OF_RANGE),
            (Message.RUN, b"\0", Status.BAD_LENGTH),
            (Message.RUN, _run(0, 0xFFFF)[:-1], Status.BAD_LENGTH),
            (Message.RUN, _run(16, 0xFFFF), Status.OUT_OF_RANGE),
            (Message.RUN, _run(8, 0xFFFF), Status.OUT_OF_RANGE),
            (Message.RUN, _run(9, 1), Status.OUT_OF_RANGE),
            (Message.RUN, _run(2, 0xFFFF), Status.OUT_OF_RANGE),  # neither has a cycle counter
            (Message.RUN, _run(0, 3), Status.OUT_OF_RANGE),
            (Message.RUN, _run(4, 1), Status.OUT_OF_RANGE),
            (Message.RUN, _run(0, 0xFFFF), Status.INPUT_MISSING),
            (Message.READ_OUTPUT, struct.pack("<HIH", 0, 0, 41), Status.OUT_OF_RANGE),
            (Message.READ_OUTPUT, struct.pack("<HIH", 2, 0, 1), Status.OUT_OF_RANGE),
            (Message.READ_OUTPUT, struct.pack("<HIH", 0, 0, 40), Status.STALE),
            (0x06, struct.pack("<HIH", 0, 0, 1), Status.UNKNOWN_TYPE),
            (Message.STACK, b"x", Status.BAD_LENGTH),
            (Message.RESET, b"", Status.BAD_LENGTH),
            (Message.RESET, b"12345", Status.BAD_LENGTH),
            (Message.RESET, bytes(4), Status.OUT_OF_RANGE),
            (Message.FAULT_TEST, b"\0", Status.OUT_OF_RANGE),
        ]
        for kind, payload, status in cases:
            assert raw.ask(_request(kind, payload)) == bytes([7, kind | 0x80, status]), (kind, payload)

        assert raw.ask(_request(Message.HELLO)) == healthy
    finally:
        running.close()


def test_both_sides_stuff_alike_at_every_length(device_target: str, tiny_firmware: TinyFirmware) -> None:
    """Groups of exactly 254 bytes, with and without zeros around them, in both directions."""
    build, target = tiny_firmware(device_target)
    running = emulator_for(target).start(build.elf, target)
    try:
        raw = _Raw(running.transport)
        for pixels in (bytes([1 + i % 255 for i in range(2000)]), bytes([i % 251 for i in range(2000)])):
            for at in range(0, 2000, 1000):
                written = raw.ask(_request(Message.WRITE_INPUT, struct.pack("<HI", 0, at) + pixels[at : at + 1000]))
                assert written[2] == Status.OK
            raw.ask(_request(Message.WRITE_INPUT, struct.pack("<HI", 1, 0) + b"\5\6\7\1"))
            accepted, ran = raw.ask_all(_request(Message.RUN, _run(0, 0xFFFF, 0, pixels, b"\5\6\7\1")), 2)
            assert accepted[2:] == bytes([Status.OK, 0, 0])
            assert ran[2:] == bytes([Status.OK, 1, 0x80, 0, 0, 1, 0, 2, 0])
            looked_up = device_fixture.expected_steps(pixels, b"\5\6\7\1")[0]
            for size in (0, 1, *range(244, 262), *range(500, 514), 1037):
                reply = raw.ask(_request(Message.READ_OUTPUT, struct.pack("<HIH", 1, 3, size)))
                assert reply[2] == Status.OK
                assert reply[3:] == looked_up[3 : 3 + size]
            assert raw.ask(_request(Message.READ_OUTPUT, struct.pack("<HIH", 1, 3, 1038)))[2] == Status.TOO_LONG
    finally:
        running.close()


class _Silent:
    """A line on which nobody answers, or somebody who is no device does."""

    def __init__(self, answer: bytes = b"", closed: bool = False) -> None:
        self.answer = answer
        self.closed = closed

    def read(self, timeout: float) -> bytes:
        if self.closed:
            raise TransportClosed("gone")
        data, self.answer = self.answer, b""
        if not data:
            time.sleep(min(timeout, 0.05))
        return data

    def write(self, data: bytes, timeout: float) -> None:
        pass

    def close(self) -> None:
        pass


def test_silence_ends_in_an_error() -> None:
    start = time.monotonic()
    with pytest.raises(DeviceError, match=r"timeout: the device did not answer 'hello'; it hangs"):
        Device(_Silent(), reply_seconds=0.3).hello()
    assert time.monotonic() - start < 2


def test_garbage_ends_in_an_error() -> None:
    with pytest.raises(DeviceError, match=r"2 damaged frames arrived"):
        Device(_Silent(b"login: \0password: \0"), reply_seconds=0.3).hello()


def test_an_answer_to_another_request_is_not_taken_for_ours() -> None:
    stray = encode_frame(bytes([99, Message.HELLO | 0x80, 0]) + bytes(40))
    with pytest.raises(DeviceError, match="timeout"):
        Device(_Silent(stray), reply_seconds=0.3).hello()


def test_a_closed_line_tells_what_became_of_the_process() -> None:
    with pytest.raises(DeviceError, match="the device died: it ended with exit code 3"):
        Device(_Silent(closed=True), post_mortem=lambda: "it ended with exit code 3").hello()


def test_a_refusal_says_what_helps(device_target: str, tiny_firmware: TinyFirmware) -> None:
    build, target = tiny_firmware(device_target)
    with open_device(build, target) as session:
        with pytest.raises(RefusedError, match="the device refused 'run': write every input before each run"):
            session.device.run()
        with pytest.raises(DeviceError, match="input 'pixels' takes 2000 bytes, not 3"):
            session.device.write_input(0, b"abc")
        assert session.device.hello().identity == device_fixture.IDENTITY


def test_another_model_on_the_device_is_noticed(tiny_firmware: TinyFirmware) -> None:
    build, target = tiny_firmware("host")
    with (
        pytest.raises(DeviceError, match="runs another model"),
        open_device(build, target, identity=b"x" * 16),
    ):
        pass


def test_a_serial_url_reaches_the_same_device(tiny_firmware: TinyFirmware) -> None:
    """socket:// stands for a board's port: the bytes are the same."""
    import socket
    import subprocess

    build, target = tiny_firmware("host")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        port = listener.getsockname()[1]
        from threading import Thread

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                subprocess.run([build.elf], stdin=connection, stdout=connection, timeout=20, check=False)

        thread = Thread(target=serve)
        thread.start()
        pixels, scale = bytes(range(250)) * 8, b"\1\2\3\4"
        with open_device(build, target, port=f"socket://127.0.0.1:{port}") as session:
            session.device.write_input(0, pixels)
            session.device.write_input(1, scale)
            crcs = session.device.run(crc=True).step_crcs
            assert crcs == tuple(map(zlib.crc32, device_fixture.expected_steps(pixels, scale)))
            assert session.instructions is None
        thread.join(20)
        assert not thread.is_alive()


def test_a_port_that_is_not_there_is_named(tiny_firmware: TinyFirmware) -> None:
    build, target = tiny_firmware("host")
    with (
        pytest.raises(DeviceError, match="/dev/no-such-port cannot be opened"),
        open_device(build, target, port="/dev/no-such-port"),
    ):
        pass


class _Deaf(_Silent):
    """Loses what comes before its `hears`-th frame, then answers as a device that holds one frame's rest."""

    def __init__(self, hears: int) -> None:
        super().__init__()
        self._left, self._answers = hears, b""

    def write(self, data: bytes, timeout: float) -> None:
        if data == b"\0":
            return
        self._left -= 1
        if self._left <= 0:
            sequence = decode_frame(data.strip(b"\0"))[0]
            hello = bytes([WIRE_VERSION, 0, 0, 4, *range(16), 1, 0, 1, 0, 1, 0, 0, 0, *bytes(8)]) + b"tiny"
            self._answers = encode_frame(bytes([sequence, Message.HELLO | 0x80, 0]) + hello)

    def read(self, timeout: float) -> bytes:
        answers, self._answers = self._answers, b""
        return answers or super().read(timeout)


def test_a_device_that_misses_the_first_hello_is_greeted_again() -> None:
    assert Device(_Deaf(3), reply_seconds=2.0, repeat_seconds=0.05).hello().name == "tiny"
    with pytest.raises(DeviceError, match="timeout: the device did not answer 'hello'"):
        Device(_Deaf(100), reply_seconds=0.3, repeat_seconds=0.05).hello()
