"""Speaking with a resident bootloader: one method per request, every wait bounded (SPEC section 22)."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from enum import IntEnum

from picoformer.errors import DeviceError
from picoformer.link.exchange import DamagedError, Exchange, NoAnswerError, RefusedError, RestartedError
from picoformer.link.messages import MEANING, Message, Status
from picoformer.link.transport import Transport

BOOT_VERSION = 1
_INFO = struct.Struct("<HHIIIHBB104s")
_REQUEST_BYTES = 6  # sequence, type, offset: what a piece of a page shares its frame with
_REPLY_BYTES = 3
_ANSWER_SECONDS = 10.0
_HASH_SECONDS = 60.0  # SHA-256 of a megabyte on a slow core
_KNOCK_SECONDS = 0.1  # several knocks fall into the time that a bootloader listens after a reset
_ENTER_SECONDS = 3.0
_START_SECONDS = 0.05
_GREETINGS = 100


class BootMessage(IntEnum):
    """Request types of a bootloader; ENTER is answered by the firmware behind it too."""

    IDENTIFY = 0x10
    PAGES = 0x11
    BEGIN = 0x12
    WRITE = 0x13
    FINISH = 0x14
    START = 0x15
    ENTER = 0x17


class SlotState(IntEnum):
    """What a bootloader finds in its slot; the status too of a request that is refused for it."""

    VALID = 0
    NONE = 0x20
    BAD_HEADER = 0x21
    FOREIGN = 0x22
    OUTSIDE = 0x23
    BAD_HASH = 0x24
    BAD_VECTORS = 0x25


NOT_WRITTEN, STARTING = 0x26, 0x27
"""Statuses of a bootloader's refusals beside the states of its slot."""
STATE_MEANING: dict[int, str] = {
    SlotState.VALID: "a valid image",
    SlotState.NONE: "no image, or one whose transfer was cut short",
    SlotState.BAD_HEADER: "an image whose header the bootloader does not understand",
    SlotState.FOREIGN: "an image for another target",
    SlotState.OUTSIDE: "an image whose length, place or entry is outside of the slot",
    SlotState.BAD_HASH: "an image that is not what its header says (SHA-256)",
    SlotState.BAD_VECTORS: "an image whose vector table cannot be one",
}
"""State of a slot → what there is in it."""
BOOT_MEANING: dict[int, str] = {
    **{int(status): text for status, text in MEANING.items()},
    Status.OUT_OF_RANGE: "the place is outside of the slot or crosses a page",
    Status.STALE: "no transfer was begun, or a piece of a page is missing",
    **{state: f"it is {text}" for state, text in STATE_MEANING.items() if state},
    NOT_WRITTEN: "the memory does not hold what was written to it: it is worn out, or locked",
    STARTING: "it is about to start the firmware",
}
"""Status of a refusal → what it means."""


@dataclass(frozen=True)
class BootInfo:
    """What a bootloader says of itself and its slot; sizes in bytes. `state`: of the slot; `header`: what lies where an
    image's header belongs, whatever it is; `is_receiving`: a transfer was begun and is not finished."""

    version: int
    frame_bytes: int
    origin: int
    slot_bytes: int
    page_bytes: int
    window_ms: int
    state: int
    is_receiving: bool
    header: bytes
    target: str

    @classmethod
    def parse(cls, data: bytes) -> BootInfo:
        """From the payload of the reply. DeviceError where it makes no sense."""
        if len(data) < _INFO.size:
            raise DeviceError("the bootloader's answer is too short; it is another bootloader than picoformer's")
        version, frame, origin, slot, page, window, state, receiving, header = _INFO.unpack_from(data)
        name = data[_INFO.size :].decode("ascii", "replace")
        info = cls(version, frame, origin, slot, page, window, state, bool(receiving), header, name)
        if version != BOOT_VERSION:
            raise DeviceError(
                f"the board's bootloader is of version {version}, this speaks {BOOT_VERSION}; put a new one on it"
            )
        if not (0 < page <= slot and slot % page == 0 and page & (page - 1) == 0 and frame >= 64):
            raise DeviceError(f"the bootloader tells of a slot of {slot} bytes in pages of {page}, which cannot be")
        return info

    @property
    def pages(self) -> int:
        """Pages of the slot, that of the header among them."""
        return self.slot_bytes // self.page_bytes

    @property
    def piece_bytes(self) -> int:
        """The most bytes of a page in one request: a power of two, so that pages come out even."""
        room = min(self.frame_bytes - _REQUEST_BYTES, self.page_bytes)
        return 1 << (room.bit_length() - 1)


