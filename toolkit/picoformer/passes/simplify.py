"""Arithmetic in one spelling: constants second, no subtraction or division by constants, no chains of constants."""

from __future__ import annotations

import math

import numpy as np

from picoformer.ir import DType, Graph, Node
from picoformer.ops import Add, Concat, Mul, Unary, Where
from picoformer.passes.expression import constant_operand, is_binary, is_unary, scalar
from picoformer.passes.rewrite import Patch, Rule

ONE_TOLERANCE = 1e-6
"""A factor this close to 1 is 1: what float32 rounding leaves of n · (1/n)."""


COPIES_MAX = 64
"""A value that is repeated more often than this is multiplied by ones, or refused by who cannot do that."""


def constant_second(graph: Graph, node: Node) -> Patch | None:
    """Add and Mul: the constant operand stands second."""
    if isinstance(node.op, (Add, Mul)) and node.inputs[0] in graph.constants and node.inputs[1] not in graph.constants:
        return Patch(graph, node).finish(node.op, node.inputs[::-1])
    return None


def spell_out_sub(graph: Graph, node: Node) -> Patch | None:
    """x − c is x + (−c); c − x is x·(−1) + c."""
    if not is_binary(node, "sub") or graph.types[node.output].dtype is not DType.FLOAT32:
        return None
    a, b = node.inputs
    patch = Patch(graph, node)
    if b in graph.constants and a not in graph.constants:
        return patch.finish(Add(), [a, patch.constant(-graph.constants[b], "negated")])
    if a in graph.constants and b not in graph.constants:
        negated = patch.add(Mul(), [b, patch.constant(np.array(-1.0), "minus_one")], "negated")
        return patch.finish(Add(), [negated, a])
    return None


def spell_out_div(graph: Graph, node: Node) -> Patch | None:
    """x / c is x · (1/c); anything else divided is multiplied by a Reciprocal."""
    if not is_binary(node, "div"):
        return None
    a, b = node.inputs
    patch = Patch(graph, node)
    if b in graph.constants:
        value = graph.constants[b].astype(np.float64)
        with np.errstate(divide="ignore", over="ignore"):
            inverse = (1.0 / value).astype(np.float32)
        if not np.isfinite(inverse).all():
            return None
        return patch.finish(Mul(), [a, patch.constant(inverse, "inverse")])
    if scalar(graph, a) == 1.0 and graph.types[b].shape == graph.types[node.output].shape:
        return patch.finish(Unary("reciprocal"), [b])
    return patch.finish(Mul(), [a, patch.add(Unary("reciprocal"), [b], "reciprocal")])


def spell_out_neg(graph: Graph, node: Node) -> Patch | None:
    """−x is x · (−1)."""
    if not is_unary(node, "neg"):
        return None
    patch = Patch(graph, node)
    return patch.finish(Mul(), [node.inputs[0], patch.constant(np.array(-1.0), "minus_one")])


def spell_out_pow(graph: Graph, node: Node) -> Patch | None:
    """Powers 1, 2, 3, −1, ½, −½ as products, reciprocals and square roots."""
    if not is_binary(node, "pow"):
        return None
    x, exponent = node.inputs[0], scalar(graph, node.inputs[1])
    patch = Patch(graph, node)
    if exponent == 1.0:
        return patch.same_as(x)
    if exponent == 2.0:
        return patch.finish(Mul(), [x, x])
    if exponent == 3.0:
        return patch.finish(Mul(), [patch.add(Mul(), [x, x], "square"), x])
    if exponent == -1.0:
        return patch.finish(Unary("reciprocal"), [x])
    if exponent == 0.5:
        return patch.finish(Unary("sqrt"), [x])
    if exponent == -0.5:
        return patch.finish(Unary("reciprocal"), [patch.add(Unary("sqrt"), [x], "sqrt")])
    return None


def drop_neutral(graph: Graph, node: Node) -> Patch | None:
    """x · 1 and x + 0 are x."""
    if not isinstance(node.op, (Add, Mul)):
        return None
    found = constant_operand(graph, node)
    if found is None or graph.types[found[0]].shape != graph.types[node.output].shape:
        return None
    x, constant = found
    neutral = (constant == 0).all() if isinstance(node.op, Add) else (np.abs(constant - 1.0) <= ONE_TOLERANCE).all()
    return Patch(graph, node).same_as(x) if neutral else None


def merge_constants(graph: Graph, node: Node) -> Patch | None:
    """(x + a) + b is x + (a + b), (x · a) · b is x · (a · b), where the inner result has no other reader.

    Sums of constants of different shapes stay apart: a bias belongs to its Linear, positions do not.
    """
    if not isinstance(node.op, (Add, Mul)):
        return None
    outer = constant_operand(graph, node)
    inner_node = graph.producers.get(outer[0]) if outer else None
    if outer is None or inner_node is None or inner_node.op != node.op or not graph.is_used_once(outer[0]):
        return None
    inner = constant_operand(graph, inner_node)
    if inner is None or graph.types[node.output].dtype is not DType.FLOAT32:
        return None
    a, b = inner[1].astype(np.float64), outer[1].astype(np.float64)
    merged = a + b if isinstance(node.op, Add) else a * b
    alike = a.size == b.size or 1 in (a.size, b.size) or isinstance(node.op, Mul)
    if merged.size > max(a.size, b.size) or not alike:
        return None
    patch = Patch(graph, node)
    return patch.finish(node.op, [inner[0], patch.constant(merged, "merged")])


def turn_where(graph: Graph, node: Node) -> Patch | None:
    """Where(not c, a, b) is Where(c, b, a)."""
    if not isinstance(node.op, Where):
        return None
    condition = graph.producers.get(node.inputs[0])
    if condition is None or not is_unary(condition, "not"):
        return None
    return Patch(graph, node).finish(Where(), [condition.inputs[0], node.inputs[2], node.inputs[1]])


def turn_difference(graph: Graph, node: Node) -> Patch | None:
    """a − b of two activations is a + b·(−1)."""
    if not is_binary(node, "sub") or graph.types[node.output].dtype is not DType.FLOAT32:
        return None
    patch = Patch(graph, node)
    negated = patch.add(Mul(), [node.inputs[1], patch.constant(np.array(-1.0), "minus_one")], "negated")
    return patch.finish(Add(), [node.inputs[0], negated])


def copy_side_by_side(graph: Graph, node: Node) -> Patch | None:
    """A product with ones that repeats axes of an activation is copies of it side by side."""
    found = constant_operand(graph, node) if isinstance(node.op, Mul) else None
    if found is None or (found[1] != 1).any():
        return None
    value, shape = found[0], graph.types[node.output].shape
    before = graph.types[value].shape
    repeated = [axis for axis in range(-len(shape), 0) if len(before) == len(shape) and before[axis] != shape[axis]]
    if not repeated or math.prod(shape[axis] for axis in repeated) > COPIES_MAX:
        return None
    patch = Patch(graph, node)
    for axis in repeated[:-1]:
        value = patch.add(Concat(axis), [value] * shape[axis], "copies")
    return patch.finish(Concat(repeated[-1]), [value] * shape[repeated[-1]])


REST: tuple[Rule, ...] = (turn_difference, copy_side_by_side)
"""Not among the others: norms are recognised by their differences, shared heads by such products."""

ARITHMETIC: tuple[Rule, ...] = (
    constant_second,
    spell_out_sub,
    spell_out_div,
    spell_out_neg,
    spell_out_pow,
    drop_neutral,
    merge_constants,
    turn_where,
)
"""The rules above; none undoes another."""
