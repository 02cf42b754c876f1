"""Attention with a bias of distances in ONNX."""

from __future__ import annotations

import numpy as np

from picoformer.backends.onnx.writer import MASKED_SCORE, OnnxWriter
from picoformer.errors import UnsupportedError
from picoformer.ir import Node
from picoformer.ops import RelativeAttention


def relative_attention(w: OnnxWriter, node: Node, op: RelativeAttention, output: str) -> None:
    """The bucket of every distance is gathered, then its bias, which is added to the scores."""
    query, keys, values = (w.graph.types[name] for name in node.inputs[:3])
    if query.rank != 2:
        raise UnsupportedError(f"node '{node.name}' ({node.op.kind}) reads {query}: ONNX takes one block of rows")
    rows, count, heads = query.shape[0], keys.shape[0], op.heads

    def constant(wish: str, value: object, dtype: type = np.int64) -> str:
        return w.shared(f"{node.output}_{wish}", np.asarray(value, dtype))

    def split(index: int, length: int, width: int, order: list[int]) -> str:
        shaped = w.part(
            "Reshape", [w.read(node.inputs[index]), constant("heads", (length, heads, width // heads))], node
        )
        return w.part("Transpose", [shaped], node, perm=order)

    number = w.part("Reshape", [w.read(node.inputs[4]), w.shared("scalar_shape", np.zeros(0, np.int64))], node)
    places = constant("rows", np.arange(rows).reshape(rows, 1), np.int32)
    if op.causal:
        places = w.part("Add", [number, places], node)
    entries = constant("entries", np.arange(count), np.int32)
    distance = w.part("Sub", [entries, places], node)
    limits = [constant("limit", limit, np.int32) for limit in (-op.reach, 0 if op.causal else op.reach)]
    near = w.part("Min", [w.part("Max", [distance, limits[0]], node), limits[1]], node)
    index = w.part("Sub", [near, limits[0]], node)
    bucket = w.part("Gather", [constant("buckets", op.buckets), index], node, axis=0)
    bias = w.part("Transpose", [w.part("Gather", [w.read(node.inputs[3]), bucket], node, axis=0)], node, perm=[2, 0, 1])

    q, k = split(0, rows, query.width, [1, 0, 2]), split(1, count, keys.width, [1, 2, 0])
    v = split(2, count, values.width, [1, 0, 2])
    scores = w.part("Mul", [w.part("MatMul", [q, k], node), constant("scale", op.scale, np.float32)], node)
    scores = w.part("Add", [scores, bias], node)
    if op.causal:
        hidden = w.part("Less", [places, entries], node)
    else:
        hidden = w.part("Not", [w.part("Less", [entries, number], node)], node)
    scores = w.part("Where", [hidden, w.shared("masked_score", MASKED_SCORE), scores], node)
    shares = w.part("Softmax", [scores], node, axis=-1)
    if not op.causal:  # without a key the result is zero
        shares = w.part("Where", [hidden, constant("nothing", 0.0, np.float32), shares], node)
    mixed = w.part("Transpose", [w.part("MatMul", [shares, v], node)], node, perm=[1, 0, 2])
    w.emit("Reshape", [mixed, constant("shape", (rows, values.width))], output)
