"""Functions of one number in builtin operators: one operator, several, or a table.

int8 is the device's table of 256 entries, exactly. int16 is an operator where TFLite has one that is as good, GELU and
SiLU are decomposed, and the rest is the device's interpolated table, exactly: its 513 entries and their differences
are picked by floats, which hold every number in it without rounding. erf: Abramowitz and Stegun (1964), 7.1.26.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from picoformer.backends.tflite.attention import SOFTMAX_GRIDS
from picoformer.backends.tflite.writer import TfliteWriter, unsupported
from picoformer.ir import Node, QuantParams
from picoformer.ops import Activation, LoweredInterpolatedTable, LoweredTable
from picoformer.ops.activation import SEGMENT_BITS
from picoformer.ops.functions import Function

LOGISTIC_OF_GELU = (1.59501317, 0.07401365, -0.00070342)
"""Φ(x) ≈ σ(a·x + b·x³ + c·x⁵) for |x| ≤ 8, fitted for the least largest error of x·σ: 2.6e−5. Farther out the slope of
8 does, so that x² may stop at 64."""
SQUARE_MAX = 64.0
LOGISTIC_OF_TANH_GELU = (2 * (2 / np.pi) ** 0.5, 2 * 0.044715 * (2 / np.pi) ** 0.5)
"""(1 + tanh u)/2 = σ(2u): the tanh approximation itself, exactly."""
SQUARE_GRID = QuantParams((SQUARE_MAX / 32767,))
LOGISTIC_INPUT = QuantParams((12.0 / 32767,))
"""Beyond ±12 a logistic is 0 or 1 to within int16's step: its input may saturate there."""
ERF_RATE = 0.3275911
ERF_FACTORS = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
"""erf x = 1 − (a₁t + … + a₅t⁵)·e^−x² to within 1.5e−7 for x ≥ 0, t = 1/(1 + rate·x); the highest power first."""
SAME_IN_EVERY_TYPE = {"relu": "RELU", "tanh": "TANH", "sigmoid": "LOGISTIC"}
GELUS = ("gelu", "gelu_tanh", "silu")

Last = tuple[str, list[str], dict[str, Any]]
"""The step whose result is the function's: operator, inputs, options."""


@dataclass(frozen=True)
class Parts:
    """Inner values of one node, in the type of all real numbers."""

    w: TfliteWriter
    node: Node

    def __call__(self, operator: str, *inputs: str | float, **options: Any) -> str:
        """The name of what a builtin operator gives."""
        return self.w.part(operator, self.operands(*inputs), self.node, **options)

    def operands(self, *inputs: str | float) -> list[str]:
        """Names, those of constants for numbers."""
        return [i if isinstance(i, str) else self.w.real(self.node, "factor", i) for i in inputs]

    def last(self, operator: str, *inputs: str | float, **options: Any) -> Last:
        """The step that ends the function."""
        return operator, self.operands(*inputs), options


def activation(w: TfliteWriter, node: Node, op: Activation, output: str) -> None:
    """An Activation, in the form that its type takes."""
    x = w.read(node.inputs[0])
    if op.function in SAME_IN_EVERY_TYPE:
        w.emit(SAME_IN_EVERY_TYPE[op.function], [x], output)
    elif op.function in GELUS:
        _gelu(w, node, op, x, output)
    elif w.base == "int8":
        _table(w, node, op, x, output)
    elif w.base == "int16":
        SHORTS.get(op.function, _interpolated)(w, node, op, x, output)
    else:
        operator, inputs, options = FLOATS[op.function](Parts(w, node), x, *op.parameters)
        w.emit(operator, inputs, output, **options)


# -- GELU and SiLU -----------------------------------------------------------------------------------------------------


def _gelu(w: TfliteWriter, node: Node, op: Activation, x: str, output: str) -> None:
    form = w.gelu
    if form == "auto":
        exact = w.any_operator and op.function != "silu" and w.base != "int16"
        form = "table" if w.base == "int8" else "operator" if exact else "decomposed"
    if form == "operator" and op.function != "silu":
        if w.base == "int16":
            raise unsupported(node, "TFLite's GELU takes no int16", "use --gelu decomposed")
        w.emit("GELU", [x], output, approximate=op.function == "gelu_tanh")
    elif form == "table":
        _table(w, node, op, x, output)
    else:
        _decomposed(w, node, op.function, x, output)


