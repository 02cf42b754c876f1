"""Grids of the values inside a decomposed operator: found by running the calibration samples on real numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from picoformer.backends.tflite.operators import BUILTINS
from picoformer.backends.tflite.program import Program, Tensor, evaluate
from picoformer.backends.tflite.writer import LOWEST, TYPES, Entry, TfliteWriter
from picoformer.errors import DataError
from picoformer.ir import DType, QuantParams
from picoformer.ir.operator import Array
from picoformer.ops.fixedpoint import quantize_real

SMALLEST = 1e-6
"""A value that never moves gets this much range, so that its scale is a positive number."""
ROOT_LIMIT = 3.0
"""The kernel of a reciprocal root writes its largest integer for 0, which stands for up to half a step v: with r² ≤
3/step v·r² is at most 1.5 there. Newton's iteration starts from it, and would not converge from 3 on."""
HIDDEN = LOWEST / 2
"""What is below is the score of a key that takes no part: no range has to reach there."""

Ranges = Mapping[str, tuple[float, float]]


def settle(writer: TfliteWriter, samples: Iterable[Mapping[str, Array]], headroom: float) -> Program:
    """The program of what was written, with a grid on every open tensor.

    `samples`: runs, value name → real numbers, of the graph's values; of a model on floats none are looked at. What is
    only moved is on one grid with what it was moved from. int16 ranges are widened by `headroom` beyond what the
    samples show. Raises DataError where there are none and some are needed.
    """
    graph = writer.graph
    tensors = {name: entry.tensor for name, entry in writer.entries.items()}
    program = Program(graph.name, writer.inputs, graph.outputs, tensors, tuple(writer.steps))
    opened = [name for name, entry in writer.entries.items() if entry.is_open]
    if not opened:
        return program
    ranges = _observe(writer, program, samples)
    groups = _groups(writer)
    for name in opened:
        members = groups.setdefault(name, [name])
        grid = _grid(writer, tensors, members, ranges, headroom)
        tensors[name] = _settled(writer.entries[name], grid)
    return replace(program, tensors=tensors)


def _observe(writer: TfliteWriter, program: Program, samples: Iterable[Mapping[str, Array]]) -> Ranges:
    """The range of every computed value and of every constant."""
    known: dict[str, Array] = {}
    ranges: dict[str, tuple[float, float]] = {}
    for name, entry in writer.entries.items():
        if entry.real is not None or entry.tensor.data is not None:
            value = entry.tensor.real if entry.real is None else entry.real
            known[name] = value.astype(np.float64) if value.dtype.kind == "f" else value
            ranges[name] = float(value.min(initial=0)), float(value.max(initial=0))
    seen: dict[str, tuple[float, float]] = {}
    for sample in samples:
        for name, value in evaluate(program, sample, known).items():
            low, high = seen.get(name, (0.0, 0.0))
            least = float(value.min(initial=0.0, where=value > HIDDEN)) if value.dtype.kind == "f" else 0.0
            seen[name] = min(low, least), max(high, float(value.max(initial=0.0)))
    if not seen:
        raise DataError("integers need calibration samples; give some")
    return {**ranges, **seen}


def _groups(writer: TfliteWriter) -> dict[str, list[str]]:
    """Every tensor → all that must lie on one grid with it."""
    groups: dict[str, list[str]] = {}
    for step in writer.steps:
        moved = step.inputs[BUILTINS[step.operator].moves]
        together = [m for name in (*moved, step.output) for m in groups.get(name, [name])] if moved else []
        together = list(dict.fromkeys(together))
        for name in together:
            groups[name] = together
    return groups


def _grid(
    writer: TfliteWriter, tensors: Mapping[str, Tensor], members: list[str], ranges: Ranges, headroom: float
) -> QuantParams:
    entries = [writer.entries[name] for name in members]
    for entry in entries:
        if entry.rule.follows and (source := tensors[entry.rule.follows].grid) is not None:
            return QuantParams(source.scale)
    given = {entry.tensor.grid for entry in entries if not entry.is_open}
    if len(given) > 1:
        raise AssertionError(f"{members} are to be on one grid and have several")
    if given and (grid := given.pop()) is not None:
        return grid
    counted = [(e.rule, ranges[e.tensor.name]) for e in entries if not e.rule.is_lowest]
    low = min(seen[0] - rule.margin for rule, seen in counted)
    high = max(seen[1] for _, seen in counted)
    if entries[0].tensor.dtype == "int16":
        power = 2 if any(rule.is_square for rule, _ in counted) else 1
        scale = max(-low, high, SMALLEST) * headroom**power / DType.INT16.maximum
        return QuantParams((scale,))
    for entry in entries:
        if entry.rule.root_of and (source := tensors[entry.rule.root_of].grid) is not None:
            most = math.sqrt(ROOT_LIMIT / source.per_tensor_scale)
            return QuantParams((min(max(high, SMALLEST), most) / DType.INT8.maximum,))
    scale = max(high - low, SMALLEST) / 255.0
    return QuantParams((scale,), int(np.clip(round(-128 - low / scale), -128, 127)))


def _settled(entry: Entry, grid: QuantParams) -> Tensor:
    tensor = replace(entry.tensor, grid=grid)
    if entry.rule.is_lowest:
        return replace(tensor, data=np.full(tensor.shape, np.iinfo(tensor.dtype).min, tensor.dtype))
    if entry.real is None:
        return tensor
    return replace(tensor, data=quantize_real(entry.real, grid, TYPES[tensor.dtype]))
