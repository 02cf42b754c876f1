"""What this machine has and lacks for the work, and which tools builds and runs are going to take."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from picoformer.compilers import PACKAGES, choose_compiler
from picoformer.emulator.choice import choose_emulator
from picoformer.errors import ToolError
from picoformer.flash import bossac, esptool, pyocd
from picoformer.targets import Target, list_targets, load_target

HOST = "host"


@dataclass(frozen=True)
class Tool:
    """A program or package: what was found ("" if missing), what it gives, and the command that brings it.

    `required`: nothing works without it. Of compilers and emulators any one will do.
    """

    name: str
    found: str
    purpose: str
    mend: str
    required: bool


@dataclass(frozen=True)
class Way:
    """How firmware for a target is built and run here; `problem` says why it is not, and what mends that."""

    target: str
    compiler: str
    emulator: str
    problem: str


@dataclass(frozen=True)
class Examination:
    """Every tool, and the way of every target."""

    tools: tuple[Tool, ...]
    ways: tuple[Way, ...]

    @property
    def is_ready(self) -> bool:
        """Whether models can be built, run and verified, for this machine and at least one board."""
        usable = {way.target for way in self.ways if way.emulator and not way.problem}
        return HOST in usable and len(usable) > 1 and all(tool.found for tool in self.tools if tool.required)

    @property
    def summary(self) -> tuple[str, ...]:
        """A line for every pair of compiler and emulator, and one for every target that cannot be had."""
        lines = []
        good = [way for way in self.ways if not way.problem]
        for compiler, emulator in dict.fromkeys((way.compiler, way.emulator) for way in good):
            names = [way.target for way in good if (way.compiler, way.emulator) == (compiler, emulator)]
            run = "run as a process" if emulator == HOST else f"run in {emulator}" if emulator else "run on the board"
            lines.append(f"{', '.join(names)}: built by {compiler}, {run}")
        return (*lines, *(f"{way.target}: not possible: {way.problem}" for way in self.ways if way.problem))

    def to_json(self) -> dict[str, Any]:
        """The object of `doctor --json`."""
        tools, ways = [asdict(tool) for tool in self.tools], [asdict(way) for way in self.ways]
        return {"ready": self.is_ready, "summary": list(self.summary), "targets": ways, "tools": tools}


_PROGRAMS = (
    ("gcc", "builds the generated C for this machine (zig does too), and counts instructions in QEMU"),
    ("arm-none-eabi-gcc", "builds firmware for Cortex-M, smaller than that of zig"),
    ("qemu-system-arm", "runs Cortex-M firmware; the only one with a Cortex-M55 (unicorn has the others)"),
    ("riscv64-unknown-elf-gcc", "builds firmware for RISC-V (zig does too)"),
    ("qemu-system-riscv32", "runs RISC-V firmware"),
    ("cmake", "builds packages of C (`export --format c`) and projects of vendors' SDKs"),
    ("clang", "a second opinion on the C (tests; --toolchain clang)"),
    ("clang-format", "keeps the C in one style (make check)"),
)
_PIP = "pip install 'picoformer[{}]'"
_LIBRARIES = (
    ("onnx", "reads and writes models", _PIP.format("build"), True),
    ("onnxruntime", "runs ONNX files", _PIP.format("build"), True),
    ("onnxscript", "folds constants", _PIP.format("build"), True),
    ("tokenizers", "reads tokenizer.json; with onnxruntime all that a Raspberry Pi needs", _PIP.format("pi"), False),
    ("ziglang", "builds firmware for this machine and every board without root, where gcc is missing",
     _PIP.format("emulator"), False),
    ("unicorn", "runs Cortex-M firmware without root, where QEMU is missing", _PIP.format("emulator"), False),
    ("ai-edge-litert", "LiteRT: runs exported TFLite files (--check), beside TFLite Micro's interpreter",
     _PIP.format("tflite"), False),
    ("tensorflow", "a second opinion on TFLite files: its reference kernels", _PIP.format("tensorflow"), False),
    ("torch", "training, distillation, pruning", "pip install torch==2.13.0, then 'picoformer[train]'", False),
    ("scikit-learn", "the digits data set", _PIP.format("train"), False),
)  # fmt: skip

_FLASHERS: tuple[tuple[str, Callable[[], list[str]], str, str, str], ...] = (
    ("esptool", esptool.program, "version", "flashes Espressif's chips", esptool.MEND),
    ("pyocd", pyocd.program, "--version", "flashes and reads back through debug probes", pyocd.MEND),
    ("bossac", bossac.program_of_arduino, "--help", "flashes the Arduino Nano 33 BLE", bossac.MEND),
)
"""Name, its command, the word that makes it say its version, what it gives, the command that brings it. STM32, UF2 and
DAPLink boards need none of them."""


def examine() -> Examination:
    """Look for every program and package, and for a way to every target that comes with picoformer."""
    programs = [
        Tool(name, _program(name), purpose, f"sudo apt-get install {PACKAGES.get(name, name)}", False)
        for name, purpose in _PROGRAMS
    ]
    programs += [
        Tool(name, _version_line(command, word), purpose, mend, False)
        for name, command, word, purpose, mend in _FLASHERS
    ]
    libraries = [Tool(name, _version(name), purpose, mend, required) for name, purpose, mend, required in _LIBRARIES]
    targets = sorted(
        (load_target(name) for name in list_targets()), key=lambda target: (not target.is_host, target.name)
    )
    return Examination((*programs, *libraries), tuple(map(_way, targets)))


def _way(target: Target) -> Way:
    if target.is_library:
        return Way(target.name, f"the compiler of {target.library_sdk}", "", "")
    compiler = emulator = ""
    try:
        compiler = choose_compiler(target).version
        if target.emulator is not None:
            emulator = choose_emulator(target)
    except ToolError as error:
        return Way(target.name, compiler, emulator, str(error))
    return Way(target.name, compiler, {"qemu": "QEMU"}.get(emulator, emulator), "")


def _program(name: str) -> str:
    return _first_line([name, "--version"], "") if shutil.which(name) else ""


def _version_line(command: Callable[[], list[str]], word: str) -> str:
    """The line in which a program states a version; empty where it is not there."""
    try:
        return _first_line([*command(), word], r"\d+\.\d+")
    except ToolError:
        return ""


def _first_line(command: list[str], with_what: str) -> str:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next((line.strip() for line in answer.stdout.splitlines() if re.search(with_what, line)), "")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
