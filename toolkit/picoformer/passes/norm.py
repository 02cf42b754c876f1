"""LayerNorm out of its spelled forms, and its gain and bias into the Linears that follow."""

from __future__ import annotations

import numpy as np

from picoformer.ir import Graph, Node, TensorType
from picoformer.ir.operator import Array
from picoformer.ops import Add, LayerNorm, Linear, Mul, ReduceMean, Reshape, Slice
from picoformer.passes.expression import factors, is_binary, is_unary, scalar, terms
from picoformer.passes.linear import per_channel
from picoformer.passes.rewrite import Patch, Rule, remove_dead

NO_EPSILON = 1e-24
"""What stands for the epsilon of a form without one: rows of zeros stay zeros, and no other row feels it."""


def _mean_of(graph: Graph, name: str) -> str | None:
    """x when `name` is its mean over the last axis, kept."""
    node = graph.producers.get(name)
    if node is None or not isinstance(node.op, ReduceMean) or len(node.inputs) != 1:
        return None
    return node.inputs[0] if node.op.axis == -1 and node.op.keep else None


def _centred(graph: Graph, name: str) -> str | None:
    """x when `name` is x − mean(x), as a subtraction or as a sum with −1 times the mean."""
    node = graph.producers.get(name)
    if node is None or not (isinstance(node.op, Add) or is_binary(node, "sub")):
        return None
    products, constant = terms(graph, name, depth=1)
    if len(products) != 2 or np.any(constant != 0):
        return None
    for (x, plus), (mean, minus) in (products, products[::-1]):
        single = len(x) == 1 and len(mean) == 1 and plus.size == minus.size == 1
        if single and plus == 1 and minus == -1 and _mean_of(graph, mean[0]) == x[0]:
            return x[0]
    return None


def inverse_root_mean(graph: Graph, name: str) -> tuple[list[str], float] | None:
    """([a, b], epsilon) when `name` is 1 / √(mean(a · b) + epsilon), the mean taken over the last axis."""
    reciprocal = graph.producers.get(name)
    if reciprocal is None or not is_unary(reciprocal, "reciprocal"):
        return None
    root = graph.producers.get(reciprocal.inputs[0])
    if root is None or not is_unary(root, "sqrt"):
        return None
    total = graph.producers.get(root.inputs[0])
    epsilon: float | None
    if total is not None and isinstance(total.op, ReduceMean):  # a vector brought to length 1
        epsilon, square = NO_EPSILON, _mean_of(graph, root.inputs[0])
    elif total is not None and isinstance(total.op, Add):
        epsilon, square = scalar(graph, total.inputs[1]), _mean_of(graph, total.inputs[0])
    else:
        return None
    if epsilon is None or square is None or epsilon < 0:
        return None
    product, constant = factors(graph, square)
    return None if len(product) != 2 or np.any(constant != 1) else (product, epsilon)


def _deviation(graph: Graph, name: str) -> tuple[str, float] | None:
    """(x, epsilon) when `name` is 1 / √(mean((x − mean(x))²) + epsilon)."""
    found = inverse_root_mean(graph, name)
    if found is None:
        return None
    sources = {_centred(graph, x) for x in found[0]}
    (source,) = sources if len(sources) == 1 else (None,)
    return None if source is None else (source, found[1])


def _normalized(patch: Patch, x: str, epsilon: float, gain: Array | None, bias: Array | None) -> Patch:
    width = patch.graph.types[x].width
    if gain is None and bias is None:
        return patch.finish(LayerNorm(epsilon), [x])
    g = patch.constant(np.ones(width) if gain is None else gain, "gain")
    b = patch.constant(np.zeros(width) if bias is None else bias, "bias")
    return patch.finish(LayerNorm(epsilon), [x, g, b])


def fuse_layer_norm(graph: Graph, node: Node) -> Patch | None:
    """(x − mean) · 1/√(variance + epsilon), with any constant gain among the factors."""
    if not isinstance(node.op, Mul):
        return None
    product, constant = factors(graph, node.output)
    if len(product) != 2:
        return None
    for centred, deviation in (product, product[::-1]):
        found = _deviation(graph, deviation)
        if found is None or _centred(graph, centred) != found[0]:
            continue
        gain = per_channel(constant, graph.types[found[0]].width)
        if gain is None or graph.types[found[0]].shape != graph.types[node.output].shape:
            return None
        return _normalized(Patch(graph, node), *found, None if (gain == 1).all() else gain, None)
    return None


