"""What `picoformer monitor` shows: frames and text apart, nothing that a terminal obeys, and a port that comes back."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import TinyFirmware
from picoformer.emulator.session import emulator_for
from picoformer.emulator.symbols import symbolize
from picoformer.link.faults import explain
from picoformer.link.frames import encode_frame
from picoformer.link.harmless import harmless
from picoformer.link.messages import FAULT_FRAME, LOG_FRAME, Message
from picoformer.link.monitor import Event, MonitorReader, watch
from picoformer.link.transport import SerialTransport, Transport, TransportClosed
from serial_line import SerialLine
from text_models import built


def log(text: str) -> bytes:
    return encode_frame(bytes([0, LOG_FRAME, 0]) + text.encode())


def shown(data: bytes, cut: int = 1 << 20) -> list[tuple[str, str]]:
    reader = MonitorReader()
    found = [event for at in range(0, len(data), cut) for event in reader.feed(data[at : at + cut])]
    return [(event.kind, event.text) for event in [*found, *reader.flush()]]


@given(st.lists(st.sampled_from(["log", "text", "answer"]), max_size=8), st.integers(1, 40))
def test_frames_and_text_are_told_apart_at_any_cut(kinds: list[str], cut: int) -> None:
    """An SDK's prints between frames; answers to another program are nobody's business here."""
    sent, wanted = b"", []
    for index, kind in enumerate(kinds):
        if kind == "log":
            sent += log(f"état {index}")
            wanted.append(("log", f"état {index}"))
        elif kind == "text":
            sent += f"I ({index}) wifi: connecté\r\n".encode()
            wanted.append(("text", f"I ({index}) wifi: connecté"))
        else:
            sent += encode_frame(bytes([index + 1, Message.RUN | 0x80, 0, 0, 0x80]) + bytes(range(60)))
    assert shown(sent, cut) == wanted


def test_text_that_nothing_ended_is_shown_before_a_frame_and_at_the_end() -> None:
    assert shown(b"boot" + log("ready") + b"login: ") == [("text", "boot"), ("log", "ready"), ("text", "login: ")]


def test_what_is_neither_text_nor_a_frame_is_told_of() -> None:
    damaged = bytearray(encode_frame(bytes([3, 0x84, 0]) + bytes(range(1, 30))))
    damaged[9] ^= 0x55
    assert shown(bytes(damaged)) == [
        ("bytes", f"{len(damaged) - 1} bytes that are neither text nor a whole frame: {damaged[:16].hex(' ')} …")
    ]


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp\u2066.\u2028\x00\x08\r\x7f\ue000"


def test_nothing_that_a_terminal_obeys_gets_through() -> None:
    safe = harmless(HOSTILE)
    assert all(character.isprintable() for character in safe)
    assert safe.startswith("\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\u202egnp")
    for kind, text in shown(HOSTILE.replace("\x00", "").encode() + b"\n" + log(HOSTILE.replace("\x00", ""))):
        assert kind in ("text", "log", "bytes")
        assert text.isprintable(), text


def test_colours_of_an_sdk_are_text_that_is_written_out() -> None:
    assert shown(b"\x1b[0;32mI (5) boot\x1b[0m\r\n") == [("text", "\\x1b[0;32mI (5) boot\\x1b[0m")]
    assert shown("\u202etxt.exe\n".encode()) == [("text", "\\u202etxt.exe")]


@given(st.binary(max_size=3000), st.integers(1, 500))
def test_any_bytes_end_in_lines_that_can_be_printed(data: bytes, cut: int) -> None:
    for _, text in shown(data, cut):
        assert all(character.isprintable() or character == "\t" for character in text)


def test_bytes_without_an_end_are_not_kept_for_ever() -> None:
    reader = MonitorReader()
    for _ in range(100):
        reader.feed(b"x" * 1000)
        assert len(reader._rest) <= 5000


def test_a_fault_of_the_wrong_length_is_told_of() -> None:
    assert shown(encode_frame(bytes([0, FAULT_FRAME, 0]) + b"abc")) == [("bytes", "a fault frame of the wrong length")]


def test_a_fault_is_told_with_its_function(tiny_firmware: TinyFirmware) -> None:
    build, target = tiny_firmware("host")
    running = emulator_for(target).start(build.elf, target)
    running.transport.write(b"\0" + encode_frame(bytes([1, Message.FAULT_TEST, 1])), 5)
    events = watch(
        running.transport, seconds=20,
        explain=lambda fault: explain(fault, lambda address: symbolize(build.elf, address), [], "host"),
    )  # fmt: skip
    assert next(events).text == "picoformer tiny ready"
    fault = next(events)
    assert fault.kind == "fault"
    assert fault.text.startswith("the device crashed: bad memory access in pf_test_bad_write at address 0")
    with pytest.raises(TransportClosed):
        next(events)
    running.close()


def test_a_port_that_is_pulled_out_is_waited_for(tmp_path: Path) -> None:
    line = SerialLine(tmp_path / "port")

    def open_port() -> Transport:
        return SerialTransport(str(line.path))

    events: Iterator[Event] = watch(open_port(), seconds=30, reopen=open_port)
    line.say(log("picoformer tiny ready"))
    assert next(events).text == "picoformer tiny ready"
    line.say(b"half a li")
    line.unplug()
    told = [next(events)]
    if told[0].kind == "text":  # it may have come before the line was cut
        told.append(next(events))
    assert told[-1].kind == "port"
    assert told[-1].text.endswith("; waiting for it to come back")
    line.plug()
    assert next(events) == Event("port", "it is back", pytest.approx(15, abs=15))
    line.say(log("picoformer tiny ready"))
    assert next(events).kind == "log"
    events.close()  # type: ignore[attr-defined]
    line.close()


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "picoformer", "monitor", *map(str, arguments)]


@pytest.mark.parametrize("target", ["host", "mps2-an386"])
def test_the_command_runs_a_build_where_there_is_no_board(place: Path, arm_tools: None, target: str) -> None:
    folder = built(place, "int8x16", "mps2-an386", 3).build.folder
    running = subprocess.Popen(command(folder, "--target", target, "--json"), stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    event = json.loads(running.stdout.readline())
    assert (event["kind"], event["text"]) == ("log", "picoformer decoder ready")
    assert event["seconds"] >= 0
    running.send_signal(signal.SIGINT)
    assert running.wait(20) == 0


def test_the_command_ends_after_so_many_seconds(tmp_path: Path) -> None:
    line = SerialLine(tmp_path / "port")
    done = subprocess.run(command("--port", line.path, "--seconds", 0.5), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    line.close()


def test_ctrl_c_ends_the_command_without_a_word(tmp_path: Path) -> None:
    line = SerialLine(tmp_path / "port")
    running = subprocess.Popen(
        command("--port", line.path, "--timestamps"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    end, heard = time.monotonic() + 30, ""
    while not heard and time.monotonic() < end:  # what comes before the port is open is lost
        line.say(log("hello"))
        heard = running.stdout.readline() if select.select([running.stdout], [], [], 0.3)[0] else ""
    assert heard.strip().split("  ") == [heard.strip().split("  ")[0], "hello"]
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=20)
    assert (running.returncode, errors) == (0, "")
    line.close()


def test_with_nothing_to_watch_the_command_says_so(tmp_path: Path) -> None:
    for arguments, message in (
        ([], "nothing to watch"),
        (["--port", tmp_path / "no-such"], "no-such cannot be opened"),
        ([tmp_path], "is not a build folder (no target.json); make one with"),
    ):
        done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
