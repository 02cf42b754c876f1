"""Requests that get through a bad line: numbered, repeated with bounds, and in the end an error that says why."""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from random import SystemRandom
from typing import NoReturn

from picoformer.errors import DeviceError
from picoformer.link.frames import FrameReader, encode_frame
from picoformer.link.harmless import harmless
from picoformer.link.messages import FAULT_FRAME, LOG_FRAME, MEANING, REPLY, Fault, Status
from picoformer.link.transport import Transport, TransportClosed

REPLY_HEADER = 3
"""Bytes of a reply before its payload: sequence, type, status."""
_LAST_PART, _PARTS = 0x8000, 0x8000
_KEPT_LOGS = 100
_READY = ("picoformer ", " ready")


class RefusedError(DeviceError):
    """The device answered a request with an error status and did nothing."""

    def __init__(self, request: IntEnum, status: int, meaning: Mapping[int, str] = MEANING) -> None:
        super().__init__(f"the device refused '{name_of(request)}': {meaning.get(status) or f'status {status}'}")
        self.status = status


class NoAnswerError(DeviceError):
    """The device was silent for as long as it may be."""


class DamagedError(NoAnswerError):
    """Something came back, and none of it whole."""


class BrokenStreamError(DamagedError):
    """The request was carried out, and frames of its answer are lost: it may be asked anew where that does no harm."""


class RestartedError(DeviceError):
    """The device has started anew: what was written to it is gone."""


class ClosedError(DeviceError):
    """The line is closed."""


class FaultError(DeviceError):
    """The device crashed and said so."""

    def __init__(self, message: str, fault: Fault) -> None:
        super().__init__(message)
        self.fault = fault


def name_of(request: IntEnum) -> str:
    """A request's name as messages have it."""
    return request.name.lower().replace("_", " ")


def is_ready(text: str) -> bool:
    """True for the log message by which firmware says that it has started."""
    return text.startswith(_READY[0]) and text.endswith(_READY[1])


