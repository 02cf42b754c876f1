"""Which compiler builds for a target here, and how each kind is called: gcc, clang, or zig's clang from PyPI."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from picoformer.errors import ConfigError, ToolError
from picoformer.files import cache_root
from picoformer.targets import Target

TOOLCHAINS = ("auto", "gcc", "clang", "zig")
PACKAGES = {
    "gcc": "gcc libc6-dev",
    "clang": "clang libc6-dev",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf",
    "arm-none-eabi-clang": "clang",
    "cmake": "cmake",
    "make": "make",
    "qemu-system-arm": "qemu-system-arm",
    "qemu-system-riscv32": "qemu-system-misc",
}
"""Program → Debian packages that bring it."""

ZIG_MEND = "pip install 'picoformer[emulator]'"

_FLOAT_UNITS = {"fpv4-sp-d16": "vfp4d16sp", "fpv5-sp-d16": "fp_armv8d16sp", "fpv5-d16": "fp_armv8d16"}
"""gcc's -mfpu → the feature that zig's -mcpu wants."""
_OWN_UNIT = {"cortex-m4": "vfp4d16sp", "cortex-m7": "fp_armv8d16", "cortex-m33": "fp_armv8d16sp",
             "cortex-m55": "fp_armv8d16"}  # fmt: skip
"""What gcc takes for -mfloat-abi=hard without -mfpu."""
_EXTENSIONS = {"cortex-m33": ("dsp",), "cortex-m55": ("mve_fp",)}
"""What gcc takes a core to have beside its unit; to zig it has to be said."""
_ALIGNED = "-falign-functions=4"
"""LLVM's assembler takes a function's start for a multiple of 4 when it works out an ADR, whether it is one or not."""
_GCCS_OWN = ("--specs", "--oslib", "-misa-spec")
"""Flags of a target that clang has no words for, and no need of."""
_GLIBC = "2.28"
"""The oldest C library that host programs made by zig run on."""


@dataclass(frozen=True)
class Compiler:
    """How to compile and link for one target. `compile` and `link` start with the program.

    `environment` is added to ours. `has_c_library`: string.h and strlen come with it. `prints_map`: the linker's map
    goes to standard output.
    """

    kind: str
    version: str
    compile: tuple[str, ...]
    link: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    has_c_library: bool = True
    prints_map: bool = False


def find_program(name: str) -> str:
    """The path of a program; ToolError with the apt command that brings it when it is missing."""
    path = shutil.which(name)
    if path is None:
        package = PACKAGES.get(name, name)
        raise ToolError(f"{name} is not installed; get it with: sudo apt-get install {package}")
    return path


def find_zig() -> str | None:
    """The path of zig's program in the package ziglang; None when that is not installed."""
    found = importlib.util.find_spec("ziglang")
    folders = list(found.submodule_search_locations or []) if found else []
    program = Path(folders[0]) / "zig" if folders else None
    return str(program) if program and program.is_file() else None


def asked_toolchain(choice: str = "auto") -> str:
    """`choice`; where that is "auto", $PICOFORMER_TOOLCHAIN if set. ConfigError when there is no such toolchain."""
    if choice == "auto":
        choice = os.environ.get("PICOFORMER_TOOLCHAIN") or "auto"
    if choice not in TOOLCHAINS:
        raise ConfigError(f"unknown toolchain '{choice}'; use one of {', '.join(TOOLCHAINS)}")
    return choice


def kind_here(target: Target, choice: str = "auto") -> str | None:
    """The kind of compiler that `choose_compiler` takes for `target` here, None where it has none; nothing is run."""
    choice = asked_toolchain(choice)
    tools = target.toolchain
    has_gcc = shutil.which(f"{tools.prefix}gcc") is not None
    there = {
        "gcc": has_gcc,
        "clang": shutil.which("clang") is not None and (target.is_host or has_gcc),
        "zig": find_zig() is not None,
    }
    return next((kind for kind in ((tools.compiler, "zig") if choice == "auto" else (choice,)) if there[kind]), None)


def choose_compiler(target: Target, choice: str = "auto") -> Compiler:
    """The compiler for `target`. "auto" is $PICOFORMER_TOOLCHAIN, else the target's own if it is installed, else zig.

    Raises ToolError when what was chosen, or each that could be, is missing: it names what brings one; ConfigError when
    there is no such choice.
    """
    choice = asked_toolchain(choice)
    tools = target.toolchain
    kind = kind_here(target, choice)
    if kind == "zig" and (zig := find_zig()):
        return zig_compiler(zig, target)
    if kind == "clang":
        return _clang(target)
    if kind == "gcc":
        return named_compiler(f"{tools.prefix}gcc", tools.flags, tools.link_flags)
    if choice == "zig":
        raise ToolError(f"ziglang is not installed; {ZIG_MEND}")
    wanted = tools.compiler if choice == "auto" else choice
    programs = [f"{tools.prefix}gcc"] if wanted == "gcc" else ["clang", f"{tools.prefix}gcc"]
    missing = [name for name in programs if shutil.which(name) is None]
    packages = " ".join(PACKAGES.get(name, name) for name in missing)
    rest = f", or without root, zig's compiler: {ZIG_MEND}" if choice == "auto" else ""
    verb = "is" if len(missing) == 1 else "are"
    raise ToolError(f"{' and '.join(missing)} {verb} not installed; get it with: sudo apt-get install {packages}{rest}")


