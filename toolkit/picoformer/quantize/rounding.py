"""Which integer each weight and bias becomes, from what the Linear reads on the calibration data.

First a weight makes up for what the rounding before it changed in its inputs. GPTQ (Frantar et al. 2022): columns are
rounded one after the other, and what a column loses is made up for in the columns that are still real, along the
inverse of the covariance of the inputs. Bias correction (Nagel et al. 2019): the bias takes up what the rounded weights
and the rounded inputs move the mean output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import numpy as np

from picoformer.ir import DType, Graph, Node
from picoformer.ir.operator import Array, LoweringError, Operand
from picoformer.ops import DepthwiseConv, Embedding, Linear
from picoformer.ops.fixedpoint import dequantize, quantize_real
from picoformer.quantize.int4 import element_scales
from picoformer.quantize.observe import BATCH
from picoformer.quantize.weights import BIAS_LIMIT, WEIGHT_LIMIT, WEIGHT_LIMITS, quantize_bias

Rounding = Literal["nearest", "gptq"]
ROUNDINGS: tuple[str, ...] = get_args(Rounding)

DAMPING = 0.01
"""Share of the mean variance that is added to each input's: the covariance of dead or few inputs has no inverse."""


COMPENSATION_DAMPING = 0.1
"""The same where weights make up for what their inputs lost: this much pulls them back to what they were."""


class InputMoments:
    """Sums over rows that a Linear reads, rounded and real: K × K numbers, however many rows there were."""

    def __init__(self, width: int) -> None:
        self.rows = 0
        self._sum = np.zeros(width)
        self._real_sum = np.zeros(width)
        self._products = np.zeros((width, width))
        self._cross = np.zeros((width, width))

    def add(self, rounded: Array, real: Array | None = None) -> None:
        """Count in rows (…, K), as the integers stand for them and as they are in float (default: the same)."""
        x = rounded.reshape(-1, rounded.shape[-1]).astype(np.float64)
        y = x if real is None else real.reshape(x.shape).astype(np.float64)
        self.rows += len(x)
        self._sum += x.sum(axis=0)
        self._real_sum += y.sum(axis=0)
        self._products += x.T @ x
        self._cross += y.T @ x

    @property
    def mean(self) -> Array:
        """(K,) mean of the rounded rows."""
        result: Array = self._sum / self.rows
        return result

    @property
    def real_mean(self) -> Array:
        """(K,) mean of the rows in float."""
        result: Array = self._real_sum / self.rows
        return result

    def hessian(self, centred: bool) -> Array:
        """(K, K) mean of xᵀx of rounded rows, or with `centred` the covariance, for a bias that takes up the mean."""
        result: Array = self._products / self.rows
        return result - np.outer(self.mean, self.mean) if centred else result

    def cross(self, centred: bool) -> Array:
        """(K, K) mean of yᵀx of real rows y and rounded rows x, or with `centred` their covariance."""
        result: Array = self._cross / self.rows
        return result - np.outer(self.real_mean, self.mean) if centred else result


def compensated(weight: Array, moments: InputMoments, centred: bool) -> Array:
    """(N, K) float weight whose product with the rounded inputs is nearest to that of `weight` with the real ones.

    The least squares of ‖W·y − W′·x‖² + λ‖W − W′‖² over rows (Li et al. 2025, GPTAQ, solve it column by column).
    """
    hessian = moments.hessian(centred)
    damping = COMPENSATION_DAMPING * float(np.diag(hessian).mean()) or 1.0
    lost = weight.astype(np.float64) @ (moments.cross(centred) - hessian)
    result: Array = weight + np.linalg.solve(hessian + damping * np.eye(len(hessian)), lost.T).T
    return result


def gptq(weight: Array, scale: Array, hessian: Array, limit: int = WEIGHT_LIMIT) -> Array:
    """(N, K) int8 steps in [−limit, limit] with a small Σ (e·H·eᵀ), e = weight − steps·scale, row by row.

    weight: (N, K). scale: (N,), or (N, K) with blocks. hessian: (K, K), symmetric, no negative eigenvalue; it is damped
    here. Columns go from the largest variance to the smallest, so that the last, with most put upon them, matter least.
    """
    width = weight.shape[1]
    variance = np.diag(hessian)
    damping = DAMPING * float(variance.mean()) or 1.0
    order = np.argsort(-variance, kind="stable")
    damped = hessian[np.ix_(order, order)] + damping * np.eye(width)
    inverse = np.linalg.inv(damped)
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    left = weight[:, order].astype(np.float64)
    scales = np.broadcast_to(scale[:, None] if scale.ndim == 1 else scale, weight.shape)[:, order]
    steps = np.zeros(left.shape)
    for column in range(width):
        steps[:, column] = np.clip(np.rint(left[:, column] / scales[:, column]), -limit, limit)
        error = (left[:, column] - steps[:, column] * scales[:, column]) / upper[column, column]
        left[:, column + 1 :] -= np.outer(error, upper[column, column + 1 :])
    result = np.empty(left.shape, np.int8)
    result[:, order] = steps.astype(np.int8)
    return result


