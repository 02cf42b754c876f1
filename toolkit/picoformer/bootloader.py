"""Building a resident bootloader, and the image that it takes."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from picoformer.compilers import Compiler, choose_compiler
from picoformer.emulator.image import read_image as loaded
from picoformer.errors import ConfigError, FitError
from picoformer.files import atomic_write_bytes, atomic_write_text
from picoformer.firmware import SECTIONS, SMALL_PAGES, WARNINGS, target_defines
from picoformer.flash.image import read_image
from picoformer.flash.intel_hex import write_hex
from picoformer.flash.interface import Segment
from picoformer.slot_image import BOOTLOADER, IMAGE, flat_content, make_image
from picoformer.targets import (
    BootloaderChoice,
    MemoryRegion,
    Target,
    bootloaded,
    list_targets,
    load_target,
    resource_root,
)
from picoformer.toolchain import CompilerFailure, Unit, compile_units, run_tool

_PROTOCOL = ("crc32", "frame", "reply", "requests", "stream")
_PORT = "cortex_m"


@dataclass(frozen=True)
class BootloaderBuild:
    """A bootloader as files, and the bytes it takes: of the `reserved` flash, and of RAM while it runs."""

    target: str
    elf: Path
    hex: Path
    bin: Path
    flash_bytes: int
    reserved_bytes: int
    ram_bytes: int


def choice_of(target: Target) -> BootloaderChoice:
    """What a target's file says of its bootloader; ConfigError where it has none."""
    if target.bootloader is None:
        known = ", ".join(name for name in list_targets() if load_target(name).bootloader is not None)
        raise ConfigError(
            f"{target.name} has no [bootloader] in its target file; take one of {known}, or build without --bootloader"
        )
    return target.bootloader


def behind_bootloader(target: Target, image_version: int = 0) -> Target:
    """The target for images that go behind its bootloader; ConfigError where it has none."""
    choice_of(target)
    return bootloaded(target, image_version)


def build_bootloader(
    target: Target, out: Path, *, toolchain: str = "auto", strict: bool = False, jobs: int = 0
) -> BootloaderBuild:
    """Compile and link the bootloader of `target`: bootloader.elf, .hex and .bin in `out`, to be put on a board once.

    `strict` turns warnings into errors. Raises ConfigError (the target has none), ToolError (compiler missing or
    failed), FitError (larger than what is reserved for it).
    """
    choice = choice_of(target)
    target = bootloaded(target)
    compiler = choose_compiler(target, toolchain)
    units, includes = _units(target, choice, compiler)
    flags = ["-std=c99", "-g", "-Os", *SECTIONS, *WARNINGS, *target_defines(target), *_defines(target, choice)]
    flags += ["-Werror"] if strict else []
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".bootloader.") as folder:
        build = Path(folder)
        objects = compile_units(compiler, flags, includes, units, build, jobs)
        (build / "link.ld").write_text(_linker_script(target), encoding="utf-8")
        link = [*compiler.link, "-Wl,--gc-sections", "-Wl,--build-id=none", "-T", "link.ld", "-Wl,-e,pf_boot_reset"]
        link += SMALL_PAGES
        linked = f"{BOOTLOADER}.elf"
        try:
            run_tool(
                [*link, "-o", linked, *map(str, objects)], build, "the link of the bootloader", compiler.environment
            )
        except CompilerFailure as error:
            _refuse_overflow(error.output, target, choice)
            raise
        (build / linked).replace(out / linked)
    region = target.bootloader_region
    content = _flat(out / linked, region)
    atomic_write_bytes(out / f"{BOOTLOADER}.bin", content)
    atomic_write_text(out / f"{BOOTLOADER}.hex", write_hex([Segment(region.origin, content)]))
    ram = sum(size for _, size in loaded(out / linked).writable)
    elf, hex_, bin_ = (out / f"{BOOTLOADER}.{kind}" for kind in ("elf", "hex", "bin"))
    return BootloaderBuild(target.name, elf, hex_, bin_, len(content), choice.bytes, ram)


def write_image(elf: Path, target: Target, out: Path, identity: bytes) -> Path:
    """Write `out`/firmware.img, the image of firmware that was linked for the slot. `identity`: the model's."""
    code = target.region("code")
    content = _flat(elf, code)
    atomic_write_bytes(out / IMAGE, make_image(content, target.name, code.origin, identity, target.image_version))
    return out / IMAGE


def write_boot_files(place: Path, target: Target, identity: bytes, toolchain: str = "auto") -> None:
    """Write beside the firmware in `place` what a board behind a bootloader takes: its image, and the bootloader."""
    write_image(place / "firmware.elf", target, place, identity)
    build_bootloader(target, place, toolchain=toolchain)


def _flat(elf: Path, region: MemoryRegion) -> bytes:
    """What a linked ELF has for a region, which must be all there is."""
    segments = tuple((segment.address, segment.data) for segment in read_image(elf).segments)
    return flat_content(segments, region.origin, region.end)


def _units(target: Target, choice: BootloaderChoice, compiler: Compiler) -> tuple[list[Unit], list[Path]]:
    firmware = resource_root("firmware")
    assert target.uart is not None
    own = [
        path
        for path in sorted((firmware / "bootloader").glob("*.c"))
        if not path.stem.startswith("flash_") or path.stem == f"flash_{choice.kind}"
    ]
    port = [firmware / "port" / _PORT / f"{name}.c" for name in (f"uart_{target.uart.kind}", "wait")]
    protocol = [firmware / "protocol" / f"{name}.c" for name in _PROTOCOL]
    includes = [firmware / "include"]
    units = [Unit(path, Path(f"{path.parent.name}_{path.stem}.o")) for path in (*own, *port, *protocol)]
    if not compiler.has_c_library:
        units += [Unit(path, Path(f"{path.stem}.o")) for path in sorted((firmware / "freestanding").glob("*.c"))]
        includes.append(firmware / "freestanding")
    return units, includes


def _defines(target: Target, choice: BootloaderChoice) -> list[str]:
    data, slot = target.region("data"), target.slot_region
    values = {
        "PF_BOOT_ORIGIN": target.bootloader_region.origin,
        "PF_SLOT_ORIGIN": slot.origin,
        "PF_SLOT_BYTES": slot.length // choice.page_bytes * choice.page_bytes,
        "PF_PAGE_BYTES": choice.page_bytes,
        "PF_RAM_ORIGIN": data.origin,
        "PF_RAM_BYTES": data.length,
        "PF_BOOT_WINDOW_MS": choice.window_ms,
    }
    return [*(f"-D{name}={value}u" for name, value in values.items()), f'-DPF_BOOT_TARGET="{target.name}"']


def _linker_script(target: Target) -> str:
    text = (resource_root("firmware") / "bootloader" / "link.ld.in").read_text(encoding="utf-8")
    boot, data = target.bootloader_region, target.region("data")
    for name, value in {
        "boot_origin": boot.origin,
        "boot_bytes": boot.length,
        "ram_origin": data.origin,
        "ram_bytes": data.length,
    }.items():
        text = text.replace(f"@{name}@", f"{value:#x}")
    return text


def _refuse_overflow(output: str, target: Target, choice: BootloaderChoice) -> None:
    found = re.search(r"region [`']boot':? overflowed by (\d+) bytes", output)
    if found:
        raise FitError(
            f"the bootloader of {target.name} needs {choice.bytes + int(found[1]):,} bytes and [bootloader] reserves "
            f"{choice.bytes:,}; raise its `bytes`"
        )
