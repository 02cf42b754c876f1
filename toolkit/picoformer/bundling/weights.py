"""A float graph with the weights of its Linears rounded, and nothing else: what a language model is on a Raspberry Pi.

onnxruntime multiplies weights of 8 bits a channel, and of 4 bits in blocks of 32, without making floats of them first.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from picoformer.ir import DType, Graph, QuantParams
from picoformer.ir.operator import Array
from picoformer.ops import Linear
from picoformer.quantize.int4 import element_scales, quantize_int4
from picoformer.quantize.weights import quantize_rows

DTYPES = {"int8": DType.INT8, "int4": DType.INT4}


def rounded_weights(graph: Graph, scheme: str) -> tuple[Graph, Graph]:
    """(the graph with integer weights, which is for writing alone; the float graph that it means), scheme int8 or int4.

    A table of embeddings that the head reads too stays as it is for the embedding, and is rounded for the head.
    """
    types, written, meant = dict(graph.types), dict(graph.constants), dict(graph.constants)
    nodes = []
    done: dict[str, str] = {}
    for node in graph.nodes:
        if isinstance(node.op, Linear) and node.inputs[1] in graph.constants:
            name = node.inputs[1]
            if name not in done:
                alone = all(isinstance(reader.op, Linear) for reader in graph.consumers[name])
                done[name] = name if alone else f"{name}.rounded"
                value, quant = _rounded(graph.constants[name], DTYPES[scheme])
                own = done[name]
                written[own], meant[own] = value, _real(value, quant)
                types[own] = dataclasses.replace(graph.types[name], dtype=DTYPES[scheme], quant=quant)
            node = dataclasses.replace(node, inputs=(node.inputs[0], done[name], *node.inputs[2:]))
        nodes.append(node)
    floats = {**types, **{own: graph.types[name] for name, own in done.items()}}
    return (
        graph.replace(nodes=nodes, types=types, constants=written),
        graph.replace(nodes=nodes, types=floats, constants=meant),
    )


def _rounded(weight: Array, dtype: DType) -> tuple[Array, QuantParams]:
    return quantize_int4(weight) if dtype is DType.INT4 else quantize_rows(weight)


def _real(weight: Array, quant: QuantParams) -> Array:
    """The numbers that the integers stand for, float32 as onnxruntime has them."""
    if quant.block_multipliers:
        scales = element_scales(quant, weight.shape).astype(np.float32)
    else:
        scales = np.asarray(quant.scale, np.float32).reshape(-1, 1)
    real: Array = weight.astype(np.float32) * scales
    return real
