"""LayerNorm over the last axis, with or without gain and bias.

Source: Ba, Kiros, Hinton, "Layer Normalization" (2016), with the biased variance every framework uses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.ir.operator import Array, Lowered, LoweringError, Operand, Operator
from picoformer.ir.types import DType, TensorType
from picoformer.ops.fixedpoint import (
    MULTIPLIER_LIMIT,
    bit_length,
    quantize_multipliers,
    reciprocal_sqrt,
    rounding_shift,
    saturate,
    split_scale,
)
from picoformer.ops.quantized import quant_of, scale_of

ROW_SHIFT_MIN, ROW_SHIFT_MAX = 2, 32
"""Range of the shift of a row's factor. With 32 the product's high word is the result; below 2 only a row whose
elements are all equal can fall, and that one gives 0 with any factor."""
UNIT_BITS = 27
"""|u| ≤ 2^27 for every row, so that the distance to the mean can be shifted up to a factor with N = 32 in 32 bits."""


@dataclass(frozen=True)
class LoweredLayerNorm(Lowered):
    """The normalization of one row of n = `width` integers x.

    s = Σx, V = max(1, n·Σx² − s² + epsilon) (64 bits), d = n·x − s: n times the distance to the mean, exact.
    (R, N) = the factor mantissa·2^−exponent / √V of the row (see `row_factor`); u = (d·R + 2^(N−1)) >> N.
    Without a gain the result is clamp(zero_point + u). With one, u has `fraction_bits` fraction bits and the result is
    clamp(zero_point + ((u·gain[i] + offset[i] + 2^(shift−1)) >> shift)). |u| ≤ 2^27 by construction.
    """

    width: int
    epsilon: int
    mantissa: int
    exponent: int
    zero_point: int
    gain: Array | None
    offset: Array | None
    shift: int
    fraction_bits: int
    input: TensorType
    output: TensorType

    def execute(self, *activations: Array) -> Array:
        x = activations[0].astype(np.int64)
        total = x.sum(axis=-1, keepdims=True)
        variance = self.width * (x * x).sum(axis=-1, keepdims=True) - total * total + self.epsilon
        factor, shift = self.row_factor(np.maximum(variance, 1))
        unit = rounding_shift((self.width * x - total) * factor, shift)
        if self.gain is None or self.offset is None:
            return saturate(unit + self.zero_point, self.output.dtype)
        scaled = rounding_shift(unit * self.gain.astype(np.int64) + self.offset, self.shift)
        return saturate(scaled + self.zero_point, self.output.dtype)

    def row_factor(self, variance: Array) -> tuple[Array, Array]:
        """(R, N): see `row_factor`."""
        return row_factor(self.mantissa, self.exponent, variance)


def row_factor(mantissa: int, exponent: int, variance: Array) -> tuple[Array, Array]:
    """(R, N): R·2^−N ≈ mantissa·2^−exponent / √variance, R < 2^31 rounded to nearest.

    (y, h) = reciprocal_sqrt(variance), P = mantissa·y, e = exponent + 62 − h: the factor is P·2^−e. N = the shift
    that leaves 31 bits of P, in 2..32; R = (P + 2^(e−N−1)) >> (e − N), 0 where e − N > 62, at most 2^31 − 1.
    """
    y, half_lead = reciprocal_sqrt(variance)
    product = mantissa * y
    total = exponent + 62 - half_lead
    shift = np.clip(total - (bit_length(product) - 31), ROW_SHIFT_MIN, ROW_SHIFT_MAX)
    drop = total - shift
    factor = np.where(drop > 62, 0, rounding_shift(product, np.minimum(drop, 62)))
    return np.minimum(factor, MULTIPLIER_LIMIT - 1), shift


@dataclass(frozen=True)
class LayerNorm(Operator):
    """Inputs: x (…, n), optionally gain (n,) and bias (n,), both or none. Output (…, n)."""

    epsilon: float

    kind = "LayerNorm"

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        x, *affine = inputs
        if len(affine) not in (0, 2) or any(a.shape != (x.width,) for a in affine):
            raise ValueError(f"input {x} needs a gain and a bias of {x.width} numbers each, or neither")
        return TensorType(x.shape)

    def compute(self, *inputs: Array) -> Array:
        x = inputs[0].astype(np.float64)
        centred = x - x.mean(axis=-1, keepdims=True)
        y = centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + self.epsilon)
        if len(inputs) == 3:
            y = y * inputs[1] + inputs[2]
        result: Array = y.astype(np.float32)
        return result

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredLayerNorm:
        x = inputs[0].type
        n = x.width
        if x.dtype not in (DType.INT8, DType.INT16) or n >= 1 << 15:
            raise LoweringError(f"the input {x} is not int8 or int16 of fewer than 32768 elements a row")
        x_scale = scale_of(x)
        epsilon = round(self.epsilon * n * n / x_scale**2)
        if epsilon >= 1 << 62:
            raise LoweringError(f"epsilon {self.epsilon:g} is too large for the scale {x_scale:g} of the input")
        quant = quant_of(output)
        if len(inputs) == 1:
            if math.sqrt(n) / scale_of(output) > 1 << UNIT_BITS:
                raise LoweringError(
                    f"the scale {scale_of(output):g} of the output is too small for a norm of {n} elements"
                )
            mantissa, exponent = split_scale(1.0 / scale_of(output))
            return LoweredLayerNorm(n, epsilon, mantissa, exponent, quant.zero_point, None, None, 0, 0, x, output)
        gain, bias = inputs[1].constant, inputs[2].constant
        if gain is None or bias is None:
            raise LoweringError("gain and bias are not constants")
        fraction_bits = UNIT_BITS - math.ceil(math.log2(n) / 2)
        mantissa, exponent = split_scale(math.ldexp(1.0, fraction_bits))
        out_scale = np.asarray(quant.scale, np.float64)
        factors = gain.astype(np.float64) / out_scale
        bias_steps = bias.astype(np.float64) / out_scale
        bias_limit = np.abs(bias_steps).max(initial=0) * 2.0 ** (fraction_bits - 39)  # keeps the offset below 2^62
        magnitude, shift = quantize_multipliers(np.append(np.abs(factors) / 256, bias_limit))
        shift += fraction_bits - 8
        multiplier = (np.sign(factors) * magnitude[:-1]).astype(np.int32)
        offset = np.rint(bias_steps * 2.0**shift)
        return LoweredLayerNorm(
            n, epsilon, mantissa, exponent, quant.zero_point, multiplier, offset.astype(np.int64), shift,
            fraction_bits, x, output,
        )  # fmt: skip
