"""From a generated model and a target to linked firmware and what it costs in flash and RAM."""

from __future__ import annotations

import json
import re
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from picoformer.errors import FitError, ModelError
from picoformer.files import atomic_write_text
from picoformer.targets import MemoryRegion, RegisterBits, Target, resource_root
from picoformer.toolchain import CompilerFailure, Unit, compile_units, find_program, run_tool

_WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion")
_DESCRIPTOR = "runtime/descriptor.o"
_SECTIONS = ("-ffunction-sections", "-fdata-sections")


@dataclass(frozen=True)
class FlashSizes:
    """Bytes of flash: `model` constants of the model, `code` that computes it, `runtime` the wire, port and
    faults."""

    model: int
    code: int
    runtime: int
    total: int


@dataclass(frozen=True)
class RamSizes:
    """Bytes of RAM: the model's `arena` and other `data`, the `runtime`'s buffers, `stack` as reserved."""

    arena: int
    data: int
    runtime: int
    stack: int
    total: int


@dataclass(frozen=True)
class SizeReport:
    """What linked firmware takes, in bytes; each total is the sum of the figures before it."""

    flash: FlashSizes
    ram: RamSizes


@dataclass(frozen=True)
class FirmwareBuild:
    """Linked firmware: `elf` (for the host target: the executable), the linker's `map`, and the sizes."""

    target: str
    elf: Path
    map: Path
    sizes: SizeReport


def build_firmware(
    model_dir: Path,
    target: Target,
    out: Path,
    *,
    fault_tests: bool = False,
    strict: bool = False,
    jobs: int = 0,
) -> FirmwareBuild:
    """Compile and link the model in `model_dir` for `target`; writes firmware.elf, firmware.map, size.json to
    `out`.

    `model_dir` holds the generated C and sources.json = {"model_sources": [its C files, the wire's descriptor
    *_device.c among them], "sources": [C files relative to the firmware folder], "include": [folders relative
    to it]}. `fault_tests` adds the message
    that provokes faults; `strict` turns warnings into errors. Files in `out` are replaced only when all of
    them are complete. Raises ToolError (compiler missing or failed), FitError (too big for the target),
    ModelError (a file is missing).
    """
    firmware = resource_root("firmware")
    units, includes = _units(model_dir, firmware, target)
    flags = ["-std=c99", "-g", target.toolchain.optimize, *target.toolchain.flags, *_SECTIONS, *_WARNINGS]
    flags += [
        *target_defines(target),
        *(["-DPF_FAULT_TESTS"] if fault_tests else []),
        *(["-Werror"] if strict else []),
    ]
    program = target.toolchain.program
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".build.") as folder:
        build = Path(folder)
        objects = compile_units(program, flags, includes, units, build, jobs)
        link = [
            find_program(program),
            *target.toolchain.flags,
            *target.toolchain.link_flags,
            "-Wl,--gc-sections",
        ]
        link += ["-Wl,-Map,firmware.map", "-Wl,--build-id=none"]
        if not target.is_host:
            (build / "link.ld").write_text(linker_script(target), encoding="utf-8")
            link += ["-T", "link.ld"]  # not through -Wl: picolibc's specs would bring a script of their own
        try:
            run_tool([*link, "-o", "firmware.elf", *map(str, objects)], build, "the link of the firmware")
        except CompilerFailure as error:
            _refuse_overflow(error.output, target, [build / path for path in objects])
            raise
        sizes = size_report(build / "firmware.elf", build / "firmware.map", target)
        for name in ("firmware.map", "firmware.elf"):
            (build / name).replace(out / name)
    atomic_write_text(out / "size.json", json.dumps(asdict(sizes), indent=2) + "\n")
    return FirmwareBuild(target.name, out / "firmware.elf", out / "firmware.map", sizes)


