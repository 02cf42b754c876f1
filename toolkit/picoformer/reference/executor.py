"""Running a graph node by node in numpy, many samples at once, every intermediate value at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from picoformer.errors import DataError
from picoformer.ir import Graph, Lowered
from picoformer.ir.operator import Array, LoweringError
from picoformer.ops.fixedpoint import quantize_real


@dataclass(frozen=True)
class LoweredGraph:
    """A quantized graph with every node bound to its integers, in execution order."""

    graph: Graph
    steps: tuple[Lowered, ...]


def lower_graph(graph: Graph) -> LoweredGraph:
    """Bind every node of a quantized graph; raises LoweringError naming the node that cannot be."""
    steps = []
    for node in graph.nodes:
        try:
            steps.append(node.op.lower(graph.operands(node), graph.types[node.output]))
        except (LoweringError, NotImplementedError) as error:
            raise LoweringError(f"node '{node.name}' ({node.op.kind}): {error}") from error
    return LoweredGraph(graph, tuple(steps))


def _sampled(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs, each shaped (samples, *shape); raises DataError for a missing one or a wrong shape."""
    values: dict[str, Array] = {}
    for name in graph.inputs:
        if name not in inputs:
            raise DataError(f"input '{name}' is missing; given: {', '.join(inputs) or 'none'}")
        shape = graph.types[name].shape
        value = np.asarray(inputs[name])
        if value.ndim == 0 or value.shape[1:] != shape:
            raise DataError(f"input '{name}' has shape {list(value.shape)}, the model wants (samples, *{list(shape)})")
        values[name] = value
    return values


def _with_samples(graph: Graph, name: str, value: Array) -> Array:
    """`value` as (samples, *shape): a Reshape cannot tell the axis of a single sample from one of its own."""
    return value.reshape(-1, *graph.types[name].shape)


def run_float(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Float meaning of every value but the constants, each (samples, *shape).

    `inputs`: name → (samples, *shape), samples along axis 0. Raises DataError when they do not fit.
    """
    values = _sampled(graph, inputs)
    with np.errstate(over="ignore", under="ignore"):
        for node in graph.nodes:
            arguments = [graph.constants[n] if n in graph.constants else values[n] for n in node.inputs]
            values[node.output] = _with_samples(graph, node.output, np.asarray(node.op.compute(*arguments)))
    return values


def run_integer(lowered: LoweredGraph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Integer meaning of every value but the constants, each (samples, *shape), in the type the graph says.

    Float inputs are quantized as SPEC says; integer inputs are taken as they are.
    """
    graph = lowered.graph
    values = {}
    for name, value in _sampled(graph, inputs).items():
        type_ = graph.types[name]
        quantized = type_.quant is not None and value.dtype.kind == "f"
        values[name] = quantize_real(value, type_.quant, type_.dtype) if quantized and type_.quant else value
    for node, step in zip(graph.nodes, lowered.steps, strict=True):
        result = step.execute(*(values[name] for name in graph.activations(node)))
        values[node.output] = _with_samples(graph, node.output, result)
    return values
