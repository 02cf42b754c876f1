"""LayerNorm and RmsNorm in builtin operators; integers are 16 bits wide between input and output.

The sum of a row's squares is the product of the row with itself, so that it is rounded once. An int8 sum would leave
small rows a handful of steps. TFLite Micro has no reciprocal root of int16: it comes from the int8 one and three steps
of Newton's iteration, r ← r(3/2 − v·r²/2), in int16.
"""

from __future__ import annotations

import math

from picoformer.backends.tflite.attention import reshape
from picoformer.backends.tflite.writer import Rule, TfliteWriter
from picoformer.ir import Node, QuantParams
from picoformer.ops import LayerNorm, RmsNorm

NEWTON_STEPS = 4
"""An int8 sum of one step is off by up to a half, and its root by 0.3: e ← 1.5·e² takes that below int16's own step in
three. A sum that is 0 in int8 starts below its root, and comes up by half each time."""
SQUARE = Rule(is_square=True)
UNIT_GRID = QuantParams((2.0**-13,))
"""Grid of v·r²/2 and of 3/2 − v·r²/2, which are 1/2 and 1 where r is the root: up to 4."""


def norm(w: TfliteWriter, node: Node, op: LayerNorm | RmsNorm, output: str) -> None:
    """(x − mean)/√(variance + ε), or x/√(mean x² + ε), times the gain, plus the bias."""
    wide = w.wide
    x = w.read(node.inputs[0])
    if not w.is_float:
        x = w.widened(x, node, shifts=isinstance(op, LayerNorm))
    width = w.shape(x)[-1]
    if isinstance(op, LayerNorm):
        axis = w.numbers(node, "axis", [len(w.shape(x)) - 1])
        mean = w.part("MEAN", [x, axis], node, wide, keepDims=True)
        x = w.part("SUB", [x, mean], node, wide)
    row = reshape(w, node, x, [math.prod(w.shape(x)[:-1]), 1, width])
    squares = w.part("BATCH_MATMUL", [row, row], node, wide, rule=SQUARE, adjX=False, adjY=True)
    epsilon = w.real(node, "epsilon", op.epsilon * width, wide)
    total = w.part("ADD", [squares, epsilon], node, wide, rule=SQUARE)
    size = w.real(node, "size", math.sqrt(width), wide)
    root = w.part("MUL", [_reciprocal_root(w, node, total), size], node, wide)
    last: list[tuple[str, list[str]]] = [("MUL", [x, reshape(w, node, root, [*w.shape(x)[:-1], 1])])]
    for operator, name in zip(("MUL", "ADD"), node.inputs[1:], strict=False):
        last.append((operator, [w.real(node, name, w.graph.constants[name], wide)]))
    _chain(w, node, last, output)


def _chain(w: TfliteWriter, node: Node, steps: list[tuple[str, list[str]]], output: str) -> None:
    """The steps one after the other, the last of them into `output`, through 8 bits where that is its type."""
    narrows = w.base == "int8"
    value = ""
    for index, (operator, operands) in enumerate(steps):
        inputs = [*([value] if value else []), *operands]
        if index == len(steps) - 1 and not narrows:
            w.emit(operator, inputs, output)
            return
        value = w.part(operator, inputs, node, w.wide)
    w.emit("QUANTIZE", [value], output)


def _reciprocal_root(w: TfliteWriter, node: Node, total: str) -> str:
    wide = w.wide
    if w.is_float or w.any_operator:
        return w.part("RSQRT", [total], node, wide)
    narrow = w.part("QUANTIZE", [total], node, "int8")
    root = w.widened(w.part("RSQRT", [narrow], node, "int8", rule=Rule(root_of=narrow)), node)
    half = w.part("MUL", [total, w.real(node, "half", 0.5, wide)], node, wide, rule=SQUARE)
    start = w.real(node, "start", 1.5, wide, UNIT_GRID)
    for _ in range(NEWTON_STEPS):
        product = w.part("MUL", [w.part("MUL", [half, root], node, wide), root], node, wide, UNIT_GRID)
        change = w.part("SUB", [start, product], node, wide, UNIT_GRID)
        root = w.part("MUL", [root, change], node, wide)
    return root