def load_build(out: Path, target: Target) -> FirmwareBuild:
    """The build that an earlier `build_firmware` left in `out`; ModelError when it is incomplete."""
    elf, size = out / "firmware.elf", out / "size.json"
    if not (elf.is_file() and size.is_file()):
        raise ModelError(f"{out} holds no built firmware; run `picoformer build` first")
    try:
        data = json.loads(size.read_text(encoding="utf-8"))
        sizes = SizeReport(FlashSizes(**data["flash"]), RamSizes(**data["ram"]))
    except (ValueError, KeyError, TypeError):
        raise ModelError(f"{size} is broken; build again") from None
    return FirmwareBuild(target.name, elf, out / "firmware.map", sizes)


def _units(model_dir: Path, firmware: Path, target: Target) -> tuple[list[Unit], list[Path]]:
    listing = model_dir / "sources.json"
    if not listing.is_file():
        raise ModelError(f"{listing} is missing; generate the C of the model again")
    listed = json.loads(listing.read_text(encoding="utf-8"))
    units = []
    for name in listed["model_sources"]:
        if not (model_dir / name).is_file():
            raise ModelError(f"{model_dir / name} is missing; generate the C of the model again")
        is_descriptor = name.endswith("_device.c")
        units.append(Unit(model_dir / name, Path(_DESCRIPTOR if is_descriptor else f"model/{Path(name).stem}.o")))
    for name in listed["sources"]:
        units.append(_unit(firmware / name, "code", str(Path(name).with_suffix("")).replace("/", "_")))
    for path in sorted((firmware / "protocol").glob("*.c")):
        units.append(_unit(path, "runtime", f"protocol_{path.stem}"))
    port = firmware / "port" / target.port
    wanted = {
        f"exit_{target.exit}",
        f"watchdog_{target.watchdog.kind}",
        f"uart_{target.uart.kind if target.uart else ''}",
    }
    for path in sorted([*port.glob("*.c"), *port.glob("*.S")]):
        choice = re.match(r"(exit|watchdog|uart)_", path.stem)
        if choice is None or path.stem in wanted:
            units.append(_unit(path, "runtime", f"port_{path.stem}"))
    includes = [firmware / "include", model_dir, *(firmware / name for name in listed.get("include", []))]
    return units, includes


def _unit(source: Path, group: str, stem: str) -> Unit:
    if not source.is_file():
        raise ModelError(f"sources.json names {source.name}, which firmware/ does not have; generate the C again")
    return Unit(source, Path(group) / f"{stem}.o")


def target_defines(target: Target) -> list[str]:
    """What the C of the runtime and the port is told of a target, as -D options."""
    values = {
        "PF_FRAME_BYTES": target.frame_bytes,
        "PF_CLOCK_HZ": target.clock_hz,
        "PF_WATCHDOG_SECONDS": target.watchdog.seconds,
    }
    lists: dict[str, list[RegisterBits]] = {}
    if target.uart is not None:
        uart, watchdog, code = target.uart, target.watchdog, target.region("code")
        values |= {
            "PF_WATCHDOG_BASE": watchdog.base,
            "PF_WATCHDOG_IRQ": watchdog.irq,
            "PF_WATCHDOG_CLOCK_HZ": watchdog.clock_hz or target.clock_hz,
            "PF_UART_BASE": uart.base,
            "PF_UART_BAUD": uart.baud,
            "PF_UART_RX_IRQ": uart.rx_irq,
            "PF_UART_CLOCK_HZ": uart.clock_hz or target.clock_hz,
            "PF_UART_TX_PIN": uart.tx_pin,
            "PF_UART_RX_PIN": uart.rx_pin,
            "PF_UART_GPIO": uart.gpio,
            "PF_UART_ALTERNATE": uart.alternate,
            "PF_CODE_ORIGIN": code.origin,
            "PF_CODE_SIZE_LOG2": _protected_log2(code),
            "PF_GUARD_SIZE_LOG2": max(target.guard_bytes.bit_length() - 1, 0),
            "PF_NULL_GUARD": int(all(region.origin >= 0x1000 for region in target.memory)),
        }
        lists = {"PF_UART_ENABLE": uart.enable, "PF_WATCHDOG_ENABLE": watchdog.enable}
    defines = [f"-D{name}={value}u" for name, value in values.items()]
    for name, entries in lists.items():  # an initialiser, ended by a pair of zeros
        pairs = [f"{{{entry.address:#x}u,{entry.bits:#x}u}}" for entry in entries]
        defines.append(f"-D{name}={{{','.join([*pairs, '{0u,0u}'])}}}")
    return defines


