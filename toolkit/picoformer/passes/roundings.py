"""Grids that a file brings along: where their roundings stand among the operators, and which of them stay.

A rounding belongs right behind the operator that computes the value: moves (Reshape, Transpose) are exact on integers.
Inside an attention the operator computes finer than any grid of the file: those of scores and probabilities fall away.
"""

from __future__ import annotations

from picoformer.ir import DType, Graph, Node, Operator
from picoformer.ops import Add, MatMul, Mul, Reshape, Slice, Softmax, Transpose, Where
from picoformer.ops.rounded import Rounded
from picoformer.passes.expression import constant_operand
from picoformer.passes.rewrite import Patch, Rule

STEPS_MAX = 12
"""Longest chain of moves and scales around a product of an attention that is walked."""
MASK_VALUES_MAX = 64
"""Most values that a mask is computed from."""


def _above(graph: Graph, name: str, through: tuple[type, ...]) -> Node | None:
    """The first producer above `name` that is none of `through`."""
    for _ in range(STEPS_MAX):
        node = graph.producers.get(name)
        if node is None or not isinstance(node.op, through):
            return node
        activations = graph.activations(node)
        if not activations:
            return None
        name = activations[-1] if isinstance(node.op, Where) else activations[0]
    return None


def _below(graph: Graph, name: str, through: tuple[type, ...]) -> list[Node]:
    """The first readers below `name` that are none of `through`."""
    found: list[Node] = []
    frontier = [name]
    for _ in range(STEPS_MAX):
        readers = [node for value in frontier for node in graph.consumers.get(value, ())]
        found += [node for node in readers if not isinstance(node.op, through)]
        frontier = [node.output for node in readers if isinstance(node.op, through)]
    return found


def _is_context(graph: Graph, name: str) -> bool:
    """Whether `name` is the product of an attention's probabilities and values, moved or not."""
    product = _above(graph, name, (Reshape, Transpose, Rounded))
    if product is None or not isinstance(product.op, MatMul):
        return False
    softmax = _above(graph, product.inputs[0], (Rounded, Where))
    return softmax is not None and isinstance(softmax.op, Softmax)


def drop_second(graph: Graph, node: Node) -> Patch | None:
    """What is on a grid already, moved or not, is not rounded to it again."""
    if not isinstance(node.op, Rounded):
        return None
    moves = (Reshape, Transpose, Slice) if node.op.quant.axis is None else ()
    above = _above(graph, node.inputs[0], moves)
    return Patch(graph, node).same_as(node.inputs[0]) if above is not None and above.op == node.op else None


def lift(graph: Graph, node: Node) -> Patch | None:
    """Rounded behind a move is rounded in front of it; not behind an attention, whose moves are its own."""
    if not isinstance(node.op, Rounded) or node.op.quant.axis is not None:
        return None
    inner = graph.producers.get(node.inputs[0])
    if inner is None or not isinstance(inner.op, Reshape | Transpose) or _is_context(graph, node.inputs[0]):
        return None
    patch = Patch(graph, node)
    back = _inverse(inner.op, graph.types[inner.inputs[0]].shape)
    return patch.finish(inner.op, [patch.add(node.op.behind(back), inner.inputs, "rounded")])


def sink(graph: Graph, node: Node) -> Patch | None:
    """An attention's result is rounded once its heads are merged."""
    if not isinstance(node.op, Reshape | Transpose):
        return None
    inner = graph.producers.get(node.inputs[0])
    if inner is None or not isinstance(inner.op, Rounded) or inner.op.quant.axis is not None:
        return None
    if not _is_context(graph, inner.inputs[0]):
        return None
    patch = Patch(graph, node)
    return patch.finish(inner.op.behind(node.op), [patch.add(node.op, inner.inputs, "exact")])


def _inverse(move: Reshape | Transpose, shape: tuple[int, ...]) -> Operator:
    """What undoes a move of a value of `shape`."""
    if isinstance(move, Reshape):
        return Reshape(shape)
    rank = len(shape)
    return Transpose(tuple(move.permutation.index(axis) - rank for axis in range(-rank, 0)))


def drop_probabilities(graph: Graph, node: Node) -> Patch | None:
    """A softmax that weights values is part of an attention."""
    if not isinstance(node.op, Rounded) or node.output in graph.outputs:
        return None
    softmax = _above(graph, node.inputs[0], (Rounded, Where))
    readers = _below(graph, node.output, (Rounded, Where))
    inside = softmax is not None and isinstance(softmax.op, Softmax)
    if not inside or not readers or not all(isinstance(r.op, MatMul) for r in readers):
        return None
    return Patch(graph, node).same_as(node.inputs[0])


def drop_scores(graph: Graph, node: Node) -> Patch | None:
    """Scores, scaled and masked, between their product and a softmax that weights values."""
    if not isinstance(node.op, Rounded) or node.output in graph.outputs:
        return None
    steps = (Rounded, Mul, Add, Where)
    product, readers = _above(graph, node.inputs[0], steps), _below(graph, node.output, steps)
    if product is None or not isinstance(product.op, MatMul) or not readers:
        return None
    if not all(isinstance(reader.op, Softmax) and _weights_values(graph, reader) for reader in readers):
        return None
    return Patch(graph, node).same_as(node.inputs[0])


def drop_scaled(graph: Graph, node: Node) -> Patch | None:
    """Queries or keys times a number: the factor is the attention's, their own grid is the one before it."""
    if not isinstance(node.op, Rounded) or node.output in graph.outputs:
        return None
    moves = (Reshape, Transpose, Slice)
    scaled = _above(graph, node.inputs[0], moves)
    operand = None if scaled is None or not isinstance(scaled.op, Mul) else constant_operand(graph, scaled)
    if operand is None or operand[1].size != 1:
        return None
    before = _above(graph, operand[0], moves)
    if before is None or not isinstance(before.op, Rounded):
        return None
    products = _below(graph, node.output, (*moves, Rounded))
    if not products or not all(isinstance(p.op, MatMul) and _makes_scores(graph, p) for p in products):
        return None
    return Patch(graph, node).same_as(node.inputs[0])


def drop_mask(graph: Graph, node: Node) -> Patch | None:
    """What depends on lengths and constants alone is a mask, which an operator applies exactly."""
    if not isinstance(node.op, Rounded) or node.output in graph.outputs:
        return None
    stack, seen = [node.inputs[0]], {node.inputs[0]}
    while stack:
        name = stack.pop()
        made = graph.producers.get(name)
        if made is None and name not in graph.constants and graph.types[name].dtype is DType.FLOAT32:
            return None
        above = [] if made is None else [x for x in made.inputs if x not in seen]
        seen.update(above)
        stack += above
        if len(seen) > MASK_VALUES_MAX:
            return None
    return Patch(graph, node).same_as(node.inputs[0])


def _makes_scores(graph: Graph, product: Node) -> bool:
    readers = _below(graph, product.output, (Rounded, Mul, Add, Where))
    return bool(readers) and all(isinstance(r.op, Softmax) and _weights_values(graph, r) for r in readers)


def _weights_values(graph: Graph, softmax: Node) -> bool:
    readers = _below(graph, softmax.output, (Rounded, Where))
    return bool(readers) and all(isinstance(reader.op, MatMul) for reader in readers)


ROUNDINGS: tuple[Rule, ...] = (drop_second, drop_mask, drop_probabilities, drop_scores, drop_scaled, lift, sink)
"""Rules that leave a model without grids as it is."""
