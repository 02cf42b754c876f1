"""ARMv6-M (Cortex-M0, M0+): products of 32 bits only, so that six rows of int8 lie packed in scratch, two numbers a word."""

from __future__ import annotations

import numpy as np

from picoformer.backends.c.isa.layout import InstructionSet, LinearLayout, padded, up
from picoformer.ir.operator import Array


class PackedLinearLayout(LinearLayout):
    """Weights with 128 added; scratch for six packed rows of the input: four words a column and four for each chunk."""

    weight_order = "row by row, 128 added to each, filled up with 128 to a multiple of 8"

    _ROWS, _CHUNK, _TURN = 6, 64, 8

    def pack_weight(self, weight: Array) -> Array:
        unsigned = padded(weight, 1, self._TURN).astype(np.int8).view(np.uint8) ^ 128
        return unsigned.view(np.int8).reshape(-1)

    def block(self, rows: int, k: int) -> int:
        return min(rows, self._ROWS)

    def scratch_bytes(self, rows: int, k: int) -> int:
        return 0 if rows == 1 else -(-self.block(rows, k) // self._ROWS) * self._group_bytes(k)

    def _group_bytes(self, k: int) -> int:
        columns = up(k, self._TURN)
        return 16 * (columns + -(-columns // self._CHUNK))


ARMV6M = InstructionSet(linear_s8=PackedLinearLayout())
