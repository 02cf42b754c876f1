"""The front door: an ONNX file to a Graph with every value named as in the file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx.numpy_helper

from picoformer.errors import ModelError, PicoformerError, UnsupportedError
from picoformer.frontends.onnx_builder import GraphBuilder, NodeReader
from picoformer.frontends.onnx_fold import fold_node
from picoformer.frontends.onnx_load import check_operators, key_of, one_line, opset_of, read_model
from picoformer.frontends.onnx_nodes import CONVERTERS
from picoformer.frontends.onnx_qoperators import QOPERATOR_CONVERTERS
from picoformer.frontends.onnx_quantized import QUANTIZED_CONVERTERS, QuantizedConverter
from picoformer.ir import DType, Graph, TensorType, verify

log = logging.getLogger(__name__)

COVERED = frozenset({*CONVERTERS, *QUANTIZED_CONVERTERS, *QOPERATOR_CONVERTERS})
"""The operators that may hang on an input of a model."""

INPUT_TYPES = {
    onnx.TensorProto.FLOAT: DType.FLOAT32,
    onnx.TensorProto.FLOAT16: DType.FLOAT32,
    onnx.TensorProto.DOUBLE: DType.FLOAT32,
    onnx.TensorProto.INT64: DType.INT32,
    onnx.TensorProto.INT32: DType.INT32,
}


@dataclass
class Trace:
    """What became of each node of a file as it was read."""

    values: dict[str, str] = field(default_factory=dict)
    """Output of a node → the value of the graph that it is; nothing where it is constant."""
    refused: dict[str, PicoformerError] = field(default_factory=dict)
    """First output of a node → why it is not covered."""


def load_onnx(path: Path, shapes: dict[str, tuple[int, ...]] | None = None, trace: Trace | None = None) -> Graph:
    """The graph of the ONNX file `path` (opset 11 to 24), float, operators as the file spells them.

    `shapes`: input name → shape, for inputs with dynamic axes. Numbers of other float types become float32, integer
    inputs int32. Raises ModelError for a file that is broken, dynamic or holds NaN, UnsupportedError for operators
    that are not covered; both name the file and the culprit.
    """
    path = Path(path)
    integers = {**QUANTIZED_CONVERTERS, **QOPERATOR_CONVERTERS}
    model = read_model(path, dict(shapes or {}), COVERED)
    check_operators(path, model, COVERED)
    graph = model.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    taken |= {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    builder = GraphBuilder(path, taken, opset_of(model), read)
    for tensor in graph.initializer:
        builder.known[tensor.name] = np.asarray(onnx.numpy_helper.to_array(tensor))
    for proto in graph.node:
        builder.protos.update(dict.fromkeys(proto.output, proto))
        for name in proto.input:
            builder.readers.setdefault(name, []).append(proto)
    inputs = []
    for value in graph.input:
        if value.name in builder.known:
            continue
        tensor_type = value.type.tensor_type
        if tensor_type.elem_type not in INPUT_TYPES:
            kind = onnx.TensorProto.DataType.Name(tensor_type.elem_type).lower()
            raise UnsupportedError(f"{path}: input '{value.name}' is {kind}; float and int64 inputs are covered")
        shape = tuple(d.dim_value for d in tensor_type.shape.dim)
        builder.types[value.name] = TensorType(shape, INPUT_TYPES[tensor_type.elem_type])
        inputs.append(value.name)
    for proto in graph.node:
        try:
            _convert(proto, builder, integers)
        except PicoformerError as error:
            if trace is None:
                raise
            if all(builder.is_there(name) for name in proto.input if name):
                trace.refused[proto.output[0]] = error
            continue
        if trace is not None:
            there = {name: builder.resolve(name) for name in proto.output if builder.is_there(name)}
            trace.values |= {name: "" if builder.is_constant(name) else value for name, value in there.items()}
    if trace is not None and trace.refused:
        raise next(iter(trace.refused.values()))
    if builder.regridded:
        log.warning(
            "%s: %d values have 16 bits and a zero point; symmetric grids of the same range hold them, at up to twice "
            "the step",
            path,
            len(builder.regridded),
        )
    return verify(builder.build(path.stem, inputs, [value.name for value in graph.output]))


def _convert(proto: onnx.NodeProto, builder: GraphBuilder, integers: Mapping[str, QuantizedConverter]) -> None:
    try:
        convert = integers.get(key_of(proto))
        if convert is not None and convert(NodeReader(proto, builder)):
            return
        if not fold_node(proto, builder):
            CONVERTERS[key_of(proto)](NodeReader(proto, builder))
    except PicoformerError:
        raise
    except Exception as error:  # a hostile node may break a converter or the evaluator in any way
        label = proto.name or proto.output[0]
        raise ModelError(f"{builder.path}: node '{label}' ({proto.op_type}) is malformed: {one_line(error)}") from error
