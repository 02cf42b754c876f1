"""Operators on windows and functions of one number to write as TFLite: graphs with output y."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphs import Builder
from picoformer.ops import Activation, Add, AveragePool, DepthwiseConv, MaxPool, Patches, Window

FUNCTION_CASES: dict[str, tuple[tuple[float, ...], float | None]] = {
    "absolute": ((), None), "celu": ((0.7,), None), "clip": ((0.0, 6.0), None), "elu": ((1.0,), None),
    "error_function": ((), None), "exponential": ((), None), "hard_sigmoid": ((0.2, 0.5), None),
    "hard_swish": ((), None), "leaky_relu": ((0.1,), None), "logarithm": ((), 0.5), "mish": ((), None),
    "reciprocal": ((), 0.5), "selu": ((1.67, 1.05), None), "softplus": ((), None), "softsign": ((), None),
    "square_root": ((), 0.5), "swish": ((1.4,), None),
}  # fmt: skip
"""Function → its parameters, and what is added to a logistic that it is taken of where its inputs must be positive."""


def function(name: str, parameters: tuple[float, ...], least: float | None) -> Callable[[Builder], str]:
    """A function of an input, or of a logistic of it plus `least`."""

    def build(b: Builder) -> str:
        x = b.input("x", 5, 12)
        if least is not None:
            share = b.node(Activation("sigmoid"), x, name="share")
            x = b.node(Add(), share, b.constant("least", np.array(least)), name="above")
        return b.node(Activation(name, parameters), x, name="y")  # type: ignore[arg-type]

    return build


def _window(op: Window, *image: int, bias: bool = True) -> Callable[[Builder], str]:
    """`op` over an image; patches are multiplied by a Linear."""

    def build(b: Builder) -> str:
        x = b.input("x", *image)
        if isinstance(op, Patches):
            return b.linear(b.node(op, x, name="cut"), 5, "y", bias=bias)
        constants = []
        if isinstance(op, DepthwiseConv):
            constants = [b.constant("weight", shape=(op.taps, image[-1]))]
            constants += [b.constant("bias", shape=(image[-1],))] if bias else []
        return b.node(op, x, *constants, name="y")

    return build


WINDOW_CASES: dict[str, Callable[[Builder], str]] = {
    "conv_same": _window(Patches((3, 3), (1, 1), (1, 1), (1, 1, 1, 1)), 1, 6, 7, 3),
    "conv_strided": _window(Patches((3, 3), (2, 2), (1, 1), (1, 1, 1, 1)), 2, 8, 8, 3),
    "conv_valid": _window(Patches((2, 3), (1, 2)), 6, 7, 3, bias=False),
    "conv_apart": _window(Patches((3, 2), (1, 1), (2, 3), (2, 1, 1, 3)), 1, 2, 6, 7, 3),
    "conv_wide": _window(Patches((4, 4)), 1, 6, 6, 40),
    "patches": lambda b: b.node(Patches((3, 4), (1, 2), (1, 1), (1, 0, 2, 1)), b.input("x", 6, 7, 3), name="y"),
    "patches_read_twice": lambda b: b.node(
        Add(), b.linear(b.node(Patches((2, 2)), b.input("x", 1, 4, 4, 3), name="cut"), 12, "h"), "cut", name="y"
    ),
    "depthwise_same": _window(DepthwiseConv((3, 3), (1, 1), (1, 1), (1, 1, 1, 1)), 1, 6, 7, 5),
    "depthwise_pads": _window(DepthwiseConv((3, 2), (2, 1), (1, 1), (0, 1, 2, 1)), 6, 7, 5, bias=False),
    "depthwise_apart": _window(DepthwiseConv((3, 3), (1, 1), (2, 2), (2, 2, 2, 2)), 2, 6, 7, 5),
    "max_same": _window(MaxPool((3, 3), (2, 2), (1, 1), (1, 1, 1, 1)), 1, 7, 7, 5),
    "max_pads": _window(MaxPool((3, 3), (2, 2), (1, 1), (1, 1, 1, 1)), 2, 8, 8, 5),
    "max_apart": _window(MaxPool((2, 3), (1, 1), (2, 2), (1, 2, 1, 2)), 6, 7, 5),
    "mean_same": _window(AveragePool((3, 3), (1, 1), (1, 1), (1, 1, 1, 1)), 1, 6, 7, 5),
    "mean_valid": _window(AveragePool((2, 2), (2, 2)), 2, 6, 8, 5),
    "mean_pads": _window(AveragePool((3, 3), (2, 2), (1, 1), (2, 1, 0, 2)), 6, 8, 5),
    "mean_counted": _window(AveragePool((3, 3), (2, 2), (1, 1), (1, 1, 1, 1), True), 1, 8, 8, 5),
    "mean_apart": _window(AveragePool((3, 2), (1, 1), (2, 2), (1, 1, 1, 1), True), 1, 8, 8, 5),
}
"""Operator and form → a graph of it with output y."""
