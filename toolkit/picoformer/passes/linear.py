"""Everything that is a Linear: products with a constant matrix, biases, patches, slices of one, scalars around one."""

from __future__ import annotations

import numpy as np

from picoformer.ir import Graph, Node
from picoformer.ir.operator import Array
from picoformer.ops import (
    Add,
    Conv,
    DepthwiseConv,
    Embedding,
    LayerNorm,
    Linear,
    MatMul,
    Mul,
    Patches,
    Reshape,
    Slice,
    Transpose,
)
from picoformer.passes.expression import constant_operand
from picoformer.passes.rewrite import Patch, Rule


def per_channel(constant: Array, width: int) -> Array | None:
    """A constant as float64 (width,) when it is one number or one per last index; else None."""
    if constant.size == 1 or (constant.size == width and constant.shape[-1] == width):
        return np.broadcast_to(constant.reshape(-1).astype(np.float64), (width,))
    return None


def _channel_operand(graph: Graph, node: Node) -> tuple[Node, Array] | None:
    """(producer of the activation, constant per channel) of an Add or Mul that changes no shape."""
    found = constant_operand(graph, node)
    if found is None or graph.types[found[0]].shape != graph.types[node.output].shape:
        return None
    inner = graph.producers.get(found[0])
    constant = per_channel(found[1], graph.types[node.output].width)
    if inner is None or constant is None or not graph.is_used_once(found[0]):
        return None
    return inner, constant


def matmul_to_linear(graph: Graph, node: Node) -> Patch | None:
    """x · B with a constant matrix B (K, N) is a Linear with weight Bᵀ."""
    if not isinstance(node.op, MatMul) or node.inputs[1] not in graph.constants or node.inputs[0] in graph.constants:
        return None
    matrix = graph.constants[node.inputs[1]]
    if matrix.size != matrix.shape[-1] * matrix.shape[-2]:
        return None
    patch = Patch(graph, node)
    weight = patch.constant(matrix.reshape(matrix.shape[-2:]).T, "weight")
    shape = graph.types[node.output].shape
    if len(shape) == graph.types[node.inputs[0]].rank:
        return patch.finish(Linear(), [node.inputs[0], weight])
    return patch.finish(Reshape(shape), [patch.add(Linear(), [node.inputs[0], weight], "rows")])


def add_to_bias(graph: Graph, node: Node) -> Patch | None:
    """Linear or DepthwiseConv + constant per channel: a bias. The same for the bias of a LayerNorm."""
    if not isinstance(node.op, Add):
        return None
    found = _channel_operand(graph, node)
    if found is None or not isinstance(found[0].op, (Linear, DepthwiseConv, LayerNorm)):
        return None
    inner, bias = found
    patch = Patch(graph, node)
    if isinstance(inner.op, LayerNorm):
        if len(inner.inputs) == 1:
            names = [inner.inputs[0], patch.constant(np.ones(bias.shape), "gain")]
        else:
            names, bias = list(inner.inputs[:2]), bias + graph.constants[inner.inputs[2]]
        return patch.finish(inner.op, [*names, patch.constant(bias, "bias")])
    if len(inner.inputs) == 3:
        if inner.inputs[2] not in graph.constants:  # integers that the file brings
            return None
        bias = bias + graph.constants[inner.inputs[2]]
    return patch.finish(inner.op, [*inner.inputs[:2], patch.constant(bias, "bias")])


def conv_to_linear(graph: Graph, node: Node) -> Patch | None:
    """Patches of an image: (n, c, R·h, C·w) → rows of c·h·w pixels → Linear → (n, m, R, C).

    For images that come with their channels first, as inputs do; other convolutions are in `convolution`."""
    if not isinstance(node.op, Conv) or any(name not in graph.constants for name in node.inputs[1:]):
        return None
    if not (_cuts_patches(graph, node) and _is_moved_input(graph, node.inputs[0])):
        return None
    weight = graph.constants[node.inputs[1]]
    m, c, h, w = weight.shape
    n, _, rows, columns = graph.types[node.output].shape
    patch = Patch(graph, node)
    cut = patch.add(Reshape((n, c, rows, h, columns, w)), node.inputs[:1], "cut")
    moved = patch.add(Transpose((-6, -4, -2, -5, -3, -1)), [cut], "patches")
    pixels = patch.add(Reshape((n, rows * columns, c * h * w)), [moved], "pixels")
    y = patch.add(Linear(), [pixels, patch.constant(weight.reshape(m, -1), "weight"), *node.inputs[2:]], "linear")
    channels_first = patch.add(Transpose((-3, -1, -2)), [y], "channels")
    return patch.finish(Reshape((n, m, rows, columns)), [channels_first])


def _cuts_patches(graph: Graph, node: Node) -> bool:
    """Whether the windows of a Conv lie side by side and cover the image."""
    op, image, weight = node.op, graph.types[node.inputs[0]].shape, graph.types[node.inputs[1]].shape
    assert isinstance(op, Conv)
    window = op.window(weight)
    covers = all(size % kernel == 0 for size, kernel in zip(image[2:], window.kernel, strict=True))
    return window == Patches(window.kernel, window.kernel) and op.groups == 1 and covers


