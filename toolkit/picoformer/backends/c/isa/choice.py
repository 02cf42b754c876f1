"""What a target's list of instruction sets wants: each kernel file with the layout of the directory it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from picoformer.backends.c.isa.armv6m import ARMV6M
from picoformer.backends.c.isa.armv7m import ARMV7M
from picoformer.backends.c.isa.dsp import DSP, DSP_SINGLE
from picoformer.backends.c.isa.generic import GENERIC
from picoformer.backends.c.isa.host import HOST
from picoformer.backends.c.isa.layout import AttentionLayout, InstructionSet, LinearLayout
from picoformer.backends.c.isa.mve import MVE
from picoformer.backends.c.isa.word import WORD
from picoformer.backends.c.sources import kernel_place
from picoformer.errors import ConfigError
from picoformer.ir import DType, Graph, Node
from picoformer.ir.operator import Operand
from picoformer.ops import Attention, CachedAttention, ExpertLinear, Linear, LoweredExpertLinear, LoweredLinear
from picoformer.ops.linear import WIDE_SHIFT_MIN

INSTRUCTION_SETS: dict[str, InstructionSet] = {
    "generic": GENERIC,
    "host": HOST,
    "word": WORD,
    "armv6m": ARMV6M,
    "armv7m": ARMV7M,
    "dsp": DSP,
    "mve": MVE,
}
"""Every name a target's `isa` list may hold, and what the kernels in the directory of that name want."""

SINGLE_ROWS: dict[str, InstructionSet] = {"dsp": DSP_SINGLE}
"""The same for those that have kernels of their own for single rows."""

_FEW_PRODUCTS = 1 << 14
"""Up to so many, single rows are not worth the code of a kernel for many: plain C takes 2.6 instructions for each on a
Cortex-M3, and a token of a language model has far more than a classifier's head."""


