"""Operators that hold scales and integers inside: onnxruntime's QLinear family, and products with 2, 4 or 8-bit blocks.

Each is taken for what it means: the operator on real numbers, and its result rounded to the grid it names.
"""

from __future__ import annotations

import numpy as np

from picoformer.errors import ModelError
from picoformer.frontends.onnx_builder import NodeReader
from picoformer.frontends.onnx_integers import Steps, held_bias, held_constant, held_weight
from picoformer.frontends.onnx_quantized import (
    QuantizedConverter,
    check_grid,
    grid,
    linear,
    plain_name,
    rounded,
)
from picoformer.ir import Operator
from picoformer.ir.operator import Array
from picoformer.ops import Activation, Add, Concat, Linear, MatMul, Mul, ReduceMean, Softmax, Transpose


def _read(node: NodeReader, index: int, axis: int) -> Steps | str:
    """Operand `index`, followed by its scale and zero point: a constant's integers, or the name of a value."""
    name: str = node.inputs[index]
    if not node.builder.is_constant(name):
        check_grid(node, name, index + 1, index + 2)
        return name
    zeros = node.array(index + 2) if node.has_input(index + 2) else None
    return Steps.read(node.array(index), node.array(index + 1), zeros, axis, 0)


def _round(node: NodeReader, value: str, scale: int, zero_point: int) -> bool:
    shape = node.builder.type_of(value).shape
    rounded(node, value, node.output, grid(node, scale, zero_point, shape, 1))
    return True


def _activation(node: NodeReader, index: int) -> str:
    operand = _read(node, index, 1)
    if isinstance(operand, Steps):
        raise node.unsupported(f"reads a constant as input {index}", "fold it before the model is quantized")
    return operand


def qlinear_matmul(node: NodeReader) -> bool:
    """A product of two activations, or of one with an integer matrix."""
    x, other = _activation(node, 0), _read(node, 3, -1)
    if isinstance(other, Steps):
        if other.steps.ndim != 2:
            raise node.unsupported("multiplies with a stack of integer matrices", "multiply with one matrix")
        product = node.builder.fresh(f"{node.output}_product")
        linear(node, x, other.moved(np.transpose), node.inputs[3], output=product)
    else:
        product = node.step(MatMul(), node.aligned([x, other]), "product")
    return _round(node, product, 6, 7)


def qgemm(node: NodeReader) -> bool:
    """alpha·A·B + C with integers B and C; without a grid for the result it is a float."""
    transposed, alpha = bool(node.attribute("transB", 0)), np.float32(node.attribute("alpha", 1.0))
    x, weight = _activation(node, 0), _read(node, 3, 0 if transposed else 1)
    if not isinstance(weight, Steps):
        raise node.unsupported("multiplies two activations", "use MatMul for these")
    if node.attribute("transA", 0):
        x = node.step(Transpose((-1, -2)), [x], "transposed")
    weight = weight if transposed else weight.moved(np.transpose)
    weight = Steps.signed(weight.steps, weight.scale * alpha, weight.bits)
    held = held_weight(node.inputs[3], weight, node.unsupported)
    operands = [x, node.builder.dequantized(plain_name(node.inputs[3]), *held)]
    if node.has_input(6):
        scale = weight.scale[:, 0] * np.float32(node.array(1).reshape(-1)[0])
        bias = Steps(np.broadcast_to(node.array(6).reshape(-1), scale.shape).astype(np.int64), scale, 32)
        operands.append(node.builder.dequantized(plain_name(node.inputs[6]), *held_bias(bias)))
    if not node.has_input(7):
        node.finish(Linear(), operands)
        return True
    return _round(node, node.step(Linear(), operands, "product"), 7, 8)


def qlinear_elementwise(op: Add | Mul) -> QuantizedConverter:
    """A sum or product of two activations, or of one and an integer constant."""

    def convert(node: NodeReader) -> bool:
        first, second = _read(node, 0, 1), _read(node, 3, 1)
        if isinstance(first, Steps):
            first, second, name = second, first, node.inputs[0]
        else:
            name = node.inputs[3]
        if isinstance(first, Steps):
            raise node.unsupported("reads constants only", "fold it before the model is quantized")
        if isinstance(second, Steps):
            if second.steps.size == 1:
                held = node.constant(second.real, "constant")
            else:
                held = node.builder.dequantized(plain_name(name), *held_constant(name, second, node.unsupported))
            operands = [*node.aligned([first]), held]
        else:
            operands = node.aligned([first, second])
        return _round(node, node.step(op, operands, "real"), 6, 7)

    return convert


