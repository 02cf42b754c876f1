"""Intel HEX, as linkers and DAPLink drives speak it (Intel, Hexadecimal Object File Format Specification, 1988)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from picoformer.errors import ModelError
from picoformer.flash.interface import Segment

_DATA, _END, _SEGMENT, _START_SEGMENT, _LINEAR, _START_LINEAR = range(6)
_LENGTH = {_END: 0, _SEGMENT: 2, _START_SEGMENT: 4, _LINEAR: 2, _START_LINEAR: 4}


def read_hex(text: bytes, path: Path) -> tuple[tuple[Segment, ...], int | None]:
    """(a segment for every data record, the start address where one is stated); ModelError with the line at fault."""
    segments: list[Segment] = []
    base, entry, ended = 0, None, False
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line:
            continue

        def broken(what: str, number: int = number) -> ModelError:
            return ModelError(f"{path}:{number}: {what}; make the .hex again")

        if ended:
            raise broken("a record after the one that ends the file")
        try:
            record = bytes.fromhex(line[1:].decode("ascii"))
        except ValueError:
            raise broken("not hexadecimal") from None
        if line[:1] != b":" or len(line) % 2 == 0 or len(record) < 5 or len(record) != record[0] + 5:
            raise broken("no record of Intel HEX")
        if sum(record) & 0xFF:
            raise broken("the checksum is wrong")
        offset, kind, body = int.from_bytes(record[1:3], "big"), record[3], record[4:-1]
        if kind != _DATA and _LENGTH.get(kind, -1) != len(body):
            raise broken(f"a record of type {kind} that only boards' own tools know" if kind > _START_LINEAR
                         else "a record with the wrong length")  # fmt: skip
        if kind == _DATA:
            if base + offset + len(body) > 1 << 32:
                raise broken("an address beyond 4 GiB")
            if body:
                segments.append(Segment(base + offset, body))
        elif kind == _END:
            ended = True
        elif kind == _SEGMENT:
            base = int.from_bytes(body, "big") << 4
        elif kind == _LINEAR:
            base = int.from_bytes(body, "big") << 16
        elif kind == _START_LINEAR:
            entry = int.from_bytes(body, "big")
    if not ended:
        raise ModelError(f"{path}: the record that ends a .hex is missing; the file was cut short, make it again")
    return tuple(segments), entry


def write_hex(segments: Sequence[Segment]) -> str:
    """Segments as the text of a .hex: 16 bytes a record, upper addresses stated where they change."""
    lines, upper = [], -1

    def record(offset: int, kind: int, body: bytes) -> None:
        data = struct.pack(">BHB", len(body), offset, kind) + body
        lines.append(f":{(data + bytes([-sum(data) & 0xFF])).hex().upper()}")

    for segment in segments:
        at = 0
        while at < len(segment.data):
            address = segment.address + at
            if address >> 16 != upper:
                upper = address >> 16
                record(0, _LINEAR, upper.to_bytes(2, "big"))
            piece = segment.data[at : at + min(16, 0x10000 - (address & 0xFFFF))]
            record(address & 0xFFFF, _DATA, piece)
            at += len(piece)
    record(0, _END, b"")
    return "\n".join([*lines, ""])
