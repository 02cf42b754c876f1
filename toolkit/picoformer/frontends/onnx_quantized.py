"""Files that come quantized: Quantize and DequantizeLinear, and operators that read integer constants through them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from picoformer.frontends.onnx_builder import GraphBuilder, NodeReader
from picoformer.frontends.onnx_integers import (
    Steps,
    held_bias,
    held_constant,
    held_rows,
    held_weight,
    integer_bits,
)
from picoformer.ir import DType, QuantParams
from picoformer.ir.operator import Array
from picoformer.ops import Add, Concat, Embedding, Linear, Mul, Reshape, Slice, Transpose
from picoformer.ops.rounded import Rounded

MOVES = (Reshape, Transpose, Slice, Concat)
UNSIGNED_SHIFT = {8: 128, 16: 32768}
"""Bits → what is taken off an unsigned integer and its zero point to make both signed: the same numbers."""
TYPES = {8: DType.INT8, 16: DType.INT16}

BAD_SCALE = "calibrate again, and write masks with a finite number (-10000) in place of minus infinity"
MASKED = -1.0e4
"""A constant that reaches down to here masks scores: it is read as real numbers, and is exact."""

QuantizedConverter = Callable[[NodeReader], bool]
"""Adds what the node becomes; False when nothing about it is quantized and the ordinary converter is to take it."""


def grid(node: NodeReader, scale: int, zero_point: int, shape: tuple[int, ...], axis: int) -> Rounded:
    """How an activation is rounded, from the inputs with its scale and zero point; unsigned integers made signed.

    16 bits with a zero point would need 17 here, where 16-bit values are symmetric: they are held on the symmetric grid
    that spans the same range, whose step is at most twice as large.
    """
    if int(node.attribute("block_size", 0)):
        raise node.unsupported("quantizes an activation in blocks", "quantize it with one scale")
    scales = node.array(scale).astype(np.float32).reshape(-1)
    zeros = node.array(zero_point) if node.has_input(zero_point) else np.zeros(1, np.uint8)
    bits = _bits(node, zeros)
    if bits not in TYPES:
        raise node.unsupported(f"makes {zeros.dtype} activations", "quantize activations to 8 or 16 bits")
    shift = UNSIGNED_SHIFT[bits] if zeros.dtype.kind == "u" else 0
    points = zeros.astype(np.int64).reshape(-1) - shift
    if scales.size > 1 and points.any():
        raise node.unsupported("has zero points per channel", "quantize activations with one scale, or symmetric")
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise node.unsupported("has a scale that is not a positive number", BAD_SCALE)
    per_channel = node.axis(axis, len(shape)) if scales.size > 1 else None
    dtype = TYPES[bits]
    quant = QuantParams(tuple(map(float, scales)), int(points[0]) if scales.size == 1 else 0, per_channel)
    if dtype is DType.INT8 or not quant.zero_point:
        return Rounded(quant, dtype)
    node.builder.regridded.setdefault(node.output)
    reach = max(dtype.maximum - quant.zero_point, quant.zero_point - dtype.minimum)
    return Rounded(QuantParams((quant.per_tensor_scale * reach / dtype.maximum,)), dtype, stored=quant)


def _bits(node: NodeReader, value: Array) -> int:
    try:
        return integer_bits(value.dtype)
    except ValueError as error:
        raise node.unsupported(str(error), "quantize to 4, 8 or 16 bits") from None


def rounded(node: NodeReader, source: str, tensor: str, how: Rounded) -> None:
    """`tensor`, of the file, holds the integers of value `source`: it stands for their real numbers from now on."""
    node.builder.add(node.label, replace(how, source=tensor), [source], tensor)


def quantize_linear(node: NodeReader) -> bool:
    """An activation rounded to its grid; a constant at once as integers."""
    shape = node.type(0).shape
    axis = int(node.attribute("axis", 1))
    if not node.builder.is_constant(node.inputs[0]):
        rounded(node, node.inputs[0], node.output, grid(node, 1, 2, shape, axis))
        return True
    zeros = node.array(2) if node.has_input(2) else np.zeros(1, np.uint8)
    bits = _bits(node, zeros)
    one = Steps.read(np.zeros(shape, zeros.dtype), node.array(1), zeros, axis, int(node.attribute("block_size", 0)))
    low = 0 if zeros.dtype.kind == "u" else -(1 << (bits - 1))
    steps = np.rint(node.array(0).astype(np.float32) / one.scale) - one.steps  # the steps of 0 are minus the zero point
    node.builder.known[node.output] = np.clip(steps, low, low + (1 << bits) - 1).astype(zeros.dtype)
    return True


def dequantize_linear(node: NodeReader) -> bool:
    """A constant off its integers, which are remembered; what QuantizeLinear rounded as it is."""
    source = node.builder.resolve(node.inputs[0])
    axis = int(node.attribute("axis", 1))
    if node.builder.is_constant(source):
        zeros = node.array(2) if node.has_input(2) else None
        _bits(node, node.array(0))
        block = int(node.attribute("block_size", 0))
        if not np.isfinite(node.array(1)).all():
            raise node.unsupported("has a scale that is not finite", BAD_SCALE)
        steps = Steps.read(node.array(0), node.array(1), zeros, axis, block)
        node.builder.integers[node.output] = steps
        node.builder.known[node.output] = steps.real
        return True
    check_grid(node, source, 1, 2)
    node.builder.alias(node.output, source)
    node.builder.called.setdefault(source, node.output)
    return True


def check_grid(node: NodeReader, name: str, scale: int, zero_point: int) -> None:
    """Raise UnsupportedError unless the integers `name` were made by the parameters that the node reads them with."""
    made = _origin(node.builder, node.builder.resolve(name))
    wanted = grid(node, scale, zero_point, node.builder.type_of(name).shape, int(node.attribute("axis", 1)))
    if made != wanted:
        raise node.unsupported(
            f"reads the integers of '{name}' by other parameters than they were made with",
            "give both nodes the same scale and zero point",
        )


def _origin(builder: GraphBuilder, name: str) -> Rounded | None:
    """What rounded the integers `name`, which may have been moved since."""
    for node in reversed(builder.nodes):  # in order: what computes an operand stands above what reads it
        if node.output != name:
            continue
        if isinstance(node.op, Rounded):
            return node.op
        if not isinstance(node.op, MOVES) or (isinstance(node.op, Concat) and len(set(node.inputs)) > 1):
            return None
        name = node.inputs[0]
    return None


def integers_of(node: NodeReader, index: int) -> Steps | None:
    """The file's integers of a constant input, where it came through DequantizeLinear."""
    return node.builder.integers.get(node.builder.resolve(node.inputs[index])) if node.has_input(index) else None


