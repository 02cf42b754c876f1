"""RmsNorm over the last axis, with or without a gain: LayerNorm without the mean.

Source: Zhang, Sennrich, "Root Mean Square Layer Normalization" (2019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.ir.operator import Array, Lowered, LoweringError, Operand, Operator
from picoformer.ir.types import DType, TensorType
from picoformer.ops.fixedpoint import quantize_multipliers, rounding_shift, saturate, split_scale
from picoformer.ops.normalization import UNIT_BITS, row_factor
from picoformer.ops.quantized import quant_of, scale_of


@dataclass(frozen=True)
class LoweredRmsNorm(Lowered):
    """The normalization of one row of n = `width` integers x.

    d = x − zero_in, V = max(1, Σd² + epsilon) (64 bits); (R, N) = row_factor(mantissa, exponent, V), with √n in the
    mantissa; u = (d·R + 2^(N−1)) >> N. Without a gain the result is clamp(zero_point + u). With one, u has
    `fraction_bits` fraction bits and the result is clamp(zero_point + ((u·gain[i] + 2^(shift−1)) >> shift)).
    |u| ≤ 2^27 by construction.
    """

    width: int
    epsilon: int
    mantissa: int
    exponent: int
    zero_in: int
    zero_point: int
    gain: Array | None
    shift: int
    fraction_bits: int
    input: TensorType
    output: TensorType

    def execute(self, *activations: Array) -> Array:
        d = activations[0].astype(np.int64) - self.zero_in
        squares = (d * d).sum(axis=-1, keepdims=True) + self.epsilon
        factor, shift = row_factor(self.mantissa, self.exponent, np.maximum(squares, 1))
        unit = rounding_shift(d * factor, shift)
        if self.gain is not None:
            unit = rounding_shift(unit * self.gain.astype(np.int64), self.shift)
        return saturate(unit + self.zero_point, self.output.dtype)


@dataclass(frozen=True)
class RmsNorm(Operator):
    """Inputs: x (…, n), optionally gain (n,). Output (…, n): x / √(mean(x²) + epsilon), times the gain."""

    epsilon: float

    kind = "RmsNorm"

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        x, *gain = inputs
        if any(g.shape != (x.width,) for g in gain):
            raise ValueError(f"input {x} needs a gain of {x.width} numbers, or none")
        return TensorType(x.shape)

    def compute(self, *inputs: Array) -> Array:
        x = inputs[0].astype(np.float64)
        y = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.epsilon)
        if len(inputs) == 2:
            y = y * inputs[1]
        result: Array = y.astype(np.float32)
        return result

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredRmsNorm:
        x, quant = inputs[0].type, quant_of(output)
        n = x.width
        if x.dtype not in (DType.INT8, DType.INT16) or n >= 1 << 15:
            raise LoweringError(f"the input {x} is not int8 or int16 of fewer than 32768 elements a row")
        epsilon = round(self.epsilon * n / scale_of(x) ** 2)
        if epsilon >= 1 << 62:
            raise LoweringError(f"epsilon {self.epsilon:g} is too large for the scale {scale_of(x):g} of the input")
        gain, shift, fraction_bits, unit = None, 0, 0, 1.0 / scale_of(output)
        if len(inputs) > 1:
            if inputs[1].constant is None:
                raise LoweringError("the gain is not a constant")
            fraction_bits = UNIT_BITS - math.ceil(math.log2(n) / 2)
            factors = inputs[1].constant.astype(np.float64) / scale_of(output)
            magnitude, shift = quantize_multipliers(np.abs(factors) / 256)
            shift += fraction_bits - 8
            gain, unit = (np.sign(factors) * magnitude).astype(np.int32), math.ldexp(1.0, fraction_bits)
        elif math.sqrt(n) * unit > 1 << UNIT_BITS:
            raise LoweringError(f"the scale {scale_of(output):g} of the output is too small for a norm of {n} elements")
        mantissa, exponent = split_scale(math.sqrt(n) * unit)
        zeros = quant_of(x).zero_point, quant.zero_point
        return LoweredRmsNorm(n, epsilon, mantissa, exponent, *zeros, gain, shift, fraction_bits, x, output)