def corrected_bias(weight: Array, bias: Array, real_mean: Array, rounded_weight: Array, rounded_mean: Array) -> Array:
    """(N,) bias with which the rounded Linear has the mean output of the float one; means (K,) are of the inputs."""
    result: Array = weight.astype(np.float64) @ real_mean + bias - rounded_weight @ rounded_mean
    return result


def refine(
    graph: Graph,
    typed: Graph,
    calibration: Mapping[str, Array],
    rounding: Rounding,
    bias_correction: bool,
    progress: Callable[[int, int], None] | None = None,
    given: frozenset[str] = frozenset(),
) -> Graph:
    """`typed`, the quantized `graph`, with the integers of every Linear chosen anew, and the bias of every
    DepthwiseConv; all grids of values stay.

    Each Linear sees its inputs as the integer steps before it, already refined, produce them, and what they are in
    float. `calibration`: input name → (samples, *shape). `given` weights keep their integers. Raises LoweringError
    naming a node that has no integer form.
    """
    batches = [
        {name: value[start : start + BATCH] for name, value in calibration.items()}
        for start in range(0, len(next(iter(calibration.values()))), BATCH)
    ]
    walks = [_FloatWalk(graph, batch) for batch in batches]
    live = [_integer_inputs(typed, batch) for batch in batches]
    last_use = {name: index for index, node in enumerate(typed.nodes) for name in node.inputs}
    types, constants, nodes = dict(typed.types), dict(typed.constants), []
    for index, node in enumerate(typed.nodes):
        if isinstance(node.op, Linear):
            quant = types[node.inputs[0]].quant
            assert quant is not None
            moments = InputMoments(types[node.inputs[0]].width)
            read, *real_names = graph.producers[node.output].inputs
            for values, walk in zip(live, walks, strict=True):
                moments.add(dequantize(values[node.inputs[0]], quant), walk.value(read))
            real = [graph.constants[name] for name in real_names]
            own = "nearest" if is_tied(typed, node.inputs[1]) or real_names[0] in given else rounding
            chosen = _linear_constants(typed, node, real, moments, own, bias_correction)
            names = [
                name if typed.is_used_once(name) or value is typed.constants[name] else f"{name}_{node.name}"
                for name, value in zip(node.inputs[1:], chosen, strict=True)
            ]
            for name, old, value in zip(names, node.inputs[1:], chosen, strict=True):
                types[name], constants[name] = typed.types[old], value
            node = Node(node.name, node.op, (node.inputs[0], *names), node.output)
        if isinstance(node.op, DepthwiseConv) and bias_correction and len(node.inputs) > 2:
            read, *real_names = graph.producers[node.output].inputs
            pairs = [(values[node.inputs[0]], walk.value(read)) for values, walk in zip(live, walks, strict=True)]
            constants[node.inputs[2]] = _depthwise_bias(typed, node, [graph.constants[n] for n in real_names], pairs)
        nodes.append(node)
        operands = [Operand(types[name], constants.get(name)) for name in node.inputs]
        try:
            step = node.op.lower(operands, types[node.output])
        except (LoweringError, NotImplementedError) as error:
            raise LoweringError(f"node '{node.name}' ({node.op.kind}): {error}") from error
        dynamic = [name for name in node.inputs if name not in constants]
        for values in live:
            result = step.execute(*(values[name] for name in dynamic))
            values[node.output] = result.reshape(-1, *types[node.output].shape)
            for name in {name for name in dynamic if last_use[name] == index}:
                del values[name]
        if progress:
            progress(index + 1, len(typed.nodes))
    used = {name for node in nodes for name in node.inputs}
    unread = set(typed.constants) - used
    return typed.replace(
        nodes=nodes,
        types={name: type_ for name, type_ in types.items() if name not in unread},
        constants={name: value for name, value in constants.items() if name not in unread},
    )


