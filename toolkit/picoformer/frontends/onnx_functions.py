"""ONNX operators that are a function of one number with parameters: activations, clips, limits."""

from __future__ import annotations

import math

import numpy as np

from picoformer.frontends.onnx_builder import Converter, NodeReader
from picoformer.ir import DType
from picoformer.ops import Activation, Add, Binary, Mul, Reshape
from picoformer.ops.functions import Function

LARGEST = float(np.finfo(np.float32).max)
"""What stands for infinity in a clip."""


def function(name: Function, **defaults: float) -> Converter:
    """An operator whose attributes are the parameters of a function: their names with what they are when left out."""

    def convert(node: NodeReader) -> None:
        _check_real(node)
        numbers = tuple(float(node.attribute(key, default)) for key, default in defaults.items())
        node.finish(Activation(name, numbers), node.inputs[:1])

    return convert


def _check_real(node: NodeReader) -> None:
    for index, name in enumerate(node.inputs):
        if name and not node.builder.is_constant(name) and node.type(index).dtype is not DType.FLOAT32:
            raise node.unsupported(f"computes with {node.type(index).dtype.value}", "cast its operands to float first")


def hard_sigmoid(node: NodeReader) -> None:
    """HardSigmoid: its slope is called alpha, its middle beta."""
    numbers = float(node.attribute("alpha", 0.2)), float(node.attribute("beta", 0.5))
    node.finish(Activation("hard_sigmoid", numbers), node.inputs)


def clip(node: NodeReader) -> None:
    """Clip: ReLU where it is a clip to [0, ∞), nothing where it cuts nothing. Before opset 11 limits are attributes."""
    low, high = (
        float(node.array(index).reshape(-1)[0]) if node.has_input(index) else float(node.attribute(key, default))
        for index, key, default in ((1, "min", -math.inf), (2, "max", math.inf))
    )
    limit(node, node.inputs[0], max(low, -LARGEST), min(high, LARGEST))


def limit(node: NodeReader, x: str, low: float, high: float) -> None:
    """The node's output: x within [low, high]; with low > high it is high, as ONNX has it."""
    if math.isnan(low) or math.isnan(high):
        raise node.unsupported("clips to limits that are no numbers", "export them again")
    low = min(low, high)
    if high >= LARGEST and low <= -LARGEST:
        node.builder.alias(node.output, x)
    elif high >= LARGEST and low == 0:
        node.finish(Activation("relu"), [x])
    else:
        node.finish(Activation("clip", (low, high)), [x])


def prelu(node: NodeReader) -> None:
    """PRelu with constant slopes: one slope is a leaky ReLU; several are slope·x + (1 − slope)·relu(x)."""
    slope = node.array(1).astype(np.float64)
    if slope.size == 1 or (slope == slope.reshape(-1)[0]).all():
        node.finish(Activation("leaky_relu", (float(slope.reshape(-1)[0]),)), node.inputs[:1])
        return
    own, rest = (
        node.constant(value.astype(np.float32), role) for value, role in ((slope, "slope"), (1 - slope, "rest"))
    )
    line = node.step(Mul(), [node.inputs[0], own], "line")
    positive = node.step(Activation("relu"), node.inputs[:1], "positive")
    node.finish(Add(), [line, node.step(Mul(), [positive, rest], "bent")])


def extreme(is_largest: bool) -> Converter:
    """Max or Min of any operands: limits where one is a single number, else a + relu(b − a) or a − relu(a − b)."""

    def convert(node: NodeReader) -> None:
        _check_real(node)
        names = sorted(node.aligned(node.inputs), key=node.builder.is_constant)
        value = names[0]
        for other in names[1:]:
            known = node.builder.known.get(node.builder.resolve(other))
            if known is not None and known.size == 1 and not node.builder.is_constant(value):
                number = float(known.reshape(-1)[0])
                ends = (max(number, -LARGEST), LARGEST) if is_largest else (-LARGEST, min(number, LARGEST))
                op = Activation("relu") if ends == (0.0, LARGEST) else Activation("clip", ends)
                value = node.step(op, [value], "limited")
            else:
                order = [other, value] if is_largest else [value, other]
                beyond = node.step(Activation("relu"), [node.step(Binary("sub"), order, "difference")], "beyond")
                value = node.step(Add() if is_largest else Binary("sub"), [value, beyond], "extreme")
        node.finish(Reshape(node.builder.type_of(value).shape), [value])

    return convert


def total(is_mean: bool) -> Converter:
    """Sum or Mean of any operands."""

    def convert(node: NodeReader) -> None:
        names = node.aligned(node.inputs)
        value = names[0]
        for other in names[1:]:
            value = node.step(Add(), [value, other], "sum")
        if is_mean and len(names) > 1:
            value = node.step(Mul(), [value, node.constant(np.array(1 / len(names), np.float32), "share")], "mean")
        node.finish(Reshape(node.builder.type_of(value).shape), [value])

    return convert


FUNCTIONS: dict[str, Converter] = {
    "Abs": function("absolute"),
    "Celu": function("celu", alpha=1.0),
    "Clip": clip,
    "Elu": function("elu", alpha=1.0),
    "HardSigmoid": hard_sigmoid,
    "HardSwish": function("hard_swish"),
    "LeakyRelu": function("leaky_relu", alpha=0.01),
    "Log": function("logarithm"),
    "Max": extreme(is_largest=True),
    "Mean": total(is_mean=True),
    "Min": extreme(is_largest=False),
    "Mish": function("mish"),
    "PRelu": prelu,
    "Selu": function("selu", alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),
    "Softplus": function("softplus"),
    "Softsign": function("softsign"),
    "Sum": total(is_mean=False),
    "Swish": function("swish", alpha=1.0),
}
"""ONNX operator → its converter."""
