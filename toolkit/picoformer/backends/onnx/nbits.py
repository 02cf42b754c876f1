"""int4 weights as com.microsoft's MatMulNBits holds them: blocks of a row, a scale each, two weights to a byte."""

from __future__ import annotations

import numpy as np

from picoformer.ir import QuantParams
from picoformer.ir.operator import Array
from picoformer.ir.types import BLOCK

ZERO_POINT = 8
"""What MatMulNBits takes off each of its unsigned 4-bit numbers when it is given no zero points."""


def packed_blocks(weight: Array, quant: QuantParams) -> tuple[Array, Array]:
    """(bytes (N, blocks, BLOCK / 2) uint8, scales (N · blocks,) float32) of an int4 weight (N, K).

    A weight without block multipliers has the same scale in all blocks of a row; what is missing in the last is zero.
    """
    n, k = weight.shape
    blocks = -(-k // BLOCK)
    multipliers = np.asarray(quant.block_multipliers or ((1,) * blocks,) * n, np.float64)
    scales = np.broadcast_to(np.asarray(quant.scale, np.float64), (n,))[:, None] * multipliers
    padded = np.full((n, blocks * BLOCK), ZERO_POINT, np.uint8)
    padded[:, :k] = weight.astype(np.int16) + ZERO_POINT
    halves = padded.reshape(n, blocks, BLOCK // 2, 2)
    return halves[..., 0] | halves[..., 1] << 4, scales.astype(np.float32).reshape(-1)
