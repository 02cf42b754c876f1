"""An STM32's ROM bootloader on a pseudo-terminal, for tests: AN3155 as the chip sees it, with faults to order."""

from __future__ import annotations

import os
import select
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

FLASH = 0x08000000
ACK, NACK = b"\x79", b"\x1f"
F405 = [16384] * 4 + [65536] + [131072] * 7
F446 = F405[:8]
"""RM0090 and RM0390, section 3.3: sectors of main memory."""
_COMMANDS = bytes([0x00, 0x01, 0x02, 0x11, 0x21, 0x31, 0x44, 0x63, 0x73, 0x82, 0x92])


@dataclass
class Faults:
    """What goes wrong: `lost_in`, `lost_out`: numbers of bytes that never arrive; `nacks`: command → how many of its
    first tries are refused; `silent_after`: commands until the ROM says nothing more; `weak`: an address whose bits do
    not hold; `pause`: seconds before each answer to a WRITE; `is_strict`: what is not erased cannot be written, as on
    families with error-correcting flash."""

    lost_in: set[int] = field(default_factory=set)
    lost_out: set[int] = field(default_factory=set)
    nacks: dict[int, int] = field(default_factory=dict)
    silent_after: int = 1 << 30
    weak: int = 0
    pause: float = 0.0
    is_strict: bool = False


class SimulatedStm32:
    """The chip: `flash`, what was erased, and where it was started (stack pointer, entry) if it was."""

    def __init__(self, product: int, sectors: list[int], faults: Faults, is_protected: bool = False) -> None:
        self.product, self.sectors, self.faults, self.is_protected = product, sectors, faults, is_protected
        self.flash = bytearray(os.urandom(sum(sectors)))
        self.before = bytes(self.flash)
        self.erased: list[int] = []
        self.commands: list[int] = []
        self.started: tuple[int, int] | None = None
        self.at_write: Callable[[], None] = lambda: None
        self._received = self._sent = 0
        self._stop = threading.Event()
        self._master, self._slave = os.openpty()
        tty.setraw(self._master)
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)
        os.close(self._master)
        os.close(self._slave)

    def _bytes(self) -> Iterator[int]:
        while not self._stop.is_set():
            if not select.select([self._master], [], [], 0.05)[0]:
                continue
            for byte in os.read(self._master, 4096):
                self._received += 1
                if self._received not in self.faults.lost_in and self.started is None:
                    yield byte

    def _say(self, data: bytes) -> None:
        for byte in data:
            self._sent += 1
            if self._sent not in self.faults.lost_out and len(self.commands) <= self.faults.silent_after:
                os.write(self._master, bytes([byte]))

    def _take(self, count: int) -> bytes:
        return bytes(next(self._line) for _ in range(count))

    def _serve(self) -> None:
        self._line = self._bytes()
        try:
            while next(self._line) != 0x7F:
                pass
            self._say(ACK)
            while True:
                self._command(*self._take(2))
        except (StopIteration, RuntimeError, OSError):
            pass  # the test is over: a generator that ends inside another is a RuntimeError

    def _command(self, code: int, complement: int) -> None:
        if code ^ complement != 0xFF or code not in _COMMANDS:
            self._say(NACK)
            return
        self.commands.append(code)
        if self.faults.nacks.get(code, 0) or (self.is_protected and code in (0x11, 0x21, 0x31, 0x44)):
            self.faults.nacks[code] = self.faults.nacks.get(code, 0) - 1
            self._say(NACK)
            return
        self._say(ACK)
        if code == 0x00:
            self._say(bytes([len(_COMMANDS), 0x31]) + _COMMANDS + ACK)
        elif code == 0x02:
            self._say(bytes([1, self.product >> 8, self.product & 0xFF]) + ACK)
        elif code == 0x44:
            self._erase()
        elif code in (0x11, 0x21, 0x31):
            *address, check = self._take(5)
            offset = int.from_bytes(bytes(address), "big") - FLASH
            if address[0] ^ address[1] ^ address[2] ^ address[3] != check or not 0 <= offset < len(self.flash):
                self._say(NACK)
                return
            self._say(ACK)
            {0x11: self._read, 0x21: self._go, 0x31: self._write}[code](offset)

    def _erase(self) -> None:
        head = self._take(2)
        count = int.from_bytes(head, "big") + 1
        body = self._take(2 * count)
        if self._xor(head + body) != self._take(1)[0]:
            self._say(NACK)
            return
        numbers = [int.from_bytes(body[at : at + 2], "big") for at in range(0, len(body), 2)]
        if any(number >= len(self.sectors) for number in numbers):
            self._say(NACK)
            return
        for number in numbers:
            start, size = sum(self.sectors[:number]), self.sectors[number]
            self.flash[start : start + size] = b"\xff" * size
        self.erased += numbers
        self._say(ACK)

    def _read(self, offset: int) -> None:
        count, check = self._take(2)
        if count ^ check != 0xFF:
            self._say(NACK)
        else:
            self._say(ACK + bytes(self.flash[offset : offset + count + 1]))

    def _write(self, offset: int) -> None:
        count = self._take(1)
        data = self._take(count[0] + 1)
        if self._xor(count + data) != self._take(1)[0] or offset % 4 or len(data) % 4:
            self._say(NACK)
            return
        if self.faults.is_strict and self.flash[offset : offset + len(data)].strip(b"\xff"):
            self._say(NACK)
            return
        for index, byte in enumerate(data):
            self.flash[offset + index] &= byte  # programming clears bits and sets none
        if self.faults.weak and offset <= self.faults.weak - FLASH < offset + len(data):
            self.flash[self.faults.weak - FLASH] ^= 0x10
        self.at_write()
        if self.faults.pause:
            self._stop.wait(self.faults.pause)
        self._say(ACK)

    def _go(self, offset: int) -> None:
        words = bytes(self.flash[offset : offset + 8])
        self.started = int.from_bytes(words[:4], "little"), int.from_bytes(words[4:], "little")

    @staticmethod
    def _xor(data: bytes) -> int:
        found = 0
        for byte in data:
            found ^= byte
        return found


@contextmanager
def simulated_stm32(
    product: int = 0x421, sectors: list[int] = F446, faults: Faults | None = None, is_protected: bool = False
) -> Iterator[SimulatedStm32]:
    """A chip in its bootloader, with random bytes in its flash."""
    chip = SimulatedStm32(product, sectors, faults or Faults(), is_protected)
    try:
        yield chip
    finally:
        chip.close()
