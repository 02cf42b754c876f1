"""The rules every graph obeys, checked after each pass; messages name the node."""

from __future__ import annotations

import numpy as np

from picoformer.ir.graph import Graph
from picoformer.ir.types import BLOCK, DType


class GraphError(AssertionError):
    """A graph breaks a rule: a fault of this program, not of the user's model."""


def verify(graph: Graph) -> Graph:
    """Return `graph` when it is well formed, else raise GraphError naming the node or value.

    Rules: values are defined before use and once; constants match their types; float outputs have the shape and
    type their operator infers; quantized values carry parameters that fit their type.
    """
    for name in (*graph.inputs, *graph.constants):
        if name not in graph.types:
            raise GraphError(f"{graph.name}: value '{name}' has no type")
    if set(graph.inputs) & set(graph.constants):
        raise GraphError(f"{graph.name}: {sorted(set(graph.inputs) & set(graph.constants))} are input and constant")
    defined = set(graph.inputs) | set(graph.constants)
    names: set[str] = set()
    for node in graph.nodes:
        if node.name in names:
            raise GraphError(f"node '{node.name}': the name stands twice")
        names.add(node.name)
        for name in node.inputs:
            if name not in defined:
                raise GraphError(f"node '{node.name}' ({node.op.kind}) reads '{name}' before it is computed")
        if node.output in defined:
            raise GraphError(f"node '{node.name}' ({node.op.kind}) computes '{node.output}' a second time")
        if node.output not in graph.types:
            raise GraphError(f"node '{node.name}' ({node.op.kind}): output '{node.output}' has no type")
        defined.add(node.output)
        try:
            inferred = node.op.infer([graph.types[name] for name in node.inputs])
        except ValueError as error:
            raise GraphError(f"node '{node.name}' ({node.op.kind}): {error}") from error
        actual = graph.types[node.output]
        if inferred.shape != actual.shape:
            raise GraphError(f"node '{node.name}' ({node.op.kind}) gives {inferred}, its output says {actual}")
    for name in graph.outputs:
        if name not in defined:
            raise GraphError(f"{graph.name}: output '{name}' is never computed")
    for before, after in graph.states:
        if before not in graph.inputs or after not in graph.outputs or graph.types[before] != graph.types[after]:
            raise GraphError(f"{graph.name}: '{before}' and '{after}' are not the two ends of a state")
    _verify_source(graph)
    if graph.count and (graph.count not in graph.inputs or graph.types[graph.count].elements != 1):
        raise GraphError(f"{graph.name}: '{graph.count}' does not count the rows of a block")
    for name, value in graph.constants.items():
        expected = graph.types[name]
        if value.shape != expected.shape or value.dtype != expected.dtype.numpy:
            raise GraphError(f"constant '{name}' is {value.dtype}{list(value.shape)}, its type says {expected}")
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise GraphError(f"constant '{name}' holds numbers that are not finite")
    for name, type_ in graph.types.items():
        if type_.quant is None:
            continue
        if not type_.dtype.is_integer:
            raise GraphError(f"value '{name}' is {type_} and has quantization parameters")
        if not type_.dtype.minimum <= type_.quant.zero_point <= type_.dtype.maximum:
            raise GraphError(f"value '{name}': zero point {type_.quant.zero_point} is outside {type_.dtype.value}")
        if type_.dtype is DType.INT16 and type_.quant.zero_point != 0:
            raise GraphError(f"value '{name}': 16-bit values are symmetric, zero point is {type_.quant.zero_point}")
        axis = type_.quant.axis
        if axis is not None and (-axis > type_.rank or type_.shape[axis] != len(type_.quant.scale)):
            raise GraphError(f"value '{name}': {len(type_.quant.scale)} scales do not lie along axis {axis} of {type_}")
        if type_.quant.block_multipliers:
            blocks = -(-type_.width // BLOCK)
            if type_.rank != 2 or len(type_.quant.block_multipliers[0]) != blocks:
                raise GraphError(f"value '{name}': block multipliers of {type_} are {blocks} a row")
    for name, type_ in graph.types.items():
        if type_.dtype is not DType.INT4:
            continue
        if name not in graph.constants:
            raise GraphError(f"value '{name}' is {type_}: only constants may be int4")
        low, high = int(graph.constants[name].min(initial=0)), int(graph.constants[name].max(initial=0))
        if low < DType.INT4.minimum or high > DType.INT4.maximum:
            raise GraphError(f"constant '{name}' is {type_} and holds numbers outside -8 to 7")
    return graph


def _verify_source(graph: Graph) -> None:
    """Raise GraphError where something is read after the prologue that is not kept."""
    if not set(graph.source) <= set(graph.ports[0]):
        raise GraphError(f"{graph.name}: its source {list(graph.source)} is no part of its inputs")
    kept = {after for _, after in graph.states} | {name for name in graph.source if graph.types[name].elements == 1}
    for node in graph.nodes:
        if node.output in graph.prologue:
            continue
        for name in node.inputs:
            if (name in graph.prologue or name in graph.source) and name not in kept:
                raise GraphError(
                    f"node '{node.name}' ({node.op.kind}) reads '{name}', which the prologue does not keep"
                )
    for before, after in graph.states:
        if after in graph.prologue and graph.consumers.get(before):
            raise GraphError(f"{graph.name}: '{before}' is read, though the prologue writes '{after}' anew")
