"""Arm's M-profile vector extension, Helium (Cortex-M55, M85): weights in groups of eight rows, 16 bytes at a time."""

from __future__ import annotations

import numpy as np

from picoformer.backends.c.isa.layout import (
    AttentionLayout,
    CachedAttentionLayout,
    InstructionSet,
    LinearLayout,
    TableLayout,
    padded,
    up,
)
from picoformer.ir.operator import Array

_ROWS = 8
"""Outputs that a loop of the kernels makes of one row of the input."""


class MveLinearLayout(LinearLayout):
    """Groups of eight rows in pieces of four vectors of each row, a shorter piece first; rows of x as whole vectors.

    `element_bytes`: of the input, which is what the weights are widened to where they are narrower.
    """

    weight_order = "eight rows at a time, up to 64 bytes of each in turn, filled up with zeros"

    _BLOCK_BYTES = 4096
    """Inputs that are filled up to whole vectors at a time."""

    def __init__(self, element_bytes: int, weight_bits: int) -> None:
        self._bytes, self._bits = element_bytes, weight_bits
        self._lanes = 16 // element_bytes
        self.mac_instructions = 0.12 * element_bytes
        self.reload_instructions = 0.06 if weight_bits == 8 * element_bytes else 0.35

    def pack_weight(self, weight: Array) -> Array:
        vectors = self._vectors(weight)
        together = 8 // self._bits * self._bytes if self._bits < 8 else 1
        if together == 1:
            return vectors.reshape(-1)
        parts = vectors.reshape(-1, together, self._lanes).astype(np.int64) & 15
        words = sum(parts[:, i] << 4 * i for i in range(together))
        result: Array = np.asarray(words).astype(f"<u{self._bytes}").reshape(-1).view(np.uint8)
        return result

    def _vectors(self, weight: Array) -> Array:
        """The weight as (vector, lane), in the order in which the kernel reads the vectors."""
        filled = padded(weight, _ROWS, self._lanes)
        rows = filled.reshape(len(filled) // _ROWS, _ROWS, -1, self._lanes)
        groups, _, count, _ = rows.shape
        first, pieces = rows[:, :, : count % 4], rows[:, :, count % 4 :].reshape(groups, _ROWS, -1, 4, self._lanes)
        in_turn = pieces.swapaxes(1, 2).reshape(groups, -1, self._lanes)
        return np.concatenate([first.reshape(groups, -1, self._lanes), in_turn], axis=1).reshape(-1, self._lanes)

    def block(self, rows: int, k: int) -> int:
        if k % self._lanes == 0:
            return 0
        return min(rows, max(1, self._BLOCK_BYTES // (up(k, self._lanes) * self._bytes)))

    def scratch_bytes(self, rows: int, k: int) -> int:
        widened = _ROWS if self._bits < 8 * self._bytes else 0
        return up(k, self._lanes) * self._bytes * (widened + self.block(rows, k))


class MveAttentionLayout(AttentionLayout):
    """All keys and four queries in whole vectors, all values as int16, column by column, the numerators of four
    queries and the scores of one."""

    rows = 4

    def __init__(self, element_bytes: int) -> None:
        self._lanes = 16 // element_bytes
        self.mac_instructions, self.reload_instructions = (0.25, 1.4) if element_bytes == 1 else (0.32, 2.2)

    def scratch_bytes(self, keys: int, head_size: int, value_size: int) -> int:
        vectors = up(head_size, self._lanes) // self._lanes
        return 16 * vectors * (up(keys, 16) + 4) + (2 * up(value_size, 8) + 4 * 2 + 4) * up(keys, 32)


class MveCachedAttentionLayout(CachedAttentionLayout):
    """The scores of a head, their numerators, and a query that has lost its low bits, whole eights of all."""

    mac_instructions, reload_instructions = 0.6, 0.0

    def scratch_bytes(self, keys: int, head_size: int, value_size: int) -> int:
        return (4 + 2) * up(keys, 8) + 2 * up(head_size, 8)


MVE = InstructionSet(
    linear_s8=MveLinearLayout(1, 8),
    linear_s16=MveLinearLayout(2, 8),
    embedding_row_s8=TableLayout(MveLinearLayout(2, 8)),
    linear_s4_s8=MveLinearLayout(1, 4),
    linear_s4_s16=MveLinearLayout(2, 4),
    attention_head_s8=MveAttentionLayout(1),
    attention_head_s16=MveAttentionLayout(2),
    cached_attention_group_s8=MveCachedAttentionLayout(),
    cached_attention_group_s16=MveCachedAttentionLayout(),
)
