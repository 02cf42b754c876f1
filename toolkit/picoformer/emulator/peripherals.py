"""What firmware in an in-process core finds at the addresses of its board's serial port and watchdog."""

from __future__ import annotations

from collections.abc import Callable

from picoformer.errors import ToolError
from picoformer.targets import Target

WINDOW = 0x1000
"""Bytes of address space that one peripheral takes: a page."""


class Peripheral:
    """Registers by their offset; here all are 0 and take no notice."""

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


class StateUart(Uart):
    """A port with a register of data in each direction and one of state. Offsets, and bits of the state."""

    receive = transmit = state = 0
    full = 0
    """The bit that says that a byte has come."""
    free = 0
    """The bits that say that one may be sent, where they are ones."""

    def read(self, offset: int) -> int:
        """See Peripheral."""
        if offset == self.receive:
            return self.take()
        return self.free | self.full * self.has_byte() if offset == self.state else 0

    def write(self, offset: int, value: int) -> None:
        """See Peripheral."""
        if offset == self.transmit:
            self.put(value)


class CmsdkUart(StateUart):
    """Arm's Cortex-M System Design Kit: DATA, STATE."""

    receive, transmit, state, full = 0x0, 0x0, 0x4, 1 << 1


class Stm32Uart(StateUart):
    """STM32F1 to F4: SR, DR."""

    receive, transmit, state, full, free = 0x4, 0x4, 0x0, 1 << 5, 1 << 7


class LaterStm32Uart(StateUart):
    """STM32F7, H7, L4, G4: ISR, RDR, TDR."""

    receive, transmit, state, full, free = 0x24, 0x28, 0x1C, 1 << 5, 1 << 7


class NordicUart(Uart):
    """nRF51 and nRF52: events RXDRDY at 0x108 and TXDRDY at 0x11C, RXD at 0x518, TXD at 0x51C."""

    def read(self, offset: int) -> int:
        """See Peripheral."""
        if offset == 0x108:
            return int(self.has_byte())
        if offset == 0x518:
            return self.take()
        return int(offset == 0x11C)

    def write(self, offset: int, value: int) -> None:
        """See Peripheral."""
        if offset == 0x51C:
            self.put(value)


class PcUart(StateUart):
    """A 16550 with registers a byte apart: data, and LSR at 5."""

    receive, transmit, state, full, free = 0x0, 0x0, 0x5, 1 << 0, 0x20


class Watchdog(Peripheral):
    """Seconds left until it expires, counted while the core runs; None while it is not armed."""

    left: float | None = None
    _load = 0

    def __init__(self, seconds: float, clock_hz: int) -> None:
        self._seconds, self._clock_hz = seconds, clock_hz

    def ran(self, seconds: float) -> bool:
        """The core ran for so long; whether the watchdog has expired by that. It expires once."""
        if self.left is None:
            return False
        self.left -= seconds
        if self.left > 0:
            return False
        self.left = None
        return True


class CmsdkWatchdog(Watchdog):
    """Arm's: LOAD at 0, CONTROL at 8, whose bit 0 lets it count."""

    def write(self, offset: int, value: int) -> None:
        """See Peripheral."""
        if offset == 0x0:
            self._load = value
        elif offset == 0x8:
            self.left = self._load / self._clock_hz if value & 1 else None


class NordicTimer(Watchdog):
    """nRF51 and nRF52: START at 0, STOP at 4. How long is the target's word."""

    def write(self, offset: int, value: int) -> None:
        """See Peripheral."""
        if offset in (0x0, 0x4) and value:
            self.left = self._seconds if offset == 0x0 else None


class Stm32Timer(Watchdog):
    """CR1 at 0, whose bit 0 lets it count. How long is the target's word."""

    def write(self, offset: int, value: int) -> None:
        """See Peripheral."""
        if offset == 0x0:
            self.left = self._seconds if value & 1 else None


class Clint(Watchdog):
    """A RISC-V core's timer, from its comparator on: it counts once the upper half is set to what it is to be."""

    def write(self, offset: int, value: int) -> None:
        """See Peripheral."""
        if offset == 0x4:
            self.left = self._seconds if value != 0xFFFFFFFF else None


class Finisher(Peripheral):
    """Ends the program: 0x5555, or a status above 0x3333."""

    def __init__(self, end: Callable[[int], None]) -> None:
        self._end = end

    def write(self, offset: int, value: int) -> None:
        """See Peripheral."""
        if offset == 0:
            self._end(0 if value == 0x5555 else value >> 16)


UARTS: dict[str, type[Uart]] = {
    "cmsdk": CmsdkUart,
    "nrf": NordicUart,
    "ns16550": PcUart,
    "stm32_v1": Stm32Uart,
    "stm32_v2": LaterStm32Uart,
}
"""uart.kind of a target → its model."""

WATCHDOGS: dict[str, tuple[type[Watchdog], int, int]] = {
    "clint": (Clint, 0x4000, 0),
    "cmsdk": (CmsdkWatchdog, 0, 0),
    "cmsdk_32k": (CmsdkWatchdog, 0, 32_000),
    "nrf_timer": (NordicTimer, 0, 0),
    "stm32_timer": (Stm32Timer, 0, 0),
}
"""watchdog.kind of a target → its model, where its registers start, and its clock in Hz (0: the core's). Without one
the host ends a hang."""


def uart_of(target: Target, on_wait: Callable[[], None]) -> Uart:
    """The serial port of a board; ToolError when no model of it is there."""
    kind = target.uart.kind if target.uart else "none"
    if kind not in UARTS:
        raise ToolError(
            f"{target.name} cannot run in unicorn: its serial port ({kind}) has no model there (known: "
            f"{', '.join(UARTS)}); use QEMU or a board"
        )
    return UARTS[kind](on_wait)


def watchdog_of(target: Target) -> tuple[int, Watchdog] | None:
    """The watchdog of a board and its address; None when it has none that is known here."""
    if target.watchdog.kind not in WATCHDOGS:
        return None
    model, offset, clock_hz = WATCHDOGS[target.watchdog.kind]
    return target.watchdog.base + offset, model(target.watchdog.seconds, clock_hz or target.clock_hz)
