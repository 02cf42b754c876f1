"""A quantized graph without calibration data: sizes and counts hardly depend on values, so these are made up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from picoformer.errors import UnsupportedError
from picoformer.ir import DType, Graph
from picoformer.ir.operator import Array, LoweringError
from picoformer.ops import Embedding
from picoformer.quantize import SCHEMES, QuantizeSettings, quantize
from picoformer.quantize.grids import LAYOUT
from picoformer.reference import run_float

SAMPLES = 8
LARGE_MACS = 50_000_000
"""Models from here on are estimated with fewer samples, and without the search for values to widen."""


def made_up_samples(graph: Graph, count: int = SAMPLES, seed: int = 0) -> dict[str, Array]:
    """Inputs (count, *shape) by name: numbers of a normal distribution, ids that their tables have, full lengths."""
    from picoformer.build_folder import full_length

    chance = np.random.default_rng(seed)
    samples: dict[str, Array] = {}
    for name in graph.inputs:
        type_ = graph.types[name]
        shape = (count, *type_.shape)
        if type_.dtype is DType.FLOAT32:
            samples[name] = chance.standard_normal(shape).astype(np.float32)
        elif name == "valid_length":
            samples[name] = np.full(shape, full_length(graph), type_.dtype.numpy)
        else:
            samples[name] = chance.integers(0, _rows_read(graph, name), shape).astype(type_.dtype.numpy)
    return samples


def _rows_read(graph: Graph, name: str) -> int:
    """Rows of the smallest table that the ids `name` look up, 1 where they look up none."""
    names, rows = {name}, []
    for node in graph.nodes:
        if names.intersection(node.inputs) and isinstance(node.op, LAYOUT):
            names.add(node.output)
        elif isinstance(node.op, Embedding) and node.inputs[0] in names:
            rows.append(graph.types[node.inputs[1]].shape[0])
    return min(rows, default=1)


def made_up_graph(graph: Graph, scheme: str, least: bool = False) -> Graph:
    """The fused float graph in `scheme`, typed as a build would type it with this data; weights are rounded to nearest.
    `least`: nothing is widened, as data may have it.

    Raises UnsupportedError naming a node that has no integer form.
    """
    if scheme == "float32":
        return graph
    chosen = SCHEMES[scheme]
    brief = least or graph.macs >= LARGE_MACS
    settings = QuantizeSettings(rounding="nearest", bias_correction=False)
    settings = replace(settings, activations=chosen.activations, weights=chosen.weights)
    try:
        samples = made_up_samples(graph, 2 if brief else SAMPLES)
        return quantize(graph, samples, run_float, replace(settings, widen=0.0) if brief else settings)
    except LoweringError as error:
        raise UnsupportedError(f"{error}; estimate with --scheme float32, or change the model there") from None
