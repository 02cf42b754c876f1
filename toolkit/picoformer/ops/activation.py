"""Activation: a function of one number, applied to each element; tables on the device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.ir.operator import Array, Lowered, LoweringError, Operand, Operator
from picoformer.ir.types import DType, TensorType
from picoformer.ops.fixedpoint import saturate
from picoformer.ops.functions import FUNCTIONS, Function
from picoformer.ops.quantized import quant_of, scale_of

SEGMENT_BITS = 7
"""A 16-bit input takes its table entry from the bits above these, and interpolates with these."""


FAR = 1e9
"""Steps far beyond the range of any type: what stands for infinity in a table."""


@dataclass(frozen=True)
class LoweredTable(Lowered):
    """int8 input: y = table[x + 128], 256 entries of the output's type."""

    table: Array
    input: TensorType
    output: TensorType

    def execute(self, *activations: Array) -> Array:
        return self.table[activations[0].astype(np.int64) + 128]


@dataclass(frozen=True)
class LoweredInterpolatedTable(Lowered):
    """int16 input: u = x + 32768, i = u >> 7, f = u & 127; y = clamp(t[i] + (((t[i+1] − t[i])·f + 64) >> 7)).

    `table`: 513 int16 entries, entry i the rounded function at x = 128·i − 32768.
    """

    table: Array
    input: TensorType
    output: TensorType

    def execute(self, *activations: Array) -> Array:
        u = activations[0].astype(np.int64) + 32768
        index, fraction = u >> SEGMENT_BITS, u & ((1 << SEGMENT_BITS) - 1)
        table = self.table.astype(np.int64)
        low = table[index]
        step = ((table[index + 1] - low) * fraction + (1 << (SEGMENT_BITS - 1))) >> SEGMENT_BITS
        return saturate(low + step, self.output.dtype)


@dataclass(frozen=True)
class Activation(Operator):
    """Input x (…). Output: `function` of each element with its `parameters`, see FUNCTIONS; same shape."""

    function: Function
    parameters: tuple[float, ...] = ()

    kind = "Activation"

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            raise ValueError(f"unknown activation '{self.function}'")
        names = FUNCTIONS[self.function].parameters
        numbers = all(isinstance(value, int | float) and math.isfinite(value) for value in self.parameters)
        if len(self.parameters) != len(names) or not numbers:
            raise ValueError(f"{self.function} takes finite numbers {names}, not {self.parameters}")

    def real(self, x: Array) -> Array:
        """The function of float64 numbers; not a number or infinite where it has no value."""
        with np.errstate(all="ignore"):
            result: Array = FUNCTIONS[self.function].of(x, *self.parameters)
        return result

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        return TensorType(inputs[0].shape)

    def compute(self, *inputs: Array) -> Array:
        with np.errstate(over="ignore"):
            result: Array = self.real(inputs[0].astype(np.float64)).astype(np.float32)
        return result

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredTable | LoweredInterpolatedTable:
        x = inputs[0].type
        scale, zero_point = scale_of(x), quant_of(x).zero_point
        out_scale, out_zero = scale_of(output), quant_of(output).zero_point
        if x.dtype is DType.INT8:
            points = np.arange(-128, 129)[:256]
        elif x.dtype is DType.INT16:
            points = np.arange(-32768, 32769, 1 << SEGMENT_BITS)
        else:
            raise LoweringError(f"the input {x} is not int8 or int16")
        real = self.real((points - zero_point) * np.float64(scale)) / out_scale
        finite = np.nan_to_num(real, nan=0.0, posinf=FAR, neginf=-FAR).clip(-FAR, FAR)
        steps = np.rint(finite).astype(np.int64) + out_zero
        if x.dtype is DType.INT8:
            return LoweredTable(saturate(steps, output.dtype), x, output)
        return LoweredInterpolatedTable(saturate(steps, DType.INT16), x, output)
