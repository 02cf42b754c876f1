"""GELU, SiLU and sigmoid out of their spelled forms, by comparing polynomials: the order of the factors is free."""

from __future__ import annotations

import math

import numpy as np

from picoformer.ir import Graph, Node
from picoformer.ops import Activation, Add, Mul, Unary, Where
from picoformer.ops.functions import Function
from picoformer.passes.expression import (
    Polynomial,
    ancestors,
    is_binary,
    is_unary,
    polynomial,
    polynomials_match,
    scalar,
)
from picoformer.passes.rewrite import Patch, Rule

HALF_OF_BOTH: Polynomial = {(1, 0): 0.5, (1, 1): 0.5}
TANH_SCALE = math.sqrt(2.0 / math.pi)

FORMS: tuple[tuple[str, Polynomial, Polynomial, Function], ...] = (
    ("erf", {(1,): math.sqrt(0.5)}, HALF_OF_BOTH, "gelu"),
    ("tanh", {(1,): TANH_SCALE, (3,): TANH_SCALE * 0.044715}, HALF_OF_BOTH, "gelu_tanh"),
    ("sigmoid", {(1,): 1.0}, {(1, 1): 1.0}, "silu"),
    ("hard_sigmoid", {(1,): 1.0}, {(1, 1): 1.0}, "hard_swish"),
    ("relu6", {(1,): 1.0, (0,): 3.0}, {(1, 1): 1.0 / 6.0}, "hard_swish"),
)
"""(function f, its argument a(x), the result as a polynomial in x and f(a(x)), what that is)."""


NUMBERS: dict[str, tuple[str, tuple[float, ...]]] = {
    "relu6": ("clip", (0.0, 6.0)),
    "hard_sigmoid": ("hard_sigmoid", (1.0 / 6.0, 0.5)),
}
"""Names in FORMS of functions with these parameters."""


def _function_of(graph: Graph, name: str) -> str | None:
    node = graph.producers.get(name)
    if node is None:
        return None
    if isinstance(node.op, Activation) and node.op.parameters:
        for known, (function, numbers) in NUMBERS.items():
            if function == node.op.function and np.allclose(node.op.parameters, numbers, rtol=1e-5):
                return known
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


def fuse_swish(graph: Graph, node: Node) -> Patch | None:
    """x · sigmoid(rate · x)."""
    if not isinstance(node.op, Mul):
        return None
    for atom in node.inputs:
        if _function_of(graph, atom) != "sigmoid":
            continue
        argument = graph.producers[atom].inputs[0]
        for x in ancestors(graph, argument, (Mul,), 2):
            found = polynomial(graph, argument, (x,))
            rate = None if found is None or set(found) != {(1,)} else found[(1,)]
            if rate is not None and polynomials_match(polynomial(graph, node.output, (x, atom)), {(1, 1): 1.0}):
                return Patch(graph, node).finish(Activation("swish", (float(rate),)), [x])
    return None


def fuse_softsign(graph: Graph, node: Node) -> Patch | None:
    """x / (1 + |x|)."""
    if not isinstance(node.op, Mul):
        return None
    for x, inverse in (node.inputs, node.inputs[::-1]):
        below = graph.producers.get(inverse)
        total = graph.producers.get(below.inputs[0]) if below is not None and is_unary(below, "reciprocal") else None
        if total is None or not isinstance(total.op, Add) or scalar(graph, total.inputs[1]) != 1.0:
            continue
        size = graph.producers.get(total.inputs[0])
        if size is not None and size.op == Activation("absolute") and size.inputs == (x,):
            return Patch(graph, node).finish(Activation("softsign"), [x])
    return None


def fuse_softplus(graph: Graph, node: Node) -> Patch | None:
    """Where(x > c, x, softplus(x)) with c past where the two are one float."""
    if not isinstance(node.op, Where):
        return None
    condition, x, otherwise = node.inputs
    compared, above = graph.producers.get(condition), graph.producers.get(otherwise)
    if compared is None or not is_binary(compared, "less") or above is None or above.op != Activation("softplus"):
        return None
    bound = scalar(graph, compared.inputs[0])
    if bound is None or bound < FAR_ENOUGH or compared.inputs[1] != x or above.inputs[0] != x:
        return None
    return Patch(graph, node).same_as(otherwise)


FAR_ENOUGH = 17.0
"""ln(1 + e^x) − x is below half of the last bit of x from here on."""

ALONE: dict[str, Function] = {
    "sqrt": "square_root", "erf": "error_function", "exp": "exponential", "reciprocal": "reciprocal",
}  # fmt: skip
"""Functions that larger operators are spelled with → what they are on their own."""


def stand_alone(graph: Graph, node: Node) -> Patch | None:
    """What no fusion took up is a table of its own."""
    if isinstance(node.op, Unary) and node.op.function in ALONE:
        return Patch(graph, node).finish(Activation(ALONE[node.op.function]), node.inputs)
    return None


ACTIVATION: tuple[Rule, ...] = (fuse_sigmoid, fuse_activation, fuse_swish, fuse_softsign, fuse_softplus)
