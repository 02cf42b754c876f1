"""Frames: a body and its CRC-32, byte-stuffed (COBS) and ended by a zero byte."""

from __future__ import annotations

import struct
import zlib

from cobs import cobs

CRC_BYTES = 4


def encode_frame(body: bytes) -> bytes:
    """The bytes on the line for `body`, the ending zero included."""
    stuffed: bytes = cobs.encode(body + struct.pack("<I", zlib.crc32(body)))
    return stuffed + b"\0"


def decode_frame(line: bytes) -> bytes | None:
    """The body of what stood between two zero bytes; None when the stuffing or the CRC is wrong."""
    try:
        data: bytes = cobs.decode(line)
    except cobs.DecodeError:
        return None
    if len(data) < CRC_BYTES:
        return None
    body = data[:-CRC_BYTES]
    return body if struct.pack("<I", zlib.crc32(body)) == data[-CRC_BYTES:] else None


class FrameReader:
    """Splits a stream of bytes into frames; counts the broken ones instead of passing them on."""

    def __init__(self) -> None:
        self.broken = 0
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add received bytes; the bodies of the good frames they completed."""
        self._rest += data
        *lines, rest = self._rest.split(b"\0")
        self._rest = bytearray(rest)
        bodies = []
        for line in lines:
            if not line:
                continue
            body = decode_frame(bytes(line))
            if body is None:
                self.broken += 1
            else:
                bodies.append(body)
        return bodies
