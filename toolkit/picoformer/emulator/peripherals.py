"""What firmware in an in-process core finds at the addresses of its board's serial port and watchdog."""

from __future__ import annotations

from collections.abc import Callable

from picoformer.errors import ToolError
from picoformer.targets import Target

WINDOW = 0x1000
"""Bytes of address space that one peripheral takes: a page."""


class Peripheral:
    """Registers of 32 bits by their offset; here all are 0 and take no notice."""

    def read(self, offset: int) -> int:
        """What a load gives."""
        return 0

    def write(self, offset: int, value: int) -> None:
        """What a store does."""


class Uart(Peripheral):
    """A byte pipe: `received` waits for the firmware, `sent` for the host.

    Firmware that asks twice in a row whether a byte has come, while none has and it sent nothing in between, waits:
    `on_wait` is called then. (Before each byte that it sends it asks once, whether there is room.)
    """

    def __init__(self, on_wait: Callable[[], None]) -> None:
        self.received, self.sent = bytearray(), bytearray()
        self.taken = 0
        """Bytes that the firmware has read."""
        self._on_wait = on_wait
        self._asked = 0

    @property
    def is_awaited(self) -> bool:
        """Whether the firmware waits for a byte that has not come."""
        return self._asked > 1 and not self.received

    def has_byte(self) -> bool:
        """The firmware asks for the state of the line."""
        self._asked += 1
        if self.is_awaited:
            self._on_wait()
        return bool(self.received)

    def take(self) -> int:
        """The firmware reads a byte; 0 when there is none."""
        self._asked = 0
        if not self.received:
            return 0
        self.taken += 1
        return self.received.pop(0)

    def put(self, value: int) -> None:
        """The firmware sends a byte."""
        self._asked = 0
        self.sent.append(value & 0xFF)


class CmsdkUart(Uart):
    """DATA at 0, STATE at 4: bit 0 transmit full (never), bit 1 receive full."""

    def read(self, offset: int) -> int:
        """See Peripheral."""
        if offset == 0x0:
            return self.take()
        return 2 * self.has_byte() if offset == 0x4 else 0

    def write(self, offset: int, value: int) -> None:
        """See Peripheral."""
        if offset == 0x0:
            self.put(value)


class Watchdog(Peripheral):
    """Time left until an expiry, counted while the core runs; None while it is not armed."""

    def __init__(self, clock_hz: int) -> None:
        self._clock_hz = clock_hz
        self.left: float | None = None

    def ran(self, seconds: float) -> bool:
        """The core ran for so long; whether the watchdog has expired by that. It expires once."""
        if self.left is None:
            return False
        self.left -= seconds
        if self.left > 0:
            return False
        self.left = None
        return True

    def arm(self, ticks: int) -> None:
        """Expire after so many clock ticks."""
        self.left = ticks / self._clock_hz


class CmsdkWatchdog(Watchdog):
    """LOAD at 0, CONTROL at 8: bit 0 lets it count."""

    _load = 0

    def write(self, offset: int, value: int) -> None:
        """See Peripheral."""
        if offset == 0x0:
            self._load = value
        elif offset == 0x8 and value & 1:
            self.arm(self._load)
        elif offset == 0x8:
            self.left = None


UARTS: dict[str, type[Uart]] = {"cmsdk": CmsdkUart}
"""uart.kind of a target → its model."""

WATCHDOGS: dict[str, type[Watchdog]] = {"cmsdk": CmsdkWatchdog}
"""watchdog.kind of a target → its model; of any other only the host's own timeout ends a hang."""


def uart_of(target: Target, on_wait: Callable[[], None]) -> Uart:
    """The serial port of a board; ToolError when no model of it is there."""
    kind = target.uart.kind if target.uart else "none"
    if kind not in UARTS:
        raise ToolError(
            f"{target.name} cannot run in unicorn: its serial port ({kind}) has no model there (known: "
            f"{', '.join(UARTS)}); use QEMU or a board"
        )
    return UARTS[kind](on_wait)
