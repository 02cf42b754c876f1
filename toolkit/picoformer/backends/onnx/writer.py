"""Collecting the nodes and initializers of one ONNX graph: names, constants, quantized values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from picoformer.backends.onnx.nbits import packed_blocks
from picoformer.ir import DType, Graph, Node, QuantParams, TensorType, fresh_name
from picoformer.ir.operator import Array
from picoformer.ir.types import BLOCK
from picoformer.ops import Linear

ELEMENT_TYPES = {
    DType.FLOAT32: onnx.TensorProto.FLOAT,
    DType.INT4: onnx.TensorProto.INT4,
    DType.INT8: onnx.TensorProto.INT8,
    DType.INT16: onnx.TensorProto.INT16,
    DType.INT32: onnx.TensorProto.INT32,
    DType.BOOL: onnx.TensorProto.BOOL,
}

MICROSOFT = "com.microsoft"
"""The domain of onnxruntime's own operators."""

MASKED_SCORE = np.array(-3.0e38, np.float32)
"""Score of a key that takes no part: its e^x is 0; unlike −inf it leaves no NaN in a row without a key."""


@dataclass(frozen=True)
class Spelling:
    """What of a quantized graph ONNX can say in two ways. Neither changes a number.

    `unsigned_activations`: 8-bit activations as uint8, which onnxruntime's kernels for x86 want; weights stay int8.
    `matmul_nbits`: products with int4 weights as com.microsoft's MatMulNBits, which onnxruntime has kernels for,
    instead of a DequantizeLinear in blocks, which is standard ONNX.
    """

    unsigned_activations: bool = False
    matmul_nbits: bool = False


