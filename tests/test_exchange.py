"""Requests on the device happen at most once, and the host says what became of one that was not answered."""

from __future__ import annotations

import struct
import subprocess
import time
import zlib
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path

import pytest

import device_fixture
from conftest import TinyFirmware
from picoformer.emulator.session import emulator_for
from picoformer.errors import DeviceError
from picoformer.link.device import Device
from picoformer.link.exchange import (
    BrokenStreamError,
    ClosedError,
    DamagedError,
    Exchange,
    NoAnswerError,
    RefusedError,
    RestartedError,
)
from picoformer.link.frames import FrameReader, decode_frame, encode_frame
from picoformer.link.messages import LOG_FRAME, Message, RunFlags, run_body, run_check
from picoformer.link.transport import Transport, TransportClosed

FIRMWARE = Path(__file__).resolve().parents[1] / "firmware"


class Ask(IntEnum):
    """Requests of firmware that has no model."""

    COUNT = 0x31
    PARTS = 0x32
    SAY = 0x33


class Answers:
    """A line whose other end is a function: a request's body → the lines that come back."""

    def __init__(self, answer: Callable[[bytes], list[bytes]]) -> None:
        self._answer = answer
        self._waiting: list[bytes] = []
        self.heard: list[bytes] = []

    def write(self, data: bytes, timeout: float) -> None:
        for line in data.split(b"\0"):
            if line:
                body = decode_frame(line)
                assert body is not None
                self.heard.append(body)
                self._waiting += self._answer(body)

    def read(self, timeout: float) -> bytes:
        if not self._waiting:
            time.sleep(min(timeout, 0.01))
            return b""
        data = self._waiting.pop(0)
        if data == b"closed":
            raise TransportClosed("the device closed the line")
        return data

    def close(self) -> None:
        pass


def reply(body: bytes, payload: bytes, status: int = 0) -> bytes:
    return encode_frame(bytes([body[0], body[1] | 0x80, status]) + payload)


def part(body: bytes, number: int, payload: bytes, last: bool = False) -> bytes:
    return reply(body, struct.pack("<H", number | last << 15) + payload)


def exchange(line: Transport, **more: object) -> Exchange:
    return Exchange(line, reply_seconds=0.2, repeat_seconds=0.02, poke_seconds=0.03, repeats=4, **more)  # type: ignore[arg-type]


READY = encode_frame(bytes([0, LOG_FRAME, 0]) + b"picoformer tiny ready")
BROKEN = encode_frame(b"abcdef")[:-2] + b"\1\0"
REFUSED_FRAME = encode_frame(bytes([0, 0x80, 1]))


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        ([], NoAnswerError, "timeout: the device did not answer 'count'; it hangs"),
        ([BROKEN], DamagedError, r"timeout: .* 'count' \(5 damaged frames arrived\)"),
        ([b"closed"], ClosedError, "the device closed the line"),
        ([REFUSED_FRAME], NoAnswerError, "timeout"),
    ],
)
def test_an_error_says_what_happened(lines: list[bytes], error: type[DeviceError], message: str) -> None:
    line = Answers(lambda body: list(lines))
    with pytest.raises(error, match=message) as caught:
        exchange(line).ask(Ask.COUNT)
    assert type(caught.value) is error
    assert len(set(line.heard)) == 1, "the same request each time"
    assert len(line.heard) == (1 if lines == [b"closed"] else 5), "and bounded"


def test_a_refusal_has_the_meaning_that_its_firmware_gives_it() -> None:
    line = Answers(lambda body: [reply(body, b"", 0x12)])
    with pytest.raises(RefusedError, match="refused 'count': the flash is locked") as caught:
        exchange(line, meaning={0x12: "the flash is locked"}).ask(Ask.COUNT)
    assert caught.value.status == 0x12


def test_a_restart_is_noticed_only_of_a_device_that_was_known() -> None:
    line = Answers(lambda body: [READY, reply(body, b"7")])
    logs: list[str] = []
    asked = exchange(line, on_log=logs.append)
    assert asked.ask(Ask.COUNT) == b"7"
    with pytest.raises(RestartedError, match="the device restarted while it was asked 'count'"):
        asked.ask(Ask.COUNT)
    assert logs == list(asked.logs) == ["picoformer tiny ready"] * 2


