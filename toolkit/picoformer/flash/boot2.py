"""The second-stage bootloader of an RP2040: its ROM starts the flash only where 256 bytes end in their own CRC."""

from __future__ import annotations

import struct

from picoformer.errors import ModelError
from picoformer.flash.interface import Image, Segment

FLASH = 0x10000000
SIZE, CODE = 256, 252
_POLYNOMIAL = 0x04C11DB7


def crc32(data: bytes) -> int:
    """CRC-32, most significant bit first, from all ones, nothing inverted at the end (RP2040 datasheet, section
    2.8.1.3.1: checksum)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = ((crc << 1) ^ (_POLYNOMIAL if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return crc


def with_boot2(image: Image) -> tuple[Image, str]:
    """(the image, what was mended of it): its first 256 bytes of flash are code and the CRC of it.

    Code whose slot for the CRC is empty (zero or erased) is given one. Raises ModelError where there is no second-stage
    bootloader, or its CRC is that of other bytes.
    """
    first = image.segments[0]
    if first.address != FLASH or len(first.data) < SIZE:
        raise ModelError(
            f"{image.source}: nothing lies at {FLASH:#010x}, where an RP2040 wants its second-stage bootloader; link "
            "pico-sdk's boot_stage2 in front"
        )
    code, said = first.data[:CODE], struct.unpack_from("<I", first.data, CODE)[0]
    if not any(code) or code == b"\xff" * CODE:
        raise ModelError(f"{image.source}: its second-stage bootloader is empty; link pico-sdk's boot_stage2 in front")
    wanted = crc32(code)
    if said == wanted:
        return image, ""
    if said not in (0, 0xFFFFFFFF):
        raise ModelError(
            f"{image.source}: the 252 bytes at {FLASH:#010x} have the CRC {wanted:#010x} and say {said:#010x}, so the "
            "ROM would not start them; is a second-stage bootloader linked in front?"
        )
    data = code + struct.pack("<I", wanted) + first.data[SIZE:]
    segments = (Segment(first.address, data), *image.segments[1:])
    mended = Image(image.source, segments, image.entry, image.elf, image.family)
    return mended, f"its second-stage bootloader had no CRC and was given {wanted:#010x}"
