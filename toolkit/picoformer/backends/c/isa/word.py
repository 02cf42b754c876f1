"""Cores without SIMD (RV32): six rows at a time, and of int8 three lie in two words of scratch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from picoformer.backends.c.isa.layout import (
    AttentionLayout,
    InstructionSet,
    LinearLayout,
    TableLayout,
    nibbles,
    padded,
    up,
)
from picoformer.ir.operator import Array

_ROWS, _CHUNK, _TURN = 6, 64, 8
"""PF_PACKED_ROWS, PF_PACKED_CHUNK and PF_PACKED_TURN of picoformer/packed_sums.h."""


def _packed_bytes(k: int) -> int:
    """Six packed rows of `k` int8: four words a column, and four for each chunk."""
    columns = up(k, _TURN)
    return 16 * (columns + -(-columns // _CHUNK))


def _word_bytes(k: int) -> int:
    """Six rows of `k` int16: six words a column, and six more."""
    return 24 * (1 + up(k, _TURN))


@dataclass(frozen=True)
class SixRowsLayout(LinearLayout):
    """Weights with 128 added; scratch for six rows of the input, packed or in words."""

    weight_order = "row by row, 128 added to each, filled up with 128 to a multiple of 8"
    mac_instructions, rows = 2.6, _ROWS

    is_packed: bool

    def pack_weight(self, weight: Array) -> Array:
        unsigned = padded(weight, 1, _TURN).astype(np.int8).view(np.uint8) ^ 128
        return unsigned.view(np.int8).reshape(-1)

    def block(self, rows: int, k: int) -> int:
        return min(rows, _ROWS)

    def scratch_bytes(self, rows: int, k: int) -> int:
        return 0 if rows == 1 else -(-self.block(rows, k) // _ROWS) * self.six_bytes(k)

    def six_bytes(self, k: int) -> int:
        """Bytes of scratch that six rows take."""
        return _packed_bytes(k) if self.is_packed else _word_bytes(k)


@dataclass(frozen=True)
class Int4SixRowsLayout(SixRowsLayout):
    """Weights of 4 bits as in plain C; scratch for some sixes of rows, and behind them the rows of weights that
    the kernel takes at a time, widened."""

    weight_order = "row by row, two to a byte, the earlier one in the low half"

    reload_instructions = 7.0

    weight_rows: int

    _BLOCK_BYTES: ClassVar[int] = 4096
    """Rows kept at a time: each block widens all weights once."""

    def pack_weight(self, weight: Array) -> Array:
        return nibbles(weight).reshape(-1)

    def block(self, rows: int, k: int) -> int:
        return min(rows, _ROWS * max(1, self._BLOCK_BYTES // self.six_bytes(k)))

    def scratch_bytes(self, rows: int, k: int) -> int:
        return super().scratch_bytes(rows, k) + self.weight_rows * up(k, _TURN)


@dataclass(frozen=True)
class SixQueriesLayout(AttentionLayout):
    """Six queries, their scores, and a head's keys and transposed values with half their range added."""

    is_packed: bool

    mac_instructions, rows = 3.3, _ROWS

    def __post_init__(self) -> None:
        object.__setattr__(self, "reload_instructions", 13.0 if self.is_packed else 9.0)

    def scratch_bytes(self, keys: int, head_size: int, value_size: int) -> int:
        length, size = up(keys, _TURN), up(head_size, _TURN)
        queries = _packed_bytes(head_size) if self.is_packed else _word_bytes(head_size)
        return queries + 4 * _ROWS * length + (1 if self.is_packed else 2) * (keys * size + value_size * length)


def six_rows(weight_rows: int) -> InstructionSet:
    """What kernels want that take six rows of the input and `weight_rows` (PF_WEIGHT_ROWS) of the weight at a time."""
    return InstructionSet(
        linear_s8=SixRowsLayout(is_packed=True),
        linear_s16=SixRowsLayout(is_packed=False),
        embedding_row_s8=TableLayout(SixRowsLayout(is_packed=False)),
        linear_s4_s8=Int4SixRowsLayout(True, weight_rows),
        linear_s4_s16=Int4SixRowsLayout(False, weight_rows),
        attention_head_s8=SixQueriesLayout(is_packed=True),
        attention_head_s16=SixQueriesLayout(is_packed=False),
    )


WORD = six_rows(2)
