"""A piece of a quantized ONNX file as a file of its own: integers in, the operators between, integers out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from picoformer.backends.onnx.runtime import OnnxSession
from picoformer.errors import ModelError
from picoformer.ir import DType, QuantParams
from picoformer.ir.operator import Array
from picoformer.ops.rounded import Rounded

INTEGER_OPERATORS = ("QGemm", "QLinearAdd", "QLinearMatMul", "QLinearMul", "QLinearSigmoid", "QLinearSoftmax")
"""Operators whose result is rounded to a grid of their own."""


@dataclass(frozen=True)
class Piece:
    """The bytes of a piece, the tensors that it reads, and whether values inside it are quantized on the way."""

    content: bytes
    reads: tuple[str, ...]
    is_rounded_inside: bool


class QuantizedFile:
    """A quantized file whose tensors of integers are looked at one by one. Raises ModelError for one that cannot run.

    `sample`: input name → array of one sample, to learn types and shapes of the `tensors` from.
    """

    def __init__(self, path: Path, tensors: Collection[str], sample: Mapping[str, Array]) -> None:
        self._model = _shared(onnx.load(str(path)), tensors)
        self._producers = {name: node for node in self._model.graph.node for name in node.output}
        self._initializers = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self._inputs: dict[str, onnx.ValueInfoProto] = {value.name: value for value in self._model.graph.input}
        unknown = [name for name in tensors if name not in self._producers]
        if unknown:
            raise ModelError(f"{path}: no node computes '{unknown[0]}'")
        probe = onnx.ModelProto()
        probe.CopyFrom(self._model)
        known = {value.name for value in probe.graph.output}
        probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors if name not in known)
        values = OnnxSession(probe.SerializeToString()).run(sample)
        self._known = {name: values[name] for name in tensors}

    def integers(self, rounded: Rounded, real: Array) -> Array:
        """A value of one sample as the file's integers, in its order."""
        like, quant = self._known[rounded.source], rounded.stored or rounded.quant
        held = np.empty(like.size, np.int64)
        held[rounded.order(like.shape)] = _steps(real, quant, rounded.dtype).reshape(-1) + _shift(like)
        return held.astype(like.dtype).reshape(like.shape)

    def distance(self, rounded: Rounded, held: Array, real: Array) -> Array:
        """How many steps of the file the integers `held` lie from a value of one sample, each element."""
        found = held.reshape(-1)[rounded.order(held.shape)].astype(np.int64) - _shift(held)
        wanted = _steps(real, rounded.stored or rounded.quant, rounded.dtype)
        return np.abs(found.reshape(real.shape) - wanted)

    def piece(self, tensor: str, bare: bool = False) -> Piece:
        """What computes `tensor` from the nearest known tensors; `bare` takes out what is quantized in between."""
        nodes, reads = self._walk(tensor)
        inside = [node for node in nodes if node.op_type == "QuantizeLinear" and tensor not in node.output]
        rounds = any(node.op_type in INTEGER_OPERATORS and tensor not in node.output for node in nodes)
        if bare:
            nodes = _without_pairs(nodes, {name for node in inside for name in node.output})
        else:
            rounds = rounds or bool(inside)
        read = dict.fromkeys(name for node in nodes for name in node.input)
        stored = [self._initializers[name] for name in read if name in self._initializers]
        inputs = [self._value_info(name) for name in reads]
        outputs = [self._value_info(tensor)]
        graph = helper.make_graph(nodes, "piece", inputs, outputs, stored)
        model = helper.make_model(graph, opset_imports=list(self._model.opset_import))
        model.ir_version = self._model.ir_version
        return Piece(model.SerializeToString(), tuple(reads), rounds)

    def _walk(self, tensor: str) -> tuple[list[onnx.NodeProto], list[str]]:
        found: dict[int, onnx.NodeProto] = {}
        reads: dict[str, None] = {}
        stack = [tensor]
        while stack:
            name = stack.pop()
            if (name in self._known and name != tensor) or (name in self._inputs and name not in self._initializers):
                reads[name] = None
            elif name in self._producers and id(self._producers[name]) not in found:
                node = self._producers[name]
                found[id(node)] = node
                stack += [x for x in node.input if x]
        return [node for node in self._model.graph.node if id(node) in found], list(reads)

    def _value_info(self, name: str) -> onnx.ValueInfoProto:
        if name not in self._known:
            return self._inputs[name]
        like = self._known[name]
        info: onnx.ValueInfoProto = helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(like.dtype), like.shape
        )
        return info


def _shared(model: onnx.ModelProto, tensors: Collection[str]) -> onnx.ModelProto:
    """The model with one QuantizeLinear where several quantize a value alike, that of `tensors` if one is."""
    values = {}
    for tensor in model.graph.initializer:
        plain = onnx.TensorProto()
        plain.CopyFrom(tensor)
        plain.name = ""
        values[tensor.name] = plain.SerializeToString()
    alike: dict[tuple[object, ...], list[str]] = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            key = (node.input[0], *(values.get(name, name.encode()) for name in node.input[1:]))
            alike.setdefault(key, []).append(node.output[0])
    chosen: dict[str, str] = {}
    for names in alike.values():
        best = next((name for name in names if name in tensors), names[0])
        chosen |= {name: best for name in names if name != best}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = chosen.get(name, name)
    return model


def _steps(real: Array, quant: QuantParams, dtype: DType) -> Array:
    """The integers of real numbers that lie on a grid, or near it, int64."""
    steps = np.rint(real.astype(np.float64) / quant.scale_array(real.ndim)) + quant.zero_point
    result: Array = np.clip(steps, dtype.minimum, dtype.maximum).astype(np.int64)
    return result


def _shift(like: Array) -> int:
    """What an unsigned type's integers lie above those of the signed one."""
    return 1 << (8 * like.dtype.itemsize - 1) if like.dtype.kind == "u" else 0


def _without_pairs(nodes: list[onnx.NodeProto], quantized: set[str]) -> list[onnx.NodeProto]:
    """The nodes without those that quantize to `quantized` and back: readers read what was quantized."""
    same = {node.output[0]: node.input[0] for node in nodes if quantized.intersection(node.output)}
    same |= {
        node.output[0]: node.input[0]
        for node in nodes
        if node.op_type == "DequantizeLinear" and node.input[0] in quantized
    }
    kept = []
    for node in nodes:
        if node.output[0] in same:
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(copy.input):
            while name in same:
                name = same[name]
            copy.input[index] = name
        kept.append(copy)
    return kept
