"""Activation: a function of one number, applied to each element; tables on the device.

GELU: Hendrycks and Gimpel (2016), exact (erf) and with the tanh approximation. SiLU: Elfwing et al. (2017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from picoformer.ir.operator import Array, Lowered, LoweringError, Operand, Operator
from picoformer.ir.types import DType, TensorType
from picoformer.ops.fixedpoint import saturate
from picoformer.ops.quantized import quant_of, scale_of

Function = Literal["relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid"]

SEGMENT_BITS = 7
"""A 16-bit input takes its table entry from the bits above these, and interpolates with these."""


def _sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -x))


def _gelu(x: Array) -> Array:
    from scipy.special import erf

    result: Array = 0.5 * x * (1.0 + erf(x / np.sqrt(2.0)))
    return result


FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "gelu": _gelu,
    "gelu_tanh": lambda x: 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * _sigmoid(x),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
}


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
    """Input x (…). Output: `function` of each element, same shape."""

    function: Function

    kind = "Activation"

    def __post_init__(self) -> None:
        if self.function not in get_args(Function):
            raise ValueError(f"unknown activation '{self.function}'")

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        return TensorType(inputs[0].shape)

    def compute(self, *inputs: Array) -> Array:
        result: Array = FUNCTIONS[self.function](inputs[0].astype(np.float64)).astype(np.float32)
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
        real = FUNCTIONS[self.function]((points - zero_point) * np.float64(scale))
        steps = np.rint(real / out_scale).astype(np.int64) + out_zero
        if x.dtype is DType.INT8:
            return LoweredTable(saturate(steps, output.dtype), x, output)
        return LoweredInterpolatedTable(saturate(steps, DType.INT16), x, output)
