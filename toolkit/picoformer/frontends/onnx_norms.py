"""Normalizations of ONNX and of onnxruntime: LayerNormalization, RMSNormalization, and those with a sum in front."""

from __future__ import annotations

import math

import numpy as np

from picoformer.frontends.onnx_builder import Converter, NodeReader
from picoformer.ir import Operator
from picoformer.ops import Add, Embedding, LayerNorm, Mul, ReduceMean, Reshape, RmsNorm, Unary


def _wanted(node: NodeReader, index: int) -> str:
    """The name of output `index` when something reads it, else nothing."""
    outputs = node.node.output
    return str(outputs[index]) if len(outputs) > index and node.builder.is_read(outputs[index]) else ""


def _normalize(node: NodeReader, x: str, axis: int, gain: int, bias: int | None, centred: bool, epsilon: float) -> None:
    """The node's output: x over its axes from `axis` on, with the gain and bias that inputs hold, if they are there."""
    shape = node.builder.type_of(x).shape
    width = math.prod(shape[axis:])
    names = []
    if node.has_input(gain):
        names.append(_parameters(node, gain, shape[axis:], "gain"))
    if centred:
        has_bias = bias is not None and node.has_input(bias)
        if bias is not None and has_bias:
            names.append(_parameters(node, bias, shape[axis:], "bias"))
        elif names:
            names.append(node.constant(np.zeros(width, np.float32), "bias"))
    op: Operator = LayerNorm(epsilon) if centred else RmsNorm(epsilon)
    flat = node.reshaped(x, (*shape[:axis], width), "rows")
    if axis == -1:
        node.finish(op, [flat, *names])
    else:
        node.finish(Reshape(shape), [node.step(op, [flat, *names], "normalized")])


def _parameters(node: NodeReader, index: int, shape: tuple[int, ...], role: str) -> str:
    """A constant input as one number for each element of a row."""
    values, width = node.array(index), math.prod(shape)
    if values.shape == (width,):
        return str(node.inputs[index])
    return node.constant(np.broadcast_to(values, shape).reshape(width), role)


def _statistics(node: NodeReader, x: str, axis: int, mean: str, deviation: str, centred: bool, epsilon: float) -> None:
    """The outputs that hold the mean and 1/√(variance + epsilon) of x, where something reads them."""
    shape = node.builder.type_of(x).shape
    kept = (*shape[:axis], *(1 for _ in shape[axis:]))
    flat = node.reshaped(x, (*shape[:axis], math.prod(shape[axis:])), "measured")
    average = node.step(ReduceMean(-1, True), [flat], "average")
    if mean:
        node.finish(Reshape(kept), [average], mean)
    if deviation:
        if centred:
            minus = node.step(Mul(), [average, node.constant(np.array(-1, np.float32), "minus_one")], "minus")
            flat = node.step(Add(), [flat, minus], "centred")
        square = node.step(Mul(), [flat, flat], "square")
        variance = node.step(ReduceMean(-1, True), [square], "variance")
        total = node.step(Add(), [variance, node.constant(np.array(epsilon, np.float32), "epsilon")], "total")
        root = node.step(Unary("sqrt"), [total], "root")
        inverse = node.step(Unary("reciprocal"), [root], "inverse")
        node.finish(Reshape(kept), [inverse], deviation)


def layer_normalization(node: NodeReader) -> None:
    """LayerNormalization over the last axis, or over several as one."""
    axis, epsilon = node.axis(node.attribute("axis", -1), node.type().rank), float(node.attribute("epsilon", 1e-5))
    mean, deviation = _wanted(node, 1), _wanted(node, 2)
    if mean or deviation:
        _statistics(node, node.inputs[0], axis, mean, deviation, True, epsilon)
    _normalize(node, node.inputs[0], axis, 1, 2, True, epsilon)


def rms_normalization(node: NodeReader) -> None:
    """RMSNormalization-23, and onnxruntime's SimplifiedLayerNormalization, which gives 1/√(mean(x²) + epsilon) too."""
    axis, epsilon = node.axis(node.attribute("axis", -1), node.type().rank), float(node.attribute("epsilon", 1e-5))
    if deviation := _wanted(node, 1):
        _statistics(node, node.inputs[0], axis, "", deviation, False, epsilon)
    _normalize(node, node.inputs[0], axis, 1, None, False, epsilon)


