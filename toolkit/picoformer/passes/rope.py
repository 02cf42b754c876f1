"""Rope out of its spelled form: x · cos + rotate_half(x) · sin with constant tables."""

from __future__ import annotations

import math

import numpy as np

from picoformer.ir import DType, Graph, Node, Operator, TensorType
from picoformer.ir.operator import Array
from picoformer.ops import Add, Concat, Mul, Reshape, Rope, Slice, Transpose
from picoformer.passes.expression import constant_operand
from picoformer.passes.rewrite import Patch, Rule


def _rotated_half(graph: Graph, name: str) -> str | None:
    """x when `name` is its second half negated, and then its first, along the last axis."""
    node = graph.producers.get(name)
    if node is None or node.op != Concat(-1) or len(node.inputs) != 2:
        return None
    negated = graph.producers.get(node.inputs[0])
    operand = constant_operand(graph, negated) if negated is not None and isinstance(negated.op, Mul) else None
    if operand is None or (operand[1] != -1).any():
        return None
    second, first = graph.producers.get(operand[0]), graph.producers.get(node.inputs[1])
    if second is None or first is None or second.inputs != first.inputs:
        return None
    width = graph.types[first.inputs[0]].width
    halves = (Slice(-1, 0, width // 2), Slice(-1, width // 2, width))
    return first.inputs[0] if width % 2 == 0 and (first.op, second.op) == halves else None


def fuse_rope(graph: Graph, node: Node) -> Patch | None:
    """The sum of x times its cosines and its rotated half times its sines."""
    if not isinstance(node.op, Add):
        return None
    parts = []
    for name in node.inputs:
        product = graph.producers.get(name)
        operand = constant_operand(graph, product) if product is not None and isinstance(product.op, Mul) else None
        if operand is None:
            return None
        parts.append(operand)
    for (x, cosine), (rotated, sine) in (parts, parts[::-1]):
        if _rotated_half(graph, rotated) == x and graph.types[x].shape == graph.types[node.output].shape:
            return _turn(graph, node, x, cosine, sine)
    return None


def _turn(graph: Graph, node: Node, x: str, cosine: Array, sine: Array) -> Patch | None:
    shape = graph.types[x].shape
    width = shape[-1]
    tables = [np.broadcast_to(table, shape) for table in (cosine, sine)]
    if any((table[..., : width // 2] != table[..., width // 2 :]).any() for table in tables) or len(shape) < 3:
        return None
    for heads_axis in (-3, -2):  # (…, heads, rows, channels) or (…, rows, heads, channels)
        heads = shape[heads_axis]
        first = [table.take([0], heads_axis) for table in tables]
        if all((table == one).all() for table, one in zip(tables, first, strict=True)):
            break
    else:
        return None
    rows = math.prod(shape) // (heads * width)
    pairs = np.stack([one[..., : width // 2].reshape(rows, -1) for one in first], axis=-1)
    patch = Patch(graph, node)
    moves: list[Operator] = [Reshape((rows, heads * width))]
    back: list[Operator] = [Reshape(shape)]
    if heads_axis == -3:
        order = (*range(-len(shape), -3), -2, -3, -1)
        moves.insert(0, Transpose(order))
        back = [Reshape(tuple(shape[axis] for axis in order)), Transpose(order)]
    value = x
    for op in moves:
        value = patch.add(op, [value], "rows")
    table = patch.constant(pairs.reshape(rows, width), "rotations")
    position = graph.fresh_name(f"{node.output}_first", patch.types)
    patch.types[position], patch.constants[position] = TensorType((), DType.INT32), np.zeros((), np.int32)
    value = patch.add(Rope(heads, width, False), [value, table, position], "turned")
    for op in back[:-1]:
        value = patch.add(op, [value], "apart")
    return patch.finish(back[-1], [value])


ROPE: tuple[Rule, ...] = (fuse_rope,)
