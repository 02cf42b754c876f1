"""Boards without QEMU: the core runs in this process, in unicorn, and its UART is a pipe in memory."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from picoformer.emulator.core import Core
from picoformer.emulator.cortex_m import CortexM
from picoformer.emulator.image import Image, read_image
from picoformer.emulator.interface import Instructions
from picoformer.emulator.peripherals import Uart, uart_of, watchdog_of
from picoformer.emulator.recount import Recount
from picoformer.emulator.riscv import RiscV
from picoformer.errors import ToolError
from picoformer.link.transport import Transport, TransportClosed
from picoformer.targets import Target

_SHORTEST = 1e-3


class _Pipe:
    """See Transport; the core runs while somebody waits for its bytes, and only then."""

    def __init__(self, core: Core, uart: Uart) -> None:
        self._core, self._uart = core, uart

    def read(self, timeout: float) -> bytes:
        """See Transport."""
        sent = self._uart.sent
        if not sent:
            self._core.run(max(timeout, _SHORTEST), lambda: self._uart.is_awaited)
        if not sent and self._core.is_over:
            raise TransportClosed("the device closed the line")
        data = bytes(sent)
        sent.clear()
        return data

    def write(self, data: bytes, timeout: float) -> None:
        """See Transport."""
        if self._core.is_over:
            raise TransportClosed("the device closed the line")
        self._uart.received += data

    def close(self) -> None:
        """See Transport."""
        self._core.words = self._core.words or "unicorn was closed"


class UnicornCore:
    """See interface.Running. Instructions are counted by running the last run's steps once more, block by block."""

    def __init__(self, elf: Path, target: Target, *, count: bool) -> None:
        image = read_image(elf)
        self.name = f"unicorn {importlib.metadata.version('unicorn')}"
        self._core = _core(image, target)
        uart = uart_of(target, self._core.stop)
        assert target.uart is not None
        self._core.attach(target.uart.base, uart)
        if watchdog := watchdog_of(target):
            self._core.attach(*watchdog)
        self.uncounted = "" if count else "counting was not asked for"
        self._recount = _recount(image, target, self._core, uart) if count else None
        self.transport: Transport = _Pipe(self._core, uart)

    def instructions(self, steps: int) -> Instructions | None:
        """See interface.Running."""
        return self._recount.instructions(steps) if self._recount else None

    def last_call(self) -> int | None:
        """See interface.Running."""
        return self._recount.first_call() if self._recount else None

    def post_mortem(self) -> str:
        """See interface.Running."""
        code = self._core.exit_code
        how = f"ended with exit code {code}" if code is not None else self._core.words or "still runs"
        return f"{self.name} {how}"

    def close(self) -> None:
        """See interface.Running."""
        self.transport.close()


def _core(image: Image, target: Target) -> Core:
    return RiscV(image, target) if target.cpu.startswith("rv32") else CortexM(image, target)


def _recount(image: Image, target: Target, core: Core, uart: Uart) -> Recount:
    return Recount(image, lambda: _core(image, target), core, lambda: uart.taken)


class UnicornEmulator:
    """Runs firmware of a board in unicorn; `count=False` keeps nothing for counting."""

    def __init__(self, *, count: bool = True) -> None:
        self._count = count

    def start(self, elf: Path, target: Target) -> UnicornCore:
        """Load the firmware; ToolError when unicorn is missing, or has no such core or serial port."""
        try:
            return UnicornCore(elf, target, count=self._count)
        except ModuleNotFoundError as error:
            raise ToolError(f"{error.name} is not installed; pip install 'picoformer[emulator]'") from None
