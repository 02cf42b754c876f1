"""The STM32's ROM bootloader on a UART: its commands as ST's AN3155 states them, with bounded waits and retries."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import xor
from typing import TypeVar

from picoformer.errors import DeviceError
from picoformer.flash.serial_line import SerialLine

Result = TypeVar("Result")

ACK, NACK, SYNC = 0x79, 0x1F, 0x7F
GET, GET_ID, READ, GO, WRITE, ERASE, EXTENDED_ERASE = 0x00, 0x02, 0x11, 0x21, 0x31, 0x43, 0x44
MOST = 256
"""Bytes that one READ or WRITE carries."""
_LONGEST_WRITE = MOST + 6


@dataclass(frozen=True)
class Waits:
    """Seconds, and how often a command is tried."""

    sync: float = 0.5
    answer: float = 2.0
    byte: float = 0.05
    write: float = 5.0
    erase: float = 40.0
    tries: int = 4


_WHY = {
    "the command": "the chip is protected against it, or its ROM does not know the command",
    "the address": "there is no memory that it may use, or the address arrived damaged",
    "the count": "it arrived damaged; check the line",
    "the data": "they arrived damaged, or the flash is write-protected",
    "the sectors": "one is write-protected or beyond the chip, or the numbers arrived damaged",
}


class Refused(DeviceError):
    """The bootloader answered NACK; `stage` says to what of the command."""

    def __init__(self, command: str, stage: str) -> None:
        super().__init__(f"the STM32's bootloader refused to {command} at {stage}: {_WHY.get(stage, 'check the line')}")
        self.stage = stage


class Silent(DeviceError):
    """The bootloader does not answer, or not in its language."""


class Stm32Bootloader:
    """The commands; addresses and sizes are the caller's to check.

    A command that is refused or not answered is tried again, after the line is brought back to where a command begins.
    """

    def __init__(self, line: SerialLine, waits: Waits | None = None) -> None:
        self._line = line
        self._waits = waits or Waits()
        self.commands = b""
        self.version = 0

    def synchronize(self) -> bool:
        """Let the bootloader measure the baud rate, or find it in the middle of something; then ask what it can do.
        False where nobody answers."""
        self._line.drop_input(0.0)
        if not self._answers_sync() and not self._end_command():
            return False
        self.version, self.commands = self._again(self._get)
        return True

    def product_id(self) -> int:
        """Which chip this is (stm32_chips.py)."""
        return self._again(self._get_id)

    def read(self, address: int, count: int) -> bytes:
        """1 to 256 bytes of memory."""
        return self._again(lambda: self._read(address, count))

    def write(self, address: int, data: bytes) -> None:
        """1 to 256 bytes to erased flash; the address and the count are multiples of 4."""
        was_sent = False

        def once() -> None:
            nonlocal was_sent
            if was_sent and self._read(address, len(data)) == data:
                return  # the answer was lost, not the bytes
            was_sent = True
            self._command(WRITE, "write")
            self._address(address, "write")
            body = bytes([len(data) - 1]) + data
            self._send(body + bytes([reduce(xor, body)]), "write", "the data", self._waits.write)

        self._again(once)

    def erase(self, sectors: Sequence[int]) -> None:
        """Erase sectors or pages by number."""
        if EXTENDED_ERASE in self.commands:
            body = struct.pack(f">{len(sectors) + 1}H", len(sectors) - 1, *sectors)
            command = EXTENDED_ERASE
        else:
            body, command = bytes([len(sectors) - 1, *sectors]), ERASE

        def once() -> None:
            self._command(command, "erase")
            self._send(body + bytes([reduce(xor, body)]), "erase", "the sectors", self._waits.erase)

        self._again(once)

    def go(self, address: int) -> None:
        """Start what lies at `address`: its first word is the stack pointer, its second the entry."""
        self._again(lambda: self._command(GO, "start the firmware"))
        self._address(address, "start the firmware")

    def _again(self, once: Callable[[], Result]) -> Result:
        for left in reversed(range(self._waits.tries)):
            try:
                return once()
            except Refused:
                if not left:
                    raise
                self._line.drop_input(self._waits.byte)
            except Silent as error:
                if not self._end_command():
                    raise Silent(f"{error}: it went silent") from None
                if not left:
                    raise
        raise AssertionError("a last try returns or raises")

    def _end_command(self) -> bool:
        """End whatever command the bootloader believes to be in, by bytes that complete it wrongly; False where it
        does not answer even then."""
        self._line.write(bytes([SYNC]) * _LONGEST_WRITE)
        self._line.drop_input(self._waits.byte)
        return self._answers_sync()

    def _answers_sync(self) -> bool:
        """Whether a byte is taken for the sync after a reset (ACK), or for half of a wrong command (NACK)."""
        for _ in range(self._waits.tries):
            self._line.write(bytes([SYNC]))
            if self._line.read(1, self._waits.sync) in (bytes([ACK]), bytes([NACK])):
                self._line.drop_input(self._waits.byte)
                return True
        return False

    def _get(self) -> tuple[int, bytes]:
        self._command(GET, "say what it can do")
        count = self._exactly(1)[0]
        body = self._exactly(count + 1)
        self._acknowledged("say what it can do", "the end", self._waits.answer)
        return body[0], body[1:]

    def _get_id(self) -> int:
        self._command(GET_ID, "say which chip it is")
        body = self._exactly(self._exactly(1)[0] + 1)
        self._acknowledged("say which chip it is", "the end", self._waits.answer)
        if len(body) != 2:
            raise DeviceError(f"the bootloader's product id has {len(body)} bytes and not 2; is this an STM32?")
        return int.from_bytes(body, "big")

    def _read(self, address: int, count: int) -> bytes:
        self._command(READ, "read")
        self._address(address, "read")
        self._send(bytes([count - 1, (count - 1) ^ 0xFF]), "read", "the count", self._waits.answer)
        return self._exactly(count)

    def _command(self, code: int, what: str) -> None:
        self._send(bytes([code, code ^ 0xFF]), what, "the command", self._waits.answer)

    def _address(self, address: int, what: str) -> None:
        body = struct.pack(">I", address)
        self._send(body + bytes([reduce(xor, body)]), what, "the address", self._waits.answer)

    def _send(self, data: bytes, what: str, stage: str, seconds: float) -> None:
        self._line.write(data)
        self._acknowledged(what, stage, seconds)

    def _acknowledged(self, what: str, stage: str, seconds: float) -> None:
        answer = self._line.read(1, seconds)
        if answer == bytes([NACK]):
            raise Refused(what, stage)
        if answer != bytes([ACK]):
            said = f"answers {answer[0]:#04x}" if answer else "is silent"
            raise Silent(f"the STM32's bootloader {said} where it was asked to {what} ({stage}); check the line")

    def _exactly(self, count: int) -> bytes:
        data = self._line.read(count, self._waits.answer)
        if len(data) != count:
            raise Silent(f"the STM32's bootloader sent {len(data)} of {count} bytes; check the line")
        return data