def test_other_words_of_a_device_are_no_restart() -> None:
    said = encode_frame(bytes([0, LOG_FRAME, 0]) + "picoformer läuft".encode())
    line = Answers(lambda body: [said, reply(body, b"7")])
    asked = exchange(line)
    assert [asked.ask(Ask.COUNT) for _ in range(3)] == [b"7"] * 3
    assert list(asked.logs) == ["picoformer läuft"] * 3


def test_a_port_that_comes_back_is_a_restart() -> None:
    first = Answers(lambda body: [reply(body, b"6") if len(first.heard) == 1 else b"closed"])
    second = Answers(lambda body: [READY, reply(body, b"8")])
    asked = exchange(first, reopen=lambda: second)
    assert asked.ask(Ask.COUNT) == b"6"
    with pytest.raises(RestartedError, match="closed the line; it came back"):
        asked.ask(Ask.COUNT)
    assert asked.ask(Ask.COUNT) == b"8"


def parts_of(*numbers: int, again: tuple[int, ...] = ()) -> Answers:
    """An answer whose part n is the letter n, the last one 3; `again`: what comes when the request is repeated."""
    times = [0]

    def answer(body: bytes) -> list[bytes]:
        times[0] += 1
        chosen = numbers if times[0] == 1 else again
        return [part(body, n, b"" if n == 0 else bytes([96 + n]), n == 3) for n in chosen]

    return Answers(answer)


@pytest.mark.parametrize(
    "line",
    [
        parts_of(0, 1, 2, 3),
        parts_of(1, 2, 3),  # the first one is empty
        parts_of(0, 1, 1, 2, 0, 1, 2, 3),  # doubled
        parts_of(0, 1, 2, again=(3,)),  # the last one is sent again
        parts_of(again=(0, 1, 2, 3)),  # the request was lost
    ],
)
def test_parts_are_joined(line: Answers) -> None:
    assert exchange(line).stream(Ask.PARTS, seconds=1) == b"abc"


@pytest.mark.parametrize("line", [parts_of(0, 2, 3), parts_of(0, 1, 3), parts_of(3), parts_of(0, 2, again=(3,))])
def test_a_lost_part_is_noticed(line: Answers) -> None:
    with pytest.raises(BrokenStreamError, match="parts of the answer to 'parts' were lost"):
        exchange(line).stream(Ask.PARTS, seconds=1)


def test_a_run_that_never_ends_is_a_timeout() -> None:
    begun = time.monotonic()
    with pytest.raises(NoAnswerError, match="timeout"):
        exchange(parts_of(0, again=(0,))).stream(Ask.PARTS, seconds=0.3)
    assert time.monotonic() - begun < 5


def test_a_run_that_nobody_accepts_does_not_cost_the_time_of_a_run() -> None:
    begun = time.monotonic()
    with pytest.raises(NoAnswerError, match="timeout"):
        exchange(parts_of()).stream(Ask.PARTS, seconds=60)
    assert time.monotonic() - begun < 30


def test_another_version_of_the_protocol_is_named() -> None:
    hello = struct.pack("<HH16sHHHHII", 2, 1040, bytes(16), 1, 1, 1, 0, 100, 0) + b"old"
    with pytest.raises(DeviceError, match="speaks version 2 of the protocol, this is 3; rebuild it"):
        Device(Answers(lambda body: [reply(body, hello)])).hello()


@pytest.mark.parametrize("payload", [b"", b"\3", struct.pack("<HH", 3, 1040)])
def test_an_answer_that_is_cut_short_makes_no_sense(payload: bytes) -> None:
    with pytest.raises(DeviceError, match="answer to 'hello' makes no sense; rebuild"):
        Device(Answers(lambda body: [reply(body, payload)])).hello()


def test_a_name_that_a_terminal_would_obey_is_written_out() -> None:
    hello = struct.pack("<HH16sHHHHII", 3, 1040, bytes(16), 1, 1, 1, 0, 100, 0) + b"\x1b[2Jtiny"
    assert Device(Answers(lambda body: [reply(body, hello)])).hello().name == "\\x1b[2Jtiny"


