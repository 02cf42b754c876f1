"""A core in this process, by unicorn: its memory, its peripherals, and running it, whatever the architecture."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from picoformer.emulator.image import Image
from picoformer.emulator.peripherals import WINDOW, Peripheral, Watchdog
from picoformer.targets import MemoryRegion, Target

_FOR_EVER = 0xFFFFFFFE
_SLICE = 0.2  # seconds; an interrupt from the keyboard is seen in between


class Core(ABC):
    """A core that runs `image` on the board `target`; `exit_code` is set when the program has ended.

    The firmware's own handlers run on a fault and on the watchdog's expiry: what the core would do is done here, since
    unicorn stops there instead. Memory that holds code cannot be written, and below the stack there is none.
    """

    saved: ClassVar[tuple[str, ...]]
    """The registers that a call starts from."""
    peripherals: ClassVar[range]
    """Where clocks, pins and the like lie: registers that keep what is written."""
    prefix: ClassVar[str]
    """Start of the names of unicorn's registers."""

    def __init__(self, image: Image, target: Target) -> None:
        import unicorn

        self.exit_code: int | None = None
        self.words = ""
        """Why it ended, where an exit code does not say it."""
        self.watchdog = Watchdog(0, 1)
        self.image, self.target, self.unicorn = image, target, unicorn
        self.bad_access: tuple[int, int] | None = None
        """Kind and address of the access that unicorn refused."""
        self._interrupts: list[int] = []
        self.engine, self._registers = self.make()
        self._map(target.memory)
        self.engine.hook_add(unicorn.UC_HOOK_INTR, self._on_interrupt)
        self.engine.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._on_bad_access)
        for address, data in image.segments:
            self.write(address, data)

    @abstractmethod
    def make(self) -> tuple[Any, Any]:
        """An engine of unicorn's, and the module with the numbers of its registers."""

    @abstractmethod
    def interrupted(self, number: int) -> None:
        """What unicorn calls an interrupt: a call of the debugger, or a fault that it names by a number."""

    @abstractmethod
    def failed(self, error: int) -> None:
        """An error of unicorn's as the exception that the core takes."""

    @abstractmethod
    def bark(self) -> None:
        """The watchdog has expired."""

    @abstractmethod
    def count(self, code: bytes) -> int:
        """How many instructions there are in `code`."""

    def _map(self, memory: list[MemoryRegion]) -> None:
        uc, end = self.unicorn, 0
        for region in sorted(memory, key=lambda r: r.origin):
            start = max(region.origin & -WINDOW, end)  # two small regions may share a page
            end = max(-(-region.end // WINDOW) * WINDOW, start)
            access = uc.UC_PROT_READ | uc.UC_PROT_EXEC if region.holds == "code" else uc.UC_PROT_ALL
            if end > start:
                self.engine.mem_map(start, end - start, access)

    def attach(self, base: int, peripheral: Peripheral) -> None:
        """Put a peripheral at an address."""
        if isinstance(peripheral, Watchdog):
            self.watchdog = peripheral
        self.engine.mmio_map(
            base & -WINDOW,
            WINDOW,
            lambda uc, offset, size, user: peripheral.read(offset - base % WINDOW),
            None,
            lambda uc, offset, size, value, user: peripheral.write(offset - base % WINDOW, value),
            None,
        )

    def call_at(self, address: int, hook: Callable[[], None]) -> None:
        """Call `hook` whenever the instruction at `address` is about to run."""
        self.engine.hook_add(self.unicorn.UC_HOOK_CODE, lambda uc, at, size, user: hook(), begin=address, end=address)

    def call_at_blocks(self, hook: Callable[[int, int], None]) -> None:
        """Call `hook` with address and bytes of each run of instructions that is about to be executed to its end."""
        self.engine.hook_add(self.unicorn.UC_HOOK_BLOCK, lambda uc, at, size, user: hook(at, size))

    def get(self, register: str) -> int:
        """A register's content."""
        return int(self.engine.reg_read(getattr(self._registers, f"{self.prefix}{register}")))

    def set(self, register: str, value: int) -> None:
        """Set a register."""
        self.engine.reg_write(getattr(self._registers, f"{self.prefix}{register}"), value)

    def read(self, address: int, size: int) -> bytes:
        """Bytes of memory."""
        return bytes(self.engine.mem_read(address, size))

    def write(self, address: int, data: bytes) -> None:
        """Set bytes of memory."""
        self.engine.mem_write(address, data)

    def word(self, address: int) -> int:
        """A word of memory."""
        return int.from_bytes(self.read(address, 4), "little")

    def stop(self) -> None:
        """Stop at the next opportunity; for hooks and peripherals."""
        self.engine.emu_stop()

    @property
    def is_over(self) -> bool:
        """Whether the program has ended, one way or another."""
        return self.exit_code is not None or bool(self.words)

    def run(self, seconds: float, until: Callable[[], bool]) -> None:
        """Go on until the program ended, `until` says so (it is asked after each `stop`), or the time is over."""
        end = time.monotonic() + seconds
        while not self.is_over:
            begin = time.monotonic()
            left = min(end - begin, _SLICE, self.watchdog.left or _SLICE)
            self.run_to(_FOR_EVER, max(left, 1e-3))
            if not self.is_over and self.watchdog.ran(time.monotonic() - begin):
                self.bark()
            if until() or time.monotonic() >= end:
                return

    def run_to(self, address: int, seconds: float = 0) -> None:
        """Go on until the instruction at `address` is next, a stop, or the time is over (0: never)."""
        self._interrupts.clear()
        self.bad_access = None
        try:
            self.engine.emu_start(self.resume(), address, timeout=int(seconds * 1e6))
        except self.unicorn.UcError as error:
            self.failed(error.errno)
        for number in self._interrupts[:1]:
            self.interrupted(number)

    def resume(self) -> int:
        """Where to go on, as unicorn wants it."""
        return self.get("PC")

    def _on_interrupt(self, engine: Any, number: int, user: Any) -> None:
        self._interrupts.append(number)
        engine.emu_stop()

    def _on_bad_access(self, engine: Any, access: int, address: int, size: int, value: int, user: Any) -> bool:
        uc = self.unicorn
        if address in self.peripherals and access in (uc.UC_MEM_READ_UNMAPPED, uc.UC_MEM_WRITE_UNMAPPED):
            engine.mem_map(address & -WINDOW, WINDOW)
            return True
        self.bad_access = access, address
        return False
