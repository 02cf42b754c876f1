"""A graph as an ONNX file: float as it is, quantized with a Quantize/DequantizeLinear pair on every value."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import helper

from picoformer import __version__
from picoformer.backends.convolutions import inside_convolutions
from picoformer.backends.onnx import windows
from picoformer.backends.onnx.emitters import EMITTERS, Unsupported
from picoformer.backends.onnx.writer import ELEMENT_TYPES, OnnxWriter, Spelling
from picoformer.errors import UnsupportedError
from picoformer.files import atomic_write_bytes
from picoformer.ir import DType, Graph

OPSET = 21
"""The first opset whose QuantizeLinear and DequantizeLinear take 16-bit integers."""
IR_VERSION = 10


def export_onnx(
    graph: Graph,
    path: Path,
    metadata: Mapping[str, str] | None = None,
    *,
    extra_outputs: bool = False,
    spelling: Spelling | None = None,
) -> None:
    """Write `graph` to `path`, atomically; the same graph and metadata give the same bytes.

    See `onnx_bytes`. Raises UnsupportedError naming the node that ONNX cannot say.
    """
    atomic_write_bytes(Path(path), onnx_bytes(graph, metadata, extra_outputs=extra_outputs, spelling=spelling))


def onnx_bytes(
    graph: Graph,
    metadata: Mapping[str, str] | None = None,
    *,
    extra_outputs: bool = False,
    spelling: Spelling | None = None,
) -> bytes:
    """`graph` as the bytes of an ONNX file of opset 21, checked by onnx's own checker.

    Inputs have the graph's names and shapes: float32 where the graph has float32 or a quantized type (the
    first QuantizeLinear stands inside the file), int64 where the graph has int32 (ids, lengths). Quantized
    outputs are float32, dequantized. With `extra_outputs` the value of every node is an output too, under its
    graph name. `metadata` becomes the file's metadata_props, `spelling` says which of two ways is taken where
    ONNX has them. Raises UnsupportedError naming the node that ONNX cannot say.
    """
    writer = OnnxWriter(graph, spelling)
    inside = frozenset() if extra_outputs else inside_convolutions(graph)
    inputs = [_input(writer, name) for name in graph.inputs]
    for node in graph.nodes:
        emitter = EMITTERS.get(type(node.op), Unsupported("it has no emitter"))
        if isinstance(emitter, Unsupported):
            raise UnsupportedError(f"node '{node.name}' ({node.op.kind}) cannot be written as ONNX: {emitter.reason}")
        if node.output in inside:
            continue
        patches = graph.producers[node.inputs[0]] if node.inputs and node.inputs[0] in inside else None
        if patches is not None:
            emitter = functools.partial(windows.convolution, patches)
        if _is_quantized(graph, node.output):
            result = writer.fresh(f"{node.output}_float")
            emitter(writer, node, node.op, result)
            writer.requantized(result, node.output, node.output)
        else:
            emitter(writer, node, node.op, node.output)
    for name in graph.outputs:
        if name not in graph.producers:
            raise UnsupportedError(f"output '{name}' is computed by no node: an ONNX file cannot return it unchanged")
    extra = [n.output for n in graph.nodes if n.output not in graph.outputs] if extra_outputs else []
    proto = helper.make_graph(
        writer.nodes,
        graph.name,
        inputs,
        [_value_info(graph, name) for name in (*graph.outputs, *extra)],
        writer.initializers,
    )
    private = {node.domain for node in writer.nodes if node.domain}
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in sorted(private))],
        ir_version=IR_VERSION,
        producer_name="picoformer",
        producer_version=__version__,
    )
    helper.set_model_props(model, dict(sorted((metadata or {}).items())))
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _is_quantized(graph: Graph, name: str) -> bool:
    return graph.types[name].quant is not None


def _input(writer: OnnxWriter, name: str) -> onnx.ValueInfoProto:
    type_ = writer.graph.types[name]
    element = onnx.TensorProto.INT64 if type_.dtype is DType.INT32 else onnx.TensorProto.FLOAT
    if type_.dtype is DType.BOOL:
        element = onnx.TensorProto.BOOL
    if type_.quant is not None:
        element = onnx.TensorProto.FLOAT
        writer.redirect(name, writer.requantized(name, name, writer.fresh(f"{name}_dequantized")))
    elif type_.dtype is DType.INT32:
        cast = writer.emit("Cast", [name], writer.fresh(f"{name}_int32"), to=onnx.TensorProto.INT32)
        writer.redirect(name, cast)
    return helper.make_tensor_value_info(name, element, type_.shape)


def _value_info(graph: Graph, name: str) -> onnx.ValueInfoProto:
    type_ = graph.types[name]
    element = onnx.TensorProto.FLOAT if type_.quant is not None else ELEMENT_TYPES[type_.dtype]
    return helper.make_tensor_value_info(name, element, type_.shape)
