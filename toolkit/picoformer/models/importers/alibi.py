"""The slopes of ALiBi (Press et al. 2022), as the checkpoints that use it were trained with."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def alibi_slopes(heads: int) -> NDArray[np.float32]:
    """Slopes of each head, (heads,) float32: 2^(-8 i / n) for n a power of two; for other counts those of the power
    below, and behind them every second one of the power above."""
    below = 1 << (heads.bit_length() - 1)
    slopes = np.power(_base(below), np.arange(1, below + 1, dtype=np.float32))
    more = np.power(_base(2 * below), np.arange(1, 2 * (heads - below) + 1, 2, dtype=np.float32))
    result: NDArray[np.float32] = np.concatenate((slopes, more)).astype(np.float32)
    return result


def _base(heads: int) -> np.float32:
    return np.float32(2.0 ** -(2.0 ** -(math.log2(heads) - 3)))
