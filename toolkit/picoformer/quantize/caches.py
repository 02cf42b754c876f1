"""The grid of a cache of keys or values: that of the rows which KvAppend writes into it, with fewer bits where it says.

The rows are int16 and use all their bits, so a cache of b bits counts in 2^(16 − b) of their steps: 16 bits are a copy,
13 leave room for products of keys in 32-bit sums, 8 or fewer make the cache int8, half as large.
"""

from __future__ import annotations

from collections.abc import Mapping

from picoformer.ir import DType, Graph, QuantParams, TensorType
from picoformer.ops import KvAppend


def cache_type(op: KvAppend, shape: tuple[int, ...], rows: TensorType) -> TensorType:
    """The type of a cache of this shape that `op` writes int16 `rows` into."""
    assert rows.dtype is DType.INT16 and rows.quant is not None
    scale = rows.quant.per_tensor_scale * 2.0 ** (rows.dtype.bits - op.bits)
    dtype = DType.INT8 if op.bits <= DType.INT8.bits else DType.INT16
    return TensorType(shape, dtype, QuantParams((scale,)))


def cache_types(graph: Graph, types: Mapping[str, TensorType]) -> dict[str, TensorType]:
    """The types of every cache, before and after rows are appended, and of what the prologue keeps; `types` knows those
    of the rows."""
    found: dict[str, TensorType] = {}
    for node in graph.nodes:
        if isinstance(node.op, KvAppend):
            cache = cache_type(node.op, graph.types[node.output].shape, types[node.inputs[1]])
            found[node.inputs[0]] = found[node.output] = cache
    for before, after in graph.states:
        if after in graph.prologue:
            found[before] = types[after]
    return found
