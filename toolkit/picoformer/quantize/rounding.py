"""Which integer each weight and bias becomes, from what the Linear reads on the calibration data.

GPTQ (Frantar et al. 2022): columns are rounded one after the other, and what a column loses is made up for in the
columns that are still real, along the inverse of the covariance of the inputs. Bias correction (Nagel et al. 2019): the
bias takes up what the rounded weights and the rounded inputs move the mean output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import numpy as np

from picoformer.ir import Graph, Node
from picoformer.ir.operator import Array, LoweringError, Operand
from picoformer.ops import Linear
from picoformer.ops.fixedpoint import dequantize, quantize_real
from picoformer.quantize.int4 import element_scales
from picoformer.quantize.observe import BATCH, RunFloat
from picoformer.quantize.weights import BIAS_LIMIT, WEIGHT_LIMIT, WEIGHT_LIMITS, quantize_bias

Rounding = Literal["nearest", "gptq"]
ROUNDINGS: tuple[str, ...] = get_args(Rounding)

DAMPING = 0.01
"""Share of the mean variance that is added to each input's: the covariance of dead or few inputs has no inverse."""


class InputMoments:
    """Sums over rows that a Linear reads: K × K numbers, however many rows there were."""

    def __init__(self, width: int) -> None:
        self.rows = 0
        self._sum = np.zeros(width)
        self._products = np.zeros((width, width))

    def add(self, rounded: Array) -> None:
        """Count in rows (…, K), as the integers stand for them."""
        x = rounded.reshape(-1, rounded.shape[-1]).astype(np.float64)
        self.rows += len(x)
        self._sum += x.sum(axis=0)
        self._products += x.T @ x

    @property
    def mean(self) -> Array:
        """(K,) mean of the rows."""
        result: Array = self._sum / self.rows
        return result

    def hessian(self, centred: bool) -> Array:
        """(K, K) mean of xᵀx, or with `centred` the covariance, for a bias that takes up the mean."""
        result: Array = self._products / self.rows
        return result - np.outer(self.mean, self.mean) if centred else result


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
    run_float: RunFloat,
    rounding: Rounding,
    bias_correction: bool,
    progress: Callable[[int, int], None] | None = None,
) -> Graph:
    """`typed`, the quantized `graph`, with the integers of every Linear chosen anew; all grids of values stay.

    Each Linear sees its inputs as the integer steps before it, already refined, produce them. `calibration`: input
    name → (samples, *shape). Raises LoweringError naming a node that has no integer form.
    """
    batches = [
        {name: value[start : start + BATCH] for name, value in calibration.items()}
        for start in range(0, len(next(iter(calibration.values()))), BATCH)
    ]
    linears = {node.output: node.inputs[0] for node in graph.nodes if isinstance(node.op, Linear)}
    real_means = _means(graph, batches, run_float, set(linears.values()))
    live = [_integer_inputs(typed, batch) for batch in batches]
    last_use = {name: index for index, node in enumerate(typed.nodes) for name in node.inputs}
    types, constants, nodes = dict(typed.types), dict(typed.constants), []
    for index, node in enumerate(typed.nodes):
        if isinstance(node.op, Linear):
            quant = types[node.inputs[0]].quant
            assert quant is not None
            moments = InputMoments(types[node.inputs[0]].width)
            for values in live:
                moments.add(dequantize(values[node.inputs[0]], quant))
            real = [graph.constants[name] for name in graph.producers[node.output].inputs[1:]]
            mean = real_means[linears[node.output]] if bias_correction and len(real) > 1 else None
            chosen = _linear_constants(typed, node, real, moments, rounding, mean)
            names = [name if typed.is_used_once(name) else f"{name}_{node.name}" for name in node.inputs[1:]]
            for name, old, value in zip(names, node.inputs[1:], chosen, strict=True):
                types[name], constants[name] = typed.types[old], value
            node = Node(node.name, node.op, (node.inputs[0], *names), node.output)
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
    read = {name for node in nodes for name in node.inputs}
    unread = set(typed.constants) - read
    return typed.replace(
        nodes=nodes,
        types={name: type_ for name, type_ in types.items() if name not in unread},
        constants={name: value for name, value in constants.items() if name not in unread},
    )


def _means(graph: Graph, batches: list[dict[str, Array]], run_float: RunFloat, names: set[str]) -> dict[str, Array]:
    """Mean over all rows of float values, (width,) each."""
    sums: dict[str, Array] = {}
    rows: dict[str, int] = {}
    for batch in batches:
        values = run_float(graph, batch)
        for name in names:
            value = values[name].reshape(-1, values[name].shape[-1])
            sums[name] = sums.get(name, np.zeros(value.shape[1])) + value.sum(axis=0, dtype=np.float64)
            rows[name] = rows.get(name, 0) + len(value)
    return {name: total / rows[name] for name, total in sums.items()}


def _integer_inputs(typed: Graph, batch: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs of the graph as the integers that a device is given."""
    found = {}
    for name in typed.inputs:
        type_ = typed.types[name]
        found[name] = batch[name] if type_.quant is None else quantize_real(batch[name], type_.quant, type_.dtype)
    return found


def _linear_constants(
    typed: Graph, node: Node, real: list[Array], moments: InputMoments, rounding: Rounding, real_mean: Array | None
) -> list[Array]:
    """The integers of a Linear's weight and, where it has one, bias. `real`: the same constants in float; `real_mean`:
    the mean of its float inputs, where the bias is to be corrected."""
    x_quant, weight = typed.types[node.inputs[0]].quant, typed.types[node.inputs[1]]
    quant = weight.quant
    assert x_quant is not None and quant is not None
    scale, scales = np.asarray(quant.scale, np.float64), element_scales(quant, weight.shape)
    steps = typed.constants[node.inputs[1]]
    if rounding == "gptq":
        hessian = moments.hessian(centred=real_mean is not None)
        steps = gptq(real[0], scales, hessian, WEIGHT_LIMITS[weight.dtype])
    if len(real) == 1:
        return [steps]
    bias = typed.constants[node.inputs[2]]
    if real_mean is not None:
        wanted = corrected_bias(real[0], real[1], real_mean, steps * scales, moments.mean)
        fits = np.abs(wanted) < scale * x_quant.per_tensor_scale * BIAS_LIMIT
        bias, _ = quantize_bias(np.where(fits, wanted, real[1]), x_quant.per_tensor_scale, quant)
    return [steps, bias]
