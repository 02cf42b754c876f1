"""The measured cost tables, one for each emulated core: code bytes, stack, instructions and cycles of every call."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.compilers import asked_toolchain, kind_here
from picoformer.estimate.calls import Call
from picoformer.estimate.fingerprint import kernels_fingerprint
from picoformer.estimate.formulas import FORMULAS, terms_of
from picoformer.targets import Target, load_target

COSTS = Path(__file__).with_name("costs.json")
"""Written by benchmarks/fit_costs.py."""

ALIKE = {"cortex-m0": ("cortex-m0", "cortex-m0plus")}
"""Cores that run the same code in other times: what was counted on the first serves them all."""


_NEAREST = {"clang": "zig"}
"""Both are clang; zig's is newer."""


def toolchain_key(target: Target, compiler: str = "") -> str:
    """What decides a target's machine code: core, instruction sets, compiler (the target's own by default)."""
    return f"{target.cpu} {'+'.join(target.isa)} {compiler or target.toolchain.compiler}"


_MULTIPLY_ENDS = {0: (0, 1), 1: (0, 0), 32: (1, 1)}
"""A target's `multiply_cycles` → the fits, for the least and for the most cycles, that its range is made of: the cores
that leave a choice there leave no other."""


@dataclass(frozen=True)
class Counts:
    """Instructions of a step or of an inference, and least and most cycles where the core's timings are published."""

    instructions: float
    cycles: tuple[float, float] | None


@dataclass(frozen=True)
class CostTable:
    """What was measured of one core with one compiler; `record` is its entry in costs.json, `built_by` the kind of
    compiler that a build takes."""

    key: str
    record: Mapping[str, Any]
    built_by: str

    @property
    def measured_on(self) -> str:
        """The board and the compiler."""
        return f"{self.record['target']}, {self.record['compiler']}"

    @property
    def is_stale(self) -> bool:
        """Whether the kernels, or how they are called, have changed since."""
        return bool(self.record.get("kernels") != kernels_fingerprint(tuple(self.record["isa"])))

    @property
    def reservations(self) -> list[str]:
        """What the figures are not measured for."""
        kind = self.key.rpartition(" ")[2]
        found = [f"{kind}'s code; a build here takes {self.built_by}, whose code differs"] * (kind != self.built_by)
        return found + ["other kernels than these; to measure anew: make costs COSTS=--stale"] * self.is_stale

    def code_bytes(self, functions: Iterable[str], steps: int) -> int:
        """Flash that the code of a model takes which calls `functions` in `steps` steps."""
        reached = set(self.record["always"])
        for name in functions:
            reached |= set(self.record["functions"].get(name, ()))
        text = self.record["model_text"]
        sections = self.record["sections"]
        beside = sum(int(sections[index][1]) for index in reached)
        return beside + round(float(text["fixed"]) + float(text["per_step"]) * steps)

    def knows(self, function: str) -> bool:
        """Whether the code of a function was measured."""
        return function in self.record["functions"]

    def struct_bytes(self, type_: str, fields: int) -> int:
        """Flash of a parameter struct; a word a field where none of its type was measured."""
        return int(self.record["structs"].get(type_, 4 * fields))

    def stack_bytes(self, calls: Iterable[Call]) -> int:
        """Deepest stack of a run: of its calls, or of the wire between them."""
        stack = self.record["stack"]
        return max((stack["depth"].get(call.variant, 0) for call in calls), default=0) or int(stack["floor"])

    def counts(self, calls: Iterable[Call], target: Target) -> Counts | str:
        """What the calls of a step take on a target's core; or why that cannot be said."""
        cpu, ends = target.cpu, _MULTIPLY_ENDS[target.multiply_cycles]
        instructions, least, most, has_cycles = 0.0, 0.0, 0.0, True
        for call in calls:
            terms, entry = terms_of(call.function, call.sizes), self._entry(call)
            if terms is None or entry is None:
                return f"{call.function} was not measured on {self.record['cpu']}"
            if len(terms) != len(entry["instructions"]):
                return f"the costs of {call.function} were fitted to other terms: fit them again (make costs)"
            instructions += call.times * float(np.dot(entry["instructions"], terms))
            has_cycles = has_cycles and cpu in entry["cycles"]
            if has_cycles:
                low, high = (call.times * float(np.dot(entry["cycles"][cpu][end], terms)) for end in ends)
                least, most = least + low, most + high
        return Counts(instructions, (least, most) if has_cycles else None)

    def _entry(self, call: Call) -> Mapping[str, Any] | None:
        """The fit for a call, or for the costliest call of its kind that was measured with as many terms."""
        costs: Mapping[str, Mapping[str, Any]] = self.record["costs"]
        if call.variant in costs:
            return costs[call.variant]
        start = max((start for start in FORMULAS if call.function.startswith(start)), key=len, default="")
        terms = terms_of(call.function, call.sizes)
        alike = [entry for variant, entry in costs.items() if start and variant.startswith(start)]
        alike = [entry for entry in alike if terms is not None and len(entry["instructions"]) == len(terms)]
        if not alike or terms is None:
            return None
        return max(alike, key=lambda entry: float(np.dot(entry["instructions"], terms)))


@lru_cache(maxsize=1)
def _cores() -> Mapping[str, Any]:
    cores: Mapping[str, Any] = json.loads(COSTS.read_text("utf-8"))["cores"] if COSTS.is_file() else {}
    return cores


def built_by(target: Target, toolchain: str = "auto") -> str:
    """The kind of compiler whose code a build has: the one asked for, or what "auto" takes here; an SDK has its own."""
    if target.is_library:
        return target.toolchain.compiler
    asked = asked_toolchain(toolchain)
    return (kind_here(target) or target.toolchain.compiler) if asked == "auto" else asked


def cost_table(target: Target, toolchain: str = "auto") -> CostTable | None:
    """The table for a target's core and instruction sets, or for those of the board that stands in for it if that is
    of the same architecture, with the compiler that builds; None where none was measured. Where that compiler was not
    measured it is the table of the nearest one, which says so."""
    boards = [target]
    if target.stands_in and load_target(target.stands_in).architecture == target.architecture:
        boards.append(load_target(target.stands_in))
    builds = built_by(target, toolchain)
    for kind in dict.fromkeys((builds, _NEAREST.get(builds, builds), target.toolchain.compiler)):
        for board in boards:
            key = toolchain_key(board, kind)
            if key in _cores():
                return CostTable(key, _cores()[key], builds)
    return None
