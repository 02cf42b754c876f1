"""Computing what is left of constant arithmetic after folding: shapes of static values, and nodes of known inputs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.reference

from picoformer.errors import ModelError
from picoformer.frontends.onnx_builder import GraphBuilder
from picoformer.frontends.onnx_load import ELEMENTS_MAX, SHAPE_OPERATORS, STANDARD_DOMAINS, key_of


def fold_node(node: onnx.NodeProto, builder: GraphBuilder) -> bool:
    """Compute `node` now if its result is known: a shape, or a function of constants. True when it was computed."""
    if key_of(node) in SHAPE_OPERATORS:
        shape = builder.type_of(node.input[0]).shape
        attributes = {a.name: a.i for a in node.attribute}
        cut = shape[attributes.get("start", 0) : attributes.get("end", len(shape))]
        value = np.array(math.prod(shape)) if node.op_type == "Size" else np.array(cut)
        builder.known[node.output[0]] = value.astype(np.int64)
        return True
    if (
        node.op_type == "Constant"
        or node.domain not in STANDARD_DOMAINS
        or not all(name == "" or builder.is_constant(name) for name in node.input)
    ):
        return False
    feeds = {name: builder.known[builder.resolve(name)] for name in node.input if name}
    values = list(feeds.values())
    if _elements(node.op_type, values) > ELEMENTS_MAX:
        raise ModelError(f"{builder.path}: node '{node.name}' ({node.op_type}) makes a value that does not fit memory")
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "node", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", builder.opset)])
    with np.errstate(all="ignore"):
        results: Any = onnx.reference.ReferenceEvaluator(model).run(None, feeds)
    for output, result in zip(outputs, results, strict=True):
        builder.known[output.name] = np.asarray(result)
    return True


def _elements(kind: str, values: list[Any]) -> float:
    """Elements of the result, for operators whose result may be far larger than their inputs."""
    if kind == "ConstantOfShape":
        return float(np.prod(values[0], dtype=np.float64))
    if kind in ("Expand", "Tile"):
        return float(np.prod(values[1], dtype=np.float64)) * float(values[0].size)
    if kind == "Range":
        start, limit, delta = (float(np.reshape(value, -1)[0]) for value in values)
        return float(abs(limit - start) / abs(delta)) if delta else math.inf
    return 0.0
