"""From a generated model and a target to linked firmware and what it costs in flash and RAM."""

from __future__ import annotations

import json
import re
import struct
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from picoformer.compilers import Compiler, choose_compiler
from picoformer.errors import FitError, ModelError
from picoformer.files import atomic_write_text
from picoformer.link_map import Piece, read_map
from picoformer.targets import MemoryRegion, RegisterBits, Target, resource_root
from picoformer.toolchain import CompilerFailure, Unit, compile_units, run_tool

WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion")
_DESCRIPTOR = "runtime/descriptor.o"
_OF_A_MODEL = ("fault_tests", "main", "run", "serve", "text")
"""Files of firmware/protocol that firmware without a model does without."""
SECTIONS = ("-ffunction-sections", "-fdata-sections")
SMALL_PAGES = ("-Wl,-z,max-page-size=256",)
"""Of no system's pages: with larger ones a segment may begin below its first section, with the ELF's headers."""


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
    """Linked firmware: `elf` (for the host target: the executable), the linker's `map`, the sizes, and
    the compiler's name and version."""

    target: str
    elf: Path
    map: Path
    sizes: SizeReport
    compiler: str = ""


def build_firmware(
    model_dir: Path,
    target: Target,
    out: Path,
    *,
    fault_tests: bool = False,
    strict: bool = False,
    jobs: int = 0,
    toolchain: str = "auto",
) -> FirmwareBuild:
    """Compile and link the model in `model_dir` for `target`; writes firmware.elf, firmware.map, size.json to
    `out`.

    `model_dir` holds the generated C and sources.json = {"model_sources": [its C files, the wire's descriptor
    *_device.c among them], "sources": [C files relative to the firmware folder], "include": [folders relative
    to it]}; with "model": false firmware of another kind, whose C files
    define main. `fault_tests` adds the message
    that provokes faults; `strict` turns warnings into errors; `toolchain`: gcc, clang, zig or auto. Files in
    `out` are replaced only when all of them are complete. Raises ToolError (compiler missing or failed),
    FitError (too big for the target), ModelError (a file is missing).
    """
    firmware = resource_root("firmware")
    compiler = choose_compiler(target, toolchain)
    units, includes = _units(model_dir, firmware, target, compiler)
    flags = ["-std=c99", "-g", target.toolchain.optimize, *SECTIONS, *WARNINGS]
    flags += [
        *target_defines(target),
        *(f"-D{name}" for name in _defines(model_dir, target)),
        *(["-DPF_FAULT_TESTS"] if fault_tests else []),
        *(["-Werror"] if strict else []),
    ]
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".build.") as folder:
        build = Path(folder)
        objects = compile_units(compiler, flags, includes, units, build, jobs)
        link = [*compiler.link, "-Wl,--gc-sections", "-Wl,--build-id=none"]
        if not target.is_host:
            script = linker_script(target)
            (build / "link.ld").write_text(script, encoding="utf-8")
            # Not through -Wl: picolibc's specs would bring a script of their own.
            link += ["-T", "link.ld", *_entry(script), *(SMALL_PAGES if target.in_slot else ())]
        try:
            printed = run_tool(
                [*link, "-o", "firmware.elf", *map(str, objects)],
                build,
                "the link of the firmware",
                compiler.environment,
            )
        except CompilerFailure as error:
            _refuse_overflow(error.output, target, [build / path for path in objects], writes_text(model_dir))
            raise
        if compiler.prints_map:
            (build / "firmware.map").write_text(printed, encoding="utf-8")
        sizes = size_report(build / "firmware.elf", build / "firmware.map", target, _has_model(model_dir))
        for name in ("firmware.map", "firmware.elf"):
            (build / name).replace(out / name)
    record = {**asdict(sizes), "compiler": compiler.version}
    atomic_write_text(out / "size.json", json.dumps(record, indent=2) + "\n")
    return FirmwareBuild(target.name, out / "firmware.elf", out / "firmware.map", sizes, compiler.version)


def load_build(out: Path, target: Target) -> FirmwareBuild:
    """The build that an earlier `build_firmware` left in `out`; ModelError when it is incomplete."""
    elf = out / "firmware.elf"
    sizes, compiler = load_sizes(out)
    if sizes is None or not elf.is_file():
        raise ModelError(f"{out} holds no built firmware; run `picoformer build` first")
    return FirmwareBuild(target.name, elf, out / "firmware.map", sizes, compiler)


