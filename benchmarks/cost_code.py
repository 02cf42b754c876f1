"""What code each function of firmware/ brings into an image: the linked sections that are reached from it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picoformer.link_map import Piece, group_of, read_map

KEEP_RELOCATIONS = "-Wl,--emit-relocs"
"""A link option that `reached` needs."""


@dataclass(frozen=True)
class Code:
    """`sections`: name → bytes of the pieces of code beside the model's own; `functions`: function → the names of those
    that it reaches; `always`: those that the wire and the port reach; `model_text`: bytes of the model's functions."""

    sections: dict[str, int]
    functions: dict[str, list[str]]
    always: list[str]
    model_text: int


def reached(elf: Path, map_file: Path, functions: Iterable[str]) -> Code:
    """Follow the relocations of an image that was linked with KEEP_RELOCATIONS."""
    from elftools.elf.elffile import ELFFile

    pieces = sorted(read_map(map_file.read_text("utf-8", errors="replace")), key=lambda piece: piece.address)
    stored = [piece for piece in pieces if not piece.output.startswith((".bss", ".stack", ".debug", ".comment"))]
    stored = [piece for piece in stored if not piece.output.startswith((".rel", ".symtab", ".strtab", ".riscv", ".ARM.att"))]
    starts = [piece.address for piece in stored]

    def piece_at(address: int) -> Piece | None:
        at = bisect_right(starts, address) - 1
        while at >= 0 and starts[at] + stored[at].size <= address and starts[at] + 64 > address:
            at -= 1
        found = stored[at] if at >= 0 else None
        return found if found is not None and found.address <= address < found.address + found.size else None

    with elf.open("rb") as stream:
        image = ELFFile(stream)
        thumb = 1 if image["e_machine"] == "EM_ARM" else 0
        table: Any = image.get_section_by_name(".symtab")
        places = {symbol.name: symbol["st_value"] & ~thumb for symbol in table.iter_symbols()}
        edges: dict[Piece, set[Piece]] = {piece: set() for piece in stored}
        for section in image.iter_sections():
            if section["sh_type"] not in ("SHT_REL", "SHT_RELA") or section.name.startswith((".rel.debug", ".rela.debug")):
                continue
            data = image.get_section(section["sh_info"])
            content, base = data.data(), data["sh_addr"]
            for relocation in section.iter_relocations():
                source = piece_at(relocation["r_offset"])
                symbol = table.get_symbol(relocation["r_info_sym"])
                value = symbol["st_value"] & ~thumb if symbol["st_info"]["type"] != "STT_SECTION" else symbol["st_value"]
                value += relocation["r_addend"] if section["sh_type"] == "SHT_RELA" else 0
                if symbol["st_info"]["type"] == "STT_SECTION" and section["sh_type"] == "SHT_REL":
                    at = relocation["r_offset"] - base
                    value = int.from_bytes(content[at : at + 4], "little") & ~thumb  # an absolute word, as it was linked
                target = piece_at(value)
                if source is not None and target is not None and source is not target:
                    edges[source].add(target)

    def closure(roots: Iterable[Piece]) -> set[Piece]:
        seen: set[Piece] = set()
        todo = list(roots)
        while todo:
            piece = todo.pop()
            if piece not in seen:
                seen.add(piece)
                todo += edges[piece]
        return seen

    def code_in(found: Iterable[Piece]) -> list[str]:
        return sorted({_name(piece) for piece in found if group_of(piece) == "code"})

    own = [piece for piece in stored if group_of(piece) == "model"]
    runtime = [piece for piece in stored if group_of(piece) == "runtime" and not piece.object.endswith("descriptor.o")]
    beside: Mapping[Piece, None] = dict.fromkeys(own)
    always = closure(runtime) - closure(own)
    reached_by_model = {piece for piece in closure(runtime) if piece not in beside and group_of(piece) == "code"}
    libraries = {piece for piece in reached_by_model if "(" in piece.object}
    return Code(
        _sizes(stored),
        {name: code_in(closure([found])) for name in functions if (found := piece_at(places[name])) is not None},
        code_in(always | (libraries & closure(runtime))),
        sum(piece.size for piece in own if piece.section.startswith(".text")),
    )


def _name(piece: Piece) -> str:
    return f"{Path(piece.object).name}:{piece.section}"


def _sizes(pieces: Iterable[Piece]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for piece in pieces:
        if group_of(piece) == "code" and not piece.section.startswith(".eh_frame"):
            sizes[_name(piece)] = sizes.get(_name(piece), 0) + piece.size
    return sizes
