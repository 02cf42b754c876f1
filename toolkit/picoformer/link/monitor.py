"""What comes from a device, for a person: log frames, plain text, faults; nothing in it can harm a terminal."""

from __future__ import annotations

import struct
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from picoformer.errors import DeviceError
from picoformer.link.frames import decode_frame
from picoformer.link.harmless import harmless
from picoformer.link.messages import FAULT_FRAME, LOG_FRAME, Fault
from picoformer.link.transport import Transport, TransportClosed

_HEADER = 3  # sequence, type, status
_LONGEST = 4096  # bytes without an end that are kept back
_LONGEST_SEARCH = 2048  # bytes of a line in which a frame behind text is looked for
_QUIET = 0.3  # seconds after which the rest of a line is shown as it is
_SHOWN_BYTES = 16
_SLICE = 0.2  # seconds that one wait takes


@dataclass(frozen=True)
class Event:
    """One line for a person. `kind`: "log" (a log frame), "text" (bytes that are no frame), "fault", "bytes" (what is
    neither text nor a frame), "port" (the line itself). `seconds` since the monitor began."""

    kind: str
    text: str
    seconds: float = 0.0


class MonitorReader:
    """Splits what a device sends into frames and everything else. `explain` turns a fault into a line."""

    def __init__(self, explain: Callable[[Fault], str] | None = None) -> None:
        self._explain = explain
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Event]:
        """What received bytes completed."""
        self._rest += data
        found: list[Event] = []
        while (end := self._rest.find(0)) >= 0:
            line = bytes(self._rest[:end])
            del self._rest[: end + 1]
            found += self._line(line)
        while (end := self._rest.find(b"\n")) >= 0 and _is_text(self._rest[:end]):
            found += _text(bytes(self._rest[:end]))
            del self._rest[: end + 1]
        if len(self._rest) > _LONGEST:
            found += self.flush()
        return found

    def flush(self) -> list[Event]:
        """What is left, which nothing ended: the start of a line of text."""
        rest, self._rest = bytes(self._rest), bytearray()
        return _text(rest)

    @property
    def is_waiting(self) -> bool:
        """True while bytes are kept back that nothing has ended yet."""
        return bool(self._rest)

    def _line(self, line: bytes) -> list[Event]:
        """What stood between two zero bytes: a frame, text before a frame, or no frame at all."""
        for at in range(min(len(line), _LONGEST_SEARCH)):
            body = decode_frame(line[at:])
            if body is not None and len(body) >= _HEADER:
                return [*_text(line[:at]), *self._frame(body)]
        return _text(line)

    def _frame(self, body: bytes) -> list[Event]:
        if body[1] == LOG_FRAME:
            return [Event("log", harmless(line)) for line in _lines(body[_HEADER:])]
        if body[1] != FAULT_FRAME:
            return []  # an answer to somebody else
        try:
            fault = Fault.parse(body[_HEADER:])
        except struct.error:
            return [Event("bytes", "a fault frame of the wrong length")]
        text = self._explain(fault) if self._explain else f"the device crashed at {fault.pc:#010x}"
        return [Event("fault", harmless(text))]


def _lines(data: bytes) -> list[str]:
    return [line.rstrip("\r") for line in data.decode("utf-8", "backslashreplace").split("\n")]


def _is_text(data: bytes | bytearray) -> bool:
    """True for UTF-8 of which all but a few characters can be shown."""
    try:
        text = bytes(data).decode()
    except UnicodeDecodeError:
        return False
    return all(unicodedata.category(character) != "Cc" or character in "\t\r\n\x1b\b\a\f" for character in text)


def _text(data: bytes) -> list[Event]:
    """Bytes that are no frame, as lines; those that are no text either are told of and not shown."""
    data = data.strip(b"\r\n")
    if not data:
        return []
    if not _is_text(data):
        shown = data[:_SHOWN_BYTES].hex(" ") + (" …" if len(data) > _SHOWN_BYTES else "")
        return [Event("bytes", f"{len(data)} bytes that are neither text nor a whole frame: {shown}")]
    return [Event("text", harmless(line)) for line in _lines(data)]


def watch(
    line: Transport,
    *,
    seconds: float | None = None,
    explain: Callable[[Fault], str] | None = None,
    reopen: Callable[[], Transport] | None = None,
) -> Iterator[Event]:
    """Everything that comes over `line`, for `seconds` or until the caller has enough.

    A line that closes is opened again by `reopen`, which raises DeviceError while the port is not there; without it the
    error is the caller's. Closes the line it has at the end.
    """
    begun = time.monotonic()
    end = None if seconds is None else begun + seconds
    reader = MonitorReader(explain)
    heard = begun

    def stamped(events: list[Event]) -> list[Event]:
        now = time.monotonic() - begun
        return [Event(event.kind, event.text, now) for event in events]

    def is_over() -> bool:
        return end is not None and time.monotonic() >= end

    try:
        while not is_over():
            left = _SLICE if end is None else min(_SLICE, max(end - time.monotonic(), 0.0))
            try:
                data = line.read(left)
            except TransportClosed as error:
                yield from stamped(reader.flush())
                if reopen is None:
                    raise
                line.close()
                yield from stamped([Event("port", f"{harmless(str(error))}; waiting for it to come back")])
                found = _wait_for(reopen, is_over)
                if found is None:
                    break
                line, reader, heard = found, MonitorReader(explain), time.monotonic()
                yield from stamped([Event("port", "it is back")])
                continue
            if data:
                heard = time.monotonic()
                yield from stamped(reader.feed(data))
            elif reader.is_waiting and time.monotonic() - heard > _QUIET:
                yield from stamped(reader.flush())
        yield from stamped(reader.flush())
    finally:
        line.close()


def _wait_for(reopen: Callable[[], Transport], is_over: Callable[[], bool]) -> Transport | None:
    while not is_over():
        try:
            return reopen()
        except DeviceError:
            time.sleep(_SLICE)
    return None
