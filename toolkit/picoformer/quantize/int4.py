"""Which scale int4 weights get, per output channel and in blocks: the one that loses least, not the one that fits all.

With 15 integers a scale that reaches the largest weight wastes most of them, so each scale is searched for the least
squared error of rounding and clipping (Banner et al. 2018), weighted by the mean square of what each weight is
multiplied with where that is known.
"""

from __future__ import annotations

import numpy as np

from picoformer.ir import QuantParams
from picoformer.ir.types import BLOCK
from picoformer.ops.fixedpoint import Array

INT4_LIMIT = 7
"""int4 weights keep to [−7, 7]."""
MULTIPLIER_LIMIT = 15
"""Block multipliers keep to four bits."""
_SHARES = np.linspace(0.5, 1.1, 31)
"""Scales tried, as shares of the one that reaches the largest weight."""


def quantize_int4(
    weight: Array, floor: Array, importance: Array | None = None, block: int = BLOCK
) -> tuple[Array, QuantParams]:
    """(int4 weight as int8, parameters) of a (N, K) matrix: a scale per row and, with `block` BLOCK, block multipliers.

    `floor` (N,): the least scales allowed. `importance` (K,): the mean square of each input, by default all alike.
    """
    real = weight.astype(np.float64)
    n, k = real.shape
    share = np.ones(k) if importance is None else np.maximum(importance, 0.0) + 1e-3 * max(float(importance.mean()), 0.0)
    size = block or k
    blocks = -(-k // size)
    padded = np.zeros((n, blocks * size))
    padded[:, :k] = real
    weights = np.zeros(blocks * size)
    weights[:k] = share
    groups, weights = padded.reshape(n, blocks, size), weights.reshape(1, blocks, size)
    peak = np.abs(groups).max(axis=2) / INT4_LIMIT
    best = _best(groups, weights, [peak * s for s in _SHARES])
    if not block:
        quant = QuantParams(tuple(float(s) for s in np.maximum(best[:, 0], floor)), 0, -2)
    else:
        scale = np.maximum(best.max(axis=1) / MULTIPLIER_LIMIT, floor).astype(np.float32).astype(np.float64)[:, None]
        tried = [np.clip(np.rint(peak * s / scale), 1, MULTIPLIER_LIMIT) for s in _SHARES]
        multipliers = np.rint(_best(groups, weights, [m * scale for m in tried]) / scale).astype(int)
        quant = QuantParams(tuple(float(s) for s in scale[:, 0]), 0, -2, tuple(map(tuple, multipliers.tolist())))
    steps = np.rint(real / element_scales(quant, (n, k)))
    return np.clip(steps, -INT4_LIMIT, INT4_LIMIT).astype(np.int8), quant


def element_scales(quant: QuantParams, shape: tuple[int, ...]) -> Array:
    """(N, K) float64: the scale of each weight, its block multiplier included."""
    scales = np.asarray(quant.scale, np.float64).reshape(-1, 1) * quant.element_multipliers(shape)
    return np.broadcast_to(scales, shape)


def _best(groups: Array, weights: Array, candidates: list[Array]) -> Array:
    """(N, blocks): of the candidate scales of each group the one with the least Σ weights·error²; the last if none."""
    found = np.maximum(candidates[-1], 1e-30)
    least = np.full(found.shape, np.inf)
    for candidate in candidates:
        scale = np.maximum(candidate, 1e-30)
        steps = np.clip(np.rint(groups / scale[:, :, None]), -INT4_LIMIT, INT4_LIMIT)
        error = (weights * (groups - steps * scale[:, :, None]) ** 2).sum(axis=2)
        found = np.where(error < least, scale, found)
        least = np.minimum(error, least)
    return found