def _depthwise_bias(typed: Graph, node: Node, real: list[Array], pairs: list[tuple[Array, Array]]) -> Array:
    """(C,) the integers of a bias with which each channel has the mean of the float one.

    `real`: weight and bias in float. `pairs`: the images that are read, as integers and in float, by batch."""
    op, x_quant, w_quant = node.op, typed.types[node.inputs[0]].quant, typed.types[node.inputs[1]].quant
    assert isinstance(op, DepthwiseConv) and x_quant is not None and w_quant is not None
    weight = dequantize(typed.constants[node.inputs[1]], w_quant)
    lost, count = np.zeros(weight.shape[1]), 0
    for rounded, image in pairs:
        difference = op.sums(image, real[0], 0) - op.sums(dequantize(rounded, x_quant), weight, 0)
        lost += difference.reshape(-1, len(lost)).sum(axis=0, dtype=np.float64)
        count += difference.size // len(lost)
    scale = np.asarray(w_quant.scale, np.float64) * x_quant.per_tensor_scale
    mended = real[1] + lost / count
    return np.rint(np.where(np.abs(mended) < scale * BIAS_LIMIT, mended, real[1]) / scale).astype(np.int32)


def is_tied(graph: Graph, name: str) -> bool:
    """Whether a weight is an Embedding's table, or one that several layers share. It keeps the integers that it has, so
    that all read the same bytes."""
    return len(graph.consumers[name]) > 1 or any(isinstance(node.op, Embedding) for node in graph.consumers[name])


class _FloatWalk:
    """The float meaning of a graph on one batch, node by node, holding only what is still to be read."""

    def __init__(self, graph: Graph, batch: Mapping[str, Array]) -> None:
        self._graph = graph
        self._values = {name: batch[name] for name in graph.inputs}
        self._last_use = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
        self._done = 0

    def value(self, name: str) -> Array:
        """A value (samples, *shape) that a node not yet executed reads; executes what leads to it."""
        graph = self._graph
        while name not in self._values:
            node = graph.nodes[self._done]
            arguments = [graph.constants[n] if n in graph.constants else self._values[n] for n in node.inputs]
            with np.errstate(over="ignore", under="ignore"):
                result = np.asarray(node.op.compute(*arguments))
            self._values[node.output] = result.reshape(-1, *graph.types[node.output].shape)
            for read in {n for n in node.inputs if n in self._values and self._last_use[n] == self._done}:
                del self._values[read]
            self._done += 1
        return self._values[name]


def _integer_inputs(typed: Graph, batch: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs of the graph as the integers that a device is given."""
    found = {}
    for name in typed.inputs:
        type_ = typed.types[name]
        found[name] = batch[name] if type_.quant is None else quantize_real(batch[name], type_.quant, type_.dtype)
    return found


def _linear_constants(
    typed: Graph, node: Node, real: list[Array], moments: InputMoments, rounding: Rounding, bias_correction: bool
) -> list[Array]:
    """The integers of a Linear's weight and, where it has one, bias. `real`: the same constants in float."""
    x_quant, weight = typed.types[node.inputs[0]].quant, typed.types[node.inputs[1]]
    quant = weight.quant
    assert x_quant is not None and quant is not None
    scale, scales = np.asarray(quant.scale, np.float64), element_scales(quant, weight.shape)
    steps = typed.constants[node.inputs[1]]
    corrects = bias_correction and len(real) > 1
    if rounding == "gptq":
        wanted = compensated(real[0], moments, centred=corrects)
        limit = WEIGHT_LIMITS[weight.dtype]
        if weight.dtype is DType.INT16:  # its own rounding is far below that of what it meets
            steps = np.clip(np.rint(wanted / scales), -limit, limit).astype(np.int16)
        else:
            steps = gptq(wanted, scales, moments.hessian(centred=corrects), limit)
    if len(real) == 1:
        return [steps]
    bias = typed.constants[node.inputs[2]]
    if corrects:
        mended = corrected_bias(real[0], real[1], moments.real_mean, steps * scales, moments.mean)
        fits = np.abs(mended) < scale * x_quant.per_tensor_scale * BIAS_LIMIT
        bias, _ = quantize_bias(np.where(fits, mended, real[1]), x_quant.per_tensor_scale, quant)
    return [steps, bias]
