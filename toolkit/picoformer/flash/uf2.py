"""UF2, blocks of 512 bytes that a bootloader's drive takes in any order (github.com/microsoft/uf2, specification)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from picoformer.errors import ModelError
from picoformer.flash.interface import Segment

BLOCK, PAYLOAD = 512, 256
MAGIC = struct.pack("<II", 0x0A324655, 0x9E5D5157)
_LAST = struct.pack("<I", 0x0AB16F30)
_HEADER = struct.Struct("<8I")
_ROOM = 476
_NOT_MAIN, _FILE, _FAMILY = 0x1, 0x1000, 0x2000
_MOST_BLOCKS = 1 << 17  # 64 MiB of file

FAMILIES = {
    0xE48BFF56: "RP2040",
    0xE48BFF57: "RP2350, absolute addresses",
    0xE48BFF58: "RP2350, data",
    0xE48BFF59: "RP2350, Arm",
    0xE48BFF5A: "RP2350, RISC-V",
    0xE48BFF5B: "RP2350, Arm, not secure",
    0xADA52840: "nRF52840",
    0x57755A57: "STM32F4",
    0xC47E5767: "ESP32-S3",
    0xD42BA06C: "ESP32-C3",
}
"""Family id → chip (the specification's utils/uf2families.json; pico-sdk, boot/uf2.h)."""

ABSOLUTE = 0xE48BFF57
"""Blocks of this family go where they say, whatever the program; the first block of a file for an RP2350 may be one
(erratum RP2350-E10) and carries nothing of it."""


@dataclass(frozen=True)
class Uf2:
    """A checked file: its family and a segment for every block."""

    family: int
    segments: tuple[Segment, ...]


def family_name(family: int) -> str:
    """A family as a person knows it."""
    known = FAMILIES.get(family)
    return f"{known} ({family:#010x})" if known else f"{family:#010x}"


def write_uf2(segments: Sequence[Segment], family: int) -> bytes:
    """Segments (ascending, not overlapping) as blocks of 256 bytes at multiples of 256, as the ROMs of RP2040 and
    RP2350 want them; what no segment fills of such a page is zero."""
    pages: dict[int, bytearray] = {}
    for segment in segments:
        at = 0
        while at < len(segment.data):
            address = segment.address + at
            page, offset = address - address % PAYLOAD, address % PAYLOAD
            piece = segment.data[at : at + PAYLOAD - offset]
            pages.setdefault(page, bytearray(PAYLOAD))[offset : offset + len(piece)] = piece
            at += len(piece)
    blocks = []
    for index, page in enumerate(sorted(pages)):
        head = MAGIC + struct.pack("<6I", _FAMILY, page, PAYLOAD, index, len(pages), family)
        blocks.append(head + bytes(pages[page]).ljust(_ROOM, b"\0") + _LAST)
    return b"".join(blocks)


def read_uf2(data: bytes, path: Path) -> Uf2:
    """Check every block; ModelError names the first that is wrong.

    Held to what the ROMs hold it to, and more: magic numbers, one family, numbers 0 … n − 1 once each, 256 bytes at a
    multiple of 256, no page twice, nothing beyond 4 GiB. Blocks "not for the main flash" are left out.
    """
    if not data or len(data) % BLOCK or len(data) // BLOCK > _MOST_BLOCKS:
        raise ModelError(
            f"{path}: {len(data):,} bytes are no whole blocks of 512 (64 MiB at most); make the .uf2 again"
        )
    family, total = None, None
    segments: dict[int, Segment] = {}
    numbers: set[int] = set()
    for index in range(len(data) // BLOCK):
        block = data[index * BLOCK : (index + 1) * BLOCK]

        def broken(what: str, index: int = index) -> ModelError:
            return ModelError(f"{path}: block {index}: {what}; make the .uf2 again")

        if block[:8] != MAGIC or block[-4:] != _LAST:
            raise broken("the magic numbers are wrong")
        flags, address, size, number, count, said = _HEADER.unpack_from(block)[2:]
        if flags & _NOT_MAIN:
            continue
        if flags & _FILE:
            raise broken("holds a file and no memory; such blocks are not for this board")
        if not flags & _FAMILY:
            raise broken("does not say which chip it is for")
        if said == ABSOLUTE and index == 0 and len(data) > BLOCK and _family_at(data, 1) != ABSOLUTE:
            continue  # the block that RP2350-E10 asks for
        family = said if family is None else family
        if said != family:
            raise broken(f"is for {family_name(said)}, those before it for {family_name(family)}; files of several "
                         "chips are for the drives alone")  # fmt: skip
        total = count if total is None else total
        if count != total or number >= total or number in numbers:
            raise broken(f"is numbered {number} of {count}, which does not go with the others")
        if size != PAYLOAD or address % PAYLOAD or address + size > 1 << 32:
            raise broken(f"{size} bytes at {address:#010x}; the ROM takes 256 at multiples of 256")
        if address in segments:
            raise broken(f"writes {address:#010x} a second time")
        numbers.add(number)
        segments[address] = Segment(address, block[32 : 32 + size])
    if family is None or total is None:
        raise ModelError(f"{path}: holds no block for the main flash; make the .uf2 again")
    if len(numbers) != total:
        missing = next(number for number in range(total) if number not in numbers)
        raise ModelError(f"{path}: block {missing} of {total} is missing; the file was cut short, make the .uf2 again")
    return Uf2(family, tuple(segments[address] for address in sorted(segments)))


def _family_at(data: bytes, index: int) -> int:
    return int(_HEADER.unpack_from(data, index * BLOCK)[7])
