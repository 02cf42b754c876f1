"""From an address to the function that holds it, by the ELF's symbol table."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from pathlib import Path
from typing import Any

from picoformer.errors import DeviceError


@lru_cache(maxsize=8)
def _functions(elf: Path, modified: int) -> tuple[tuple[int, int, str], ...]:
    from elftools.elf.elffile import ELFFile

    found = []
    with elf.open("rb") as stream:
        image = ELFFile(stream)
        thumb = 1 if image["e_machine"] == "EM_ARM" else 0
        table: Any = image.get_section_by_name(".symtab")
        for symbol in table.iter_symbols():
            if symbol["st_info"]["type"] == "STT_FUNC":
                found.append((symbol["st_value"] & ~thumb, symbol["st_size"], symbol.name))
    return tuple(sorted(found))


def symbolize(elf: Path, pc: int) -> str:
    """The name of the function at `pc`; empty when no function holds it. The Thumb bit is ignored."""
    functions = _functions(elf, elf.stat().st_mtime_ns)
    at = bisect_right(functions, (pc, 1 << 64, "")) - 1
    while at >= 0 and functions[at][1] == 0:
        at -= 1
    if at < 0:
        return ""
    start, size, name = functions[at]
    return name if start <= pc < start + size else ""


def symbol_address(elf: Path, name: str) -> int:
    """The address of a symbol; DeviceError when the ELF has none of that name."""
    from elftools.elf.elffile import ELFFile

    with elf.open("rb") as stream:
        image = ELFFile(stream)
        table: Any = image.get_section_by_name(".symtab")
        symbols = table.get_symbol_by_name(name)
        if not symbols:
            raise DeviceError(f"{elf} has no symbol {name}; build the firmware again")
        return int(symbols[0]["st_value"]) & ~(1 if image["e_machine"] == "EM_ARM" else 0)
