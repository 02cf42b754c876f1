"""Giving a model that was exported for full length an input that says how many of its rows are real."""

from __future__ import annotations

from picoformer.errors import UnsupportedError
from picoformer.ir import DType, Graph, Node, TensorType, verify
from picoformer.ops import Attention, Concat, ReduceMean, Reshape, Transpose

NAME = "valid_length"


def add_valid_length(graph: Graph) -> Graph:
    """Add the int32 scalar input `valid_length` to every Attention and to every ReduceMean over the sequence.

    It counts the rows that enter attention from the front, a CLS token in front included. A graph that has it
    already comes back as it is. Raises UnsupportedError where padded rows would reach the result all the same.
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
    (rows,) = lengths
    after = _downstream(graph, {node.output for node in attentions})
    nodes = []
    for node in graph.nodes:
        if isinstance(node.op, Attention) and len(node.inputs) == 3:
            node = Node(node.name, node.op, (*node.inputs, NAME), node.output)
        elif node.output in after:
            node = _mask_reader(graph, node, rows)
        elif (
            isinstance(node.op, Concat)
            and node.op.axis == -2
            and graph.types[node.output].shape[-2] == rows
            and any(name in graph.constants for name in node.inputs[1:])
        ):
            raise UnsupportedError(f"node '{node.name}' appends rows behind the sequence; put them in front of it")
        nodes.append(node)
    return verify(
        graph.replace(
            inputs=(*graph.inputs, NAME), types={**graph.types, NAME: TensorType((), DType.INT32)}, nodes=nodes
        )
    )


def _mask_reader(graph: Graph, node: Node, rows: int) -> Node:
    """A node behind the first attention: mean over the sequence gets the length, what would mix rows is refused."""
    shape = graph.types[node.inputs[0]].shape
    has_rows = len(shape) > 1 and shape[-2] == rows
    if isinstance(node.op, ReduceMean) and node.op.axis == -2 and has_rows:
        return Node(node.name, node.op, (*node.inputs, NAME), node.output)
    moved = isinstance(node.op, (Reshape, Transpose)) and graph.types[node.output].shape[-2:] != shape[-2:]
    if has_rows and rows > 1 and moved:
        raise UnsupportedError(
            f"node '{node.name}' ({node.op.kind}) carries all {rows} rows on, so padded ones would reach the result; "
            f"pool with the mean or take one row"
        )
    return node


def _downstream(graph: Graph, names: set[str]) -> set[str]:
    found = set(names)
    for node in graph.nodes:
        if any(name in found for name in node.inputs):
            found.add(node.output)
    return found