def _is_moved_input(graph: Graph, name: str) -> bool:
    while name in graph.producers and isinstance(graph.producers[name].op, Reshape | Transpose):
        name = graph.producers[name].inputs[0]
    return name in graph.inputs


def slice_weights(graph: Graph, node: Node) -> Patch | None:
    """Channels cut out of a Linear are a smaller Linear, when nothing needs all of its channels."""
    if not _is_channel_slice(node):
        return None
    inner = graph.producers.get(node.inputs[0])
    if inner is None or not isinstance(inner.op, Linear) or inner.output in graph.outputs:
        return None
    if any(name not in graph.constants for name in inner.inputs[1:]):
        return None
    if not all(_is_channel_slice(consumer) for consumer in graph.consumers[inner.output]):
        return None
    op = node.op
    assert isinstance(op, Slice)
    chosen = np.arange(op.start, op.stop, op.step)
    patch = Patch(graph, node)
    return patch.finish(Linear(), [inner.inputs[0], *chosen_rows(graph, patch, inner, chosen, "")])


def _is_channel_slice(node: Node) -> bool:
    return isinstance(node.op, Slice) and node.op.axis == -1 and node.op.keep


def chosen_rows(graph: Graph, patch: Patch, linear: Node, rows: Array, role: str) -> list[str]:
    """Weight and bias of a Linear that gives only some output channels, in the order of `rows`."""
    prefix = f"{role}_" if role else ""
    names = [patch.constant(graph.constants[linear.inputs[1]][rows], f"{prefix}weight")]
    if len(linear.inputs) == 3:
        names.append(patch.constant(graph.constants[linear.inputs[2]][rows], f"{prefix}bias"))
    return names


def scale_into_producer(graph: Graph, node: Node) -> Patch | None:
    """A factor per channel behind a Linear, DepthwiseConv, Embedding or LayerNorm goes into its weights."""
    if not isinstance(node.op, Mul):
        return None
    found = _channel_operand(graph, node)
    if found is None:
        return None
    inner, factor = found
    if any(name not in graph.constants for name in inner.inputs[1:]):
        return None
    patch = Patch(graph, node)
    stored = [graph.constants[name].astype(np.float64) for name in inner.inputs[1:]]
    if isinstance(inner.op, Linear):
        scaled = [stored[0] * factor[:, None], *(bias * factor for bias in stored[1:])]
        roles = ["weight", "bias"]
    elif isinstance(inner.op, DepthwiseConv):
        scaled, roles = [value * factor for value in stored], ["weight", "bias"]
    elif isinstance(inner.op, Embedding):
        scaled, roles = [stored[0] * factor], ["table"]
    elif isinstance(inner.op, LayerNorm):
        width = graph.types[node.output].width
        scaled = [value * factor for value in stored] or [factor, np.zeros(width)]
        roles = ["gain", "bias"]
    else:
        return None
    names = [patch.constant(value, role) for value, role in zip(scaled, roles, strict=False)]
    return patch.finish(inner.op, [inner.inputs[0], *names])


def scale_into_consumer(graph: Graph, node: Node) -> Patch | None:
    """A factor per channel in front of nothing but Linears goes into their columns."""
    if not isinstance(node.op, Linear) or any(name not in graph.constants for name in node.inputs[1:]):
        return None
    inner = graph.producers.get(node.inputs[0])
    if inner is None or not isinstance(inner.op, Mul) or inner.output in graph.outputs:
        return None
    found = constant_operand(graph, inner)
    if found is None or graph.types[found[0]].shape != graph.types[inner.output].shape:
        return None
    readers = graph.consumers[inner.output]
    factor = per_channel(found[1], graph.types[inner.output].width)
    if factor is None or not all(isinstance(r.op, Linear) and r.inputs.count(inner.output) == 1 for r in readers):
        return None
    patch = Patch(graph, node)
    weight = patch.constant(graph.constants[node.inputs[1]] * factor, "weight")
    return patch.finish(Linear(), [found[0], weight, *node.inputs[2:]])


def drop_neutral_weights(graph: Graph, node: Node) -> Patch | None:
    """A bias of zeros, or a LayerNorm's gain of ones with such a bias, is left out: files differ in writing them."""
    if len(node.inputs) != 3 or any(name not in graph.constants for name in node.inputs[1:]):
        return None
    if graph.constants[node.inputs[2]].any():
        return None
    if isinstance(node.op, Linear | DepthwiseConv):
        return Patch(graph, node).finish(node.op, node.inputs[:2])
    if isinstance(node.op, LayerNorm) and (graph.constants[node.inputs[1]] == 1).all():
        return Patch(graph, node).finish(node.op, node.inputs[:1])
    return None


LINEAR: tuple[Rule, ...] = (matmul_to_linear, add_to_bias, conv_to_linear, slice_weights, drop_neutral_weights)
SCALES: tuple[Rule, ...] = (scale_into_producer, scale_into_consumer)
