"""Convolutions as Patches and Linear or as DepthwiseConv, channels last; and what keeps channels last between them.

Files have channels first. Every operator on windows is written between two transpositions; those behind it sink below
operators on single elements and concatenations, and where they meet their inverse both are gone.
"""

from __future__ import annotations

import numpy as np

from picoformer.ir import Graph, Node, Operator
from picoformer.ir.operator import Array
from picoformer.ops import (
    Activation,
    Add,
    Concat,
    Conv,
    DepthwiseConv,
    Linear,
    Mul,
    Patches,
    ReduceMean,
    Reshape,
    Slice,
    Transpose,
    Window,
)
from picoformer.ops.window import CHANNELS_FIRST, CHANNELS_LAST
from picoformer.passes.layout import keeps_order, send_indices
from picoformer.passes.rewrite import Patch, Rule


def lower_conv(graph: Graph, node: Node) -> Patch | None:
    """One group: each window is a row that a Linear reads. A group per channel: DepthwiseConv, one for each output that
    a channel has. Other groups: one such Linear each, on their part of the channels."""
    op = node.op
    if not isinstance(op, Conv) or any(name not in graph.constants for name in node.inputs[1:]):
        return None
    weight = graph.constants[node.inputs[1]]
    bias = graph.constants[node.inputs[2]] if len(node.inputs) > 2 else None
    window, channels, outputs = op.window(weight.shape), graph.types[node.inputs[0]].shape[1], len(weight)
    patch = Patch(graph, node)
    image = patch.add(Transpose(CHANNELS_LAST), node.inputs[:1], "image")

    def constants(rows: slice, own: Array) -> list[str]:
        more = [] if bias is None else [patch.constant(bias[rows], "bias")]
        return [patch.constant(own, "weight"), *more]

    if op.groups == channels > 1:
        depthwise = DepthwiseConv(window.kernel, window.strides, window.dilations, window.pads)
        taps = weight.reshape(channels, outputs // channels, -1)
        parts = []
        for index in range(taps.shape[1]):
            rows = slice(index, None, taps.shape[1])
            parts.append(patch.add(depthwise, [image, *constants(rows, taps[:, index].T)], "depthwise"))
        y = parts[0]
        if len(parts) > 1:  # outputs of one channel are neighbours
            shape = patch.type_of(y).shape
            apart = [patch.add(Reshape((*shape, 1)), [part], "apart") for part in parts]
            y = patch.add(Reshape((*shape[:-1], outputs)), [patch.add(Concat(-1), apart, "beside")], "joined")
    else:
        own, size = channels // op.groups, outputs // op.groups
        parts = []
        for group in range(op.groups):
            rows = slice(group * size, (group + 1) * size)
            x = image
            if op.groups > 1:
                x = patch.add(Slice(-1, group * own, (group + 1) * own), [image], "group")
            if window != Patches((1, 1)):
                x = patch.add(window, [x], "patches")
            names = constants(rows, weight[rows].transpose(0, 2, 3, 1).reshape(size, -1))
            parts.append(patch.add(Linear(), [x, *names], "linear"))
        y = parts[0] if len(parts) == 1 else patch.add(Concat(-1), parts, "groups")
    return patch.finish(Transpose(CHANNELS_FIRST), [y])


def _moves_above(graph: Graph, name: str) -> tuple[str, tuple[Operator, ...]] | None:
    """(value, moves) where `name` is an image with its channels last, moved to have them first, maybe reshaped then."""
    ops: list[Operator] = []
    while (node := graph.producers.get(name)) is not None and isinstance(node.op, Reshape | Transpose):
        ops.insert(0, node.op)
        name = node.inputs[0]
        shape = graph.types[name].shape
        if len(shape) != 4:
            continue
        if isinstance(ops[0], Transpose) and ops[0].permutation == CHANNELS_FIRST:
            return name, tuple(ops)
        first = (shape[0], shape[3], shape[1], shape[2])
        if isinstance(ops[0], Reshape) and ops[0].shape == first and keeps_order(shape, [Transpose(CHANNELS_FIRST)]):
            return name, tuple(ops)
    return None


def _redo(patch: Patch, value: str, ops: tuple[Operator, ...]) -> Patch:
    """The moves `ops` of `value` as the output of the patch."""
    for op in ops[:-1]:
        value = patch.add(op, [value], "moved")
    return patch.finish(ops[-1], [value])


def _has_windows(graph: Graph) -> bool:
    return any(isinstance(node.op, Window) for node in graph.nodes)


def sink_below_elements(graph: Graph, node: Node) -> Patch | None:
    """An operator on single elements that reads what was moved is computed first, and its result is moved. A constant
    operand is moved back; one number per channel then is one per last index, as a bias is."""
    if not isinstance(node.op, Activation | Add | Mul) or not _has_windows(graph):
        return None
    names = graph.activations(node)
    found = [_moves_above(graph, name) for name in names]
    if found[0] is None or any(graph.types[name].shape != graph.types[node.output].shape for name in names):
        return None
    source, ops = found[0]
    shape = graph.types[source].shape
    operands = [source]
    for other in found[1:]:
        if other is None or other[1] != ops or graph.types[other[0]].shape != shape:
            return None
        operands.append(other[0])
    patch = Patch(graph, node)
    for name in node.inputs:
        if name in graph.constants:
            operands.append(patch.constant(_moved_back(graph.constants[name], shape, ops), "channels"))
    return _redo(patch, patch.add(node.op, operands, "image"), ops)


def _moved_back(constant: Array, shape: tuple[int, ...], ops: tuple[Operator, ...]) -> Array:
    """What has to stand beside a value of `shape` for `constant` to stand beside its moved elements; as small as it
    can be."""
    if constant.size == 1:
        return constant.reshape(())
    at = send_indices(shape, ops)
    full = np.empty(at.size, np.float32)
    full[at.reshape(-1)] = np.broadcast_to(constant, at.shape).reshape(-1)
    rows = full.reshape(-1, shape[-1])
    return rows[0] if (rows == rows[0]).all() else full.reshape(shape)


def mean_of_image(graph: Graph, node: Node) -> Patch | None:
    """Means and reshapes that together take the mean over all places of a moved image: one mean, rounded once. What
    they compute is seen on numbers drawn at random."""
    if not isinstance(node.op, ReduceMean) or len(node.inputs) > 1:
        return None
    ops: list[Operator] = []
    above: Node | None = node
    while above is not None and isinstance(above.op, ReduceMean | Reshape) and len(above.inputs) == 1:
        ops.insert(0, above.op)
        above = graph.producers.get(above.inputs[0])
    if above is None or not isinstance(above.op, Transpose) or above.op.permutation != CHANNELS_FIRST:
        return None
    n, height, width, channels = graph.types[above.inputs[0]].shape
    drawn = np.random.default_rng(0).normal(size=(n, height, width, channels)).astype(np.float32)
    found = above.op.compute(drawn)
    for op in ops:
        found = op.compute(found)
    if found.size != n * channels or not np.allclose(found.reshape(n, channels), drawn.mean(axis=(1, 2)), atol=1e-5):
        return None
    patch = Patch(graph, node)
    flat = patch.add(Reshape((n, height * width, channels)), above.inputs, "flat")
    mean = patch.add(ReduceMean(-2, True), [flat], "mean")
    return patch.finish(Reshape(graph.types[node.output].shape), [mean])


def sink_below_channels(graph: Graph, node: Node) -> Patch | None:
    """Channels cut out of a moved image, or put beside those of others: of the images where they come from."""
    op = node.op
    if not isinstance(op, Concat | Slice) or op.axis != -3 or (isinstance(op, Slice) and not op.keep):
        return None
    above = [graph.producers.get(name) for name in node.inputs]
    sources = [
        each.inputs[0]
        for each in above
        if each is not None and isinstance(each.op, Transpose) and each.op.permutation == CHANNELS_FIRST
    ]
    if len(sources) < len(node.inputs) or not _has_windows(graph):
        return None
    moved = Concat(-1) if isinstance(op, Concat) else Slice(-1, op.start, op.stop, op.step)
    patch = Patch(graph, node)
    return patch.finish(Transpose(CHANNELS_FIRST), [patch.add(moved, sources, "image")])


def sink_into_weight(graph: Graph, node: Node) -> Patch | None:
    """A Linear that reads all of a moved image has its columns in the image's order instead."""
    if not isinstance(node.op, Linear) or node.inputs[1] not in graph.constants or not _has_windows(graph):
        return None
    found = _moves_above(graph, node.inputs[0])
    if found is None:
        return None
    source, ops = found
    shape, read = graph.types[source].shape, graph.types[node.inputs[0]]
    if read.rows != shape[0] or keeps_order(shape, ops):
        return None
    at = send_indices((1, *shape[1:]), [Transpose(CHANNELS_FIRST)]).reshape(-1)
    weight = np.empty_like(graph.constants[node.inputs[1]])
    weight[:, at] = graph.constants[node.inputs[1]]
    if not all(isinstance(op, Reshape) for op in ops[1:]):
        return None
    patch = Patch(graph, node)
    flat = patch.add(Reshape(read.shape), [source], "flat")
    return patch.finish(Linear(), [flat, patch.constant(weight, "weight"), *node.inputs[2:]])


def merge_pads(graph: Graph, node: Node) -> Patch | None:
    """Zeros put around an image that Patches or DepthwiseConv reads are pads of theirs."""
    op, above = node.op, graph.producers.get(node.inputs[0]) if node.inputs else None
    if not isinstance(op, Patches | DepthwiseConv) or above is None or not isinstance(above.op, Patches):
        return None
    if above.op.taps != 1 or above.op.strides != (1, 1):
        return None
    top, left, bottom, right = (a + b for a, b in zip(op.pads, above.op.pads, strict=True))
    wider = type(op)(op.kernel, op.strides, op.dilations, (top, left, bottom, right))
    return Patch(graph, node).finish(wider, [above.inputs[0], *node.inputs[1:]])


CONVOLUTION: tuple[Rule, ...] = (
    lower_conv,
    sink_below_elements,
    mean_of_image,
    sink_below_channels,
    sink_into_weight,
    merge_pads,
)
"""The rules above: transpositions only ever move towards the outputs."""
