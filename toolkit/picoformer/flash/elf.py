"""Which bytes of a linked ELF lie in flash: an own reader of 32-bit files that trusts no number in them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from picoformer.errors import ModelError
from picoformer.flash.interface import Segment

MAGIC = b"\x7fELF"
_HEADER = struct.Struct("<16sHHIIIIIHHHHHH")
_PROGRAM = struct.Struct("<8I")
_SECTION = struct.Struct("<10I")
_LOAD, _NOBITS, _ALLOCATED = 1, 8, 2
_MOST_HEADERS = 4096

MACHINES = {40: "Arm", 243: "RISC-V", 94: "Xtensa"}
"""e_machine as the System V ABI's register has it → its name."""


@dataclass(frozen=True)
class Elf:
    """`machine` as in MACHINES, "" for another; `entry` with the Thumb bit; `segments` unsorted, at load addresses."""

    machine: str
    entry: int
    segments: tuple[Segment, ...]


def read_elf(data: bytes, path: Path) -> Elf:
    """Read an executable; ModelError where it is none, or its headers point outside the file.

    Of a segment only what sections fill is taken, where there are sections: GNU ld may put the file's own headers into
    the first segment, below the address that the program was linked for.
    """
    if len(data) < _HEADER.size or data[4] != 1 or data[5] != 1:
        raise ModelError(f"{path}: is no 32-bit little-endian ELF; give the firmware that was linked for the board")
    header = _HEADER.unpack_from(data)
    kind, machine, entry, programs, sections = header[1], header[2], header[4], header[5], header[6]
    if kind != 2:
        raise ModelError(f"{path}: is an ELF that was not linked to run by itself; give the finished program")
    loads = [row for row in _table(data, programs, header[10], header[9], _PROGRAM, path) if row[0] == _LOAD]
    filled = [
        (row[4], row[5])
        for row in _table(data, sections, header[12], header[11], _SECTION, path)
        if row[1] != _NOBITS and row[2] & _ALLOCATED and row[5]
    ]
    segments = []
    for _, offset, _, address, size, _, _, _ in loads:
        _inside(data, offset, size, path)
        pieces = [(start, length) for start, length in filled if offset <= start and start + length <= offset + size]
        for start, length in pieces if filled else [(offset, size)] if size else []:
            if address + start - offset + length > 1 << 32:
                raise ModelError(f"{path}: a segment ends beyond 4 GiB; the file is broken, link it again")
            segments.append(Segment(address + start - offset, data[start : start + length]))
    return Elf(MACHINES.get(machine, ""), entry, tuple(segments))


def _table(data: bytes, offset: int, count: int, size: int, form: struct.Struct, path: Path) -> list[tuple[int, ...]]:
    if not count or not offset:
        return []
    if count > _MOST_HEADERS or size < form.size:
        raise ModelError(f"{path}: its ELF headers make no sense; link it again")
    _inside(data, offset, count * size, path)
    return [form.unpack_from(data, offset + index * size) for index in range(count)]


def _inside(data: bytes, offset: int, size: int, path: Path) -> None:
    if offset + size > len(data):
        raise ModelError(f"{path}: ends before its contents do; the file was cut short, link it again")
