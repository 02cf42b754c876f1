"""What code each function of firmware/ brings into an image: the linked sections that are reached from it."""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from picoformer.compilers import Compiler, choose_compiler
from picoformer.link_map import read_map
from picoformer.targets import Target

ZIG_LINK = (sys.executable, str(Path(__file__).with_name("zig_relocations.py")))


def keeping_relocations(target: Target, choice: str = "auto") -> Compiler:
    """The compiler for a target, whose links keep the relocations that `reached` follows."""
    found = choose_compiler(target, choice)
    if found.kind == "zig":
        return replace(found, link=(*ZIG_LINK, *found.link))
    return replace(found, link=(*found.link, "-Wl,--emit-relocs"))


@dataclass(frozen=True)
class Code:
    """`sections`: name → bytes of the pieces of code beside the model's own; `functions`: function → the names of those
    that it reaches; `always`: those that the wire and the port reach; `model_text`: bytes of the model's functions."""

    sections: dict[str, int]
    functions: dict[str, list[str]]
    always: list[str]
    model_text: int


Piece = Any
"""An input section of the link, as read_map gives it."""

_LIBRARY_CODE = re.compile(r"libgcc\.a\(|libc\w*\.a\([\w-]*mem(cpy|move|set)")


def group_of(piece: Piece) -> str:
    """Whose a piece is: the "model"'s, "code" of the operators, or the "runtime"'s, as `size_report` counts them."""
    folder = piece.object.partition("/")[0]
    if folder in ("model", "code"):
        return str(folder)
    return "code" if _LIBRARY_CODE.search(piece.object) else "runtime"


def reached(elf: Path, map_file: Path, functions: Iterable[str]) -> Code:
    """Follow the relocations of an image that `keeping_relocations` linked."""
    from elftools.elf.elffile import ELFFile

    with elf.open("rb") as stream:
        image = ELFFile(stream)
        stored = {s.name for s in image.iter_sections() if s["sh_flags"] & 2 and s["sh_type"] != "SHT_NOBITS"}
        everything = read_map(map_file.read_text("utf-8", errors="replace"))
        pieces = _Pieces([piece for piece in everything if piece.output in stored])
        thumb = 1 if image["e_machine"] == "EM_ARM" else 0
        table: Any = image.get_section_by_name(".symtab")
        places = {symbol.name: symbol["st_value"] & ~thumb for symbol in table.iter_symbols()}
        edges = _edges(image, pieces, thumb)

    def closure(roots: Iterable[Piece]) -> set[Piece]:
        seen: set[Piece] = set()
        todo = list(roots)
        while todo:
            piece = todo.pop()
            if piece not in seen and not _is_model(piece):
                seen.add(piece)
                todo += edges.get(piece, ())
        return seen

    def code_in(found: Iterable[Piece]) -> list[str]:
        return sorted({_name(piece) for piece in found if group_of(piece) == "code"})

    runtime = [p for p in pieces.all if group_of(p) == "runtime" and not _is_model(p)]
    return Code(
        _sizes(pieces.all),
        {name: code_in(closure([found])) for name in functions if (found := pieces.at(places[name])) is not None},
        code_in(closure(runtime)),
        sum(p.size for p in pieces.all if group_of(p) == "model" and p.section.startswith(".text")),
    )


def _is_model(piece: Piece) -> bool:
    """Whether a piece belongs to the model, or tells the wire of it: what it reaches is the model's need."""
    return group_of(piece) == "model" or piece.object.endswith("descriptor.o")


class _Pieces:
    """Pieces by address."""

    def __init__(self, pieces: list[Piece]) -> None:
        self.all = sorted(pieces, key=lambda piece: piece.address)
        self._starts = [piece.address for piece in self.all]

    def at(self, address: int) -> Piece | None:
        """The piece that an address lies in."""
        index = bisect_right(self._starts, address) - 1
        found = self.all[index] if index >= 0 else None
        return found if found is not None and address < found.address + found.size else None


def _edges(image: Any, pieces: _Pieces, thumb: int) -> dict[Piece, set[Piece]]:
    """Piece → the pieces that its relocations point at."""
    table = image.get_section_by_name(".symtab")
    edges: dict[Piece, set[Piece]] = {}
    for section in image.iter_sections():
        if section["sh_type"] not in ("SHT_REL", "SHT_RELA"):
            continue
        data = image.get_section(section["sh_info"])
        if not data["sh_flags"] & 2:
            continue
        content = data.data()
        for relocation in section.iter_relocations():
            symbol = table.get_symbol(relocation["r_info_sym"])
            value = symbol["st_value"] + (relocation["r_addend"] if section["sh_type"] == "SHT_RELA" else 0)
            if section["sh_type"] == "SHT_REL" and symbol["st_info"]["type"] == "STT_SECTION":
                at = relocation["r_offset"] - data["sh_addr"]
                value = int.from_bytes(content[at : at + 4], "little")  # a word of the linked image: the address itself
            source, target = pieces.at(relocation["r_offset"]), pieces.at(value & ~thumb)
            if source is not None and target is not None and source is not target:
                edges.setdefault(source, set()).add(target)
    return edges


def _name(piece: Piece) -> str:
    return f"{Path(piece.object).name}:{piece.section}"


def _sizes(pieces: Iterable[Piece]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for piece in pieces:
        if group_of(piece) == "code" and not piece.section.startswith(".eh_frame"):
            sizes[_name(piece)] = sizes.get(_name(piece), 0) + piece.size
    return sizes