def fuse_batch_norm_form(graph: Graph, node: Node) -> Patch | None:
    """x · r + (bias − mean · r) with r = gain / √(variance + epsilon), as TensorFlow writes it."""
    if not isinstance(node.op, Add):
        return None
    products, constant = terms(graph, node.output)
    if len(products) != 2 or any(len(product) != 2 for product, _ in products):
        return None
    for (scaled, plus), (shift, minus) in (products, products[::-1]):
        for x, deviation in (scaled, scaled[::-1]):
            found = _deviation(graph, deviation)
            if found is None or found[0] != x or deviation not in shift:
                continue
            mean = shift[1 - shift.index(deviation)]
            width = graph.types[x].width
            gain, bias = per_channel(plus, width), per_channel(constant, width)
            opposite = per_channel(minus, width)
            if _mean_of(graph, mean) != x or gain is None or bias is None or opposite is None:
                continue
            if (gain == -opposite).all() and graph.types[x].shape == graph.types[node.output].shape:
                return _normalized(Patch(graph, node), *found, gain, bias)
    return None


NORM: tuple[Rule, ...] = (fuse_batch_norm_form, fuse_layer_norm)


def _lets_rows_pass(graph: Graph, node: Node, has_bias: bool) -> bool:
    """Whether a node picks, averages or reshapes whole rows, so that gain and bias may as well come behind it."""
    op = node.op
    if isinstance(op, ReduceMean):  # the mean of no rows is zero, and not the bias
        return op.axis != -1 and (len(node.inputs) == 1 or not has_bias)
    if isinstance(op, Reshape):
        return graph.types[node.inputs[0]].shape[-1:] == graph.types[node.output].shape[-1:]
    return isinstance(op, Slice) and op.axis != -1


def _up_to_linears(graph: Graph, name: str, has_bias: bool) -> list[str] | None:
    """`name` and what is made of its rows, up to Linears; None where anything else reads one of these values."""
    readers = graph.consumers.get(name, ())
    if name in graph.outputs or not readers:
        return None
    found = [name]
    for reader in readers:
        if reader.inputs[0] != name or reader.inputs.count(name) > 1:
            return None
        if isinstance(reader.op, Linear):
            if any(constant not in graph.constants for constant in reader.inputs[1:]):
                return None
            if not graph.is_used_once(reader.inputs[1]):  # a tied table, or layers that share weights: stored once
                return None
            continue
        further = _lets_rows_pass(graph, reader, has_bias) and _up_to_linears(graph, reader.output, has_bias)
        if not further:
            return None
        found += further
    return found


def fold_norm_gain(graph: Graph) -> Graph:
    """Move gain and bias of every LayerNorm that only Linears read into them: W·(g·u + b) = (W·g)·u + W·b.

    Rows may be picked or averaged in between, which does not care for a gain. The bare norm and what is made of it are
    other values than the file's, so they get names of their own: `<name>_normalized`.
    """
    nodes: list[Node] = []
    types, constants = dict(graph.types), dict(graph.constants)
    folded: dict[str, tuple[str, Array, Array]] = {}
    for node in graph.nodes:
        if isinstance(node.op, LayerNorm) and len(node.inputs) == 3:
            gain, bias = (graph.constants[name].astype(np.float64) for name in node.inputs[1:])
            for name in _up_to_linears(graph, node.output, bool(bias.any())) or ():
                bare = graph.fresh_name(f"{name}_normalized", types)
                types[bare] = graph.types[name]
                folded[name] = (bare, gain, bias)
            if node.output in folded:
                node = Node(node.name, node.op, node.inputs[:1], folded[node.output][0])
        elif node.output in folded:
            node = Node(node.name, node.op, (folded[node.inputs[0]][0], *node.inputs[1:]), folded[node.output][0])
        elif isinstance(node.op, Linear) and node.inputs[0] in folded:
            bare, gain, shift = folded[node.inputs[0]]
            weight = graph.constants[node.inputs[1]].astype(np.float64)
            total = weight @ shift
            if len(node.inputs) == 3:
                total = total + graph.constants[node.inputs[2]]
            names = [bare]
            for value, role in ((weight * gain, "weight"), (total, "bias")):
                name = graph.fresh_name(f"{node.output}_folded_{role}", types)
                constants[name] = np.ascontiguousarray(value, np.float32)
                types[name] = TensorType(value.shape)
                names.append(name)
            node = Node(node.name, node.op, tuple(names), node.output)
        nodes.append(node)
    return remove_dead(graph.replace(nodes=nodes, types=types, constants=constants))