def _protected_log2(region: MemoryRegion) -> int:
    """log2 of the largest power of two that fits into the region and that its origin is a multiple of."""
    size = region.length.bit_length() - 1
    while size > 5 and region.origin % (1 << size):
        size -= 1
    return size


def linker_script(target: Target) -> str:
    """The linker script of a board: the port's template filled with the target's memory map.

    A region past the first of its kind becomes an output section that collects `.pf_<name>` and
    `.pf_<name>.*`.
    """
    template = (resource_root("firmware") / "port" / target.port / "link.ld.in").read_text(encoding="utf-8")
    memory, more = [], []
    for region in target.memory:
        access = "rx" if region.holds == "code" else "rwx"
        memory.append(f"    {region.name} ({access}) : ORIGIN = {region.origin:#010x}, LENGTH = {region.length:#x}")
        if region not in (target.region("code"), target.region("data")):
            kind = "" if region.holds == "code" else " (NOLOAD)"
            more.append(
                f"    .{region.name}{kind} : ALIGN(16) {{ *(.pf_{region.name} .pf_{region.name}.*) }} > {region.name}"
            )
    for name, text in {
        "memory": "\n".join(memory),
        "code": target.region("code").name,
        "data": target.region("data").name,
        "stack_bytes": str(target.stack_bytes),
        "more": "\n".join(more),
    }.items():
        template = template.replace(f"@{name}@", text)
    return template


def _refuse_overflow(output: str, target: Target, objects: Sequence[Path]) -> None:
    """Raise FitError when the linker's output says that a memory region overflowed."""
    found = {name: int(by) for name, by in re.findall(r"region [`']([^']+)' overflowed by (\d+) bytes", output)}
    for region in target.memory:
        if region.name in found:
            holds: Literal["flash", "RAM"] = "flash" if region.holds == "code" else "RAM"
            biggest = ", ".join(f"{name} {size:,}" for name, size in _biggest(objects, holds)[:3])
            raise FitError(
                f"the model does not fit {target.name}: {holds} ({region.name}) needs "
                f"{region.length + found[region.name]:,} bytes and has {region.length:,}; biggest: {biggest}; "
                "take a larger target or make the model smaller (prune, fewer rows, --scheme int8)"
            )


def _biggest(objects: Sequence[Path], holds: Literal["flash", "RAM"]) -> list[tuple[str, int]]:
    from elftools.elf.elffile import ELFFile

    sizes: list[tuple[str, int]] = []
    for path in objects:
        with path.open("rb") as stream:
            elf = ELFFile(stream)
            table: Any = elf.get_section_by_name(".symtab")
            for symbol in table.iter_symbols():
                index = symbol["st_shndx"]
                if not symbol["st_size"] or not isinstance(index, int):
                    continue
                section = elf.get_section(index)
                in_ram, in_flash = bool(section["sh_flags"] & 1), section["sh_type"] != "SHT_NOBITS"
                if in_ram if holds == "RAM" else in_flash:
                    sizes.append((symbol.name, symbol["st_size"]))
    return sorted(sizes, key=lambda item: -item[1])


@dataclass(frozen=True)
class _Piece:
    """One input section as the linker map lists it."""

    output: str
    section: str
    address: int
    size: int
    object: str


_PIECE = re.compile(r"^ (\.?[\w.$-]+)\s+0x([0-9a-f]+)\s+0x([0-9a-f]+) (\S.*)$")


def read_map(text: str) -> list[_Piece]:
    """The input sections of a GNU ld map that take up room in the output, in order."""
    body = text.partition("Linker script and memory map")[2]
    body = re.sub(r"^( \.?[\w.$-]+)\n\s+(?=0x)", r"\1 ", body, flags=re.MULTILINE)
    pieces, output = [], ""
    for line in body.splitlines():
        if opened := re.match(r"^(\.[\w.$-]+)", line):
            output = opened[1]
        elif found := _PIECE.match(line):
            piece = _Piece(output, found[1], int(found[2], 16), int(found[3], 16), found[4])
            if piece.size:
                pieces.append(piece)
    return pieces


