"""The measured cost tables, one for each emulated core: code bytes, stack, instructions and cycles of every call."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.estimate.calls import Call
from picoformer.estimate.formulas import FORMULAS, terms_of
from picoformer.targets import Target

COSTS = Path(__file__).with_name("costs.json")
"""Written by benchmarks/fit_costs.py."""

COUNTED = ("instructions", "least_cycles", "most_cycles")


def toolchain_key(target: Target) -> str:
    """What decides a target's machine code: core, instruction sets, compiler."""
    return f"{target.cpu} {'+'.join(target.isa)} {target.toolchain.compiler}"


@dataclass(frozen=True)
class Counts:
    """Instructions of a step or of an inference, and least and most cycles where the core's timings are published."""

    instructions: float
    cycles: tuple[float, float] | None


@dataclass(frozen=True)
class CostTable:
    """What was measured of one core; `record` is its entry in costs.json."""

    key: str
    record: Mapping[str, Any]

    @property
    def measured_on(self) -> str:
        """The board, the compiler and the emulator."""
        return f"{self.record['target']}, {self.record['compiler']}"

    def code_bytes(self, functions: Iterable[str], steps: int) -> int:
        """Flash that the code of a model takes which calls `functions` in `steps` steps."""
        reached = set(self.record["always"])
        for name in functions:
            reached |= set(self.record["functions"].get(name, ()))
        text = self.record["model_text"]
        sections = self.record["sections"]
        return round(sum(sections[i][1] for i in reached) + text["fixed"] + text["per_step"] * steps)

    def knows(self, functions: Iterable[str]) -> bool:
        """Whether the code of all of them was measured."""
        return all(name in self.record["functions"] for name in functions)

    def struct_bytes(self, type_: str, fields: int) -> int:
        """Flash of a parameter struct; a word a field where none of its type was measured."""
        return int(self.record["structs"].get(type_, 4 * fields))

    def stack_bytes(self, calls: Iterable[Call]) -> int:
        """Deepest stack of a run: of its calls, or of the wire between them."""
        stack = self.record["stack"]
        return max((stack["depth"].get(call.variant, 0) for call in calls), default=0) or int(stack["floor"])

    def counts(self, calls: Iterable[Call]) -> Counts | str:
        """What the calls of a step take; or why that cannot be said."""
        sums = np.zeros(len(COUNTED))
        has_cycles = True
        for call in calls:
            terms = terms_of(call.function, call.sizes)
            entry = self._entry(call)
            if terms is None or entry is None:
                return f"{call.function} was not measured on {self.record['cpu']}"
            for index, name in enumerate(COUNTED):
                if name in entry:
                    sums[index] += call.times * float(np.dot(entry[name], terms))
                else:
                    has_cycles = False
        return Counts(sums[0], (sums[1], sums[2]) if has_cycles else None)

    def _entry(self, call: Call) -> Mapping[str, Any] | None:
        """The fit for a call, or for the costliest call of its kind that was measured with as many terms."""
        costs: Mapping[str, Mapping[str, Any]] = self.record["costs"]
        if call.variant in costs:
            return costs[call.variant]
        start = max((start for start in FORMULAS if call.function.startswith(start)), key=len, default="")
        terms = terms_of(call.function, call.sizes)
        alike = [entry for variant, entry in costs.items() if start and variant.startswith(start)]
        if not alike or terms is None:
            return None
        return max(alike, key=lambda entry: float(np.dot(entry["instructions"], terms)))


@lru_cache(maxsize=1)
def _cores() -> Mapping[str, Any]:
    return json.loads(COSTS.read_text("utf-8"))["cores"] if COSTS.is_file() else {}


def cost_table(target: Target) -> CostTable | None:
    """The table for a target's core, compiler and instruction sets; None where none was measured."""
    key = toolchain_key(target)
    return CostTable(key, _cores()[key]) if key in _cores() else None
