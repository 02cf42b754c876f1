"""The instructions of a firmware image by address, as objdump prints them."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from picoformer.errors import ToolError

_LINE = re.compile(r"^\s*([0-9a-f]+):\t([a-z][\w.]*)(?:\t([^;@<]*))?")
_REGISTER = re.compile(r"\b(r1[0-5]|r[0-9]|sp|lr|pc|ip|fp|sl|sb)\b")
_CONDITIONS = frozenset(["eq", "ne", "cs", "cc", "mi", "pl", "vs", "vc", "hi", "ls", "ge", "lt", "gt", "le"])
_UNCONDITIONAL = frozenset(["adcs", "bics", "lsls", "mls", "movs", "muls", "sbcs", "smmls", "teq", "vmls", "vnmls"])
"""Names that end like a condition and have none."""
_MULTIPLE = re.compile(r"v?(ldm|stm|push|pop)")


@dataclass(frozen=True)
class Instruction:
    """One instruction: `name` without width (.w, .n) and data types, `operands` as printed."""

    name: str
    operands: str

    @cached_property
    def is_multiple(self) -> bool:
        """Whether it loads or stores several registers."""
        return bool(_MULTIPLE.match(self.name)) or self.name.startswith(("ldrd", "strd"))

    @cached_property
    def is_load(self) -> bool:
        """Whether it loads one register."""
        return self.name.startswith(("ldr", "vldr")) and not self.is_multiple

    @cached_property
    def is_store(self) -> bool:
        """Whether it stores one register."""
        return self.name.startswith(("str", "vstr")) and not self.is_multiple

    @cached_property
    def registers(self) -> int:
        """Words that a multiple load or store moves."""
        if self.name.startswith(("ldrd", "strd")):
            return 2
        listed = self.operands.partition("{")[2].partition("}")[0]
        count = 0
        for part in listed.split(","):
            first, _, last = part.strip().partition("-")
            width = 2 if first.startswith("d") else 1
            count += width * (int(last[1:]) - int(first[1:]) + 1 if last else 1)
        return count

    @cached_property
    def is_conditional(self) -> bool:
        """Whether a condition decides if it does anything."""
        ends_so = self.name[-2:] in _CONDITIONS and self.name not in _UNCONDITIONAL
        return ends_so or self.name in ("cbz", "cbnz")

    @cached_property
    def is_call(self) -> bool:
        """Whether it is a branch that links."""
        return self.name == "bl"

    @cached_property
    def is_branch(self) -> bool:
        """Whether it goes elsewhere, or may."""
        name = self.name[:-2] if self.name[-2:] in _CONDITIONS and self.name != "bl" else self.name
        return name in ("b", "bl", "bx", "blx", "cbz", "cbnz") or self.loads_pc

    @cached_property
    def loads_pc(self) -> bool:
        """Whether what it loads or computes is the program counter."""
        if self.is_multiple:
            return "pc" in self.operands.partition("{")[2]
        is_written = self.destination == "pc"
        return is_written and (self.is_load or self.name.startswith(("mov", "add")))

    @cached_property
    def destination(self) -> str:
        """The first register named, which all but stores, compares and branches write."""
        found = _REGISTER.match(self.operands.strip())
        return found[1] if found else ""

    @cached_property
    def address_registers(self) -> frozenset[str]:
        """Registers that a load's or store's address is made of."""
        return frozenset(_REGISTER.findall(self.operands.partition("[")[2]))


def disassemble(elf: Path, objdump: str) -> dict[int, Instruction]:
    """Address → instruction of every code section; ToolError when objdump fails."""
    command = [objdump, "-d", "--no-show-raw-insn", str(elf)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise ToolError(f"{objdump} failed on {elf}: {done.stderr.strip().splitlines()[-1:]}")
    found = {}
    for line in done.stdout.splitlines():
        if match := _LINE.match(line):
            found[int(match[1], 16)] = Instruction(match[2].partition(".")[0], (match[3] or "").strip())
    return found
