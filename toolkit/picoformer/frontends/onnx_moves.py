"""ONNX operators that pick, replace or rearrange entries: Gather, GatherElements, Scatter, Trilu."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from picoformer.errors import ModelError
from picoformer.frontends.onnx_builder import Converter, NodeReader
from picoformer.ir import DType
from picoformer.ir.operator import Array
from picoformer.ops import Concat, Embedding, Mul, Slice

RUNS_MAX = 64
"""More pieces than that are no layout any more."""


def _positions(node: NodeReader, indices: Array, size: int, axis: int) -> list[int]:
    """Indices of an axis of `size`, negative ones counted from its end."""
    wanted = [int(i) + size if i < 0 else int(i) for i in indices.reshape(-1)]
    if not wanted or not 0 <= min(wanted) <= max(wanted) < size:
        raise ModelError(
            f"{node.builder.path}: node '{node.label}' picks entries outside 0..{size - 1} of axis {axis}; export again"
        )
    return wanted


def _runs(wanted: Sequence[int]) -> list[tuple[int, int, int]]:
    """(first, count, step) of the longest pieces with one positive step that `wanted` falls into, from the front."""
    runs: list[tuple[int, int, int]] = []
    start = 0
    while start < len(wanted):
        step = wanted[start + 1] - wanted[start] if start + 1 < len(wanted) else 1
        stop = start + 1
        if step > 0:
            while stop < len(wanted) and wanted[stop] - wanted[stop - 1] == step:
                stop += 1
        runs.append((wanted[start], stop - start, step if stop - start > 1 else 1))
        start = stop
    return runs


def _pick(node: NodeReader, value: str, axis: int, wanted: Sequence[int]) -> str:
    """The entries `wanted` of an axis (negative), one after the other."""
    runs = _runs(wanted)
    if len(runs) > RUNS_MAX:
        raise node.unsupported(f"picks {len(runs)} pieces in an irregular order", "reorder the weights instead")
    size = node.builder.type_of(value).shape[axis]
    if runs == [(0, size, 1)]:
        return value
    parts = [
        node.step(Slice(axis, first, first + (count - 1) * step + 1, step), [value], "picked")
        for first, count, step in runs
    ]
    return parts[0] if len(parts) == 1 else node.step(Concat(axis), parts, "order")


def gather(node: NodeReader) -> None:
    """Gather: rows of a constant matrix are an Embedding; constant indices of an activation are slices of it."""
    table, ids = node.inputs
    rank = node.type().rank
    axis = node.axis(node.attribute("axis", 0), rank)
    if not node.builder.is_constant(ids):
        if not (node.builder.is_constant(table) and rank == 2 and axis == -2):
            raise node.unsupported(
                "picks entries by computed indices", "pick rows of a constant matrix, or by constants"
            )
        node.finish(Embedding(), [ids, table])
        return
    picked = node.array(1)
    shape = node.type().shape
    if node.builder.is_constant(table):
        node.builder.known[node.output] = np.take(node.array(0), picked, axis)
        return
    wanted = _positions(node, picked, shape[axis], axis)
    if picked.ndim == 0:
        node.finish(Slice(axis, wanted[0], wanted[0] + 1, keep=False), [table])
        return
    value = _pick(node, table, axis, wanted)
    if picked.ndim > 1:
        value = node.reshaped(value, (*shape[: rank + axis], *picked.shape, *shape[rank + axis + 1 :]), "spread")
    node.give(value)


def gather_elements(node: NodeReader) -> None:
    """GatherElements by constants that pick whole slices."""
    shape, indices = node.type().shape, node.array(1)
    axis = node.axis(node.attribute("axis", 0), len(shape))
    wanted, value = _one_order(node, indices, axis), node.inputs[0]
    for other, (now, then) in enumerate(zip(shape, indices.shape, strict=True)):
        if other - len(shape) != axis and then != now:
            value = node.step(Slice(other - len(shape), 0, then), [value], "cut")
    node.give(_pick(node, value, axis, _positions(node, wanted, shape[axis], axis)))


def _one_order(node: NodeReader, indices: Array, axis: int) -> Array:
    """The indices along `axis` (negative), which have to be the same wherever the other axes are."""
    apart = np.moveaxis(indices, axis, -1).reshape(-1, indices.shape[axis])
    if (apart != apart[:1]).any():
        raise node.unsupported("takes other entries in each row", "pick whole slices")
    first: Array = apart[0]
    return first


def _replace(node: NodeReader, value: str, updates: str, axis: int, wanted: Sequence[int]) -> None:
    """`value` with the entries `wanted` of an axis (negative) replaced by those of `updates`."""
    size = node.builder.type_of(value).shape[axis]
    if len(set(wanted)) < len(wanted):
        raise node.unsupported("writes an entry twice", "write each once")
    source = {entry: position for position, entry in enumerate(wanted)}
    # Pieces of what stays and of what is new, in the order of the axis.
    pieces: list[tuple[bool, list[int]]] = []
    for entry in range(size):
        new, position = entry in source, source.get(entry, entry)
        if pieces and pieces[-1][0] == new and pieces[-1][1][-1] == position - 1:
            pieces[-1][1].append(position)
        else:
            pieces.append((new, [position]))
    if len(pieces) > RUNS_MAX:
        raise node.unsupported(f"replaces {len(pieces)} pieces", "write rows next to each other")
    parts = [_pick(node, updates if new else value, axis, positions) for new, positions in pieces]
    if len(parts) == 1:
        node.give(parts[0])
    else:
        node.finish(Concat(axis), parts)


def _plainly(node: NodeReader) -> None:
    if node.attribute("reduction", "none") != "none":
        raise node.unsupported(f"reduces by {node.attribute('reduction', '')}", "only replacing entries is covered")


def scatter_elements(node: NodeReader) -> None:
    """ScatterElements by constants that replace whole slices: rows of a cache at a fixed place."""
    _plainly(node)
    shape, indices = node.type().shape, node.array(1)
    axis = node.axis(node.attribute("axis", 0), len(shape))
    others = [n for other, n in enumerate(shape) if other - len(shape) != axis]
    if others != [n for other, n in enumerate(indices.shape) if other - len(shape) != axis]:
        raise node.unsupported("replaces parts of slices", "replace whole ones")
    wanted = _positions(node, _one_order(node, indices, axis), shape[axis], axis)
    _replace(node, node.inputs[0], node.inputs[2], axis, wanted)


def scatter_nd(node: NodeReader) -> None:
    """ScatterND by constants that replace whole slices along one axis: rows of a cache at a fixed place."""
    _plainly(node)
    shape, indices = node.type().shape, node.array(1)
    depth = indices.shape[-1]
    lead = indices.shape[:-1]
    # All axes but one are walked in order and in full, so that one axis says what is replaced.
    flat = indices.reshape(-1, depth)
    for axis in range(depth):
        before = shape[:axis]
        behind = shape[axis + 1 : depth]
        count = len(flat) // max(1, int(np.prod(before + behind)))
        if count < 1 or len(flat) != count * int(np.prod(before + behind)):
            continue
        grid = flat.reshape(*before, count, *behind, depth)
        wanted = grid[(0,) * axis + (slice(None),) + (0,) * len(behind)][:, axis]
        axes = [np.arange(n) for n in before] + [wanted] + [np.arange(n) for n in behind]
        if (grid == np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)).all():
            break
    else:
        raise node.unsupported("replaces entries here and there", "replace slices along one axis")
    rows = _positions(node, wanted, shape[axis], axis)
    updates = node.reshaped(node.inputs[2], (*before, count, *behind, *shape[depth:]), "updates")
    if node.builder.type_of(updates).elements != int(np.prod((*lead, *shape[depth:]))):
        raise ModelError(f"{node.builder.path}: node '{node.label}' has updates of another size; export again")
    _replace(node, node.inputs[0], updates, axis - len(shape), rows)


def trilu(node: NodeReader) -> None:
    """One triangle of each matrix kept: a product with zeros and ones."""
    if node.type().dtype is not DType.FLOAT32:
        raise node.unsupported("cuts integers or booleans that are computed", "fix them, or cast them to float")
    rows, columns = node.type().shape[-2:]
    k = int(node.array(1).reshape(-1)[0]) if node.has_input(1) else 0
    ones = np.ones((rows, columns), np.float32)
    k = max(-rows, min(columns, k))
    kept = np.triu(ones, k) if node.attribute("upper", 1) else np.tril(ones, k)
    node.finish(Mul(), [node.inputs[0], node.constant(kept, "triangle")])


CONVERTERS: dict[str, Converter] = {
    "Gather": gather,
    "GatherElements": gather_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "Trilu": trilu,
}
