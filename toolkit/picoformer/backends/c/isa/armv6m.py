"""ARMv6-M (Cortex-M0, M0+): products of 32 bits only, so that six rows of int8 lie packed in scratch, two numbers a word."""

from __future__ import annotations

import numpy as np

from picoformer.backends.c.isa.layout import AttentionLayout, InstructionSet, LinearLayout, padded, up
from picoformer.ir.operator import Array


_ROWS, _CHUNK, _TURN = 6, 64, 8
"""PF_PACKED_ROWS, PF_PACKED_CHUNK and PF_PACKED_TURN of picoformer/packed_sums.h."""


def _packed_bytes(k: int) -> int:
    """Six packed rows of `k` numbers: four words a column, and four for each chunk."""
    columns = up(k, _TURN)
    return 16 * (columns + -(-columns // _CHUNK))


class PackedLinearLayout(LinearLayout):
    """Weights with 128 added; scratch for six packed rows of the input."""

    weight_order = "row by row, 128 added to each, filled up with 128 to a multiple of 8"

    def pack_weight(self, weight: Array) -> Array:
        unsigned = padded(weight, 1, _TURN).astype(np.int8).view(np.uint8) ^ 128
        return unsigned.view(np.int8).reshape(-1)

    def block(self, rows: int, k: int) -> int:
        return min(rows, _ROWS)

    def scratch_bytes(self, rows: int, k: int) -> int:
        return 0 if rows == 1 else -(-self.block(rows, k) // _ROWS) * _packed_bytes(k)



class PackedAttentionLayout(AttentionLayout):
    """Six packed queries, their scores, and a head's keys and transposed values with 128 added."""

    def scratch_bytes(self, keys: int, head_size: int, value_size: int) -> int:
        length = up(keys, _TURN)
        return _packed_bytes(head_size) + 4 * _ROWS * length + keys * up(head_size, _TURN) + value_size * length


ARMV6M = InstructionSet(linear_s8=PackedLinearLayout(), attention_head_s8=PackedAttentionLayout())