class OnnxWriter:
    """Nodes and initializers in the order they are written; every graph value under its own name.

    A quantized value is written as float → QuantizeLinear (`name_quantized`) → DequantizeLinear (`name`), so
    that whoever reads `name` sees the real number that the device's integer stands for.
    """

    def __init__(self, graph: Graph, spelling: Spelling | None = None) -> None:
        self.graph = graph
        self.spelling = spelling or Spelling()
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._taken = set(graph.types)
        self._read: dict[str, str] = {}
        self._shared: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def fresh(self, wish: str) -> str:
        """A name not yet used: `wish`, else `wish_1`, `wish_2` …"""
        name = fresh_name(wish, self._taken)
        self._taken.add(name)
        return name

    def emit(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node that computes `output`; returns `output`. The attribute `domain` is the node's own."""
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def part(self, operator: str, inputs: list[str], of: Node, **attributes: Any) -> str:
        """Append a node whose result is an inner value of graph node `of`; returns the name given to it."""
        return self.emit(operator, inputs, self.fresh(f"{of.output}_{operator.lower()}"), **attributes)

    def initializer(self, wish: str, value: Array, dtype: DType | None = None) -> str:
        """Append a constant, its type that of the array unless given; returns its name."""
        name = self.fresh(wish)
        self._append(name, value, dtype)
        return name

    def shared(self, wish: str, value: Array) -> str:
        """A small constant, stored once however often it is asked for (`wish` names its first use)."""
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._shared:
            self._shared[key] = self.initializer(wish, value)
        return self._shared[key]

    def redirect(self, name: str, onnx_name: str) -> None:
        """From now on readers of graph value `name` read `onnx_name`."""
        self._read[name] = onnx_name

    def read(self, name: str) -> str:
        """The ONNX name under which graph value `name` is read as real numbers (or as plain integers)."""
        if name in self.graph.constants and name not in self._read:
            type_ = self.graph.types[name]
            self._read[name] = self._constant(name, self.graph.constants[name], type_.quant, name, type_.dtype)
        return self._read.get(name, name)

    def read_weight(self, node: Node) -> str:
        """The weight of a linear node as (K, N): stored so, unless another kind of operator reads it too."""
        name = node.inputs[1]
        readers = self.graph.consumers[name]
        shared = any(not isinstance(r.op, Linear) or r.inputs[1] != name or r.inputs.count(name) > 1 for r in readers)
        key = f"{name}_transposed"
        if key not in self._read:
            if shared or name not in self.graph.constants:
                self._read[key] = self.emit("Transpose", [self.read(name)], self.fresh(key), perm=[1, 0])
            else:
                self._read[key] = self._transposed(name, self.fresh(key))
        return self._read[key]

    def kernel(self, name: str, value: Array, quant: QuantParams | None) -> str:
        """The weight `name` of a linear node as the kernel of a Conv, `value` (M, C, h, w); one for each shape."""
        key = f"{name}_kernel_{'x'.join(map(str, value.shape))}"
        if key not in self._read:
            own = None if quant is None else QuantParams(quant.scale, 0, None if quant.axis is None else -value.ndim)
            self._read[key] = self._constant(name, value, own, self.fresh(f"{name}_kernel"))
        return self._read[key]

    def _transposed(self, name: str, output: str) -> str:
        """A weight (N, K) stored as (K, N). One with block multipliers has a scale for each block of K."""
        type_, value = self.graph.types[name], np.ascontiguousarray(self.graph.constants[name].T)
        quant = type_.quant
        if quant is None:
            return self._constant(name, value, None, output)
        if not quant.block_multipliers:
            axis = None if quant.axis is None else -3 - quant.axis
            return self._constant(name, value, QuantParams(quant.scale, quant.zero_point, axis), output, type_.dtype)
        return self._blocks(name, value, quant, output, 0)

    def _blocks(self, name: str, value: Array, quant: QuantParams, output: str, axis: int) -> str:
        """An int4 matrix with block multipliers, its blocks along `axis`."""
        scales = np.asarray(quant.scale, np.float64) * np.asarray(quant.block_multipliers, np.float64).T
        scales = scales if axis == 0 else scales.T
        scale = self.shared(f"{name}_scale", scales.astype(np.float32))
        quantized = self.initializer(f"{name}_quantized", value, DType.INT4)
        return self.emit("DequantizeLinear", [quantized, scale], output, axis=axis, block_size=BLOCK)

    def nbits_product(self, node: Node, output: str) -> str:
        """A linear node's product with its int4 weight as MatMulNBits; returns `output`."""
        name = node.inputs[1]
        quant, value = self.graph.types[name].quant, self.graph.constants[name]
        assert quant is not None
        packed, scales = packed_blocks(value, quant)
        operands = [self.shared(f"{name}_packed", packed), self.shared(f"{name}_block_scales", scales)]
        n, k = value.shape
        return self.emit(
            "MatMulNBits", [self.read(node.inputs[0]), *operands], output,
            domain=MICROSOFT, N=n, K=k, bits=4, block_size=BLOCK,
        )  # fmt: skip

    def read_bias(self, node: Node, weight_index: int = 1) -> str:
        """A linear node's bias; an int32 one stands on the grid of its products: input · weight scale."""
        name = node.inputs[weight_index + 1]
        x, weight, bias = (self.graph.types[n] for n in (node.inputs[0], node.inputs[weight_index], name))
        if bias.dtype is not DType.INT32 or bias.quant is not None or x.quant is None or weight.quant is None:
            return self.read(name)
        scale = np.float64(x.quant.per_tensor_scale) * np.asarray(weight.quant.scale, np.float64)
        quant = QuantParams(tuple(scale.tolist()), 0, None if len(scale) == 1 else -1)
        value = self.graph.constants[name]
        return self._constant(name, value, quant, self.fresh(f"{node.output}_bias"))

    def requantized(self, source: str, name: str, output: str) -> str:
        """ONNX value `source` through the grid of graph value `name` and back; returns `output`."""
        type_ = self.graph.types[name]
        assert type_.quant is not None
        scale, zero_point, axis = self._parameters(name, type_.quant, type_)
        if self.spelling.unsigned_activations and type_.dtype is DType.INT8:
            shape = () if type_.quant.axis is None else (len(type_.quant.scale),)
            zero = np.full(shape, type_.quant.zero_point - DType.INT8.minimum, np.uint8)
            zero_point = self.shared(f"{name}_unsigned_zero_point", zero)
        quantized = self.fresh(f"{name}_quantized")
        self.emit("QuantizeLinear", [source, scale, zero_point], quantized, **axis)
        return self.emit("DequantizeLinear", [quantized, scale, zero_point], output, **axis)

    def _constant(
        self, name: str, value: Array, quant: QuantParams | None, output: str, dtype: DType | None = None
    ) -> str:
        if quant is None:
            self._append(output, value)
            return output
        if quant.block_multipliers:
            return self._blocks(name, value, quant, output, 1)
        if dtype is not DType.INT4:
            dtype = {np.dtype(np.int8): DType.INT8, np.dtype(np.int16): DType.INT16}.get(value.dtype, DType.INT32)
        scale, zero_point, axis = self._parameters(name, quant, TensorType(value.shape, dtype, quant))
        quantized = self.initializer(f"{name}_quantized", value, dtype)
        inputs = [quantized, scale, *([zero_point] if zero_point else [])]
        return self.emit("DequantizeLinear", inputs, output, **axis)

    def _parameters(self, name: str, quant: QuantParams, type_: TensorType) -> tuple[str, str, dict[str, int]]:
        shape = () if quant.axis is None else (len(quant.scale),)
        scale = self.shared(f"{name}_scale", np.asarray(quant.scale, np.float32).reshape(shape))
        zero = (
            ""
            if type_.dtype in (DType.INT4, DType.INT32)
            else self.shared(f"{name}_zero_point", np.full(shape, quant.zero_point, type_.dtype.numpy))
        )
        return scale, zero, {} if quant.axis is None else {"axis": quant.axis + type_.rank}

    def _append(self, name: str, value: Array, dtype: DType | None = None) -> None:
        little_endian = np.ascontiguousarray(value).reshape(value.shape)
        if dtype is DType.INT4:
            halves = np.zeros(-(-value.size // 2) * 2, np.uint8)
            halves[: value.size] = value.reshape(-1).view(np.uint8) & 15
            packed = (halves[0::2] | halves[1::2] << 4).tobytes()
            self.initializers.append(helper.make_tensor(name, ELEMENT_TYPES[dtype], value.shape, packed, raw=True))
            return
        self.initializers.append(numpy_helper.from_array(little_endian, name))
