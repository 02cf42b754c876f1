"""Which integer type and which grid each value gets, and why. With 16-bit activations every value is int16; else:

- Values on the residual stream (anything added, and what only moves it) are int16 on one grid per stream, so that a
  residual addition is a saturating add and nothing else; norms read them directly. An added constant counts in a whole
  multiple of the stream's scale.
- Outputs of the graph and values of a single row (after pooling) are int16: they cost nothing.
- Queries, keys and values are symmetric int8, a scale per head where a Linear produces them (int16 likewise).
- What operators of a decode step read in 16 bits alone (see WIDE_OPERANDS) is int16, and a cache has the grid of the
  rows written into it (see `caches`).
- Everything else is asymmetric int8.

Where one type for all is asked for (`uniform`), as other runtimes take it, values that are added are on grids of their
own, none has a scale per head, functions with a fixed range are on TFLite's grids for them (see UNIFORM_GRIDS), and the
means of windows are on the grid of what they are taken of.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from picoformer.ir import DType, Graph, Node, QuantParams, TensorType
from picoformer.ir.operator import Array, Operator
from picoformer.ops import (
    Activation,
    Add,
    Attention,
    AveragePool,
    CachedAttention,
    Concat,
    Embedding,
    ExpertLinear,
    ExpertWeights,
    KvAppend,
    LayerNorm,
    Linear,
    MaxPool,
    Mul,
    Reshape,
    RmsNorm,
    Rope,
    ScaleRows,
    Slice,
    Softmax,
    TakeRow,
    TopExperts,
    Transpose,
)
from picoformer.quantize.caches import cache_types
from picoformer.quantize.calibrate import (
    Method,
    affine_int8,
    choose_range,
    symmetric,
    symmetric_per_channel,
    symmetric_short,
)
from picoformer.quantize.observe import Observation

LAYOUT: tuple[type[Operator], ...] = (Reshape, Transpose, Slice, Concat, MaxPool, TakeRow, Rope)
"""Operators whose output is on the grid of their input: those that only move or choose values, and Rope, which turns
them."""

WIDE_OPERANDS: Mapping[type[Operator], int] = {
    CachedAttention: 0, ExpertWeights: 0, KvAppend: 1, Rope: 0, ScaleRows: 1, TopExperts: 0,
}  # fmt: skip
"""Operator → its operand that is always int16: what it is computed on, or what is chosen by it, has to be exact."""


UNIFORM_GRIDS: Mapping[tuple[str, DType], QuantParams] = {
    ("softmax", DType.INT8): QuantParams((2.0**-8,), -128),
    ("softmax", DType.INT16): QuantParams((2.0**-15,)),
    ("sigmoid", DType.INT8): QuantParams((2.0**-8,), -128),
    ("sigmoid", DType.INT16): QuantParams((2.0**-15,)),
    ("tanh", DType.INT8): QuantParams((2.0**-7,)),
    ("tanh", DType.INT16): QuantParams((2.0**-15,)),
}
"""The grids that TFLite's kernels write, and no others."""