def qlinear_unary(op: Operator) -> QuantizedConverter:
    """An operator of one activation; a softmax over the last axis."""

    def convert(node: NodeReader) -> bool:
        x = _activation(node, 0)
        if isinstance(op, Softmax) and node.axis(int(node.attribute("axis", -1)), node.type(0).rank) != -1:
            raise node.unsupported("is a softmax over another axis than the last", "transpose before it")
        return _round(node, node.step(op, [x], "real"), 3, 4)

    return convert


def qlinear_reduce_mean(node: NodeReader) -> bool:
    """The mean over some axes."""
    value, keep = _activation(node, 0), bool(node.attribute("keepdims", 1))
    rank = node.type(0).rank
    for axis in sorted(node.axis(int(a), rank) for a in node.attribute("axes", range(rank))):
        value = node.step(ReduceMean(axis, keep), [value], "mean")
    return _round(node, value, 3, 4)


def qlinear_concat(node: NodeReader) -> bool:
    """Activations one behind the other: inputs are the result's scale and zero point, then three for each operand."""
    parts = [_activation(node, index) for index in range(2, len(node.inputs), 3)]
    axis = node.axis(int(node.attribute("axis", 0)), node.builder.type_of(parts[0]).rank)
    return _round(node, node.step(Concat(axis), parts, "real"), 0, 1)


def unpacked(packed: Array, bits: int) -> Array:
    """Bytes (…, b) as numbers of 2, 4 or 8 bits (…, b·8/bits), the low bits first."""
    shifts = np.arange(0, 8, bits)
    values = (packed.astype(np.int64)[..., None] >> shifts) & ((1 << bits) - 1)
    return values.reshape(*packed.shape[:-1], -1)


def matmul_nbits(node: NodeReader) -> bool:
    """x · Bᵀ with B (N, K) in blocks of K, a scale each, and zero points that are 2^(bits − 1) unless given."""
    n, k, bits, block = (int(node.attribute(name, default)) for name, default in
                         (("N", 0), ("K", 0), ("bits", 4), ("block_size", 0)))  # fmt: skip
    if bits not in (2, 4, 8) or block < 1 or n < 1 or k < 1:
        raise node.unsupported(f"has {bits} bits in blocks of {block}", "use 2, 4 or 8 bits")
    if node.has_input(4):
        raise node.unsupported("orders its columns by groups (g_idx)", "quantize without act_order")
    blocks = -(-k // block)
    values = unpacked(node.array(1).reshape(n, blocks, -1), bits)
    scales = node.array(2).astype(np.float32)
    if values.shape[2] < block or scales.size != n * blocks or not np.isfinite(scales).all():
        raise ModelError(
            f"{node.builder.path}: node '{node.label}' (MatMulNBits) does not hold {n} × {k} weights in blocks of "
            f"{block}; quantize the model again"
        )
    zeros: Array = np.full((n, blocks), 1 << (bits - 1), np.int64)
    if node.has_input(3):
        given = node.array(3)
        if given.dtype.kind == "f":
            if not np.array_equal(given, np.rint(given)):
                raise node.unsupported("has zero points that are no integers", "quantize with integer zero points")
            zeros = given.astype(np.int64).reshape(n, blocks)
        else:
            zeros = unpacked(given.reshape(n, -1), bits)[:, :blocks]
    steps = (values[:, :, :block] - zeros[:, :, None]).reshape(n, -1)[:, :k]
    scale = np.repeat(scales.reshape(n, blocks), block, axis=1)[:, :k]
    bias = node.inputs[5] if node.has_input(5) else None
    linear(node, node.inputs[0], Steps.signed(steps, scale, bits), node.inputs[1], bias)
    return True


QOPERATOR_CONVERTERS: dict[str, QuantizedConverter] = {
    "QLinearMatMul": qlinear_matmul,
    "com.microsoft.MatMulNBits": matmul_nbits,
    "com.microsoft.QGemm": qgemm,
    "com.microsoft.QLinearAdd": qlinear_elementwise(Add()),
    "com.microsoft.QLinearConcat": qlinear_concat,
    "com.microsoft.QLinearMul": qlinear_elementwise(Mul()),
    "com.microsoft.QLinearReduceMean": qlinear_reduce_mean,
    "com.microsoft.QLinearSigmoid": qlinear_unary(Activation("sigmoid")),
    "com.microsoft.QLinearSoftmax": qlinear_unary(Softmax()),
}
"""Operator with its domain → what it becomes."""
