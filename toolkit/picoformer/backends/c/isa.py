"""The one place that states what an instruction set wants: weight packing, rows at a time, scratch sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.backends.c.sources import kernel_isa
from picoformer.errors import ConfigError
from picoformer.ir import DType, Graph, Node
from picoformer.ir.operator import Array, Operand
from picoformer.ops import Attention, Linear, LoweredLinear
from picoformer.ops.linear import WIDE_SHIFT_MIN


class LinearLayout:
    """How a linear kernel wants its weight; this one is the plain C kernel's. Activations are row-major everywhere."""

    weight_order = "row by row"
    """How a weight lies in memory, in words, for the comment above it."""

    def pack_weight(self, weight: Array) -> Array:
        """The (n, k) weight as the kernel reads it, flat."""
        return weight.reshape(-1)

    def block(self, rows: int, k: int) -> int:
        """Rows of the input that the scratch holds at a time: the `block` of pf_linear; 0 where there is no scratch."""
        return 0

    def scratch_bytes(self, rows: int, k: int) -> int:
        """Bytes of scratch for `rows` inputs of `k` elements."""
        return 0


class DspLinearLayout(LinearLayout):
    """Rows in pairs, four bytes of each in turn; scratch for a pair and a block of inputs, both widened to 16 bits."""

    weight_order = "rows in pairs, 4 bytes of each in turn, filled up with zeros"

    _BLOCK_BYTES = 4096
    """Widened inputs kept at a time: each block widens all weights once, 0.8 instructions a weight."""

    def pack_weight(self, weight: Array) -> Array:
        n, k = weight.shape
        padded = np.zeros((_up(n, 2), _up(k, 4)), weight.dtype)
        padded[:n, :k] = weight
        pairs = padded.reshape(len(padded) // 2, 2, -1, 4)
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(-1)

    def block(self, rows: int, k: int) -> int:
        return min(_up(rows, 2), max(2, self._BLOCK_BYTES // (2 * _up(k, 4)) // 2 * 2))

    def scratch_bytes(self, rows: int, k: int) -> int:
        return 2 * _up(k, 4) * (2 + self.block(rows, k))


class Int4LinearLayout(LinearLayout):
    """Weights of 4 bits, two to a byte; scratch for one row of them as int8. This one is the plain C kernel's."""

    weight_order = "row by row, two to a byte, the earlier one in the low half"

    def pack_weight(self, weight: Array) -> Array:
        return _nibbles(weight).reshape(-1)

    def scratch_bytes(self, rows: int, k: int) -> int:
        return k


class DspInt4LinearLayout(DspLinearLayout):
    """Rows in pairs, a byte of each in turn, so that a word has four weights of each; scratch as for int8 weights."""

    weight_order = "two to a byte, rows in pairs, a byte of each in turn, filled up with zeros"

    def pack_weight(self, weight: Array) -> Array:
        n, k = weight.shape
        padded = np.zeros((_up(n, 2), _up(k, 4)), weight.dtype)
        padded[:n, :k] = weight
        pairs = _nibbles(padded).reshape(len(padded) // 2, 2, -1)
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(-1)


def _nibbles(weight: Array) -> Array:
    """(n, k) int4 as (n, ⌈k / 2⌉) bytes: two's complement, the earlier of two in the low half."""
    n, k = weight.shape
    halves = np.zeros((n, _up(k, 2)), np.uint8)
    halves[:, :k] = weight.astype(np.int8).view(np.uint8) & 15
    result: Array = halves[:, 0::2] | halves[:, 1::2] << 4
    return result


class AttentionLayout:
    """The scratch of an integer attention; this one is the plain C kernel's."""

    def scratch_bytes(self, keys: int, head_size: int, value_size: int) -> int:
        """Bytes for one head: a 4-byte word per key."""
        return 4 * keys


class DspAttentionLayout(AttentionLayout):
    """Two queries, all keys and all values of a head widened to 16 bits (values transposed), and two rows of scores."""

    def scratch_bytes(self, keys: int, head_size: int, value_size: int) -> int:
        head, fours, values = _up(head_size, 4), _up(keys, 4), _up(value_size, 2)
        return 2 * head * (2 + fours) + 2 * values * fours + 8 * fours + 8 * values


@dataclass(frozen=True)
class Layout:
    """What the kernels of one list of instruction sets want, file by file as `sources` picks them."""

    linear_s8: LinearLayout
    linear_s16: LinearLayout
    linear_s4_s8: LinearLayout
    linear_s4_s16: LinearLayout
    attention_s8: AttentionLayout

    def linear(self, dtype: DType, weight: DType = DType.INT8, wide: bool = False) -> LinearLayout:
        """The layout for inputs of one type and a weight of another; `wide`: sums of 64 bits."""
        if wide:
            return _PLAIN_INT4 if weight is DType.INT4 else _PLAIN
        if weight is DType.INT4:
            return self.linear_s4_s8 if dtype is DType.INT8 else self.linear_s4_s16
        return {DType.INT8: self.linear_s8, DType.INT16: self.linear_s16}.get(dtype, _PLAIN)

    def is_wide(self, graph: Graph, node: Node) -> bool:
        """Whether a Linear takes the kernel with 64-bit sums, which is plain C everywhere: where 32 bits are too few,
        and where only single rows would need a kernel made for many, whose code would not pay."""
        if graph.types[node.inputs[0]].dtype is not DType.INT16:
            return False
        operands = [Operand(graph.types[name], graph.constants.get(name)) for name in node.inputs]
        lowered = node.op.lower(operands, graph.types[node.output])
        assert isinstance(lowered, LoweredLinear)
        if lowered.wide or lowered.weight_dtype is not DType.INT8 or self.linear_s16 is _PLAIN:
            return lowered.wide
        linears = [graph.types[other.inputs[0]] for other in graph.nodes if isinstance(other.op, Linear)]
        return lowered.shift >= WIDE_SHIFT_MIN and all(x.rows == 1 for x in linears if x.dtype is DType.INT16)

    def attention(self, dtype: DType) -> AttentionLayout:
        """The scratch for queries, keys and values of one type; int16 and float take a word per key everywhere."""
        return self.attention_s8 if dtype is DType.INT8 else _PLAIN_ATTENTION

    def scratch_bytes(self, graph: Graph, node: Node) -> int:
        """Bytes of arena a step needs for itself while it runs; 0 for most."""
        types = [graph.types[name] for name in node.inputs]
        if isinstance(node.op, Linear):
            layout = self.linear(types[0].dtype, types[1].dtype, self.is_wide(graph, node))
            return layout.scratch_bytes(types[0].rows, types[0].width)
        if not isinstance(node.op, Attention):
            return 0
        head, heads = self.attention(types[0].dtype), node.op.kv_heads
        return head.scratch_bytes(types[1].shape[-2], types[1].width // heads, types[2].width // heads)


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


_PLAIN, _PLAIN_INT4, _PLAIN_ATTENTION = LinearLayout(), Int4LinearLayout(), AttentionLayout()
LINEAR: dict[str, LinearLayout] = {"generic": _PLAIN, "dsp": DspLinearLayout()}
"""Instruction set → the layout of its linear kernels; every name a target's `isa` list may hold."""
LINEAR_INT4: dict[str, LinearLayout] = {"generic": _PLAIN_INT4, "dsp": DspInt4LinearLayout()}
"""Instruction set → the layout of its linear kernels for int4 weights."""
ATTENTION: dict[str, AttentionLayout] = {"generic": _PLAIN_ATTENTION, "dsp": DspAttentionLayout()}
"""Instruction set → the scratch of its int8 attention kernel."""


def layout_of(target_isa: Sequence[str]) -> Layout:
    """What a target's list of instruction sets wants: each kernel file is that of the first one that has it.

    Raises ConfigError for a name that is not known.
    """
    for name in target_isa:
        if name not in LINEAR:
            raise ConfigError(f"instruction set '{name}' is not known; use one of {', '.join(LINEAR)}")
    if not target_isa:
        raise ConfigError("the list of instruction sets is empty; give at least 'generic'")
    return Layout(
        LINEAR[kernel_isa("linear_s8.c", target_isa)],
        LINEAR[kernel_isa("linear_s16.c", target_isa)],
        LINEAR_INT4[kernel_isa("linear_s4_s8.c", target_isa)],
        LINEAR_INT4[kernel_isa("linear_s4_s16.c", target_isa)],
        ATTENTION[kernel_isa("attention_head_s8.c", target_isa)],
    )