def plain_name(name: str) -> str:
    """What a constant is called without what quantizers append to its name."""
    return name.removesuffix("_DequantizeLinear_Output").removesuffix("_dequantized").removesuffix("_quantized")


def linear(
    node: NodeReader, x: str, weight: Steps, name: str, bias: str | None = None, output: str | None = None
) -> None:
    """x · weightᵀ + bias: weight (N, K) as the file's integers; `bias` names a constant (N,), integers or float."""
    steps = None if bias is None else node.builder.integers.get(node.builder.resolve(bias))
    if steps is not None and (steps.bits != 32 or steps.steps.shape != weight.steps.shape[:1]):
        steps = None
    made = _origin(node.builder, node.builder.resolve(x))
    scales = _added_scales(node) if steps is None else steps.scale
    hint = None
    if scales is not None and scales.shape == weight.steps.shape[:1] and made is not None and made.quant.axis is None:
        hint = scales / np.float32(made.quant.per_tensor_scale)
    held = held_weight(name, weight, node.unsupported, hint)
    operands = [x, node.builder.dequantized(plain_name(name), *held)]
    if bias is not None:
        operands.append(bias if steps is None else node.builder.dequantized(plain_name(bias), *held_bias(steps)))
    node.finish(Linear(), operands, output)


def _added_scales(node: NodeReader) -> Array | None:
    """The scales of an int32 bias that the only reader of the node's output adds to it."""
    readers, builder = node.builder.readers.get(node.output, []), node.builder
    if len(readers) != 1 or readers[0].op_type != "Add":
        return None
    for name in readers[0].input:
        made = builder.protos.get(name)
        if made is not None and made.op_type == "DequantizeLinear" and all(x in builder.known for x in made.input[:2]):
            return builder.known[made.input[1]].astype(np.float32).reshape(-1)
    return None


def matmul(node: NodeReader) -> bool:
    """A product with an integer matrix."""
    weight = integers_of(node, 1)
    if weight is None or node.builder.is_constant(node.inputs[0]):
        return False
    k, n = weight.steps.shape[-2:] if weight.steps.ndim > 1 else (0, 0)
    if weight.steps.size != k * n:
        raise node.unsupported("multiplies with a stack of integer matrices", "multiply with one matrix")
    linear(node, node.inputs[0], weight.moved(lambda v: v.reshape(k, n).T), node.inputs[1])
    return True


def gemm(node: NodeReader) -> bool:
    """alpha·A·B + beta·C with an integer matrix B."""
    weight = integers_of(node, 1)
    if weight is None or node.builder.is_constant(node.inputs[0]):
        return False
    alpha, beta = float(node.attribute("alpha", 1.0)), float(node.attribute("beta", 1.0))
    weight = weight if node.attribute("transB", 0) else weight.moved(np.transpose)
    if alpha != 1.0:
        weight = Steps.signed(weight.steps, weight.scale * np.float32(alpha), weight.bits)
    x = node.inputs[0]
    if node.attribute("transA", 0):
        x = node.step(Transpose((-1, -2)), [x], "transposed")
    outputs = len(weight.steps)
    if not node.has_input(2) or beta == 0.0:
        linear(node, x, weight, node.inputs[1])
        return True
    if not node.builder.is_constant(node.inputs[2]) or node.type(2).elements not in (1, outputs):
        raise node.unsupported("adds a matrix to a product with integers", "add it in a node of its own")
    bias = node.inputs[2]
    if beta != 1.0 or node.type(2).shape != (outputs,):
        value = np.broadcast_to(node.array(2).reshape(-1) * np.float32(beta), (outputs,))
        bias = node.constant(value.astype(np.float32), "bias")
    linear(node, x, weight, node.inputs[1], bias)
    return True


