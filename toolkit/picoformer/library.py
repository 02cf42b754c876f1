"""A model as a library for a vendor's SDK: sources with a build file, compiled where the compiler is there."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from picoformer.compilers import PACKAGES, find_program, named_compiler
from picoformer.errors import FitError
from picoformer.files import atomic_write_text
from picoformer.firmware import (
    SECTIONS,
    WARNINGS,
    FlashSizes,
    RamSizes,
    SizeReport,
    attribute,
    larger_or_smaller,
    model_units,
    writes_text,
)
from picoformer.link_map import read_map
from picoformer.packages.esp_idf import manifest, register
from picoformer.packages.sources import collect
from picoformer.targets import LIBRARY, Target, resource_root
from picoformer.toolchain import compile_units, run_tool


@dataclass(frozen=True)
class LibraryBuild:
    """Folders for the SDK's project: the model, and the `wire` for a program that is to be verified on the board.

    `archive` (of the model) and `sizes` are None where nothing compiled it, for `reason`.
    """

    folder: Path
    wire: Path
    archive: Path | None
    sizes: SizeReport | None
    reason: str
    compiler: str
    """Its version line; empty where nothing compiled it."""


def build_library(
    model_dir: Path,
    target: Target,
    out: Path,
    prefix: str,
    arena_bytes: int,
    *,
    state_bytes: int = 0,
    strict: bool = False,
) -> LibraryBuild:
    """Write the library `prefix` for `target` into `out`: its folder, one for the wire, its archive and size.json.

    `model_dir` holds the generated C. Sizes are of what is reachable from the functions in <prefix>.h, which is what a
    linker keeps; the arena is the caller's, and `arena_bytes` is what it has to be; so is what a language model keeps
    of its texts, `state_bytes`. Raises FitError when the model alone is larger than the board, ToolError when the
    compiler is there and fails.
    """
    folder = _write_model(model_dir, target, out / prefix, prefix)
    wire = _write_wire(model_dir, target, out / f"{prefix}_wire", prefix)
    archive, sizes, reason, compiler, program = None, None, "", "", target.toolchain.program
    if shutil.which(program):
        archive, sizes = _compile(folder, model_dir, target, out, prefix, (arena_bytes, state_bytes), strict)
        _refuse_overflow(sizes, target, writes_text(model_dir))
        compiler = named_compiler(program).version
        record: dict[str, Any] = {**asdict(sizes), "compiler": compiler}
    else:
        apt = f"with: sudo apt-get install {PACKAGES[program]}" if program in PACKAGES else ""
        reason = f"{program} is not installed; get it {apt or 'with ' + target.library_sdk}"
        record = {"flash": None, "ram": None, "reason": reason}
    atomic_write_text(out / "size.json", json.dumps(record, indent=2) + "\n")
    return LibraryBuild(folder, wire, archive, sizes, reason, compiler)


@dataclass(frozen=True)
class _Part:
    """A folder of a library: its name, what a reader has to know, its C files, and what they need."""

    name: str
    says: tuple[str, ...]
    sources: tuple[str, ...]
    private: tuple[str, ...]
    requires: str = ""
    defines: tuple[str, ...] = ()


def _write_model(model_dir: Path, target: Target, folder: Path, prefix: str) -> Path:
    """Every file that the model needs, and the build file in the form that the SDK takes up."""
    files = collect(model_dir)
    places = {"public": "include/", "operator": "firmware/"}
    wanted = []
    for file in files:
        place = places.get(file.role, "")
        if file.role == "header":
            place = "firmware/include/" if file.name.startswith("picoformer/") else "firmware/"
        wanted.append((file.origin, Path(place + file.name)))
    says = (f"Model {prefix} for {target.description}; include/{prefix}.h says how to run it.",)
    sources = tuple(str(place) for _, place in wanted if place.suffix in (".c", ".S"))
    return _write(folder, wanted, _Part(prefix, says, sources, (".", "firmware/include")), target)


def _write_wire(model_dir: Path, target: Target, folder: Path, prefix: str) -> Path:
    """The protocol by which `verify --port` speaks to the board, for a program that defines its byte pipe."""
    firmware = resource_root("firmware")
    protocol = sorted((firmware / "protocol").glob("*.[ch]"))
    wanted = [(path, Path(path.name)) for path in protocol if path.name not in ("main.c", "fault_tests.c")]
    wanted.append((firmware / "port" / LIBRARY / "port.c", Path("port.c")))
    wanted.append((model_dir / f"{prefix}_device.c", Path(f"{prefix}_device.c")))
    wanted += _headers(firmware, Path("include"))
    says = (
        f"The serial protocol of model {prefix}, for picoformer verify --port. In your program define",
        "  int pf_port_read(void);            the next byte from the host, waiting for it",
        "  void pf_port_write(uint8_t byte);",
        "and call pf_wire_serve() of picoformer/wire.h, which does not return. picoformer/port.h has what else",
        "may be defined: a stack that is measured, cycles that are counted.",
    )
    sources = tuple(str(place) for _, place in wanted if place.suffix == ".c")
    defines = (f"PF_CLOCK_HZ={target.clock_hz}u", f"PF_FRAME_BYTES={target.frame_bytes}u", *_defines(model_dir))
    return _write(folder, wanted, _Part(f"{prefix}_wire", says, sources, (".",), prefix, defines), target)


def _defines(model_dir: Path) -> list[str]:
    """Macros that the runtime of this model is compiled with."""
    found: list[str] = json.loads((model_dir / "sources.json").read_text("utf-8")).get("defines", [])
    return found


def _headers(firmware: Path, to: Path) -> list[tuple[Path, Path]]:
    include = firmware / "include"
    return [(path, to / path.relative_to(include)) for path in sorted(include.rglob("*.h"))]


def _write(folder: Path, wanted: Sequence[tuple[Path, Path]], part: _Part, target: Target) -> Path:
    for source, place in wanted:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / place)
    assert target.library is not None
    texts = _cmake(part, target) if target.library.form == "cmake" else _esp_idf(part, target)
    for name, text in texts.items():
        atomic_write_text(folder / name, text)
    return folder


def _cmake(part: _Part, target: Target) -> dict[str, str]:
    name, own = part.name, "add_library_m4" if target.cpu == "cortex-m4" else "add_library_m7"
    lines = [f"# {line}" for line in part.says]
    lines += ["# In your project's CMakeLists.txt, after the SDK is there:", f"#   add_subdirectory({name})"]
    lines += [f"#   target_link_libraries(your_program {name})", f"set({name}_sources"]
    lines += [*(f"    {source}" for source in part.sources), ")"]
    lines += [f"list(TRANSFORM {name}_sources PREPEND ${{CMAKE_CURRENT_LIST_DIR}}/)"]
    lines += [
        f"if(COMMAND {own}) # coralmicro has a command for each core",
        f"    {own}({name} STATIC ${{{name}_sources}})",
    ]
    lines += ["else()", f"    add_library({name} STATIC ${{{name}_sources}})", "endif()"]
    lines += [f"target_include_directories({name} PUBLIC ${{CMAKE_CURRENT_LIST_DIR}}/include)"]
    for folder in part.private:
        lines.append(f"target_include_directories({name} PRIVATE ${{CMAKE_CURRENT_LIST_DIR}}/{folder})")
    lines.append(f"target_compile_options({name} PRIVATE {target.toolchain.optimize} -ffp-contract=off)")
    lines += [f"target_compile_definitions({name} PRIVATE {define})" for define in part.defines]
    lines += [f"target_link_libraries({name} PUBLIC {part.requires})"] if part.requires else []
    return {"CMakeLists.txt": "\n".join([*lines, ""])}


def _esp_idf(part: _Part, target: Target) -> dict[str, str]:
    lines = [f"# {line}" for line in part.says]
    lines += [f"# A component of ESP-IDF: put this folder into your project's components/ and REQUIRE {part.name}."]
    lines += register(part.sources, part.private, part.requires)
    lines += [f"target_compile_options(${{COMPONENT_LIB}} PRIVATE {target.toolchain.optimize} -ffp-contract=off)"]
    lines += [f"target_compile_definitions(${{COMPONENT_LIB}} PRIVATE {define})" for define in part.defines]
    return {"CMakeLists.txt": "\n".join([*lines, ""]), "idf_component.yml": manifest(part.name)}


def _compile(
    folder: Path, model_dir: Path, target: Target, out: Path, prefix: str, memory: tuple[int, int], strict: bool
) -> tuple[Path, SizeReport]:
    """lib<prefix>.a beside the sources, from the very files in `folder`, and what is reachable of it."""
    tools = target.toolchain
    compiler = named_compiler(tools.program, tools.flags)
    flags = ["-std=c99", tools.optimize, *SECTIONS, *WARNINGS, "-ffp-contract=off"]
    flags += ["-Werror"] if strict else []
    includes = [folder / "include", folder, folder / "firmware" / "include"]
    archive = out / f"lib{prefix}.a"
    with tempfile.TemporaryDirectory(dir=out, prefix=".build.") as place:
        build = Path(place)
        units = model_units(model_dir, folder / "firmware", sources=folder)
        objects = compile_units(compiler, flags, includes, units, build)
        names = [str(path) for path in objects]
        run_tool([find_program(f"{tools.prefix}ar"), "rcsD", archive.name, *names], build, archive.name)
        own = [build / "model" / f"{prefix}{part}.o" for part in ("", "_decoder")]
        roots = [f"-Wl,-u,{name}" for path in own if path.is_file() for name in _functions(path)]
        bare = [flag for flag in compiler.compile if not flag.startswith("--specs")]  # they bring a linker script
        link = [*bare, "-r", "-nostdlib", "-Wl,--gc-sections", *roots]
        run_tool([*link, "-Wl,-Map,map", "-o", "reachable.o", *names], build, "the library's reachable part")
        pieces = read_map((build / "map").read_text("utf-8", errors="replace"))
        (build / archive.name).replace(archive)
    flash, data = attribute(pieces, is_stored=_is_stored, is_writable=_is_writable)
    total = flash["model"] + flash["code"]
    arena_bytes, data = memory[0], data + memory[1]
    return archive, SizeReport(
        FlashSizes(flash["model"], flash["code"], 0, total), RamSizes(arena_bytes, data, 0, 0, arena_bytes + data)
    )


def _is_stored(output: str) -> bool:
    return output.startswith((".text", ".rodata", ".srodata", ".data", ".sdata"))


def _is_writable(output: str) -> bool:
    return output.startswith((".data", ".sdata", ".bss", ".sbss"))


def _functions(path: Path) -> list[str]:
    """The functions that an object defines for others."""
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as stream:
        table: Any = ELFFile(stream).get_section_by_name(".symtab")
        return [
            symbol.name
            for symbol in table.iter_symbols()
            if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_info"]["bind"] == "STB_GLOBAL"
        ]


def _refuse_overflow(sizes: SizeReport, target: Target, is_text: bool) -> None:
    for holds, needed in (("code", sizes.flash.total), ("data", sizes.ram.total)):
        region = target.region("code" if holds == "code" else "data")
        if needed > region.length:
            what = "flash" if holds == "code" else "RAM"
            raise FitError(
                f"the model does not fit {target.name}: {what} ({region.name}) needs {needed:,} bytes and has "
                f"{region.length:,}; take {larger_or_smaller(is_text)}"
            )