def _decomposed(w: TfliteWriter, node: Node, function: Function, x: str, output: str) -> None:
    """x·σ(x), or x·σ(x·slope) with the slope a polynomial of x². Integers are 16 bits wide inside."""
    wide = w.wide
    if not w.is_float:
        x = w.widened(x, node)
    inner = x
    if function != "silu":
        saturates = None if w.is_float else LOGISTIC_INPUT
        inner = w.part("MUL", [x, _slope(w, node, function, x)], node, wide, saturates)
    share = w.part("LOGISTIC", [inner], node, wide, SOFTMAX_GRIDS.get(wide))
    if w.base == "int8":
        w.emit("QUANTIZE", [w.part("MUL", [x, share], node, wide)], output)
    else:
        w.emit("MUL", [x, share], output)


def _slope(w: TfliteWriter, node: Node, function: Function, x: str) -> str:
    """a + x²·(b + x²·c …), where x² stops at SQUARE_MAX: by saturation where it is an integer."""
    lowest, *higher = LOGISTIC_OF_GELU if function == "gelu" else LOGISTIC_OF_TANH_GELU
    wide, stops = w.wide, function == "gelu"
    square = w.part("MUL", [x, x], node, wide, SQUARE_GRID if stops and not w.is_float else None)
    if stops and w.is_float:
        square = w.part("MINIMUM", [square, w.real(node, "square_max", SQUARE_MAX)], node)
    slope = w.real(node, "factor", higher[-1], wide)
    for factor in (*higher[-2::-1], lowest):
        product = w.part("MUL", [square, slope], node, wide)
        slope = w.part("ADD", [product, w.real(node, "factor", factor, wide)], node, wide)
    return slope


# -- Tables ------------------------------------------------------------------------------------------------------------


def _table(w: TfliteWriter, node: Node, op: Activation, x: str, output: str) -> None:
    """The 256 results, picked by the input's integer: what the device's own table gives."""
    if w.base != "int8":
        raise unsupported(node, f"a table of every {w.base} is too large", "use --gelu decomposed")
    lowered = op.lower(w.graph.operands(node), w.graph.types[node.output])
    assert isinstance(lowered, LoweredTable) and lowered.output.quant is not None
    table = w.integers(node, "table", lowered.table, lowered.output.quant)
    number = w.part("CAST", [x], node, inDataType="int8", outDataType="int32")
    index = w.part("ADD", [number, w.numbers(node, "offset", [128])], node)
    w.emit("GATHER", [table, index], output, axis=0)


