"""An ESP32-C3's ROM loader on a pseudo-terminal, for tests: what Espressif's esptool asks of it without its stub.

The serial protocol: docs.espressif.com, esptool, "Serial Protocol"; registers: ESP32-C3 technical reference manual.
"""

from __future__ import annotations

import hashlib
import os
import select
import struct
import threading
import tty
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

FLASH_BYTES = 4 << 20
SECTOR = 4096
_SPI1 = 0x60002000
_COMMAND, _USER2, _DATA = _SPI1, _SPI1 + 0x20, _SPI1 + 0x58
_READ_ID, _FLASH_ID = 0x9F, 0x1640EF
"""A W25Q32: 2^22 bytes."""
_FIXED = {0x40001000: 0x1B31506F, 0x60008844: 0x0A0B0C0D, 0x60008848: 0x00000E0F}
"""The word that tells the chip's family, and the two of its MAC address."""
_CHIP = 5
_SYNC, _WRITE_REGISTER, _READ_REGISTER, _MD5, _SECURITY = 0x08, 0x09, 0x0A, 0x13, 0x14
_BEGIN, _DATA_BLOCK, _END = (0x02, 0x10), (0x03, 0x11), (0x04, 0x12)


class SimulatedEsp32c3:
    """The chip: `flash`, and the offsets and sizes that were begun. `spoils`: an offset whose byte will not hold;
    `chip`: the number that it gives itself."""

    def __init__(self, spoils: int, chip: int) -> None:
        self.flash = bytearray(os.urandom(FLASH_BYTES))
        self.before = bytes(self.flash)
        self.begun: list[tuple[int, int]] = []
        self._spoils, self._chip = spoils, chip
        self._registers: dict[int, int] = {}
        self._offset = 0
        self._inflate: zlib._Decompress | None = None
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

    def _frames(self) -> Iterator[bytes]:
        """SLIP: 0xC0 around each frame, 0xDB before a byte that stands for one of the two."""
        held = b""
        while not self._stop.is_set():
            if select.select([self._master], [], [], 0.05)[0]:
                *frames, held = (held + os.read(self._master, 65536)).split(b"\xc0")
                for frame in filter(None, frames):
                    yield frame.replace(b"\xdb\xdc", b"\xc0").replace(b"\xdb\xdd", b"\xdb")

    def _serve(self) -> None:
        for frame in self._frames():
            if len(frame) >= 8:
                direction, command, _, checksum = struct.unpack_from("<BBHI", frame)
                if direction == 0:
                    self._request(command, checksum, frame[8:])

    def _answer(self, command: int, value: int = 0, data: bytes = b"", error: int = 0) -> None:
        frame = struct.pack("<BBHI", 1, command, len(data) + 4, value) + data + bytes([bool(error), error, 0, 0])
        os.write(self._master, b"\xc0" + frame.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc") + b"\xc0")

    def _request(self, command: int, checksum: int, body: bytes) -> None:
        if command == _SYNC:
            for _ in range(8):
                self._answer(command)
        elif command == _READ_REGISTER:
            address = struct.unpack_from("<I", body)[0]
            self._answer(command, self._registers.get(address, _FIXED.get(address, 0)))
        elif command == _WRITE_REGISTER:
            address, value = struct.unpack_from("<II", body)
            self._registers[address] = value
            if address == _COMMAND and value >> 18 & 1:  # a command of the user's: done at once
                opcode = self._registers.get(_USER2, 0) & 0xFF
                self._registers.update({_DATA: _FLASH_ID if opcode == _READ_ID else 0, _COMMAND: 0})
            self._answer(command)
        elif command == _SECURITY:
            self._answer(command, 0, struct.pack("<IB7BII", 0, 0, *[0] * 7, self._chip, 0))
        elif command in _BEGIN:
            self._begin(command, *struct.unpack_from("<IIII", body))
        elif command in _DATA_BLOCK:
            self._block(command, checksum, body)
        elif command == _MD5:
            offset, size = struct.unpack_from("<II", body)
            self._answer(command, 0, hashlib.md5(self.flash[offset : offset + size]).hexdigest().encode())
        else:  # attach the flash, its parameters, the baud rate, the end
            self._answer(command, error=0 if command in (0x0B, 0x0D, 0x0F, *_END) else 5)

    def _begin(self, command: int, size: int, blocks: int, block_size: int, offset: int) -> None:
        self.begun.append((offset, size))
        self._offset = offset
        self._inflate = zlib.decompressobj() if command == 0x10 else None
        first, end = offset // SECTOR * SECTOR, -(-(offset + size) // SECTOR) * SECTOR
        self.flash[first:end] = b"\xff" * (end - first)
        self._answer(command)

    def _block(self, command: int, checksum: int, body: bytes) -> None:
        data = body[16 : 16 + struct.unpack_from("<I", body)[0]]
        found = 0xEF
        for byte in data:
            found ^= byte
        if found != checksum & 0xFF:
            self._answer(command, error=7)
            return
        plain = self._inflate.decompress(data) if self._inflate else data
        for index, byte in enumerate(plain):
            self.flash[self._offset + index] &= byte
        if self._offset <= self._spoils < self._offset + len(plain):
            self.flash[self._spoils] ^= 1
        self._offset += len(plain)
        self._answer(command)


@contextmanager
def simulated_esp32c3(spoils: int = -1, chip: int = _CHIP) -> Iterator[SimulatedEsp32c3]:
    """A chip in its bootloader, with random bytes in its flash."""
    simulated = SimulatedEsp32c3(spoils, chip)
    try:
        yield simulated
    finally:
        simulated.close()
