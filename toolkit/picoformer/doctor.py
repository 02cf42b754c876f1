"""What this machine has and lacks for the work."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Tool:
    """A program or package: what was found ("" if missing), what it gives, and the command that brings it."""

    name: str
    found: str
    purpose: str
    mend: str
    required: bool


PROGRAMS = (
    ("gcc", "runs the generated C on this machine, and counts instructions in QEMU", "apt-get install gcc", True),
    ("arm-none-eabi-gcc", "compiles firmware for Cortex-M",
     "apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi", True),
    ("qemu-system-arm", "runs firmware without a board", "apt-get install qemu-system-arm", True),
    ("clang", "a second opinion on the C (tests)", "apt-get install clang", False),
    ("clang-format", "keeps the C in one style (make check)", "apt-get install clang-format", False),
)  # fmt: skip

PACKAGES = (
    ("onnx", "reads and writes models", "pip install picoformer", True),
    ("onnxruntime", "runs ONNX files", "pip install picoformer", True),
    ("onnxscript", "folds constants", "pip install picoformer", True),
    ("torch", "training, distillation, pruning", "pip install torch==2.13.0, then 'picoformer[train]'", False),
    ("scikit-learn", "the digits data set", "pip install 'picoformer[train]'", False),
)


def examine() -> list[Tool]:
    """Look for every program and package."""
    tools = [Tool(n, _program(n), purpose, mend, required) for n, purpose, mend, required in PROGRAMS]
    return tools + [Tool(n, _package(n), purpose, mend, required) for n, purpose, mend, required in PACKAGES]


def _program(name: str) -> str:
    if shutil.which(name) is None:
        return ""
    try:
        answer = subprocess.run([name, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (answer.stdout.splitlines() or [""])[0].strip()


def _package(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