class Bootloader:
    """The requests of a bootloader over `transport`. Raises DeviceError (or a subclass of it, see Exchange) when the
    board is silent, refuses, or starts anew while it is asked."""

    def __init__(self, transport: Transport, *, repeat_seconds: float = 1.0) -> None:
        self._transport = transport
        self._exchange = self._fresh(repeat_seconds, 8)

    def _fresh(self, repeat_seconds: float, repeats: int) -> Exchange:
        return Exchange(
            self._transport,
            reply_seconds=_ANSWER_SECONDS,
            repeat_seconds=repeat_seconds,
            repeats=repeats,
            meaning=BOOT_MEANING,
        )

    @property
    def resent(self) -> int:
        """How often a request was sent again: how bad the line is."""
        return self._exchange.resent

    def connect(self, seconds: float) -> BootInfo:
        """Reach the bootloader: knock until it answers, and ask firmware that answers in its place to let it.

        NoAnswerError after `seconds` of silence; DeviceError where the firmware knows of no bootloader.
        """
        end = time.monotonic() + seconds
        knocking = self._exchange
        self._exchange = self._fresh(_KNOCK_SECONDS, int(seconds / _KNOCK_SECONDS) + 1)
        try:
            while True:
                try:
                    return self.identify(max(end - time.monotonic(), _KNOCK_SECONDS))
                except RefusedError as error:
                    if error.status != Status.UNKNOWN_TYPE:
                        raise
                    self.enter()
                except RestartedError:
                    pass  # it has just come up: ask again
                if time.monotonic() > end:
                    raise NoAnswerError(
                        f"timeout: the board did not come into its bootloader within {seconds:g} s; press its reset "
                        "button while this runs"
                    )
        finally:
            self._exchange = knocking  # knocks that nobody heard are no fault of the line

    def enter(self) -> None:
        """Ask firmware to make way for its bootloader; DeviceError where it knows of none."""
        try:
            self._exchange.ask(BootMessage.ENTER, seconds=_ENTER_SECONDS)
        except RefusedError as error:
            if error.status == Status.UNKNOWN_TYPE:
                raise DeviceError(
                    "the firmware on the port is not behind a bootloader; put one on the board once "
                    "(`picoformer bootloader`) and build with --bootloader"
                ) from None
            raise
        except (RestartedError, DamagedError):
            pass  # it is on its way

    def identify(self, seconds: float = _ANSWER_SECONDS) -> BootInfo:
        """Who the bootloader is, and what is in its slot."""
        return BootInfo.parse(self._exchange.ask(BootMessage.IDENTIFY, seconds=seconds))

    def page_crcs(self, info: BootInfo, first: int, count: int) -> list[int]:
        """The CRC-32 of `count` pages of the slot from page `first` on."""
        found: list[int] = []
        most = (info.frame_bytes - _REPLY_BYTES) // 4
        while len(found) < count:
            some = min(most, count - len(found))
            reply = self._exchange.ask(BootMessage.PAGES, struct.pack("<IH", first + len(found), some))
            if len(reply) != 4 * some:
                raise DeviceError(f"the bootloader sent {len(reply)} bytes of CRCs where {4 * some} were asked for")
            found += struct.unpack(f"<{some}I", reply)
        return found

    def begin(self, header: bytes) -> None:
        """Announce the image that `header` tells of: the one in the slot is none from here on."""
        self._exchange.ask(BootMessage.BEGIN, header)

    def write(self, offset: int, data: bytes) -> None:
        """Write `data` at `offset` of the slot, inside one page whose beginning comes first."""
        self._exchange.ask(BootMessage.WRITE, struct.pack("<I", offset) + data)

    def finish(self) -> None:
        """Let the bootloader check the image, and write its header."""
        self._exchange.ask(BootMessage.FINISH, seconds=_HASH_SECONDS)

    def start(self) -> None:
        """Let the bootloader start the image. That its answer is lost is no error: the firmware may run already."""
        try:
            self._exchange.ask(BootMessage.START, seconds=_HASH_SECONDS)
        except (RestartedError, NoAnswerError):
            pass
        except RefusedError as error:
            if error.status != Status.UNKNOWN_TYPE:
                raise


def greet(exchange: Exchange) -> bytes:
    """The answer to a hello: of the firmware, also where its bootloader still had the line.

    DeviceError where that has nothing that it could start.
    """
    for _ in range(_GREETINGS):
        try:
            return exchange.ask(Message.HELLO)
        except RefusedError as error:
            if error.status in STATE_MEANING:
                raise DeviceError(
                    f"the board is in its bootloader, which has {STATE_MEANING[error.status]}; `picoformer flash` it"
                ) from None
            if error.status != STARTING:
                raise
        time.sleep(_START_SECONDS)
    raise DeviceError("the board's bootloader starts firmware that does not come up; flash it again")