class Exchange:
    """Requests and replies over a byte pipe, one request at a time.

    A request whose answer does not come within `repeat_seconds`, or comes damaged, is sent again with the same
    sequence number, at most `repeats` times: firmware carries it out once (SPEC section 7). `reply_seconds` bounds the
    wait for an answer, or for the first of its parts; after `poke_seconds` of silence between parts the device is asked
    for the last one again. `meaning` names the statuses of a refusal; `explain` turns a fault frame into a line for a
    person; `on_log` gets the text of each log frame, of which the newest are kept in `logs`. `post_mortem` says what
    became of a process whose line closed. `reopen` gives the line again after it was closed (a port that was
    unplugged) or raises DeviceError.

    The first request of a session must be one that may be carried out twice or not at all, such as a hello.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        reply_seconds: float = 10.0,
        repeat_seconds: float = 1.0,
        poke_seconds: float = 10.0,
        repeats: int = 8,
        meaning: Mapping[int, str] = MEANING,
        explain: Callable[[Fault], str] | None = None,
        on_log: Callable[[str], None] | None = None,
        post_mortem: Callable[[], str] | None = None,
        reopen: Callable[[], Transport] | None = None,
    ) -> None:
        self._transport = transport
        self.reply_seconds = reply_seconds
        self._repeat_seconds = repeat_seconds
        self._poke_seconds = poke_seconds
        self._repeats = repeats
        self._meaning = meaning
        self._explain = explain
        self._on_log = on_log
        self._post_mortem = post_mortem
        self._reopen = reopen
        self._reader = FrameReader()
        self._received: deque[bytes] = deque()
        self._sequence = SystemRandom().randrange(255)
        self._is_known = False  # it has answered: if it says that it is ready, it has started anew
        self.logs: deque[str] = deque(maxlen=_KEPT_LOGS)
        self.asked = 0
        self.resent = 0
        """How many requests were made and how often one was sent again, for whoever asks how bad the line is."""

    def ask(self, request: IntEnum, payload: bytes = b"", *, seconds: float | None = None) -> bytes:
        """The payload of the answer, within `seconds` (None: `reply_seconds`).

        Raises RefusedError, DamagedError, NoAnswerError, RestartedError, ClosedError, FaultError.
        """
        return next(self.replies(request, payload, seconds=seconds))

    def stream(self, request: IntEnum, payload: bytes = b"", *, seconds: float) -> bytes:
        """The joined parts of an answer in numbered frames (SPEC section 7), the first of which must come within
        `reply_seconds`, the last within `seconds`. Raises what `ask` raises, and BrokenStreamError once it has ended if
        a part is missing."""
        parts: list[bytes] = []
        expected, whole = 0, True
        for data in self.replies(request, payload, seconds=seconds, begin_seconds=self.reply_seconds):
            if len(data) < 2:
                raise DeviceError(f"a part of the answer to '{name_of(request)}' has no number; rebuild its firmware")
            word = struct.unpack_from("<H", data)[0]
            ahead = (word % _PARTS - expected) % _PARTS
            if ahead >= _PARTS // 2:
                continue  # came twice
            whole = whole and (ahead == 0 or (expected == 0 and ahead == 1))  # the first one is empty: it may be lost
            expected = (word + 1) % _PARTS
            parts.append(data[2:])
            if word & _LAST_PART:
                break
        if not whole:
            raise BrokenStreamError(f"parts of the answer to '{name_of(request)}' were lost; check the line")
        return b"".join(parts)

    def replies(
        self,
        request: IntEnum,
        payload: bytes = b"",
        *,
        seconds: float | None = None,
        begin_seconds: float | None = None,
        poke: bool = True,
    ) -> Iterator[bytes]:
        """The payload of every reply to one request, as they come; whoever asks knows the last one.

        The first must come within `begin_seconds` (None: `seconds`), all within `seconds` (None: `reply_seconds`). With
        `poke` the request is sent again after `poke_seconds` of silence behind a reply as well, which brings the last
        one back if it was lost; without, silence of `seconds` ends in an error.
        """
        seconds = self.reply_seconds if seconds is None else seconds
        frame = self._frame(request, payload)
        self._write(frame)
        begun = time.monotonic()
        end, sent, left, is_begun = begun + seconds, begun, self._repeats, False
        until = end if begin_seconds is None else min(end, begun + begin_seconds)
        first = seen = self._reader.broken
        while True:
            quiet = self._poke_seconds if is_begun else self._repeat_seconds
            again = sent + quiet if (poke if is_begun else left > 0) else until
            body = self._next_body(request, min(until, again))
            now = time.monotonic()
            is_damaged = self._reader.broken > seen or (body is not None and _is_broken_request(body))
            if body is not None and self._is_answer(body, request):
                status = body[2]
                if status != Status.OK:
                    raise RefusedError(request, status, self._meaning)
                seen, sent, is_begun = self._reader.broken, now, True
                until = end if poke else now + seconds
                yield body[REPLY_HEADER:]
                continue
            if body is None and now >= until:
                raise self._no_answer(request, self._reader.broken - first)
            if (is_damaged and left > 0 and (poke or not is_begun)) or (body is None and now >= again):
                seen = self._reader.broken
                left -= 1
                self.resent += 1
                self._write(frame)
                sent = time.monotonic()

    def wake(self) -> None:
        """End whatever stood on the line."""
        self._write(b"\0")

    def close(self) -> None:
        """Let go of the line."""
        self._transport.close()

    def _frame(self, request: IntEnum, payload: bytes) -> bytes:
        self._sequence = self._sequence % 255 + 1
        self.asked += 1
        return b"\0" + encode_frame(bytes([self._sequence, request]) + payload)

    def _is_answer(self, body: bytes, request: IntEnum) -> bool:
        if len(body) < REPLY_HEADER or body[:2] != bytes([self._sequence, request | REPLY]):
            return False
        self._is_known = True
        return True

    def _write(self, data: bytes) -> None:
        try:
            self._transport.write(data, self.reply_seconds)
        except TransportClosed as error:
            self._closed(error)

    def _next_body(self, request: IntEnum, end: float) -> bytes | None:
        """A reply's body, whoever it is for; None at `end`, or where a damaged frame ended."""
        broken = self._reader.broken
        while not self._received:
            left = end - time.monotonic()
            if left <= 0 or self._reader.broken > broken:
                return None
            try:
                data = self._transport.read(left)
            except TransportClosed as error:
                self._closed(error)
            self._received += self._reader.feed(data)
        body = self._received.popleft()
        if len(body) < REPLY_HEADER:
            return b""
        if body[1] == FAULT_FRAME:
            self._raise_fault(body)
        if body[1] == LOG_FRAME:
            self._log(request, harmless(body[REPLY_HEADER:].decode("utf-8", "replace").rstrip("\r\n")))
        return body

    def _log(self, request: IntEnum, text: str) -> None:
        self.logs.append(text)
        if self._on_log is not None:
            self._on_log(text)
        if self._is_known and is_ready(text):
            raise RestartedError(
                f"the device restarted while it was asked '{name_of(request)}': what was written to it is gone; check "
                "its supply and its watchdog, then begin again"
            )

    def _no_answer(self, request: IntEnum, broken: int) -> NoAnswerError:
        found = f" ({broken} damaged frames arrived)" if broken else ""
        kind = DamagedError if broken else NoAnswerError
        return kind(
            f"timeout: the device did not answer '{name_of(request)}'{found}; it hangs, or is no picoformer firmware"
        )

    def _closed(self, error: TransportClosed) -> NoReturn:
        """The line is closed: a fault frame may still lie in it. Raises in any case."""
        try:
            while data := self._transport.read(0.2):
                self._received += self._reader.feed(data)
        except DeviceError:
            pass
        for body in self._received:
            if len(body) > REPLY_HEADER and body[1] == FAULT_FRAME:
                self._raise_fault(body)
        if self._reopen is not None:
            self._transport.close()
            self._transport = self._reopen()
            self._reader = FrameReader()
            self._received.clear()
            self._is_known = False  # opening a port resets some boards
            raise RestartedError(f"{error}; it came back, and what was written to the device is gone") from error
        raise ClosedError(f"the device died: {self._post_mortem()}" if self._post_mortem else str(error)) from error

    def _raise_fault(self, body: bytes) -> NoReturn:
        try:
            fault = Fault.parse(body[REPLY_HEADER:])
        except struct.error:
            raise DeviceError("the device sent a fault frame of the wrong length; rebuild its firmware") from None
        message = self._explain(fault) if self._explain else f"the device crashed at {fault.pc:#010x}"
        raise FaultError(message, fault)


def _is_broken_request(body: bytes) -> bool:
    """True for the answer to a frame that did not arrive whole, ours as a rule."""
    return body[:2] == bytes([0, REPLY]) and body[2] != Status.OK
