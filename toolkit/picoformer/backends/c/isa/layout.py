"""What a kernel may want of its data: weight packing, rows at a time, scratch sizes. The defaults are plain C's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from picoformer.ir.operator import Array


class LinearLayout:
    """How a linear kernel wants its weight; this one is the plain C kernel's. Activations are row-major everywhere."""

    weight_order = "row by row"
    """How a weight lies in memory, in words, for the comment above it."""

    takes_more = True
    """Whether the kernel looks at `entries`: the activation behind a linear layer, or the sum with a residual, is
    computed along."""

    mac_instructions = 4.0
    """What a product takes, roughly: instructions are weighed against memory with it."""
    reload_instructions = 0.0
    """What a call takes for each weight and each block of rows beside the products, roughly: the price of low tiles."""
    rows = 1
    """Rows that are computed together: fewer take as long."""

    in_place = False
    """Whether rows of results may lie on the rows of the input that they come from, where they are as long."""

    def pack_weight(self, weight: Array) -> Array:
        """The (n, k) weight as the kernel reads it, flat."""
        return weight.reshape(-1)

    def block(self, rows: int, k: int) -> int:
        """Rows of the input that the scratch holds at a time: the `block` of pf_linear; 0 where there is no scratch."""
        return 0

    def scratch_bytes(self, rows: int, k: int) -> int:
        """Bytes of scratch for `rows` inputs of `k` elements."""
        return 0


class Int4LinearLayout(LinearLayout):
    """Weights of 4 bits, two to a byte; scratch for one row of them as int8. This one is the plain C kernel's."""

    weight_order = "row by row, two to a byte, the earlier one in the low half"

    def pack_weight(self, weight: Array) -> Array:
        return nibbles(weight).reshape(-1)

    def scratch_bytes(self, rows: int, k: int) -> int:
        return k


class TableLayout:
    """How an embedding's table of int8 lies: as the weights of a linear layer on int16, so that one which is the weight
    of the head too is stored once."""

    def __init__(self, linear: LinearLayout) -> None:
        self._linear = linear
        self.order = linear.weight_order

    def pack(self, table: Array) -> Array:
        """The (rows, width) table as the kernel reads it, flat."""
        return self._linear.pack_weight(table)


class AttentionLayout:
    """The scratch of an integer attention; this one is the plain C kernel's."""

    mac_instructions = 6.0
    """What a product takes, roughly, with its part of the softmax."""
    reload_instructions = 0.0
    """What a call takes for each element of the keys and the values beside the products, roughly."""
    rows = 1
    """Queries that are computed together: fewer take as long."""

    def scratch_bytes(self, keys: int, head_size: int, value_size: int) -> int:
        """Bytes for one head: a 4-byte word per key."""
        return 4 * keys


class CachedAttentionLayout(AttentionLayout):
    """The scratch of a cached attention; this one is the plain C kernel's."""

    def scratch_bytes(self, keys: int, head_size: int, value_size: int) -> int:
        """Bytes for one row: a 4-byte word per key of the cache, and a query of int16 that has lost its low bits."""
        return 4 * keys + 2 * head_size


_PLAIN_CACHED = CachedAttentionLayout()
_PLAIN, _PLAIN_INT4, _PLAIN_ATTENTION = LinearLayout(), Int4LinearLayout(), AttentionLayout()
_PLAIN_TABLE = TableLayout(_PLAIN)


@dataclass(frozen=True)
class InstructionSet:
    """What the kernel files of one directory of firmware/kernels want; a field is named after its file."""

    linear_s8: LinearLayout = _PLAIN
    linear_s16: LinearLayout = _PLAIN
    linear_wide_s16: LinearLayout = _PLAIN
    linear_s4_s8: LinearLayout = _PLAIN_INT4
    linear_s4_s16: LinearLayout = _PLAIN_INT4
    linear_wide_s4_s16: LinearLayout = _PLAIN_INT4
    linear_s16_s8: LinearLayout = _PLAIN
    linear_s16_s16: LinearLayout = _PLAIN
    attention_head_s8: AttentionLayout = _PLAIN_ATTENTION
    attention_head_s16: AttentionLayout = _PLAIN_ATTENTION
    cached_attention_group_s8: AttentionLayout = _PLAIN_CACHED
    cached_attention_group_s16: AttentionLayout = _PLAIN_CACHED
    embedding_row_s8: TableLayout = _PLAIN_TABLE


def up(count: int, multiple: int) -> int:
    """The least multiple of `multiple` that is not below `count`."""
    return -(-count // multiple) * multiple


def padded(weight: Array, rows: int, columns: int) -> Array:
    """The (n, k) weight filled up with zeros to a multiple of `rows` by a multiple of `columns`."""
    n, k = weight.shape
    filled = np.zeros((up(n, rows), up(k, columns)), weight.dtype)
    filled[:n, :k] = weight
    return filled


def nibbles(weight: Array) -> Array:
    """(n, k) int4 as (n, ⌈k / 2⌉) bytes: two's complement, the earlier of two in the low half."""
    halves = padded(weight.astype(np.int8).view(np.uint8) & 15, 1, 2)
    result: Array = halves[:, 0::2] | halves[:, 1::2] << 4
    return result