def load_sizes(out: Path) -> tuple[SizeReport | None, str]:
    """What an earlier build into `out` takes and the compiler it was made by; None and the reason where none was."""
    path = out / "size.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["flash"] is None:
            return None, str(data["reason"])
        return SizeReport(FlashSizes(**data["flash"]), RamSizes(**data["ram"])), str(data["compiler"])
    except OSError:
        raise ModelError(f"{out} holds no built firmware; run `picoformer build` first") from None
    except (ValueError, KeyError, TypeError):
        raise ModelError(f"{path} is broken; build again") from None


def _entry(script: str) -> list[str]:
    """The entry of a linker script as an option: zig's own wins over the script otherwise."""
    found = re.search(r"ENTRY\((\w+)\)", script)
    return [f"-Wl,-e,{found[1]}"] if found else []


def _units(model_dir: Path, firmware: Path, target: Target, compiler: Compiler) -> tuple[list[Unit], list[Path]]:
    units = model_units(model_dir, firmware, descriptor=True)
    for path in sorted((firmware / "protocol").glob("*.c")):
        if _has_model(model_dir) or path.stem not in _OF_A_MODEL:
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
    includes = [firmware / "include", model_dir]
    if not compiler.has_c_library:
        units += [_unit(path, "runtime", path.stem) for path in sorted((firmware / "freestanding").glob("*.c"))]
        includes.append(firmware / "freestanding")
    return units, includes


def model_units(
    model_dir: Path, firmware: Path, *, sources: Path | None = None, descriptor: bool = False
) -> list[Unit]:
    """The C files of the model in `model_dir` (or, copied, in `sources`) and the operators in `firmware` it calls.

    `descriptor`: with the one that tells the runtime of the model. Raises ModelError naming a file that is missing.
    """
    listing, sources = model_dir / "sources.json", sources or model_dir
    if not listing.is_file():
        raise ModelError(f"{listing} is missing; generate the C of the model again")
    listed = json.loads(listing.read_text(encoding="utf-8"))
    units = []
    for name in listed["model_sources"]:
        is_descriptor = name.endswith("_device.c")
        if is_descriptor and not descriptor:
            continue
        if not (sources / name).is_file():
            raise ModelError(f"{sources / name} is missing; generate the C of the model again")
        units.append(Unit(sources / name, Path(_DESCRIPTOR if is_descriptor else f"model/{Path(name).stem}.o")))
    for name in listed["sources"]:
        units.append(_unit(firmware / name, "code", str(Path(name).with_suffix("")).replace("/", "_")))
    return units


def _defines(model_dir: Path, target: Target) -> list[str]:
    """What sources.json wants defined (PF_TEXT for a language model), and where constants go that are many."""
    listed = json.loads((model_dir / "sources.json").read_text(encoding="utf-8"))
    found = [name for name in map(str, listed.get("defines", [])) if re.fullmatch(r"[A-Z][A-Z0-9_]*", name)]
    prefix = str(listed.get("prefix", "model")).upper()
    if not target.is_host:
        region = target.weights_region(int(listed.get("weights_bytes", 0)))
        if region is not target.region("code"):
            found.append(f'{prefix}_WEIGHTS_ATTRIBUTE=__attribute__((section(".pf_{region.name}")))')
            found.append(f"{prefix}_WEIGHTS_SECTION=.pf_{region.name}")
    return found


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
        uart, watchdog, code = target.uart, target.watchdog, target.protected_region
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
            "PF_NULL_GUARD": int(all(region.origin >= 0x1000 for region in (code, *target.memory))),
        }
        lists = {"PF_UART_ENABLE": uart.enable, "PF_WATCHDOG_ENABLE": watchdog.enable}
    if target.in_slot:
        values["PF_BEHIND_BOOTLOADER"] = 1
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


def _has_model(model_dir: Path) -> bool:
    return bool(json.loads((model_dir / "sources.json").read_text(encoding="utf-8")).get("model", True))


def writes_text(model_dir: Path) -> bool:
    """Whether generated C is that of a language model."""
    listed = json.loads((model_dir / "sources.json").read_text(encoding="utf-8"))
    return "PF_TEXT" in listed.get("defines", [])


