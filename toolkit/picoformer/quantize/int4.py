"""int4 weights: a scale per output channel or per block that loses least, not the one that fits all.

With 15 integers a scale that reaches the largest weight wastes most of them, so each is searched for the least squared
error of rounding and clipping (Banner et al. 2018).
"""

from __future__ import annotations

import numpy as np

from picoformer.ir import DType, QuantParams
from picoformer.ir.types import BLOCK, BLOCK_MULTIPLIER_MAX
from picoformer.ops.fixedpoint import Array
from picoformer.quantize.weights import SCALE_FLOOR, WEIGHT_LIMITS

LIMIT = WEIGHT_LIMITS[DType.INT4]
_SHARES = np.linspace(0.5, 1.1, 31)
"""Scales tried, as shares of the one that reaches the largest weight."""


def quantize_int4(weight: Array, floor: Array | None = None, block: int = BLOCK) -> tuple[Array, QuantParams]:
    """(int4 weight as int8, its parameters) of a (N, K) matrix: a scale per row, and block multipliers where `block` is
    BLOCK and not 0 and a row is longer than that. `floor` (N,) are the least scales allowed."""
    real = weight.astype(np.float64)
    n, k = real.shape
    block = block if k > BLOCK else 0
    size = block or k
    groups = np.zeros((n, -(-k // size) * size))
    groups[:, :k] = real
    groups = groups.reshape(n, -1, size)
    peak = np.abs(groups).max(axis=2) / LIMIT
    least = max(float(peak.max(initial=0.0)) * SCALE_FLOOR, 1e-12)
    best = _best(groups, [peak * share for share in _SHARES])
    channel = best.max(axis=1) / (BLOCK_MULTIPLIER_MAX if block else 1)
    channel = np.maximum(channel, least if floor is None else np.maximum(floor, least)).astype(np.float32)
    multipliers: tuple[tuple[int, ...], ...] = ()
    if block:
        unit = channel.astype(np.float64)[:, None]
        tried = [np.clip(np.rint(peak * share / unit), 1, BLOCK_MULTIPLIER_MAX) * unit for share in _SHARES]
        multipliers = tuple(map(tuple, np.rint(_best(groups, tried) / unit).astype(int).tolist()))
    quant = QuantParams(tuple(float(s) for s in channel), 0, -2, multipliers)
    return np.clip(np.rint(real / element_scales(quant, (n, k))), -LIMIT, LIMIT).astype(np.int8), quant


def element_scales(quant: QuantParams, shape: tuple[int, ...]) -> Array:
    """(N, K) float64: the scale of each weight of a matrix with a scale per row, its block multiplier included."""
    scales = np.asarray(quant.scale, np.float64).reshape(-1, 1) * quant.element_multipliers(shape)
    return np.broadcast_to(scales, shape)


def _best(groups: Array, candidates: list[Array]) -> Array:
    """(N, blocks): of the candidate scales of each group (N, blocks, size) the one with the least squared error."""
    found = np.ones(groups.shape[:2])
    least = np.full(found.shape, np.inf)
    for candidate in candidates:
        scale = np.where(candidate > 0, candidate, 1.0)
        steps = np.clip(np.rint(groups / scale[:, :, None]), -LIMIT, LIMIT)
        error = ((groups - steps * scale[:, :, None]) ** 2).sum(axis=2)
        found, least = np.where(error < least, candidate, found), np.minimum(error, least)
    return found
