"""Giving a model that was exported for full length an input that says how many of its rows are real."""

from __future__ import annotations

import math

from picoformer.errors import UnsupportedError
from picoformer.ir import DType, Graph, Node, TensorType, verify
from picoformer.ops import Add, Attention, Concat, Embedding, Mul, ReduceMean, Reshape, Slice, Transpose

NAME = "valid_length"


def add_valid_length(graph: Graph) -> Graph:
    """Add the int32 scalar input `valid_length` to every Attention and to every ReduceMean over the sequence.

    It counts the rows that enter attention from the front, a CLS token in front included. The axis of the rows is
    followed from the inputs through every node, and a node that would mix padded rows into others is refused. A
    graph that has a valid length already comes back as it is. Raises UnsupportedError.
    """
    attentions = [node for node in graph.nodes if isinstance(node.op, Attention)]
    if not attentions:
        raise UnsupportedError(
            f"{graph.name} has no attention, so no sequence axis that a valid length could mask; build it without"
        )
    if all(len(node.inputs) == 4 for node in attentions):
        return graph
    if NAME in graph.types:
        raise UnsupportedError(f"{graph.name} has a value called '{NAME}' that is something else; rename it")
    lengths = {graph.types[node.inputs[1]].shape[-2] for node in attentions}
    if len(lengths) != 1:
        raise UnsupportedError(f"{graph.name} attends to {sorted(lengths)} rows: a valid length needs one axis")
    axes = {name: axis for name in graph.inputs if (axis := _input_axis(graph, name)) is not None}
    nodes = []
    for node in graph.nodes:
        reads = [axes.get(name) for name in node.inputs]
        if any(axis is not None for axis in reads):
            masked, axis = _follow(graph, node, reads)
            if axis is not None:
                axes[node.output] = axis
            if masked:
                node = Node(node.name, node.op, (*node.inputs, NAME), node.output)
        nodes.append(node)
    unmasked = [node for node in nodes if isinstance(node.op, Attention) and NAME not in node.inputs]
    if unmasked:
        raise UnsupportedError(f"node '{unmasked[0].name}' attends to rows that come from no input; build without it")
    return verify(
        graph.replace(
            inputs=(*graph.inputs, NAME), types={**graph.types, NAME: TensorType((), DType.INT32)}, nodes=nodes
        )
    )


def _input_axis(graph: Graph, name: str) -> int | None:
    """The axis (negative) of an input along which its rows lie, found by trying: the one that reaches an attention
    as its rows. None when no axis does, as for an image whose patches become rows."""
    rank = graph.types[name].rank
    for axis in range(-rank, 0):
        axes: dict[str, int] = {name: axis}
        for node in graph.nodes:
            reads = [axes.get(value) for value in node.inputs]
            if all(found is None for found in reads):
                continue
            if isinstance(node.op, Attention):
                if reads[:3] == [-2, -2, -2]:
                    return axis
                break
            try:
                _, found = _follow(graph, node, reads)
            except UnsupportedError:
                break
            if found is not None:
                axes[node.output] = found
    return None


def _follow(graph: Graph, node: Node, reads: list[int | None]) -> tuple[bool, int | None]:
    """(whether `node` takes the length, the axis of the rows in its output or None where they are gone).

    `reads` has the axis of the rows in each input, None where there are none. Raises UnsupportedError where rows
    would be mixed.
    """
    op, shape, axis = node.op, graph.types[node.inputs[0]].shape, reads[0]
    if isinstance(op, Attention):
        if reads[:3] == [-2, -2, -2]:
            return True, -2
    elif isinstance(op, (Add, Mul)):
        found = {one for one in reads if one is not None}
        if len(found) == 1 and _only_constants_beside(graph, node, reads):
            return False, found.pop()
    elif isinstance(op, Concat):
        if op.axis not in reads:
            if len({*reads}) == 1:
                return False, axis
        elif reads.count(None) == len(reads) - 1 and reads[-1] == op.axis:
            return False, op.axis  # constant rows in front of the sequence, such as a CLS token
    elif axis is None:
        pass
    elif isinstance(op, ReduceMean):
        if op.axis == axis:
            return True, None
        return False, axis if op.keep or axis > op.axis else axis + 1
    elif isinstance(op, Slice):
        if op.axis != axis:
            return False, axis if op.keep or axis > op.axis else axis + 1
        if op.start == 0 and op.stop == 1:
            return False, None  # the first row is real whenever any is
    elif isinstance(op, Embedding):
        return False, axis - 1
    elif isinstance(op, Transpose):
        return False, op.permutation.index(axis) - len(op.permutation)
    elif isinstance(op, Reshape):
        moved = _reshaped(shape, op.shape, axis)
        if moved is not None:
            return False, moved
    elif op.kind in ("LayerNorm", "Softmax", "Linear"):
        if axis != -1:
            return False, axis
    elif op.kind in ("Activation", "Requantize"):
        return False, axis
    raise UnsupportedError(
        f"node '{node.name}' ({op.kind}) mixes the rows of the sequence, so padded ones would reach the result; "
        f"pool with the mean or take the first row, or build without a valid length"
    )


def _only_constants_beside(graph: Graph, node: Node, reads: list[int | None]) -> bool:
    """Whether what is added to the rows is rows too, or a constant, or the same for every row."""
    for name, axis in zip(node.inputs, reads, strict=True):
        rows = next(one for one in reads if one is not None)
        shape = graph.types[name].shape
        if axis is None and name not in graph.constants and -rows <= len(shape) and shape[rows] != 1:
            return False
    return True


def _reshaped(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int | None:
    """Where an axis lies after a reshape that leaves it whole: same length, same number of elements behind it."""
    behind = math.prod(before[len(before) + axis + 1 :])
    for new in range(-len(after), 0):
        if after[new] == before[axis] and math.prod(after[len(after) + new + 1 :]) == behind:
            return new
    return None
