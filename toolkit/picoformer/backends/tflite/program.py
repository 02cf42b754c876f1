"""A TFLite model before it is bytes: named tensors and operators in order, and its values on real numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from picoformer.backends.tflite.operators import BUILTINS
from picoformer.ir import QuantParams
from picoformer.ir.operator import Array
from picoformer.ops.fixedpoint import dequantize


@dataclass(frozen=True)
class Tensor:
    """`dtype` is numpy's name of the element type, `data` the elements of a constant as the file holds them, `grid`
    what integers stand for (none for numbers that are counts, indices or sizes). Shapes are those of one run."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    grid: QuantParams | None = None
    data: Array | None = None

    @property
    def real(self) -> Array:
        """A constant's elements as the real numbers (or plain integers, or booleans) that they stand for."""
        assert self.data is not None
        return self.data if self.grid is None else dequantize(self.data, self.grid)


@dataclass(frozen=True)
class Step:
    """One builtin operator by its name in the schema; `options` by their names in its table of options."""

    operator: str
    inputs: tuple[str, ...]
    output: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """Tensors by name, and the steps in the order they run."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    steps: tuple[Step, ...]

    def types(self, step: Step) -> list[str]:
        """Element types of a step's inputs, and at the end that of its output."""
        return [self.tensors[name].dtype for name in (*step.inputs, step.output)]

    def version(self, step: Step) -> int:
        """The version of the operator that the step needs."""
        grids = [self.tensors[name].grid for name in (*step.inputs[:2], step.output)]
        large = False
        if step.operator == "MUL" and all(g is not None for g in grids):
            a, b, y = (g.per_tensor_scale for g in grids if g is not None)
            large = a * b / y >= 1.0
        types = self.types(step)
        return BUILTINS[step.operator].version(types if step.operator in WITH_OUTPUT else types[:-1],
                                               step.options, large)  # fmt: skip

    @property
    def runtime(self) -> str:
        """The first TFLite that has every version asked for."""
        needed = [BUILTINS[step.operator].since[self.version(step)] for step in self.steps]
        return max(needed, key=lambda text: [int(part) for part in text.split(".")], default="1.5.0")


def _cast(tensor: Tensor, value: Array, dtype: str) -> Array:
    """What a cast reads: integers stay what they are, so to indices and floats they are integers, and to int16, which
    has no zero point, real numbers moved by that of their grid."""
    if tensor.grid is None:
        return value
    scale, zero = tensor.grid.per_tensor_scale, tensor.grid.zero_point
    if dtype == "int16":
        return value + scale * zero
    stored: Array = np.rint(value / scale) + zero
    return stored


WITH_OUTPUT = ("QUANTIZE", "CAST")
"""Operators whose version hangs on the type of the output too."""


def evaluate(program: Program, inputs: Mapping[str, Array], known: Mapping[str, Array]) -> dict[str, Array]:
    """Every value that is computed, on real numbers, for one run. `known` holds the constants', `inputs` those of the
    run: of the inputs, and of any other value that is to be taken as given (a table's result, that only integers find).
    """
    values = {**known, **inputs}
    with np.errstate(all="ignore"):
        for step in program.steps:
            if step.output not in inputs:
                operands = [values[name] for name in step.inputs]
                if step.operator == "CAST":
                    operands[0] = _cast(program.tensors[step.inputs[0]], operands[0], step.options["outDataType"])
                values[step.output] = BUILTINS[step.operator].meaning(step.options, operands)
    return {step.output: values[step.output] for step in program.steps}