class Streams:
    """Union-find over values that must lie on one grid."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def root(self, name: str) -> str:
        """The value that stands for the group of `name`."""
        parent = self._parent.setdefault(name, name)
        if parent != name:
            parent = self._parent[name] = self.root(parent)
        return parent

    def join(self, a: str, b: str) -> None:
        """Put two values on one grid."""
        self._parent[self.root(a)] = self.root(b)


def assign_grids(
    graph: Graph,
    seen: Mapping[str, Observation],
    method: Method,
    percentile: float,
    headroom: float,
    wanted: Mapping[str, DType],
    uniform: bool = False,
) -> dict[str, TensorType]:
    """The type with QuantParams of every float value that is not a constant.

    `headroom` widens the 16-bit ranges beyond what calibration saw. `wanted`: value → INT16 where the rules above would
    let it be narrow; all that shares its grid goes with it. With `uniform` nothing else is wide, each value has one
    scale, and only what is moved or pooled shares its grid.
    """
    streams = Streams()
    joined: tuple[type[Operator], ...] = (*LAYOUT, AveragePool if uniform else Add)
    for node in graph.nodes:
        dynamic = [n for n in graph.activations(node) if n in seen]
        if isinstance(node.op, joined):
            for name in dynamic:
                streams.join(name, node.output)
    wide = {name for name in seen if wanted.get(name) is DType.INT16 or (not uniform and _is_wide(graph, name))}
    groups: dict[str, list[str]] = {}
    for name in seen:
        groups.setdefault(streams.root(name), []).append(name)
    types: dict[str, TensorType] = {}
    wide = {name for members in groups.values() if wide & set(members) for name in members}
    for members in groups.values():
        grid = _grid(graph, members, seen, wide, method, percentile, headroom, uniform)
        for name in members:
            types[name] = TensorType(graph.types[name].shape, grid[0], grid[1])
    return {**types, **cache_types(graph, types)}


def _is_wide(graph: Graph, name: str) -> bool:
    """Whether a value is 16 bits wide for its own sake; what shares its grid is then wide with it."""
    for node in graph.consumers.get(name, ()):
        index = WIDE_OPERANDS.get(type(node.op))
        if index is not None and node.inputs[index] == name:
            return True
    if name in graph.inputs:
        return name in graph.outputs
    op = graph.producers[name].op
    single_row = graph.types[name].rows == 1 and not isinstance(op, LAYOUT)
    return name in graph.outputs or isinstance(op, Add) or single_row or _is_scaled_sum(graph, name)


def _is_scaled_sum(graph: Graph, name: str) -> bool:
    """Whether a value is a sum times a constant that only norms read: as wide as the sum."""
    node, readers = graph.producers[name], graph.consumers.get(name, ())
    if not isinstance(node.op, Mul) or node.inputs[1] not in graph.constants:
        return False
    before = graph.producers.get(node.inputs[0])
    is_sum = before is not None and isinstance(before.op, Add)
    return is_sum and bool(readers) and all(isinstance(reader.op, LayerNorm | RmsNorm) for reader in readers)


def _grid(
    graph: Graph,
    members: list[str],
    seen: Mapping[str, Observation],
    wide: set[str],
    method: Method,
    percentile: float,
    headroom: float,
    uniform: bool,
) -> tuple[DType, QuantParams]:
    producers = [graph.producers[name].op for name in members if name in graph.producers]
    is_wide, heads = members[0] in wide, 0 if uniform else _own_heads(graph, members)
    if uniform and (fixed := _fixed(producers, DType.INT16 if is_wide else DType.INT8)) is not None:
        return fixed
    if any(isinstance(op, Softmax | ExpertWeights) for op in producers):
        return (DType.INT16, QuantParams((2.0**-15,))) if is_wide else (DType.INT8, QuantParams((2.0**-8,), -128))
    if is_wide:
        largest = headroom * max(seen[name].largest for name in members)
        if heads and all(wide.issuperset(node.inputs[:3]) for node in attention_readers(graph, members[0])):
            return DType.INT16, _per_head(seen[members[0]], heads, largest, DType.INT16, headroom)
        if any(isinstance(op, Add) for op in producers) and not uniform:
            return DType.INT16, symmetric_short(largest, DType.INT16)
        return DType.INT16, symmetric(largest, DType.INT16)
    ranges = [choose_range(seen[name], method, percentile) for name in members]
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    if heads:
        return DType.INT8, _per_head(seen[members[0]], heads, max(-low, high), DType.INT8)
    mixed = any(isinstance(op, Attention | CachedAttention) for op in producers)
    if mixed or any(attention_readers(graph, name) for name in members):
        return DType.INT8, symmetric(max(-low, high), DType.INT8)
    return DType.INT8, affine_int8(low, high)


def _fixed(producers: list[Operator], dtype: DType) -> tuple[DType, QuantParams] | None:
    """The grid that TFLite's kernel of one of the operators writes; None where it takes any."""
    for op in producers:
        what = "softmax" if isinstance(op, Softmax) else op.function if isinstance(op, Activation) else ""
        if (what, dtype) in UNIFORM_GRIDS:
            return dtype, UNIFORM_GRIDS[what, dtype]
    return None


def _own_heads(graph: Graph, members: list[str]) -> int:
    """Heads of a query, key or value that a Linear makes and only attention reads, alone on its grid; else 0."""
    name = members[0]
    if len(members) > 1 or name in graph.outputs or name not in graph.producers:
        return 0
    if not isinstance(graph.producers[name].op, Linear):
        return 0
    heads = set()
    for node in graph.consumers.get(name, ()):
        if not isinstance(node.op, Attention) or name in node.inputs[3:]:
            return 0
        heads |= {node.op.heads if index == 0 else node.op.kv_heads for index in range(3) if node.inputs[index] == name}
    return heads.pop() if len(heads) == 1 else 0


def _per_head(seen: Observation, heads: int, limit: float, dtype: DType, headroom: float = 1.0) -> QuantParams:
    """One symmetric scale per head: its own largest magnitude times `headroom`, cut where the method cuts the whole
    tensor."""
    largest: Array = headroom * seen.channel_maximum.reshape(heads, -1).max(axis=1)
    largest = np.minimum(largest, limit)
    return symmetric_per_channel(np.repeat(largest, len(seen.channel_maximum) // heads), dtype)


def attention_readers(graph: Graph, name: str) -> tuple[Node, ...]:
    """The Attention nodes that read `name` as query, key or value."""
    return tuple(
        node for node in graph.consumers.get(name, ()) if isinstance(node.op, Attention) and name in node.inputs[:3]
    )


def ends(graph: Graph) -> set[str]:
    """Names of the Linears whose weights stay 8 bits in the int4 schemes: those that no Linear or Embedding comes
    before, and those whose result is only moved or passed through a function on its way out of the graph."""
    begun: set[str] = set()
    found: set[str] = set()
    for node in graph.nodes:
        if isinstance(node.op, Linear) and not begun.intersection(node.inputs):
            found.add(node.name)
        if isinstance(node.op, Linear | ExpertLinear | Embedding) or begun.intersection(node.inputs):
            begun.add(node.output)
    leaving: set[str] = set(graph.outputs)
    for node in reversed(graph.nodes):
        readers = graph.consumers.get(node.output, ())
        if readers and not all(
            isinstance(r.op, (*LAYOUT, Activation, Softmax)) and r.output in leaving for r in readers
        ):
            continue
        leaving.add(node.output)
        if isinstance(node.op, Linear):
            found.add(node.name)
    return found
