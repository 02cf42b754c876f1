"""Softmax over the last axis, as a step of its own (inside attention it is part of Attention)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.ir.operator import Array, Lowered, LoweringError, Operand, Operator
from picoformer.ir.types import DType, TensorType
from picoformer.ops.attention import EXP_STEP, numerator_bits, numerator_table, numerators
from picoformer.ops.fixedpoint import (
    quantize_multipliers,
    rounding_shift,
    saturate,
    scaled_reciprocal,
    split_scale,
)
from picoformer.ops.quantized import quant_of, scale_of


@dataclass(frozen=True)
class LoweredSoftmax(Lowered):
    """p[j] = table[min(1023, requantize(max − x[j], multiplier, shift))];
    (m, n) = scaled_reciprocal(mantissa, exponent, Σp);
    y[j] = clamp(zero_point + ((p[j]·m + 2^(n−1)) >> n))."""

    multiplier: int
    shift: int
    table: Array
    mantissa: int
    exponent: int
    zero_point: int
    input: TensorType
    output: TensorType

    def execute(self, *activations: Array) -> Array:
        p = numerators(activations[0].astype(np.int64), np.int64(self.multiplier), self.shift, self.table)
        multiplier, shift = scaled_reciprocal(self.mantissa, self.exponent, p.sum(axis=-1, keepdims=True))
        return saturate(rounding_shift(p * multiplier, shift) + self.zero_point, self.output.dtype)


@dataclass(frozen=True)
class Softmax(Operator):
    """Input x (…, n). Output e^x / Σ e^x over the last axis."""

    kind = "Softmax"

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        return TensorType(inputs[0].shape)

    def compute(self, *inputs: Array) -> Array:
        x = inputs[0].astype(np.float64)
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        result: Array = (e / e.sum(axis=-1, keepdims=True)).astype(np.float32)
        return result

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredSoftmax:
        x = inputs[0].type
        if x.dtype not in (DType.INT8, DType.INT16):
            raise LoweringError(f"the input {x} is not int8 or int16")
        multipliers, shift = quantize_multipliers(np.array([scale_of(x) / EXP_STEP]))
        mantissa, exponent = split_scale(1.0 / scale_of(output))
        bits = numerator_bits(x.width)
        if not (exponent + 31 - 31 >= 1 and exponent + 31 - (32 - bits) <= 62):
            raise LoweringError(f"the scale {scale_of(output):g} of the output does not suit numbers from 0 to 1")
        table = numerator_table(bits)
        return LoweredSoftmax(
            int(multipliers[0]), shift, table, mantissa, exponent, quant_of(output).zero_point, x, output
        )
