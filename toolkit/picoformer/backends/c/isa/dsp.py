"""Arm's DSP extension (Cortex-M4, M7, M33): products of 16-bit pairs, so that scratch holds everything widened."""

from __future__ import annotations

from dataclasses import replace

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
from picoformer.ir.types import BLOCK

_ENDING_WORDS = 9
"""What becomes of sums, behind a pair of weight rows: pf_dsp_ending."""

_FEW_ROWS = 3
"""Up to so many rows of int16 are computed one by one: FEW_ROWS of linear_s16_single.c and linear_s4_s16_single.c."""


def _row_bytes(k: int) -> int:
    """A row of int16, filled up."""
    return 2 * up(k, 4)


class DspLinearLayout(LinearLayout):
    """Rows in pairs, four bytes of each in turn; scratch for a pair and a block of inputs, both widened to 16 bits."""

    weight_order = "rows in pairs, 4 bytes of each in turn, filled up with zeros"
    mac_instructions, reload_instructions, rows = 0.7, 1.05, 2
    in_place = True  # a block of the input is in the scratch before any of its results is there

    _BLOCK_BYTES = 4096
    """Widened inputs kept at a time. Each block widens all weights once: instructions a multiply-accumulate for blocks
    of 8, 16 and 32 rows are 0.83, 0.77 and 0.74 at 64 inputs, 0.76, 0.71 and 0.69 at 256."""

    def pack_weight(self, weight: Array) -> Array:
        filled = padded(weight, 2, 4)
        return np.ascontiguousarray(filled.reshape(len(filled) // 2, 2, -1, 4).swapaxes(1, 2)).reshape(-1)

    def block(self, rows: int, k: int) -> int:
        return min(up(rows, 2), max(2, self._BLOCK_BYTES // (2 * up(k, 4)) // 2 * 2))

    def scratch_bytes(self, rows: int, k: int) -> int:
        words = up(k, 4)
        pairs = up(self.block(rows, k), 2) // 2
        return 4 * (words + _ENDING_WORDS + pairs * (words + up(words, 64) // 64 + 2))


class DspJoinedLinearLayout(DspLinearLayout):
    """Rows in pairs, both in a halfword, 256 · second + first."""

    weight_order = "rows in pairs, 256 times the second added to the first, filled up with zeros"
    reload_instructions = 1.25

    def pack_weight(self, weight: Array) -> Array:
        filled = padded(weight.astype(np.int16), 2, 4)
        return (256 * filled[1::2] + filled[0::2]).astype("<i2").reshape(-1).view(np.int8)


class DspSingleLinearLayout(DspJoinedLinearLayout):
    """The same weights, which one row of int16 is multiplied with as it is; a few rows go one by one."""

    def scratch_bytes(self, rows: int, k: int) -> int:
        return _row_bytes(k) if rows <= _FEW_ROWS else super().scratch_bytes(rows, k)


class DspWideLinearLayout(DspSingleLinearLayout):
    """The same weights, rows of the input one by one; scratch for one that does not begin and end at words."""

    mac_instructions, reload_instructions, rows = 1.0, 0.0, 1

    def block(self, rows: int, k: int) -> int:
        return 1

    def scratch_bytes(self, rows: int, k: int) -> int:
        return _row_bytes(k)


class DspInt4LinearLayout(DspLinearLayout):
    """Rows in pairs, both in each byte, so that a word has four weights of each; scratch as for int8 weights."""

    weight_order = "rows in pairs, the first one in the low halves, 8 added, filled up with zeros"
    reload_instructions = 2.1

    def pack_weight(self, weight: Array) -> Array:
        halves = padded(weight, 2, 4).astype(np.int8).view(np.uint8) & 15 ^ 8
        result: Array = (halves[0::2] | halves[1::2] << 4).reshape(-1)
        return result


class DspInt4PairsLinearLayout(DspInt4LinearLayout):
    """As for int8 inputs, the second and third of four columns exchanged, so that bytes 0 and 2 go with two inputs
    that lie in a word."""

    weight_order = (
        "rows in pairs, the first one in the low halves, 8 added, four columns as 0, 2, 1, 3, filled up with zeros"
    )

    def pack_weight(self, weight: Array) -> Array:
        filled = padded(weight, 2, 4)
        return super().pack_weight(filled.reshape(len(filled), -1, 4)[:, :, [0, 2, 1, 3]].reshape(filled.shape))


class DspInt4SingleLinearLayout(DspInt4PairsLinearLayout):
    """The same weights; a few rows go one by one."""

    def scratch_bytes(self, rows: int, k: int) -> int:
        """One row is a stream: columns in pairs, four words more for each block and at the end."""
        return _row_bytes(k) + 16 * (up(k, BLOCK) // BLOCK + 1) if rows <= _FEW_ROWS else super().scratch_bytes(rows, k)


class DspAttentionLayout(AttentionLayout):
    """Two queries, their scores, and all keys and values of a head in pairs of 16 bits, values transposed."""

    mac_instructions, reload_instructions, rows = 1.1, 5.0, 2

    def scratch_bytes(self, keys: int, head_size: int, value_size: int) -> int:
        head, fours = up(head_size, 4), up(keys, 4)
        return 2 * head * (2 + up(keys, 2)) + 8 * fours + 2 * up(value_size, 4) * fours


class DspInt8AttentionLayout(AttentionLayout):
    """Four queries, their scores, a key, and all values of a head in pairs of 16 bits, transposed; keys stay as they
    are."""

    mac_instructions, reload_instructions, rows = 1.2, 1.1, 4

    def scratch_bytes(self, keys: int, head_size: int, value_size: int) -> int:
        head, fours = up(head_size, 4), up(keys, 4)
        return 8 * head + 16 * fours + head + 2 * up(value_size, 4) * fours


class DspCachedAttentionLayout(CachedAttentionLayout):
    """A query that has lost its low bits, and the scores of a head, whole eights of both."""

    mac_instructions, reload_instructions = 1.1, 0.0

    def scratch_bytes(self, keys: int, head_size: int, value_size: int) -> int:
        return 2 * up(head_size, 8) + 4 * up(keys, 8)


DSP = InstructionSet(
    linear_s8=DspLinearLayout(),
    linear_s16=DspJoinedLinearLayout(),
    embedding_row_s8=TableLayout(DspJoinedLinearLayout()),
    linear_s4_s8=DspInt4LinearLayout(),
    linear_s4_s16=DspInt4PairsLinearLayout(),
    attention_head_s8=DspInt8AttentionLayout(),
    attention_head_s16=DspAttentionLayout(),
    cached_attention_group_s16=DspCachedAttentionLayout(),
)
DSP_SINGLE = replace(
    DSP,
    linear_s16=DspSingleLinearLayout(),
    linear_wide_s16=DspWideLinearLayout(),
    linear_s4_s16=DspInt4SingleLinearLayout(),
)
"""With the kernels that have `_single` at the end of their names."""
