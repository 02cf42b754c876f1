"""Linear in builtin operators, and the weights and biases of whatever multiplies an activation with constants."""

from __future__ import annotations

import numpy as np

from picoformer.backends.tflite.writer import TfliteWriter, unsupported
from picoformer.ir import DType, Node, QuantParams
from picoformer.ops import Linear

GAIN_FREE = 1e-6
"""Multipliers this close are the same to within a thirtieth of an int16 step."""


def linear(w: TfliteWriter, node: Node, op: Linear, output: str) -> None:
    """FULLY_CONNECTED over the last axis."""
    x, name = node.inputs[:2]
    check_weight(w, node)
    grid = weight_grid(w, node, op)
    same = grid == w.graph.types[name].quant
    weight = w.read(name) if grid is None or same else w.integers(node, name, w.graph.constants[name], grid)
    w.emit("FULLY_CONNECTED", [w.read(x), weight, *bias(w, node)], output, keepNumDims=True)


def check_weight(w: TfliteWriter, node: Node) -> None:
    """Raise UnsupportedError for a weight that is computed, or of a type that TFLite does not multiply with."""
    weight = node.inputs[1]
    type_ = w.graph.types[weight]
    if weight not in w.graph.constants:
        raise unsupported(node, f"its weight '{weight}' is computed", "export the model with constant weights")
    if type_.quant is not None and type_.dtype is not DType.INT8:
        what = f"its weight '{weight}' is {type_.dtype.name.lower()}"
        raise unsupported(node, what, "TFLite takes int8 weights: leave out a budget and wide weights")


def weight_grid(w: TfliteWriter, node: Node, op: Linear) -> QuantParams | None:
    """The grid of the weight, one scale a row; a little off where the device's multipliers are, as those of a tied
    table may be. None for floats."""
    quant = w.graph.types[node.inputs[1]].quant
    if quant is None:
        return None
    gain = op.lower(w.graph.operands(node), w.graph.types[node.output]).gain
    if np.abs(gain - 1).max(initial=0) < GAIN_FREE:
        return quant
    scales = np.broadcast_to(np.asarray(quant.scale, np.float64), gain.shape) * gain
    return QuantParams(tuple(scales.tolist()), 0, -2)


def bias(w: TfliteWriter, node: Node) -> list[str]:
    """The bias of a node where it has one, on the grid of the products: int32, or int64 where activations are int16."""
    if len(node.inputs) < 3:
        return []
    name = node.inputs[2]
    grid = product_grid(w, node)
    return [w.read(name) if grid is None else whole_bias(w, node, w.graph.constants[name], grid)]


def product_grid(w: TfliteWriter, node: Node) -> QuantParams | None:
    """The grid of the products of a node's first two inputs; None for floats."""
    x, weight = (w.graph.types[other].quant for other in node.inputs[:2])
    if x is None or weight is None:
        return None
    scales = np.asarray(weight.scale, np.float64) * x.per_tensor_scale
    return QuantParams(tuple(scales.tolist()), 0, None if len(scales) == 1 else -1)


def whole_bias(w: TfliteWriter, node: Node, value: np.ndarray, grid: QuantParams) -> str:
    """Integers in the type that biases have."""
    return w.integers(node, "bias", value.astype(np.int64 if w.base == "int16" else np.int32), grid)
