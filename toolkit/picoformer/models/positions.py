"""Sinusoids, rotary angles and ALiBi's biases as tables, the same for torch and for graphs; no torch."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from picoformer.models.config import TransformerConfig

Table = NDArray[np.float32]


def sinusoidal(rows: int, d_model: int) -> Table:
    """Sine in even and cosine in odd columns (Vaswani et al. 2017, section 3.5), (rows, d_model)."""
    frequencies = np.exp(np.arange(0, d_model, 2, dtype=np.float64) * (-math.log(10000.0) / d_model))
    angles = np.arange(rows, dtype=np.float64)[:, None] * frequencies
    return np.stack((np.sin(angles), np.cos(angles)), axis=-1).reshape(rows, -1).astype(np.float32)


def rotary_tables(config: TransformerConfig, rows: int) -> tuple[Table, Table]:
    """Cosine and sine of every pair at positions 0 to rows - 1, each (rows, rotary_dim / 2), times `rotary_scale`."""
    angles = np.arange(rows, dtype=np.float64)[:, None] * rotary_frequencies(config)
    cosine, sine = (config.rotary_scale * part(angles) for part in (np.cos, np.sin))
    return cosine.astype(np.float32), sine.astype(np.float32)


def rotary_frequencies(config: TransformerConfig) -> NDArray[np.float64]:
    """Radians per position of each pair, (rotary_dim / 2,)."""
    if config.rotary_frequencies:
        return np.array(config.rotary_frequencies, np.float64)
    width = config.rotary_dim or config.head_dim
    frequencies: NDArray[np.float64] = 10000.0 ** (-np.arange(0, width, 2) / width)
    return frequencies


def alibi_bias(config: TransformerConfig, rows: int) -> Table:
    """What is added to scaled scores for each query head and key position, (heads, rows)."""
    slopes, positions = np.array(config.alibi_slopes, np.float64)[:, None], np.arange(rows, dtype=np.float64)
    if not config.alibi_bfloat16:
        exact: Table = (slopes * positions).astype(np.float32)
        return exact
    scale = np.sqrt(config.head_dim)
    # The slope is a bfloat16 number before its scaling: rounding finds it again.
    raw = round_bfloat16((slopes * scale).astype(np.float32)).astype(np.float64)
    product = round_bfloat16((raw * positions).astype(np.float32))
    result: Table = (product.astype(np.float64) / scale).astype(np.float32)
    return result


def round_bfloat16(values: Table) -> Table:
    """The nearest bfloat16 numbers, ties to even, as float32; finite values only."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    result: Table = (rounded & np.uint32(0xFFFF0000)).view(np.float32)
    return result