def test_another_device_behind_the_port_is_noticed() -> None:
    """A board that comes back is asked who it is before anything is done again."""

    def hello(body: bytes, name: bytes) -> list[bytes]:
        if body[1] == Message.HELLO:
            return [reply(body, struct.pack("<HH16sHHHHII", 3, 1040, bytes(16), 1, 1, 1, 0, 100, 0) + name)]
        return [b"closed"]

    second = Answers(lambda body: hello(body, b"other"))
    device = Device(Answers(lambda body: hello(body, b"first")), reopen=lambda: second)
    device.hello()
    with pytest.raises(DeviceError, match="another device answers now: 'other' in place of 'first'"):
        device.ask_again(Message.STACK, b"")


# --- the device's side ---------------------------------------------------------------------------------------


def hear(transport: Transport, line: bytes, count: int) -> list[bytes]:
    """Send bytes; the bodies that come back."""
    reader, found, end = FrameReader(), list[bytes](), time.monotonic() + 10
    transport.write(line, 5)
    while len(found) < count and time.monotonic() < end:
        found += [body for body in reader.feed(transport.read(0.2)) if body[1] != LOG_FRAME]
    assert len(found) == count
    return found


def test_a_request_that_comes_twice_is_carried_out_once(device_target: str, tiny_firmware: TinyFirmware) -> None:
    build, target = tiny_firmware(device_target)
    running = emulator_for(target).start(build.elf, target)
    pixels, scale = bytes(range(250)) * 8, b"\1\2\3\4"
    try:
        device = Device(running.transport)
        device.write_input(0, pixels)
        device.write_input(1, scale)
        sequence = device.exchange._sequence % 255 + 1
        payload = run_body(RunFlags.CRC, None, run_check(0, [pixels, scale]))
        frame = encode_frame(bytes([sequence, Message.RUN]) + payload)
        accepted, ran = hear(running.transport, frame, 2)
        assert accepted[2:] == b"\0\0\0"
        assert struct.unpack_from("<I", ran, 11)[0] == zlib.crc32(device_fixture.expected_steps(pixels, scale)[0])
        assert hear(running.transport, frame, 1) == [ran], "a second run would lack its inputs"
        for bad in (b"\1\0", frame[:9] + b"\7" + frame[10:]):
            assert hear(running.transport, bad, 1)[0][:2] == b"\0\x80"
        assert hear(running.transport, frame, 1) == [ran], "a broken frame in between changes nothing"
        hello = hear(running.transport, encode_frame(bytes([sequence, Message.HELLO])), 1)[0]
        assert hello[1] == Message.HELLO | 0x80, "another request under the same number is another request"
        other = encode_frame(bytes([sequence % 255 + 1, Message.RUN]) + payload)
        assert hear(running.transport, other, 1)[0][2] == 8, "another number is another request: inputs are missing"
    finally:
        running.close()


def test_half_a_frame_of_a_host_that_died_harms_nobody(device_target: str, tiny_firmware: TinyFirmware) -> None:
    build, target = tiny_firmware(device_target)
    running = emulator_for(target).start(build.elf, target)
    try:
        Device(running.transport).hello()
        half = encode_frame(bytes([3, Message.WRITE_INPUT]) + bytes(range(1, 200)))[:150]
        running.transport.write(half, 5)
        device = Device(running.transport, repeats=0)
        sent = device.exchange.ask(Message.STACK)
        assert len(sent) == 8
        assert device.exchange.resent == 0, "the zero before a request ends what stood there"
    finally:
        running.close()


def test_a_board_that_restarts_between_runs_is_noticed(tiny_firmware: TinyFirmware) -> None:
    """Even where its word of it is lost: a run carries what the last reset was marked with."""
    build, target = tiny_firmware("host")
    boards = [emulator_for(target).start(build.elf, target) for _ in range(2)]
    try:
        device = Device(boards[0].transport)
        device.hello()
        device.reset()
        hear(boards[1].transport, b"\0" + encode_frame(bytes([1, Message.HELLO])), 1)  # it has said that it is ready
        device.exchange._transport = boards[1].transport
        device.write_input(0, bytes(2000))
        device.write_input(1, bytes(4))
        with pytest.raises(RefusedError, match="not this host's: it restarted, or somebody else speaks to it"):
            device.run()
    finally:
        for board in boards:
            board.close()


