"""The linker's map: which object each piece of the image came from, as GNU ld and LLVM's lld write it."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """One input section as the linker map lists it."""

    output: str
    section: str
    address: int
    size: int
    object: str


_GNU_PIECE = re.compile(r"^ (\.?[\w.$-]+)\s+0x([0-9a-f]+)\s+0x([0-9a-f]+) (\S.*)$")
_LLVM_LINE = re.compile(r"^ *([0-9a-f]+) +[0-9a-f]+ +([0-9a-f]+) +\d+ ( *)(\S.*)$")


def read_map(text: str) -> list[Piece]:
    """The input sections of a linker map that take up room in the output, in order."""
    first = text.partition("\n")[0].split()
    return _read_llvm(text) if first[:2] == ["VMA", "LMA"] else _read_gnu(text)


def _read_gnu(text: str) -> list[Piece]:
    body = text.partition("Linker script and memory map")[2]
    body = re.sub(r"^( \.?[\w.$-]+)\n\s+(?=0x)", r"\1 ", body, flags=re.MULTILINE)
    pieces, output = [], ""
    for line in body.splitlines():
        if opened := re.match(r"^(\.[\w.$-]+)", line):
            output = opened[1]
        elif found := _GNU_PIECE.match(line):
            piece = Piece(output, found[1], int(found[2], 16), int(found[3], 16), found[4])
            if piece.size:
                pieces.append(piece)
    return pieces


def _read_llvm(text: str) -> list[Piece]:
    """Columns of lld's map: address, load address, size, alignment, then output section, input section or symbol."""
    pieces, output = [], ""
    for line in text.splitlines()[1:]:
        found = _LLVM_LINE.match(line)
        if found is None:
            continue
        name = found[4]
        if not found[3]:
            output = name
        elif source := re.match(r"^(\S+):\(([^)]+)\)$", name):
            piece = Piece(output, source[2], int(found[1], 16), int(found[2], 16), source[1])
            if piece.size:
                pieces.append(piece)
    return pieces
