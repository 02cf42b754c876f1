"""From an observed distribution to the range that the integers should span.

min-max keeps every value; percentile cuts a fixed share of the elements off both ends together; MSE picks the cut with
the least squared error of rounding and clipping (Banner et al. 2018; Jacob et al. 2018 for the affine grid).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np

from picoformer.ir import DType, QuantParams
from picoformer.ops.fixedpoint import Array
from picoformer.quantize.observe import BINS, Observation

Method = Literal["minmax", "percentile", "mse"]
METHODS: tuple[str, ...] = get_args(Method)

SMALLEST_RANGE = 1e-6
"""A value that never moves gets this much range, so that its scale is a positive number."""


def choose_range(seen: Observation, method: Method, percentile: float, levels: int = 256) -> tuple[float, float]:
    """(low, high), with zero inside, that the integers of `levels` steps should span."""
    key = (method, percentile, levels)
    if key not in seen.ranges:
        seen.ranges[key] = _range(seen, method, percentile, levels)
    return seen.ranges[key]


def _range(seen: Observation, method: Method, percentile: float, levels: int) -> tuple[float, float]:
    low, high = min(seen.minimum, 0.0), max(seen.maximum, 0.0)
    if method == "minmax" or seen.histogram.sum() == 0:
        return low, high
    edges = np.linspace(seen.minimum, seen.maximum, BINS + 1)
    if method == "percentile":
        share = np.cumsum(seen.histogram) / seen.histogram.sum()
        tail = (1.0 - percentile / 100.0) / 2.0
        low_cut = float(edges[np.searchsorted(share, tail)])
        high_cut = float(edges[min(BINS, int(np.searchsorted(share, 1.0 - tail)) + 1)])
        return min(low_cut, 0.0), max(high_cut, 0.0)
    centres, weights = (edges[:-1] + edges[1:]) / 2, seen.histogram.astype(np.float64)
    best = (np.inf, low, high)
    for cut in np.linspace(1.0, 0.3, 71):
        for cut_low, cut_high in {(low * cut, high * cut), (low, high * cut), (low * cut, high)}:
            error = _squared_error(centres, weights, cut_low, cut_high, levels)
            if error < best[0]:
                best = (error, cut_low, cut_high)
    return best[1], best[2]


def _squared_error(centres: Array, weights: Array, low: float, high: float, levels: int) -> float:
    """Σ weight·(error of clipping + error of rounding): outside the range exact, inside step²/12."""
    step = max(high - low, SMALLEST_RANGE) / (levels - 1)
    outside = np.maximum(low - centres, 0.0) + np.maximum(centres - high, 0.0)
    return float((weights * (outside**2 + np.where(outside > 0, 0.0, step * step / 12.0))).sum())


def affine_int8(low: float, high: float) -> QuantParams:
    """The asymmetric int8 grid over [low, high] ∋ 0: zero is exactly an integer."""
    scale = max(high - low, SMALLEST_RANGE) / 255.0
    zero_point = int(np.clip(round(-128 - low / scale), -128, 127))
    return QuantParams((scale,), zero_point)


def symmetric(largest: float, dtype: DType) -> QuantParams:
    """The symmetric grid on which `largest` is the largest integer."""
    return QuantParams((max(largest, SMALLEST_RANGE) / dtype.maximum,))


def symmetric_short(largest: float, dtype: DType) -> QuantParams:
    """The same with a scale of 16 binary digits, rounded up: eight-bit multiples of it are exact in float32, too."""
    fraction, exponent = math.frexp(symmetric(largest, dtype).scale[0])
    return QuantParams((math.ldexp(math.ceil(math.ldexp(fraction, 16)), exponent - 16),))


def symmetric_per_channel(largest: Array, dtype: DType) -> QuantParams:
    """A symmetric grid per index of the last axis; `largest`: (width,)."""
    scales = np.maximum(largest, SMALLEST_RANGE) / dtype.maximum
    return QuantParams(tuple(float(s) for s in scales), 0, -1)
