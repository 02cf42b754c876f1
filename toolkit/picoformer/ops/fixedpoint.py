"""All rounding: the integer arithmetic that the reference, the C code and the training grid share.

Arrays are int64 unless a docstring says otherwise; every function is exact (no float) except those that run at
compile time only and say so. firmware/SPEC.md states the same in words.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from picoformer.ir.operator import LoweringError
from picoformer.ir.types import DType, QuantParams

Array = np.ndarray[Any, Any]

SHIFT_MAX = 32
MULTIPLIER_LIMIT = 1 << 31


def rounding_shift(value: Array, shift: Array | int) -> Array:
    """(value + 2^(shift−1)) >> shift, shift ≥ 1: round to nearest, ties toward plus infinity."""
    n = np.asarray(shift, np.int64)
    result: Array = (value + (np.int64(1) << (n - 1))) >> n
    return result


def saturate(value: Array, dtype: DType) -> Array:
    """Clamp to the range of `dtype` and convert to it."""
    return np.clip(value, dtype.minimum, dtype.maximum).astype(dtype.numpy)


def requantize(acc: Array, multiplier: Array | int, shift: int, zero_point: int, dtype: DType) -> Array:
    """clamp(zero_point + ((acc · multiplier + 2^(shift−1)) >> shift)), the product exact.

    `acc` may be as wide as 48 bits: the product is then taken in two halves, which is the same number.
    """
    acc = acc.astype(np.int64)
    limit = int(np.abs(acc).max(initial=0))
    if limit < 1 << 31:
        scaled = rounding_shift(acc * np.asarray(multiplier, np.int64), shift)
    else:
        if limit >= 1 << 47 or shift < 17:
            raise LoweringError(f"accumulator of {limit.bit_length()} bits with shift {shift} is too wide")
        scaled = wide_product_shift(acc, np.asarray(multiplier, np.int64), shift)
    return saturate(scaled + zero_point, dtype)


def wide_product_shift(value: Array, multiplier: Array, shift: Array | int) -> Array:
    """rounding_shift(value · multiplier, shift) for |value| < 2^47, 0 ≤ multiplier < 2^31 and shift 17 … 62, in two
    halves of `value` so that no product passes 63 bits: the same number."""
    n = np.asarray(shift, np.int64)
    high, low = value >> 16, value & 0xFFFF
    result: Array = (high * multiplier + ((low * multiplier + (np.int64(1) << (n - 1))) >> 16)) >> (n - 16)
    return result


def quantize_multipliers(scales: Array) -> tuple[Array, int]:
    """Compile time: (multipliers int32 array, shift) with multiplier·2^−shift ≈ scale and one shift for all.

    shift is 32 wherever every round(scale·2^32) < 2^31, else the largest smaller one that fits.
    """
    scales = np.asarray(scales, np.float64)
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise LoweringError("a rescaling factor is negative or not finite")
    for shift in range(SHIFT_MAX, 0, -1):
        multipliers = np.rint(scales * 2.0**shift)
        if (multipliers < MULTIPLIER_LIMIT).all():
            return multipliers.astype(np.int32), shift
    raise LoweringError(
        f"rescaling factor {float(scales.max()):g} is too large: the scales of a node do not fit together"
    )


def short_factors(multipliers: Array) -> Array:
    """Compile time: multipliers below 2^31 as 16-bit factors f, which stand for f << (f & 15) (see `multiplier_of`).

    Twelve bits are free, the lowest four are the shift that leaves 16 bits of a multiplier. What they stand for differs
    from it by at most 17/65536 of it, of one below 2^16 by at most 8.
    """
    multipliers = np.asarray(multipliers, np.int64)
    shift = np.maximum(bit_length(multipliers) - 16, 0)
    free = rounding_shift(multipliers - (shift << shift), shift + 4)
    near = np.minimum(free, 4095) << 4 | shift
    beyond = np.where(shift < 15, 2048 << 4 | shift + 1, 0xFFFF)
    is_beyond = (free > 4095) & (abs(multiplier_of(beyond) - multipliers) < abs(multiplier_of(near) - multipliers))
    return np.where(is_beyond, beyond, near).astype(np.uint16)


def multiplier_of(factors: Array) -> Array:
    """The int32 multipliers that 16-bit factors stand for."""
    factors = np.asarray(factors, np.int64)
    result: Array = (factors << (factors & 15)).astype(np.int32)
    return result


def split_scale(scale: float) -> tuple[int, int]:
    """Compile time: (mantissa, exponent) with mantissa in [2^30, 2^31) and mantissa·2^−exponent ≈ scale > 0."""
    if not (math.isfinite(scale) and scale > 0):
        raise LoweringError(f"rescaling factor {scale} is not a positive number")
    fraction, exponent = math.frexp(scale)
    mantissa = round(math.ldexp(fraction, 31))
    if mantissa == 1 << 31:
        mantissa, exponent = 1 << 30, exponent + 1
    return mantissa, 31 - exponent


def bit_length(value: Array) -> Array:
    """Number of bits of each non-negative integer below 2^64 (uint64 array); 0 has none."""
    v = value.astype(np.uint64)
    result = np.zeros(v.shape, np.int64)
    for step in (32, 16, 8, 4, 2, 1):
        big = v >= (np.uint64(1) << np.uint64(step))
        result += np.where(big, step, 0)
        v = np.where(big, v >> np.uint64(step), v)
    return result + (v > 0)


def _high32(a: Array, b: Array | np.uint64) -> Array:
    """(a·b) >> 32 for uint64 arrays below 2^32."""
    return (a * b) >> np.uint64(32)


def reciprocal(value: Array) -> tuple[Array, Array]:
    """(y, lead) with 1/value ≈ y · 2^(lead − 62), for 1 ≤ value < 2^32; y in [2^30, 2^31], lead = leading zeros.

    f = value·2^lead / 2^32 in [½, 1). Newton's iteration y ← y(2 − f·y) from y₀ = 48/17 − 32/17·f, three times, all
    in unsigned 32-bit words, y with 30 fraction bits. Relative error below 2^−27.
    """
    v = value.astype(np.uint64)
    lead = 32 - bit_length(v)
    f = v << lead.astype(np.uint64)
    y = np.uint64(3031741621) - _high32(f, np.uint64(2021161081))
    for _ in range(3):
        error = np.uint64(1 << 31) - _high32(f, y)
        y = np.minimum((y * error) >> np.uint64(30), np.uint64(1 << 31))
    return y.astype(np.int64), lead


def reciprocal_sqrt(value: Array) -> tuple[Array, Array]:
    """(y, half_lead) with 1/√value ≈ y · 2^(half_lead − 62), for 1 ≤ value < 2^64; y in [2^30, 2^31].

    half_lead is half the leading zeros of the 64-bit value, rounded down; f = top 32 bits of value·4^half_lead, in
    [¼, 1) as a fraction. Newton's iteration y ← y(3 − f·y²)/2 from y₀ = 35/16 − 39/32·f, four times, all in unsigned
    32-bit words, y with 30 fraction bits. Relative error below 2^−27.
    """
    v = value.astype(np.uint64)
    half_lead = (64 - bit_length(v)) >> 1
    f = (v << (2 * half_lead).astype(np.uint64)) >> np.uint64(32)
    y = np.uint64(2348810240) - _high32(f, np.uint64(1308622848))
    for _ in range(4):
        square = _high32(y, y)
        error = np.uint64(3 << 28) - _high32(f, square)
        y = np.minimum((y * error) >> np.uint64(29), np.uint64(1 << 31))
    return y.astype(np.int64), half_lead


def scaled_reciprocal(mantissa: Array | int, exponent: Array | int, value: Array) -> tuple[Array, Array]:
    """(multiplier, shift) with multiplier·2^−shift ≈ mantissa·2^−exponent / value, for 1 ≤ value < 2^32.

    multiplier = min(2^31 − 1, (mantissa·y) >> 31) is in [2^29, 2^31); shift = exponent + 31 − lead.
    """
    y, lead = reciprocal(value)
    multiplier = np.minimum((np.asarray(mantissa, np.int64) * y) >> 31, MULTIPLIER_LIMIT - 1)
    return multiplier, np.asarray(exponent, np.int64) + 31 - lead


def quantize_real(value: Array, quant: QuantParams, dtype: DType) -> Array:
    """clamp(round_half_even(float32(value) / float32(scale)) + zero_point): ONNX QuantizeLinear, and the C helper."""
    value = np.asarray(value, np.float32)
    steps = np.rint(value / quant.scale_array(value.ndim))
    shifted = np.clip(np.asarray(steps, np.float64) + quant.zero_point, dtype.minimum, dtype.maximum)
    return np.asarray(shifted, dtype.numpy)  # a scalar stays an array


def dequantize(value: Array, quant: QuantParams) -> Array:
    """float32((integer − zero_point) · scale); a block multiplier, where there is one, is exact in between."""
    steps = (value.astype(np.float64) - quant.zero_point) * quant.element_multipliers(value.shape)
    result: Array = (steps * quant.scale_array(value.ndim)).astype(np.float32)
    return result


def exact_matmul(a: Array, b: Array) -> Array:
    """Integer product a @ b as int64, exact: through float64 (BLAS) where every partial sum is below 2^53.

    a: (…, m, k), b: (…, k, n); entries at most 16 bits wide.
    """
    if a.shape[-1] >= 1 << 22:
        raise LoweringError("inner dimension above 2^22")
    return np.rint(a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)
