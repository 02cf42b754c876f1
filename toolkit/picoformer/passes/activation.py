"""GELU, SiLU and sigmoid out of their spelled forms, by comparing polynomials: the order of the factors is free."""

from __future__ import annotations

import math

import numpy as np

from picoformer.ir import Graph, Node
from picoformer.ops import Activation, Add, Mul, Unary
from picoformer.ops.activation import Function
from picoformer.passes.expression import Polynomial, ancestors, is_unary, polynomial, polynomials_match
from picoformer.passes.rewrite import Patch, Rule

HALF_OF_BOTH: Polynomial = {(1, 0): 0.5, (1, 1): 0.5}
TANH_SCALE = math.sqrt(2.0 / math.pi)

FORMS: tuple[tuple[str, Polynomial, Polynomial, Function], ...] = (
    ("erf", {(1,): math.sqrt(0.5)}, HALF_OF_BOTH, "gelu"),
    ("tanh", {(1,): TANH_SCALE, (3,): TANH_SCALE * 0.044715}, HALF_OF_BOTH, "gelu_tanh"),
    ("sigmoid", {(1,): 1.0}, {(1, 1): 1.0}, "silu"),
)
"""(function f, its argument a(x), the result as a polynomial in x and f(a(x)), what that is)."""


def _function_of(graph: Graph, name: str) -> str | None:
    node = graph.producers.get(name)
    if node is None:
        return None
    if isinstance(node.op, Activation):
        return node.op.function
    return "erf" if is_unary(node, "erf") else None


def fuse_activation(graph: Graph, node: Node) -> Patch | None:
    """The forms of the table above, wherever the constants stand."""
    if not isinstance(node.op, (Mul, Add)):
        return None
    inside = [x for x in ancestors(graph, node.output, (Mul, Add), 4) if _function_of(graph, x) is not None]
    for atom in inside:
        argument = graph.producers[atom].inputs[0]
        for function, wanted_argument, wanted, result in FORMS:
            if function != _function_of(graph, atom):
                continue
            for x in ancestors(graph, argument, (Mul, Add), 5):
                if not polynomials_match(polynomial(graph, argument, (x,)), wanted_argument):
                    continue
                if polynomials_match(polynomial(graph, node.output, (x, atom)), wanted):
                    return Patch(graph, node).finish(Activation(result), [x])
    return None


def fuse_sigmoid(graph: Graph, node: Node) -> Patch | None:
    """1 / (1 + e^(−x)) is a sigmoid."""
    if not is_unary(node, "reciprocal"):
        return None
    total = graph.producers.get(node.inputs[0])
    if total is None or not isinstance(total.op, Add) or total.inputs[1] not in graph.constants:
        return None
    power = graph.producers.get(total.inputs[0])
    if power is None or not isinstance(power.op, Unary) or power.op.function != "exp":
        return None
    if not np.all(graph.constants[total.inputs[1]] == 1):
        return None
    for x in ancestors(graph, power.inputs[0], (Mul,), 2):
        if polynomials_match(polynomial(graph, power.inputs[0], (x,)), {(1,): -1.0}):
            return Patch(graph, node).finish(Activation("sigmoid"), [x])
    return None


ACTIVATION: tuple[Rule, ...] = (fuse_sigmoid, fuse_activation)