@dataclass(frozen=True)
class Layout(InstructionSet):
    """The kernels of a target, file by file, and what a step of a graph takes of them."""

    single_rows: bool = False
    """Whether they are those for single rows, where an instruction set has such."""

    def linear(self, dtype: DType, weight: DType = DType.INT8, wide: bool = False) -> LinearLayout:
        """The layout for inputs of one type and a weight of another; `wide`: of the kernel with sums of 64 bits, which
        weights of 16 bits have everywhere."""
        kernels = self if dtype in (DType.INT8, DType.INT16) else GENERIC
        if weight is DType.INT16:
            return kernels.linear_s16_s8 if dtype is DType.INT8 else kernels.linear_s16_s16
        if wide:
            return kernels.linear_wide_s4_s16 if weight is DType.INT4 else kernels.linear_wide_s16
        if weight is DType.INT4:
            return kernels.linear_s4_s8 if dtype is DType.INT8 else kernels.linear_s4_s16
        return kernels.linear_s8 if dtype is DType.INT8 else kernels.linear_s16

    def is_wide(self, graph: Graph, node: Node) -> bool:
        """Whether a Linear takes the kernel with 64-bit sums, which takes rows one by one: where 32 bits are too few,
        and where only single rows would need a kernel made for many, whose code would not pay."""
        if graph.types[node.inputs[0]].dtype is not DType.INT16:
            return False
        operands = [Operand(graph.types[name], graph.constants.get(name)) for name in node.inputs]
        lowered = node.op.lower(operands, graph.types[node.output])
        if isinstance(lowered, LoweredExpertLinear):
            return lowered.linear.wide
        assert isinstance(lowered, LoweredLinear)
        if lowered.wide or lowered.weight_dtype is not DType.INT8 or self.linear_s16 is GENERIC.linear_s16:
            return lowered.wide
        if lowered.shift < WIDE_SHIFT_MIN:
            return False
        linears = [node for node in graph.nodes if isinstance(node.op, Linear)]
        wide_inputs = [node for node in linears if graph.types[node.inputs[0]].dtype is DType.INT16]
        if any(graph.types[other.inputs[0]].rows > 1 for other in wide_inputs):
            return False
        is_beside = isinstance(self.linear_wide_s16, type(self.linear_s16))  # one row takes the same loop in both
        return is_beside or sum(graph.types[other.inputs[1]].elements for other in wide_inputs) <= _FEW_PRODUCTS

    def attention(self, dtype: DType) -> AttentionLayout:
        """The scratch for queries, keys and values of one type; float takes a word per key everywhere."""
        kernels = {DType.INT8: self.attention_head_s8, DType.INT16: self.attention_head_s16}
        return kernels.get(dtype, GENERIC.attention_head_s8)

    def cached_attention(self, keys: DType) -> AttentionLayout:
        """The scratch for keys of one type; float takes a word per key."""
        kernels = {DType.INT8: self.cached_attention_group_s8, DType.INT16: self.cached_attention_group_s16}
        return kernels.get(keys, GENERIC.attention_head_s8)

    def scratch_bytes(self, graph: Graph, node: Node, rows: int | None = None, wide: bool | None = None) -> int:
        """Bytes of arena a node needs for itself while it runs; 0 for most.

        `rows`: those computed at a time, where not all of them. `wide`: what `is_wide` says, where it was asked before.
        """
        types = [graph.types[name] for name in node.inputs]
        if isinstance(node.op, Linear):
            wide = self.is_wide(graph, node) if wide is None else wide
            layout = self.linear(types[0].dtype, types[1].dtype, wide)
            return layout.scratch_bytes(rows or types[0].rows, types[0].width)
        if isinstance(node.op, ExpertLinear):
            wide = self.is_wide(graph, node) if wide is None else wide
            return self.linear(types[0].dtype, types[2].dtype, wide).scratch_bytes(1, types[0].width)
        if isinstance(node.op, CachedAttention):
            keys, width = types[1].shape[-2:]
            sizes = (width // node.op.kv_heads, types[2].shape[-2] // node.op.kv_heads)
            return self.cached_attention(types[1].dtype).scratch_bytes(keys, *sizes)
        if not isinstance(node.op, Attention):
            return 0
        head, heads = self.attention(types[0].dtype), node.op.kv_heads
        return head.scratch_bytes(types[1].shape[-2], types[1].width // heads, types[2].width // heads)


def layout_of(target_isa: Sequence[str], single_rows: bool = False) -> Layout:
    """What a target's list of instruction sets wants: each kernel file is that of the first one that has it, with
    `single_rows` the one for these.

    Raises ConfigError for a name that is not known.
    """
    for name in target_isa:
        if name not in INSTRUCTION_SETS:
            known = ", ".join(INSTRUCTION_SETS)
            raise ConfigError(f"instruction set '{name}' is not known; use one of {known}")
    if not target_isa:
        raise ConfigError("the list of instruction sets is empty; give at least 'generic'")
    chosen = {}
    for kernel in fields(InstructionSet):
        isa, file = kernel_place(f"{kernel.name}.c", target_isa, single_rows)
        sets = INSTRUCTION_SETS if file == f"{kernel.name}.c" else SINGLE_ROWS
        chosen[kernel.name] = getattr(sets[isa], kernel.name)
    return Layout(**chosen, single_rows=single_rows)


def layout_for(graph: Graph, target_isa: Sequence[str]) -> Layout:
    """`layout_of` for one graph. A language model runs on single rows. So do layers with sums of 64 bits; where these
    have few products, as a classifier's head on a pooled row has, plain C takes less flash and next to no time."""
    layout = layout_of(target_isa, single_rows=bool(graph.states))
    if graph.states:
        return layout
    linears = [node for node in graph.nodes if isinstance(node.op, Linear) and layout.is_wide(graph, node)]
    products = sum(graph.types[node.inputs[0]].rows * graph.types[node.inputs[1]].elements for node in linears)
    return layout if products <= _FEW_PRODUCTS else layout_of(target_isa, single_rows=True)