def skip_normalization(centred: bool) -> Converter:
    """input + skip (+ bias), normalized: SkipLayerNormalization, SkipSimplifiedLayerNormalization."""

    def convert(node: NodeReader) -> None:
        last = 4 if centred else 3
        if _wanted(node, 1) or _wanted(node, 2):
            raise node.unsupported("gives its mean or deviation too", "drop those outputs")
        biased = node.inputs[:1]
        if node.has_input(last):
            biased = [node.step(Add(), [node.inputs[0], node.inputs[last]], "biased")]
        total = node.builder.fresh(f"{node.output}_sum")
        if len(node.node.output) > 3 and node.node.output[3]:
            total = node.node.output[3]
        node.builder.add(node.label, Add(), node.aligned([*biased, node.inputs[1]]), total)
        epsilon = float(node.attribute("epsilon", 1e-12 if centred else 1e-6))
        _normalize(node, total, -1, 2, 3 if centred else None, centred, epsilon)

    return convert


def embed_layer_normalization(node: NodeReader) -> None:
    """Word, position and segment embeddings added and normalized."""
    if _wanted(node, 1):
        raise node.unsupported("gives the lengths of its mask", "drop that output, or mask the attention itself")
    _, rows = node.type().shape
    words = node.step(Embedding(), [node.inputs[0], node.inputs[2]], "words")
    positions = node.array(8).astype(np.int64) if node.has_input(8) else np.arange(rows)[None]
    places = node.array(3)[positions]
    total = node.step(Add(), [words, node.constant(np.asarray(places, np.float32), "positions")], "placed")
    if node.has_input(1) and node.has_input(4):
        segments = node.step(Embedding(), [node.inputs[1], node.inputs[4]], "segments")
        total = node.step(Add(), node.aligned([total, segments]), "sum")
    if len(node.node.output) > 2 and node.node.output[2]:
        node.builder.alias(node.node.output[2], total)
    _normalize(node, total, -1, 5, 6, True, float(node.attribute("epsilon", 1e-12)))


def group_normalization(node: NodeReader) -> None:
    """GroupNormalization and InstanceNormalization: groups of channels normalized with all that lies behind them. Gain
    and bias are per channel, in opset 18 per group."""
    shape = node.type().shape
    groups = int(node.attribute("num_groups", shape[1]))
    if groups < 1 or shape[1] % groups:
        raise node.unsupported(f"makes {groups} groups of {shape[1]} channels", "the first must divide the second")
    flat = node.step(Reshape((shape[0], groups, math.prod(shape[1:]) // groups)), node.inputs[:1], "groups")
    value = node.step(LayerNorm(float(node.attribute("epsilon", 1e-5))), [flat], "normalized")
    value = node.step(Reshape((shape[0], shape[1], math.prod(shape[2:]))), [value], "channels")
    pair = []
    for index in (1, 2):
        numbers = node.array(index).astype(np.float32).reshape(-1)
        per_channel = np.repeat(numbers, shape[1] // numbers.size).reshape(shape[1], 1)
        pair.append(node.constant(per_channel, "gain" if index == 1 else "bias"))
    value = node.step(Mul(), [value, pair[0]], "scaled")
    node.finish(Reshape(shape), [node.step(Add(), [value, pair[1]], "shifted")])


CONVERTERS: dict[str, Converter] = {
    "GroupNormalization": group_normalization,
    "InstanceNormalization": group_normalization,
    "LayerNormalization": layer_normalization,
    "RMSNormalization": rms_normalization,
    "com.microsoft.EmbedLayerNormalization": embed_layer_normalization,
    "com.microsoft.SimplifiedLayerNormalization": rms_normalization,
    "com.microsoft.SkipLayerNormalization": skip_normalization(centred=True),
    "com.microsoft.SkipSimplifiedLayerNormalization": skip_normalization(centred=False),
}