def _interpolated(w: TfliteWriter, node: Node, op: Activation, x: str, output: str) -> None:
    """⌊t[i] + (t[i+1] − t[i])·f + ½⌋ with i + f = x/128 + 256: what the device's interpolation gives, to the bit."""
    lowered = op.lower(w.graph.operands(node), w.graph.types[output])
    assert isinstance(lowered, LoweredInterpolatedTable) and lowered.output.quant is not None

    def part(operator: str, *inputs: str, **options: Any) -> str:
        return w.part(operator, list(inputs), node, "float32", **options)

    def number(wish: str, value: object) -> str:
        return w.floats(node, wish, np.atleast_1d(np.asarray(value)))

    width = 1 << SEGMENT_BITS
    table = lowered.table.astype(np.float64)
    place = part("MUL", part("CAST", x, inDataType="int16", outDataType="float32"), number("width", 1 / width))
    whole = part("FLOOR", place)
    fraction = part("SUB", place, whole)
    index = part("CAST", part("ADD", whole, number("middle", len(table) // 2)),
                 inDataType="float32", outDataType="int32")  # fmt: skip
    start = part("GATHER", number("table", table[:-1] + 0.5), index, axis=0)
    rise = part("GATHER", number("rises", np.diff(table)), index, axis=0)
    steps = part("FLOOR", part("ADD", part("MUL", rise, fraction), start))
    w.emit("QUANTIZE", [part("MUL", steps, number("scale", lowered.output.quant.per_tensor_scale))], output)


# -- int16 -------------------------------------------------------------------------------------------------------------


def _clip_short(w: TfliteWriter, node: Node, op: Activation, x: str, output: str) -> None:
    """On the grid of the output first: MAXIMUM and MINIMUM compare integers."""
    grid, (low, high) = w.graph.types[output].quant, op.parameters
    moved = w.part("QUANTIZE", [x], node, grid=grid)
    above = w.part("MAXIMUM", [moved, w.real(node, "low", low, "int16", grid)], node, grid=grid)
    w.emit("MINIMUM", [above, w.real(node, "high", high, "int16", grid)], output)


def _leaky_short(w: TfliteWriter, node: Node, op: Activation, x: str, output: str) -> None:
    w.emit("LEAKY_RELU", [x], output, alpha=op.parameters[0])


def _absolute_short(w: TfliteWriter, node: Node, op: Activation, x: str, output: str) -> None:
    w.emit("ABS", [x], output)


SHORTS: dict[str, Callable[[TfliteWriter, Node, Activation, str, str], None]] = {
    "absolute": _absolute_short,
    "clip": _clip_short,
    "leaky_relu": _leaky_short,
}
"""Functions of int16 that TFLite Micro has an operator for; the others are tables."""


# -- float32 -----------------------------------------------------------------------------------------------------------


def _elu(p: Parts, x: str, alpha: float) -> Last:
    if alpha == 1:
        return p.last("ELU", x)
    return p.last("ADD", p("RELU", x), p("MUL", p("ELU", p("MINIMUM", x, 0.0)), alpha))


def _celu(p: Parts, x: str, alpha: float) -> Last:
    if alpha == 0:
        raise unsupported(p.node, "the alpha of celu is 0, which it divides by", "export the model with relu")
    below = p("ELU", p("MINIMUM", p("MUL", x, 1 / alpha), 0.0))
    return p.last("ADD", p("RELU", x), p("MUL", below, alpha))


def _selu(p: Parts, x: str, alpha: float, gamma: float) -> Last:
    below = p("MUL", p("ELU", p("MINIMUM", x, 0.0)), alpha * gamma)
    return p.last("ADD", p("MUL", p("RELU", x), gamma), below)


def _clip(p: Parts, x: str, low: float, high: float) -> Last:
    if (low, high) == (0, 6):
        return p.last("RELU6", x)
    return p.last("MINIMUM", p("MAXIMUM", x, low), high)


def _softplus(p: Parts, x: str) -> Last:
    """max(x, 0) + log(1 + e^−|x|), which nothing overflows in."""
    small = p("EXP", p("MUL", p("ABS", x), -1.0))
    return p.last("ADD", p("RELU", x), p("LOG", p("ADD", small, 1.0)))


def _mish(p: Parts, x: str) -> Last:
    operator, inputs, _ = _softplus(p, x)
    return p.last("MUL", x, p("TANH", p(operator, *inputs)))


def _hard_sigmoid(p: Parts, x: str, slope: float, middle: float) -> Last:
    return _clip(p, p("ADD", p("MUL", x, slope), middle), 0.0, 1.0)


def _error_function(p: Parts, x: str) -> Last:
    size = p("ABS", x)
    t = p("DIV", p.w.real(p.node, "factor", np.ones(p.w.shape(x))), p("ADD", p("MUL", size, ERF_RATE), 1.0))
    sum_ = p("MUL", t, ERF_FACTORS[0])
    for factor in ERF_FACTORS[1:]:
        sum_ = p("MUL", p("ADD", sum_, factor), t)
    rest = p("MUL", sum_, p("EXP", p("MUL", p("MUL", x, x), -1.0)))
    above = p("ADD", p("MUL", rest, -1.0), 1.0)
    return p.last("SELECT_V2", p("LESS", x, 0.0), p("MUL", above, -1.0), above)


def _reciprocal(p: Parts, x: str) -> Last:
    return p.last("DIV", 1.0, x)


FLOATS: dict[str, Callable[..., Last]] = {
    "absolute": lambda p, x: p.last("ABS", x),
    "celu": _celu,
    "clip": _clip,
    "elu": _elu,
    "error_function": _error_function,
    "exponential": lambda p, x: p.last("EXP", x),
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": lambda p, x: p.last("HARD_SWISH", x),
    "leaky_relu": lambda p, x, slope: p.last("LEAKY_RELU", x, alpha=slope),
    "logarithm": lambda p, x: p.last("LOG", x),
    "mish": _mish,
    "reciprocal": _reciprocal,
    "selu": _selu,
    "softplus": _softplus,
    "softsign": lambda p, x: p.last("DIV", x, p("ADD", p("ABS", x), 1.0)),
    "square_root": lambda p, x: p.last("SQRT", x),
    "swish": lambda p, x, rate: p.last("MUL", x, p("LOGISTIC", p("MUL", x, rate))),
}
"""Function → its steps on floats: (inner values, x, the function's parameters)."""
