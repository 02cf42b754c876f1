"""Constants on their grids: weights per output channel, tables per row, biases, added constants."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from picoformer.ir import DType, QuantParams
from picoformer.ops.fixedpoint import Array, multiplier_of, quantize_multipliers, short_factors

WEIGHT_LIMIT = 127
"""Weights keep to [−127, 127], so that their range is symmetric and products of two lanes stay bounded."""
WEIGHT_LIMITS = {DType.INT16: 32767, DType.INT8: WEIGHT_LIMIT, DType.INT4: 7}
"""Type of a Linear's weight → the largest magnitude it uses."""
BIAS_LIMIT = 1 << 30
"""A bias keeps a bit free of int32 for the folded zero point."""
SCALE_FLOOR = 2.0**-12
"""No channel's scale is below this share of the largest: dead channels must not blow up a bias or a multiplier."""


def quantize_rows(weight: Array, floor: Array | None = None, dtype: DType = DType.INT8) -> tuple[Array, QuantParams]:
    """(int8 or int16 weight, per-row symmetric parameters) of a (N, K) matrix; `floor` (N,) are the least scales
    allowed."""
    limit = WEIGHT_LIMITS[dtype]
    scales = np.abs(weight.astype(np.float64)).max(axis=1) / limit
    scales = np.maximum(scales, max(float(scales.max(initial=0.0)) * SCALE_FLOOR, 1e-12))
    if floor is not None:
        scales = np.maximum(scales, floor)
    quant = QuantParams(tuple(float(s) for s in scales), 0, -2)
    steps = np.rint(weight / quant.scale_array(2).astype(np.float64))
    return np.clip(steps, -limit, limit).astype(dtype.numpy), quant


def on_factors(quant: QuantParams, ratio: Array | float) -> QuantParams:
    """Parameters of a weight with scales a little off, so that their products with `ratio` (N,), the input's scale over
    the output's, are multipliers that 16 bits hold: weights are rounded on the grid that the device multiplies with.

    By 17/65536 at most, and more where a multiplier is below 2^16; none becomes 0.
    """
    multipliers, shift = quantize_multipliers(np.asarray(quant.scale, np.float64) * ratio)
    kept = multiplier_of(np.maximum(short_factors(multipliers), 16))
    scales = np.ldexp(kept.astype(np.float64), -shift) / ratio
    return replace(quant, scale=tuple(float(s) for s in scales))


def bias_scale_floor(bias: Array, input_scale: float) -> Array:
    """(N,) least weight scales for which each bias fits BIAS_LIMIT."""
    return np.abs(bias.astype(np.float64)) / (input_scale * BIAS_LIMIT)


def quantize_bias(bias: Array, input_scale: float, weight_quant: QuantParams) -> tuple[Array, QuantParams]:
    """(int32 bias, its parameters): the grid of the accumulators, input scale × weight scale per channel."""
    scales = np.asarray(weight_quant.scale, np.float64) * input_scale
    steps = np.rint(bias.astype(np.float64) / scales)
    return steps.astype(np.int32), QuantParams(tuple(float(s) for s in scales), 0, -1)


MULTIPLE_LIMIT = 255
"""A kernel that adds a whole multiple of an int8 constant has its product in 16 bits up to here."""


def quantize_constant(value: Array, dtype: DType, stream: float = 0.0) -> tuple[Array, QuantParams]:
    """(integer constant, per-tensor symmetric parameters) of a constant operand of Add or Mul.

    `stream`: the scale of the 16-bit values it is added to. The constant's is then a whole multiple of that, so that
    nothing has to be rescaled, where the multiple is none of more than eight bits.
    """
    limit = WEIGHT_LIMIT if dtype is DType.INT8 else dtype.maximum
    scale = max(float(np.abs(value).max(initial=0.0)), 1e-12) / limit
    multiple = math.ceil(scale / stream - 1e-9) if stream > 0.0 else 0
    quant = QuantParams((multiple * stream if 0 < multiple <= MULTIPLE_LIMIT else scale,))
    steps = np.clip(np.rint(value / quant.scale[0]), -limit, limit)
    return np.asarray(steps, dtype.numpy), quant  # a scalar stays an array