def larger_or_smaller(is_text: bool) -> str:
    """What to take where a board has too little memory; `is_text`: for a language model."""
    if is_text:
        return "a smaller --context, --block 1, --scheme int4x16, or a larger target"
    return "a larger target or make the model smaller (prune, fewer rows, --scheme int8)"


def _refuse_overflow(output: str, target: Target, objects: Sequence[Path], is_text: bool = False) -> None:
    """Raise FitError when the linker's output says that a memory region overflowed; `is_text`: of a language model."""
    found = {name: int(by) for name, by in re.findall(r"region [`']([^']+)':? overflowed by (\d+) bytes", output)}
    for region in target.memory:
        if region.name in found:
            holds: Literal["flash", "RAM"] = "flash" if region.holds == "code" else "RAM"
            biggest = ", ".join(f"{name} {size:,}" for name, size in _biggest(objects, holds)[:3])
            raise FitError(
                f"the model does not fit {target.name}: {holds} ({region.name}) needs "
                f"{region.length + found[region.name]:,} bytes and has {region.length:,}; biggest: {biggest}; "
                f"take {larger_or_smaller(is_text)}"
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


def size_report(elf: Path, map_file: Path, target: Target, has_model: bool = True) -> SizeReport:
    """What the linked ELF takes, in bytes.

    Totals come from the ELF's own sections. They are attributed by the linker map, which names the object of
    every input section that survived: objects in `model/` are the model (its constants are "model", its
    functions "code"), those in `code/` the operators and kernels ("code", their tables included, as are
    libgcc or compiler-rt and memcpy), those in `runtime/` the wire, the port and fault handling. Padding and
    the rest of the C library count as runtime. `arena` is the figure in the image's own pf_device; the arena's
    piece of .bss is reduced by it.
    """
    from elftools.elf.elffile import ELFFile

    with elf.open("rb") as stream:
        image = ELFFile(stream)
        allocated = [section for section in image.iter_sections() if section["sh_flags"] & 2 and section["sh_size"]]
        flash_total = _flash_bytes(image)
        writable = [section for section in allocated if section["sh_flags"] & 1 or section["sh_type"] == "SHT_NOBITS"]
        ram_total = sum(section["sh_size"] for section in writable)
        arena, arena_address = _arena(image, stream) if has_model else (0, 0)
        stored = {section.name for section in allocated if section["sh_type"] != "SHT_NOBITS"}
        in_ram = {section.name for section in writable}
    pieces = read_map(map_file.read_text(encoding="utf-8", errors="replace"))
    flash, data = attribute(pieces, is_stored=stored.__contains__, is_writable=in_ram.__contains__)
    for piece in pieces:  # an arena that is not the model's own
        if piece.output in in_ram and _group(piece) == "runtime" and piece.object != _DESCRIPTOR:
            data += arena if piece.address <= arena_address < piece.address + piece.size else 0
    stack = target.stack_bytes
    rest = flash_total - flash["model"] - flash["code"]
    return SizeReport(
        FlashSizes(flash["model"], flash["code"], rest, flash_total),
        RamSizes(arena, data - arena, ram_total - data - stack, stack, ram_total),
    )


def attribute(
    pieces: Sequence[Piece], *, is_stored: Callable[[str], bool], is_writable: Callable[[str], bool]
) -> tuple[dict[str, int], int]:
    """Bytes of flash by "model" and "code", and the model's bytes of RAM, of a map's pieces.

    The two functions say of an output section whether it lies in flash, and whether in RAM.
    """
    flash = {"model": 0, "code": 0}
    data = 0
    for piece in pieces:
        group = _group(piece)
        if is_stored(piece.output) and group in ("model", "code") and not piece.section.startswith(".eh_frame"):
            is_text = piece.section.startswith(".text")
            flash["code" if group == "code" or is_text else "model"] += piece.size
        if is_writable(piece.output) and (group != "runtime" or piece.object == _DESCRIPTOR):
            data += piece.size
    return flash, data


def _group(piece: Piece) -> str:
    folder = piece.object.partition("/")[0]
    if folder in ("model", "code"):
        return folder
    return (
        "code"
        if re.search(r"libgcc\.a\(|libcompiler_rt\.a\(|libc\w*\.a\([\w-]*mem(cpy|move|set)", piece.object)
        else "runtime"
    )


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