def named_compiler(name: str, flags: Sequence[str] = (), link_flags: Sequence[str] = ()) -> Compiler:
    """A gcc, or a clang that takes its options, by the name of its program."""
    path = find_program(name)
    return Compiler(
        name.rpartition("-")[2], _version(path), (path, *flags), (path, *flags, *link_flags, "-Wl,-Map,firmware.map")
    )


def _clang(target: Target) -> Compiler:
    """clang for the code; for a board gcc's linker and libraries."""
    tools = target.toolchain
    if target.is_host:
        return named_compiler("clang", tools.flags, tools.link_flags)
    base, clang = named_compiler(f"{tools.prefix}gcc", tools.flags, tools.link_flags), find_program("clang")
    triple = f"--target={tools.prefix.rstrip('-')}"
    flags = [flag for flag in tools.flags if not flag.startswith(_GCCS_OWN)]
    return Compiler("clang", _version(clang), (clang, triple, *flags, _ALIGNED), base.link, has_c_library=False)


def zig_compiler(zig: str, target: Target) -> Compiler:
    """zig's clang with the target's flags in its own words."""
    if target.is_host:
        triple, cpu = f"{platform.machine()}-linux-gnu.{_GLIBC}", "baseline"
    else:
        triple, cpu = zig_target(target.toolchain.flags)
    ours = ("-m", "--specs", "--oslib")
    rest = [flag for flag in target.toolchain.flags if not flag.startswith(ours)]
    flags = ["-target", triple, f"-mcpu={cpu}", *rest, _ALIGNED, "-fno-sanitize=undefined", "-fomit-frame-pointer"]
    flags += ["-fno-unwind-tables", "-fno-asynchronous-unwind-tables"]
    link = [flag for flag in target.toolchain.link_flags if not flag.startswith(ours)]
    return Compiler(
        "zig",
        f"zig {_answer(zig, 'version')} ({_version(zig, 'cc')})",
        (zig, "cc", *flags),
        (zig, "cc", *flags, *link, "-Wl,--print-map"),
        zig_environment(),
        has_c_library=target.is_host,
        prints_map=True,
    )


def zig_target(flags: Sequence[str]) -> tuple[str, str]:
    """gcc's flags for a core as zig's (-target, -mcpu): ("thumb-freestanding-eabihf", "cortex_m4+vfp4d16sp").

    zig gives a core no feature that is not named. Raises ToolError for a core it has no words for.
    """
    given = dict(flag.lstrip("-").split("=", 1) for flag in flags if "=" in flag)
    if given.get("march", "").startswith("rv32"):
        letters = given["march"].removeprefix("rv32i").split("_")
        return "riscv32-freestanding-none", "+".join(["generic_rv32", *letters[0], *letters[1:]])
    core, *more = given.get("mcpu", "").split("+")
    if not core.startswith("cortex-m"):
        raise ToolError(f"zig cannot compile for this target: no Cortex-M or rv32 in {' '.join(flags)}; use gcc")
    is_hard = given.get("mfloat-abi") == "hard"
    features = [name for name in _EXTENSIONS.get(core, ()) if f"no{name.partition('_')[0]}" not in more]
    if is_hard:
        features.append(_FLOAT_UNITS.get(given.get("mfpu", ""), _OWN_UNIT.get(core, "")))
    words = [core.replace("-", "_"), *filter(None, features)]
    return f"thumb-freestanding-{'eabihf' if is_hard else 'eabi'}", "+".join(words)


def zig_environment() -> dict[str, str]:
    """Where zig keeps the run-time libraries it has built: with our cache, or, if that
    cannot be written, in a folder that is gone when we are."""
    folder = cache_root() / "zig"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    kept = str(folder) if writable else _kept_while_we_run().name
    return {"ZIG_GLOBAL_CACHE_DIR": kept, "ZIG_LOCAL_CACHE_DIR": ".zig"}  # in the folder of the build, gone with it


@lru_cache(maxsize=1)
def _kept_while_we_run() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="picoformer-zig-")


@lru_cache(maxsize=16)
def _answer(program: str, *arguments: str) -> str:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    return (done.stdout.splitlines() or [""])[0].strip()


def _version(program: str, *before: str) -> str:
    return _answer(program, *before, "--version")
