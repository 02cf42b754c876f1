"""Reading arithmetic off a graph however it is spelled: products, sums, polynomials, functions of a length."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from picoformer.ir import DType, Graph, Node
from picoformer.ir.operator import Array
from picoformer.ops import Add, Binary, Mul, Unary

DEPTH_MAX = 8
LENGTHS_MAX = 1 << 12
"""Longest axis whose masks are proven by evaluating them for every length."""

Polynomial = dict[tuple[int, ...], float]


def scalar(graph: Graph, name: str) -> float | None:
    """The number a constant of one element holds."""
    value = graph.constants.get(name)
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def constant_operand(graph: Graph, node: Node) -> tuple[str, Array] | None:
    """(activation, constant) of a node with one of each, whichever stands first."""
    if len(node.inputs) != 2:
        return None
    for activation, other in (node.inputs, node.inputs[::-1]):
        if other in graph.constants and activation not in graph.constants:
            return activation, graph.constants[other]
    return None


def factors(graph: Graph, name: str, depth: int = DEPTH_MAX) -> tuple[list[str], Array]:
    """A value as a product: the factors that are not constant, and the constant one."""
    if name in graph.constants:
        return [], np.asarray(graph.constants[name], np.float64)
    node = graph.producers.get(name)
    if node is None or not isinstance(node.op, Mul) or depth == 0:
        return [name], np.ones(())
    left, a = factors(graph, node.inputs[0], depth - 1)
    right, b = factors(graph, node.inputs[1], depth - 1)
    return left + right, a * b


def terms(graph: Graph, name: str, depth: int = DEPTH_MAX) -> tuple[list[tuple[list[str], Array]], Array]:
    """A value as a sum of products: [(factors, constant factor), …] and the constant term."""
    if name in graph.constants:
        return [], np.asarray(graph.constants[name], np.float64)
    node = graph.producers.get(name)
    if node is None or depth == 0 or not (isinstance(node.op, Add) or is_binary(node, "sub")):
        product, constant = factors(graph, name)
        return [(product, constant)], np.zeros(())
    left, a = terms(graph, node.inputs[0], depth - 1)
    right, b = terms(graph, node.inputs[1], depth - 1)
    sign = 1.0 if isinstance(node.op, Add) else -1.0
    return left + [(product, sign * constant) for product, constant in right], a + sign * b


def is_unary(node: Node | None, function: str) -> bool:
    """True for the spelled operator of one operand with this function."""
    return node is not None and isinstance(node.op, Unary) and node.op.function == function


def is_binary(node: Node | None, function: str) -> bool:
    """True for the spelled operator of two operands with this function."""
    return node is not None and isinstance(node.op, Binary) and node.op.function == function


def polynomial(graph: Graph, name: str, atoms: tuple[str, ...], depth: int = DEPTH_MAX) -> Polynomial | None:
    """The value as a polynomial in `atoms`, {exponents: coefficient}; None when it is none."""
    if name in atoms:
        return {tuple(int(name == atom) for atom in atoms): 1.0}
    number = scalar(graph, name)
    if number is not None:
        return {(0,) * len(atoms): number}
    node = graph.producers.get(name)
    if node is None or depth == 0 or not isinstance(node.op, (Add, Mul, Binary)) or len(node.inputs) != 2:
        return None
    left = polynomial(graph, node.inputs[0], atoms, depth - 1)
    right = None if left is None else polynomial(graph, node.inputs[1], atoms, depth - 1)
    if left is None or right is None:
        return None
    if isinstance(node.op, Mul):
        return _product(left, right)
    if isinstance(node.op, Add) or is_binary(node, "sub"):
        sign = 1.0 if isinstance(node.op, Add) else -1.0
        return {key: left.get(key, 0.0) + sign * right.get(key, 0.0) for key in {**left, **right}}
    return None


def _product(left: Polynomial, right: Polynomial) -> Polynomial:
    result: Polynomial = {}
    for a, x in left.items():
        for b, y in right.items():
            key = tuple(i + j for i, j in zip(a, b, strict=True))
            result[key] = result.get(key, 0.0) + x * y
    return result


def polynomials_match(found: Polynomial | None, wanted: Polynomial, tolerance: float = 1e-5) -> bool:
    """True when every coefficient agrees within `tolerance`: constants in files are rounded to float32 or by hand."""
    if found is None:
        return False
    return all(
        math.isclose(found.get(key, 0.0), wanted.get(key, 0.0), rel_tol=tolerance, abs_tol=tolerance)
        for key in {**found, **wanted}
    )


def ancestors(graph: Graph, name: str, kinds: tuple[type, ...], depth: int) -> list[str]:
    """Values from which `name` is computed through nodes of `kinds`, nearest first, itself included."""
    found, frontier = [name], [name]
    for _ in range(depth):
        ahead = []
        for value in frontier:
            node = graph.producers.get(value)
            if node is not None and isinstance(node.op, kinds):
                ahead += [x for x in node.inputs if x not in graph.constants and x not in found]
        frontier = list(dict.fromkeys(ahead))
        found += frontier
    return found


@dataclass(frozen=True)
class LengthValues:
    """A value that depends on one length alone: its name, the lengths 1 … n, and the value at each (n, *shape)."""

    length: str
    lengths: Array
    values: Array


def length_values(graph: Graph, name: str, longest: int) -> LengthValues | None:
    """Evaluate `name` for every length from 1 to `longest`, if an integer input of one element is all it depends on."""
    if longest > LENGTHS_MAX:
        return None
    needed: dict[str, None] = {}
    stack = [name]
    sources: set[str] = set()
    while stack:
        value = stack.pop()
        if value in needed or value in graph.constants:
            continue
        needed[value] = None
        node = graph.producers.get(value)
        if node is None:
            sources.add(value)
        else:
            stack += node.inputs
        if len(needed) > 64:
            return None
    if len(sources) != 1:
        return None
    (length,) = sources
    type_ = graph.types[length]
    if type_.dtype is not DType.INT32 or type_.elements != 1:
        return None
    if longest * max(graph.types[value].elements for value in needed) > 1 << 26:
        return None
    lengths = np.arange(1, longest + 1)
    computed: dict[str, Array] = {length: lengths.reshape(longest, *type_.shape).astype(np.int32)}
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            if node.output in needed:
                values = [graph.constants[x] if x in graph.constants else computed[x] for x in node.inputs]
                computed[node.output] = np.asarray(node.op.compute(*values)).reshape(
                    longest, *graph.types[node.output].shape
                )
    return LengthValues(length, lengths, computed[name])
