"""A file of firmware, whatever its form, to the one form that flashers take; nothing in it is believed unchecked."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from picoformer.errors import ConfigError, FitError, ModelError
from picoformer.flash.elf import MAGIC as ELF
from picoformer.flash.elf import read_elf
from picoformer.flash.intel_hex import read_hex
from picoformer.flash.interface import Image, Segment
from picoformer.flash.uf2 import MAGIC as UF2
from picoformer.flash.uf2 import read_uf2
from picoformer.targets import MemoryRegion, Target

LARGEST = 256 << 20
"""Bytes of a file that is still read: an ELF with all its debug information."""
_MACHINE = {"arm": "Arm", "rv3": "RISC-V", "xte": "Xtensa"}


def read_image(path: Path, address: int | None = None) -> Image:
    """The image in an ELF, a .hex, a .uf2, or a .bin that starts at `address`.

    Raises ModelError for a file that is broken, ConfigError where an address is missing or too many.
    """
    data = read_bounded(path, LARGEST)
    entry, elf, family = None, None, None
    is_plain = False
    if data[:4] == ELF:
        found = read_elf(data, path)
        segments: Sequence[Segment] = found.segments
        entry, elf = found.entry, path
    elif data[:8] == UF2:
        uf2 = read_uf2(data, path)
        segments, family = uf2.segments, uf2.family
    elif path.suffix.lower() in (".hex", ".ihex"):
        segments, entry = read_hex(data, path)
    elif path.suffix.lower() in (".elf", ".uf2", ".axf"):
        raise ModelError(f"{path}: does not begin as a {path.suffix} file does; make it again")
    else:
        is_plain = True
        if address is None:
            raise ConfigError(f"{path}: says nothing of where it lies in memory; give --address, as 0x08000000")
        if not 0 <= address <= (1 << 32) - len(data):
            raise ConfigError(f"--address {address:#x}: {len(data):,} bytes from there end beyond 4 GiB")
        segments = [Segment(address, data)] if data else []
    if address is not None and not is_plain:
        raise ConfigError(f"{path}: says itself where it lies in memory; leave --address away")
    joined = join(segments, path)
    if not joined:
        raise ModelError(f"{path}: holds nothing for a board's memory; give the finished firmware")
    return Image(path, joined, entry, elf, family)


def read_bounded(path: Path, most: int) -> bytes:
    """A file's bytes; ModelError where it cannot be read or has more than `most`."""
    try:
        if path.is_dir():
            raise ModelError(f"{path}: is a folder; give the file in it")
        size = path.stat().st_size
        if size > most:
            raise ModelError(f"{path}: {size:,} bytes are more than any board's firmware; give another file")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None


def join(segments: Sequence[Segment], path: Path) -> tuple[Segment, ...]:
    """In ascending order, neighbours made one; ModelError where two overlap."""
    runs: list[tuple[int, list[bytes]]] = []
    end = -1
    for segment in sorted(segments, key=lambda segment: segment.address):
        if segment.address < end:
            raise ModelError(f"{path}: two pieces want the memory at {segment.address:#010x}; link it again")
        if segment.address == end:
            runs[-1][1].append(segment.data)
        elif segment.data:
            runs.append((segment.address, [segment.data]))
        end = segment.end
    return tuple(Segment(address, b"".join(pieces)) for address, pieces in runs)


def refuse_unfit(image: Image, target: Target) -> None:
    """Raise where the image is not for this board: outside its flash, another architecture, vectors of elsewhere."""
    refuse_outside(image, target)
    refuse_machine(image, target)
    vectors(image, target)


def refuse_outside(image: Image, target: Target) -> None:
    """FitError where a byte of the image lies outside the board's flash."""
    regions = flash_regions(target)
    for segment in image.segments:
        if not any(region.origin <= segment.address and segment.end <= region.end for region in regions):
            has = " and ".join(f"{region.origin:#010x} to {region.end - 1:#010x}" for region in regions)
            raise FitError(
                f"{image.source}: {len(segment.data):,} bytes at {segment.address:#010x} to {segment.end - 1:#010x} "
                f"lie outside the flash of {target.name} ({has}); nothing was written: is it for another board?"
            )


def flash_regions(target: Target) -> list[MemoryRegion]:
    """Where an image may lie."""
    return [region for region in target.memory if region.holds == "code"]


def refuse_machine(image: Image, target: Target) -> None:
    """ModelError where an ELF is for another architecture than the board's."""
    if image.elf is None:
        return
    machine = read_elf(read_bounded(image.elf, LARGEST), image.elf).machine
    wanted = _MACHINE.get(target.architecture[:3], "")
    if wanted and machine != wanted:
        raise ModelError(
            f"{image.elf}: is for {machine or 'another architecture'} and {target.name} is {wanted}; give --target, or "
            "the firmware of this board"
        )


def vectors(image: Image, target: Target) -> tuple[int, int] | None:
    """(stack pointer, reset handler) at the start of a Cortex-M's flash; None where the image leaves that out, or the
    vendor's SDK decides what lies there.

    Raises ModelError where they cannot be those of this board: a core that starts there would fault at once.
    """
    if target.is_library or not target.cpu.startswith("cortex-m"):
        return None
    origin = target.region("code").origin
    first = next((segment for segment in image.segments if segment.address <= origin < segment.end), None)
    if first is None:
        return None
    if first.end < origin + 8:
        raise ModelError(
            f"{image.source}: {len(first.data)} bytes at the start of flash are no firmware; give another file"
        )
    stack, reset = struct.unpack_from("<II", first.data, origin - first.address)
    in_ram = any(region.origin < stack <= region.end for region in target.memory if region.holds == "data")
    in_flash = any(region.origin <= reset < region.end for region in flash_regions(target))
    if not (in_ram and in_flash and reset & 1):
        raise ModelError(
            f"{image.source}: begins with stack pointer {stack:#010x} and reset handler {reset:#010x}, which are not "
            f"in the memory of {target.name}; nothing was written: is it for another board?"
        )
    return stack, reset