def elementwise(op: Add | Mul) -> QuantizedConverter:
    """A sum or product with an integer constant. One number, a bias of 32 bits or a mask is taken as the real it is."""

    def is_plain(steps: Steps | None) -> bool:
        return steps is None or steps.bits == 32 or steps.steps.size == 1 or float(steps.real.min()) <= MASKED

    def convert(node: NodeReader) -> bool:
        found = [integers_of(node, index) for index in (0, 1)]
        if all(map(is_plain, found)):
            return False
        if all(node.builder.is_constant(name) for name in node.inputs):
            return False
        index = next(i for i, steps in enumerate(found) if steps is not None)
        constant, name = found[index], node.inputs[index]
        assert constant is not None
        held = node.builder.dequantized(plain_name(name), *held_constant(name, constant, node.unsupported))
        node.finish(op, [*node.aligned([node.inputs[1 - index]]), held])
        return True

    return convert


def gather(node: NodeReader) -> bool:
    """Rows of an integer table."""
    table = integers_of(node, 0)
    if table is None or node.builder.is_constant(node.inputs[1]):
        return False
    if table.steps.ndim != 2 or node.axis(int(node.attribute("axis", 0)), 2) != -2:
        raise node.unsupported("picks entries of an integer tensor", "pick rows of a matrix")
    held = node.builder.dequantized(plain_name(node.inputs[0]), *held_rows(node.inputs[0], table, node.unsupported))
    node.finish(Embedding(), [node.inputs[1], held])
    return True


def moved_constant(node: NodeReader) -> bool:
    """Transpose, Reshape, Squeeze, Unsqueeze, Flatten or Identity of an integer constant: still one."""
    steps = integers_of(node, 0)
    if steps is None or not all(node.builder.is_constant(name) for name in node.inputs if name):
        return False
    from picoformer.frontends.onnx_fold import fold_node

    fold_node(node.node, node.builder)
    shape = node.builder.known[node.output].shape
    if node.node.op_type == "Transpose":
        rank = steps.steps.ndim
        order = node.attribute("perm", list(range(rank))[::-1])
        moved = steps.moved(lambda value: np.transpose(value, order))
    else:
        moved = steps.moved(lambda value: value.reshape(shape))
    node.builder.integers[node.output] = moved
    return True


def conv(node: NodeReader) -> bool:
    """A convolution with integer weights that cuts an image into patches: rows of pixels times a matrix."""
    weight = integers_of(node, 1)
    if weight is None:
        return False
    x_shape, kernel = node.type(0).shape, weight.steps.shape[2:]
    whole = len(kernel) == 2 and all(size % step == 0 for size, step in zip(x_shape[2:], kernel, strict=True))
    plain = list(kernel) == list(node.attribute("strides", [1] * len(kernel))) and int(node.attribute("group", 1)) == 1
    still = not any(node.attribute("pads", [0])) and node.attribute("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    if not (whole and plain and still) or any(d != 1 for d in node.attribute("dilations", [1])):
        raise node.unsupported(
            "is a convolution with integer weights, and not one over whole patches",
            "leave Conv out of op_types_to_quantize, or give the float model",
        )
    (n, c, height, width), (h, w) = x_shape, kernel
    rows, columns, outputs = height // h, width // w, len(weight.steps)
    cut = node.step(Reshape((n, c, rows, h, columns, w)), node.inputs[:1], "cut")
    moved = node.step(Transpose((-6, -4, -2, -5, -3, -1)), [cut], "patches")
    pixels = node.step(Reshape((n, rows * columns, c * h * w)), [moved], "pixels")
    product = node.builder.fresh(f"{node.output}_rows")
    bias = node.inputs[2] if node.has_input(2) else None
    linear(node, pixels, weight.moved(lambda v: v.reshape(outputs, -1)), node.inputs[1], bias, product)
    channels = node.step(Transpose((-3, -1, -2)), [product], "channels")
    node.finish(Reshape((n, outputs, rows, columns)), [channels])
    return True


QUANTIZED_CONVERTERS: dict[str, QuantizedConverter] = {
    "Add": elementwise(Add()),
    "Conv": conv,
    "DequantizeLinear": dequantize_linear,
    "Flatten": moved_constant,
    "Gather": gather,
    "Gemm": gemm,
    "Identity": moved_constant,
    "MatMul": matmul,
    "Mul": elementwise(Mul()),
    "QuantizeLinear": quantize_linear,
    "Reshape": moved_constant,
    "Squeeze": moved_constant,
    "Transpose": moved_constant,
    "Unsqueeze": moved_constant,
}
"""Operator, with its domain where it is not the standard one → what it becomes in a file with integers."""
