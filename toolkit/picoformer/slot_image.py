"""The image that a resident bootloader keeps in its slot: a header that says what it is, then code and constants."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from picoformer.errors import FitError, ModelError

IMAGE = "firmware.img"
"""The image's file, beside the firmware.elf that it was made of."""
BOOTLOADER = "bootloader"
"""The files of the bootloader that it goes behind, but for their ending."""
MAGIC = b"PFIM"
HEADER_VERSION = 1
TARGET_BYTES = 32
_BEFORE_HASH = struct.Struct(f"<4sHH{TARGET_BYTES}sIIII16s")
_HASH_BYTES = 32
HEADER_BYTES = _BEFORE_HASH.size + _HASH_BYTES
ERASED = b"\xff"
_WORD = 4


@dataclass(frozen=True)
class ImageHeader:
    """What an image says of itself. `length` in bytes; `load`: the address it lies at; `entry`: with the Thumb bit;
    `identity`: the 16 bytes of the model that hello says too."""

    target: str
    version: int
    length: int
    load: int
    entry: int
    identity: bytes
    sha256: bytes = b""

    def pack(self) -> bytes:
        """The header's bytes (SPEC section 22)."""
        return self._before_hash() + self.sha256

    def hash_with(self, image: bytes) -> bytes:
        """SHA-256 of what stands before the hash, then of the image."""
        return hashlib.sha256(self._before_hash() + image).digest()

    def _before_hash(self) -> bytes:
        return _BEFORE_HASH.pack(
            MAGIC,
            HEADER_VERSION,
            HEADER_BYTES,
            self.target.encode(),
            self.version,
            self.length,
            self.load,
            self.entry,
            self.identity,
        )


def parse_header(data: bytes) -> ImageHeader | None:
    """The header that `data` begins with; None where there is none, or one that is not understood."""
    if len(data) < HEADER_BYTES:
        return None
    fields = _BEFORE_HASH.unpack_from(data)
    magic, header_version, header_bytes, name, version, length, load, entry, identity = fields
    if (magic, header_version, header_bytes) != (MAGIC, HEADER_VERSION, HEADER_BYTES) or name[-1]:
        return None
    target = name.split(b"\0")[0].decode("ascii", "replace")
    return ImageHeader(target, version, length, load, entry, identity, data[_BEFORE_HASH.size : HEADER_BYTES])


def make_image(content: bytes, target: str, load: int, identity: bytes, version: int = 0) -> bytes:
    """The file firmware.img: the header, then `content`, what lies at the address `load`, filled to whole words."""
    content += ERASED * (-len(content) % _WORD)
    entry = int.from_bytes(content[_WORD : 2 * _WORD], "little")
    header = ImageHeader(target, version, len(content), load, entry, identity)
    return ImageHeader(**{**vars(header), "sha256": header.hash_with(content)}).pack() + content


def split_image(data: bytes, name: str) -> tuple[ImageHeader, bytes]:
    """Header and content of a file firmware.img; ModelError naming what is wrong with the file `name`."""
    header = parse_header(data)
    if header is None:
        raise ModelError(f"{name} is no image for a bootloader; make one with `picoformer build --bootloader`")
    content = data[HEADER_BYTES:]
    if len(content) != header.length:
        raise ModelError(f"{name}: its header says {header.length:,} bytes, it has {len(content):,}; build it again")
    if header.hash_with(content) != header.sha256:
        raise ModelError(f"{name} is damaged (its SHA-256 is not what its header says); build it again")
    return header, content


def flat_content(segments: tuple[tuple[int, bytes], ...], origin: int, end: int) -> bytes:
    """Segments (address, bytes) as one run of bytes from `origin` on; FitError where one lies outside of it."""
    content = bytearray()
    for address, data in sorted(segments):
        if address < origin or address + len(data) > end:
            raise FitError(
                f"the image has {len(data):,} bytes at {address:#010x}, outside of the slot "
                f"({origin:#010x} to {end:#010x}); build without --bootloader, or for a larger target"
            )
        content += ERASED * (address - origin - len(content)) + data
    return bytes(content)


def lay_out(data: bytes, page_bytes: int) -> bytes:
    """A file firmware.img as it lies in the slot: the header in a page of its own, then the image."""
    return data[:HEADER_BYTES].ljust(page_bytes, ERASED) + data[HEADER_BYTES:]