def size_report(elf: Path, map_file: Path, target: Target) -> SizeReport:
    """What the linked ELF takes, in bytes.

    Totals come from the ELF's own sections. They are attributed by the linker map, which names the object of
    every input section that survived: objects in `model/` are the model (its constants are "model", its
    functions "code"), those in `code/` the operators and kernels ("code", their tables included, as are
    libgcc and memcpy), those in `runtime/` the wire, the port and fault handling. Padding and the rest of the
    C library count as runtime. `arena` is the figure in the image's own pf_device; the arena's piece of .bss
    is reduced by it.
    """
    from elftools.elf.elffile import ELFFile

    with elf.open("rb") as stream:
        image = ELFFile(stream)
        allocated = [section for section in image.iter_sections() if section["sh_flags"] & 2 and section["sh_size"]]
        flash_total = _flash_bytes(image)
        writable = [section for section in allocated if section["sh_flags"] & 1 or section["sh_type"] == "SHT_NOBITS"]
        ram_total = sum(section["sh_size"] for section in writable)
        arena, arena_address = _arena(image, stream)
        stored = {section.name for section in allocated if section["sh_type"] != "SHT_NOBITS"}
        in_ram = {section.name for section in writable}
    flash = {"model": 0, "code": 0}
    data = 0
    for piece in read_map(map_file.read_text(encoding="utf-8", errors="replace")):
        group = _group(piece)
        if piece.output in stored and group in ("model", "code") and not piece.section.startswith(".eh_frame"):
            is_text = piece.section.startswith(".text")
            flash["code" if group == "code" or is_text else "model"] += piece.size
        if piece.output in in_ram:
            if group != "runtime" or piece.object == _DESCRIPTOR:
                data += piece.size
            elif piece.address <= arena_address < piece.address + piece.size:
                data += arena
    stack = target.stack_bytes
    rest = flash_total - flash["model"] - flash["code"]
    return SizeReport(
        FlashSizes(flash["model"], flash["code"], rest, flash_total),
        RamSizes(arena, data - arena, ram_total - data - stack, stack, ram_total),
    )


def _group(piece: _Piece) -> str:
    folder = piece.object.partition("/")[0]
    if folder in ("model", "code"):
        return folder
    return "code" if re.search(r"libgcc\.a\(|libc\w*\.a\([\w-]*mem(cpy|move|set)", piece.object) else "runtime"


def _flash_bytes(image: Any) -> int:
    """Bytes between the first and last loaded byte of each run of sections, gaps of alignment included."""
    spans = []
    for segment in image.iter_segments():
        if segment["p_type"] != "PT_LOAD":
            continue
        for section in image.iter_sections():
            if section["sh_flags"] & 2 and section["sh_type"] != "SHT_NOBITS" and segment.section_in_segment(section):
                start = segment["p_paddr"] + section["sh_addr"] - segment["p_vaddr"]
                spans.append((start, start + section["sh_size"]))
    total, end = 0, None
    for start, stop in sorted(spans):
        total += stop - start + (start - end if end is not None and 0 < start - end < 64 else 0)
        end = stop
    return total


def _arena(image: Any, stream: IO[bytes]) -> tuple[int, int]:
    """`arena_bytes` and the arena's address as the linked pf_device states them."""
    symbols = image.get_section_by_name(".symtab").get_symbol_by_name("pf_device")
    if not symbols:
        raise ModelError("the firmware has no pf_device; link the model's *_device.c into it")
    symbol = symbols[0]
    section = image.get_section(symbol["st_shndx"])
    stream.seek(section["sh_offset"] + symbol["st_value"] - section["sh_addr"])
    layout = "<I16s3HxxIIIII" if image.elfclass == 32 else "<Q16s3HxxQQQIxxxxQ"
    fields = struct.unpack(layout, stream.read(struct.calcsize(layout)))
    return int(fields[8]), int(fields[9])
