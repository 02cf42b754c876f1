"""Which steps compute their output a few rows at a time, and what they read of their operands for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from picoformer.backends.c.schedule import Step
from picoformer.backends.c.shapes import broadcast_pattern
from picoformer.ir import Graph, Node
from picoformer.ops import Attention


@dataclass(frozen=True)
class RowWise:
    """A step of `rows` rows: row r of the output hangs on row r of its operands only, but for those in `whole`, of
    which it may read everything. `within`: the rows that a tile must not reach across, as those of a batch's sample."""

    rows: int
    whole: frozenset[str] = frozenset()
    within: int = 0

    def is_legal(self, height: int) -> bool:
        """Whether tiles of so many rows, the last one maybe lower, can be computed."""
        return height > 0 and (self.within == 0 or self.within % height == 0)


def row_wise(graph: Graph, step: Step) -> RowWise | None:
    """How a step goes by rows; None where it does not, or has one row only."""
    found = [ROW_WISE.get(node.op.kind, _never)(graph, node) for node in step.nodes]
    known = [rows for rows in found if rows is not None]
    if len(known) < len(found) or len({rows.rows for rows in known}) != 1 or known[0].rows < 2:
        return None
    whole = frozenset[str]().union(*(rows.whole for rows in known))
    return RowWise(known[0].rows, whole, max(rows.within for rows in known))


def _never(graph: Graph, node: Node) -> RowWise | None:
    return None


def _each_row(graph: Graph, node: Node) -> RowWise | None:
    """The first operand by rows, all others constant."""
    if any(name not in graph.constants for name in node.inputs[1:]):
        return None
    return RowWise(graph.types[node.output].rows)


def _element_wise(graph: Graph, node: Node) -> RowWise | None:
    """Two operands: the full one by rows; the other by rows, the same for every row, or one element a row."""
    out = graph.types[node.output]
    operands = [graph.types[name] for name in node.inputs]
    full, part = (0, 1) if operands[0].elements == out.elements else (1, 0)
    pattern = broadcast_pattern(out.shape, operands[part].shape)
    if operands[full].elements != out.elements or pattern is None:
        return None
    if operands[part].elements == out.elements or pattern == (out.rows, out.width):
        return RowWise(out.rows)
    period, inner = pattern
    if inner == 1 and out.width % period == 0:
        return RowWise(out.rows, frozenset({node.inputs[part]}))
    return None


def _attention(graph: Graph, node: Node) -> RowWise | None:
    """Queries by rows, keys and values whole. Queries that see no key at all stay together."""
    op, q, k = node.op, graph.types[node.inputs[0]], graph.types[node.inputs[1]]
    assert isinstance(op, Attention)
    if op.causal and q.shape[-2] > k.shape[-2]:
        return None
    is_batch = math.prod(q.shape[:-2]) > 1
    return RowWise(q.rows, frozenset(node.inputs[1:]), q.shape[-2] if is_batch else 0)


def _rows_of(*by_rows: int) -> Callable[[Graph, Node], RowWise]:
    """These operands by rows, all others whole."""

    def rows(graph: Graph, node: Node) -> RowWise:
        whole = [name for index, name in enumerate(node.inputs) if index not in by_rows and name not in graph.constants]
        return RowWise(graph.types[node.output].rows, frozenset(whole))

    return rows


def _block_of_rows(graph: Graph, node: Node) -> RowWise | None:
    """Where a row stands hangs on its place in the block: it goes by blocks, and by no tiles."""
    return _rows_of(0)(graph, node) if node.output in graph.block else None


def _windows(graph: Graph, node: Node) -> RowWise | None:
    """A window is a row of the output, and may lie anywhere in the image."""
    if any(name not in graph.constants for name in node.inputs[1:]):
        return None
    return RowWise(graph.types[node.output].rows, frozenset(node.inputs[:1]))


ROW_WISE: Mapping[str, Callable[[Graph, Node], RowWise | None]] = {
    "Activation": _each_row,
    "Add": _element_wise,
    "Attention": _attention,
    "AveragePool": _windows,
    "CachedAttention": _rows_of(0),
    "DepthwiseConv": _windows,
    "Embedding": _each_row,
    "ExpertLinear": _rows_of(0, 1),
    "ExpertWeights": _rows_of(0, 1),
    "LayerNorm": _each_row,
    "Linear": _each_row,
    "MaxPool": _windows,
    "Mul": _element_wise,
    "Patches": _windows,
    "RelativeAttention": _block_of_rows,
    "Requantize": _each_row,
    "RmsNorm": _each_row,
    "Rope": _rows_of(0),
    "ScaleRows": _rows_of(0, 1),
    "Softmax": _each_row,
    "TopExperts": _each_row,
}
"""Operator → how it goes by rows. What is not here moves elements between rows."""
