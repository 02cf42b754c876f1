"""What an in-process core needs of a linked ELF: bytes to load, memory that changes, addresses by name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from picoformer.errors import DeviceError

_ALLOCATED, _WRITABLE = 2, 1


@dataclass(frozen=True)
class Image:
    """`segments`: (address, bytes) to load; `writable`: (address, size) of what the program may change; `symbols`:
    address by name, without the Thumb bit."""

    segments: tuple[tuple[int, bytes], ...]
    writable: tuple[tuple[int, int], ...]
    symbols: dict[str, int]

    def address(self, name: str) -> int:
        """The address of a symbol; DeviceError when there is none of that name."""
        if name not in self.symbols:
            raise DeviceError(f"the firmware has no symbol {name}; build it again")
        return self.symbols[name]


def read_image(elf: Path) -> Image:
    """The image in a linked ELF; DeviceError when it cannot be read."""
    try:
        return _read(elf, elf.stat().st_mtime_ns)
    except OSError as error:
        raise DeviceError(f"{elf} cannot be read ({error.strerror}); build the firmware again") from None


@lru_cache(maxsize=4)
def _read(elf: Path, modified: int) -> Image:
    from elftools.elf.elffile import ELFFile

    with elf.open("rb") as stream:
        file = ELFFile(stream)
        thumb = 1 if file["e_machine"] == "EM_ARM" else 0
        segments = [
            (int(segment["p_paddr"]), segment.data())
            for segment in file.iter_segments()
            if segment["p_type"] == "PT_LOAD" and segment["p_filesz"]
        ]
        writable = [
            (int(section["sh_addr"]), int(section["sh_size"]))
            for section in file.iter_sections()
            if section["sh_flags"] & _ALLOCATED
            and section["sh_size"]
            and (section["sh_flags"] & _WRITABLE or section["sh_type"] == "SHT_NOBITS")
        ]
        table: Any = file.get_section_by_name(".symtab")
        symbols = {
            symbol.name: int(symbol["st_value"]) & ~(thumb if symbol["st_info"]["type"] == "STT_FUNC" else 0)
            for symbol in table.iter_symbols()
            if symbol.name and symbol["st_shndx"] != "SHN_UNDEF"
        }
    return Image(tuple(segments), tuple(writable), symbols)