def test_a_reset_that_comes_late_is_not_made_again(tiny_firmware: TinyFirmware) -> None:
    """Under a number of its own, behind what was written since; another mark is another reset."""
    build, target = tiny_firmware("host")
    running = emulator_for(target).start(build.elf, target)
    try:
        device = Device(running.transport)
        device.reset()
        device.write_input(0, bytes(2000))
        device.write_input(1, b"\1\2\3\4")
        device.ask(Message.RESET, struct.pack("<I", device._mark))
        check = run_check(device._mark, [bytes(2000), b"\1\2\3\4"])
        device.ask(Message.RUN, run_body(RunFlags.CRC, None, check))  # the inputs are still there
        device.write_input(0, bytes(2000))
        device.write_input(1, b"\1\2\3\4")
        device.ask(Message.RESET, struct.pack("<I", device._mark ^ 1))
        with pytest.raises(RefusedError, match="not this host's"):
            device.run()
    finally:
        running.close()


def test_a_board_that_loses_its_inputs_gets_them_again(tiny_firmware: TinyFirmware) -> None:
    build, target = tiny_firmware("host")
    boards = [emulator_for(target).start(build.elf, target) for _ in range(2)]
    try:
        device = Device(boards[0].transport)
        device.write_input(0, bytes(2000))
        device.write_input(1, b"\1\2\3\4")
        device.exchange._transport = boards[1].transport  # says that it is ready, then that it has no inputs
        result = device.run(crc=True)
        assert result.step_crcs == tuple(map(zlib.crc32, device_fixture.expected_steps(bytes(2000), b"\1\2\3\4")))
    finally:
        for board in boards:
            board.close()


SMALL = """
#include "picoformer/port.h"
#include "picoformer/requests.h"
static uint8_t counter;
static uint8_t answer(const pf_call *call, pf_reply *reply)
{
    if (call->type == 0x33u) pf_wire_log((const char *)call->payload); /* the test ends it by a zero */
    if (call->type == 0x33u) return PF_ACCEPTED;
    if (call->type != 0x31u) return PF_UNKNOWN_TYPE;
    if (call->bytes != 0) return PF_BAD_LENGTH;
    counter++;
    pf_wire_log("counted \\xc3\\xa9");
    pf_reply_u8(reply, counter);
    return PF_ACCEPTED;
}
int main(void)
{
    pf_port_init();
    pf_serve_requests("counter", answer);
    return 0;
}
"""


def test_firmware_without_a_model_answers_requests(tmp_path: Path) -> None:
    """frame.c, reply.c, requests.c and crc32.c need nothing but a byte pipe."""
    (tmp_path / "main.c").write_text(SMALL)
    names = ("frame", "reply", "requests", "crc32", "log", "fault")
    sources = [*(FIRMWARE / "protocol" / f"{name}.c" for name in names), FIRMWARE / "port" / "host" / "port.c"]
    subprocess.run(
        ["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-DPF_FRAME_BYTES=320", f"-I{FIRMWARE / 'include'}",
         "main.c", *map(str, sources), "-o", "counter"],
        cwd=tmp_path, check=True,
    )  # fmt: skip
    from picoformer.emulator.host import HostProcess

    running = HostProcess(tmp_path / "counter")
    try:
        asked = Exchange(running.transport)
        assert [asked.ask(Ask.COUNT) for _ in range(3)] == [b"\1", b"\2", b"\3"]
        assert list(asked.logs) == ["picoformer counter ready", *["counted é"] * 3]
        with pytest.raises(RefusedError, match="does not know this message"):
            asked.ask(Ask.PARTS)
        for text in ("", "é" * 140, "ab€" * 60, "🙂" * 70, "x" * 64, "x" * 65):
            before = len(asked.logs)
            asked.ask(Ask.SAY, text.encode() + b"\0")
            said = list(asked.logs)[before:]
            assert "".join(said) == text
            assert "\ufffd" not in "".join(said), "no character is cut in two"
            assert len(said) <= max(1, -(-len(text.encode()) // 61))
    finally:
        running.close()
