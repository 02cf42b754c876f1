"""ONNX operators that multiply by weights: MatMul, Gemm, and Conv over patches."""

from __future__ import annotations

import numpy as np

from picoformer.frontends.onnx_builder import NodeReader
from picoformer.ops import Add, Conv, Linear, MatMul, Mul, Reshape, Transpose


def matmul(node: NodeReader) -> None:
    """MatMul; a vector operand becomes a matrix of one row or column for the time of the product."""
    a, b = node.inputs
    a_shape, b_shape = node.type(0).shape, node.type(1).shape
    if len(a_shape) > 1 and len(b_shape) > 1:
        node.finish(MatMul(), node.aligned([a, b]))
        return
    left = node.reshaped(a, (1, *a_shape) if len(a_shape) == 1 else a_shape, "row")
    right = node.reshaped(b, (*b_shape, 1) if len(b_shape) == 1 else b_shape, "column")
    product = node.step(MatMul(), node.aligned([left, right]), "product")
    shape = list(node.builder.type_of(product).shape)
    if len(b_shape) == 1:
        shape.pop()
    if len(a_shape) == 1:
        shape.pop(-1 if len(b_shape) == 1 else -2)
    node.finish(Reshape(tuple(shape)), [product])


def gemm(node: NodeReader) -> None:
    """alpha·A·B + beta·C: a Linear when B and C are constant, else its pieces."""
    alpha, beta = float(node.attribute("alpha", 1.0)), float(node.attribute("beta", 1.0))
    a, b = node.inputs[:2]
    if node.attribute("transA", 0):
        a = node.step(Transpose((-1, -2)), [a], "transposed")
    transposed = bool(node.attribute("transB", 0))
    has_bias = node.has_input(2) and beta != 0
    constant_b = node.builder.is_constant(b)
    outputs = node.type(1).shape[0 if transposed else 1]
    by_column = not has_bias or (
        node.builder.is_constant(node.inputs[2])
        and node.type(2).elements in (1, outputs)
        and node.type(2).width in (1, outputs)
        and (node.type(2).elements == 1 or node.type(2).width == outputs)
    )
    if constant_b and by_column:
        plain = transposed and alpha == 1.0
        weight = node.array(1) if transposed else node.array(1).T
        names = [a, b if plain else node.constant((weight * alpha).astype(np.float32), "weight")]
        if has_bias:
            value = node.array(2)
            if beta == 1.0 and value.shape == (outputs,):
                names.append(node.inputs[2])
            else:
                bias = np.broadcast_to(value.reshape(-1) * beta, (outputs,)).astype(np.float32)
                names.append(node.constant(bias, "bias"))
        node.finish(Linear(), names)
        return
    if transposed:
        b = node.step(Transpose((-1, -2)), [b], "transposed_b")
    value_name = node.step(MatMul(), [a, b], "product")
    if alpha != 1.0 or not has_bias:
        value_name = node.step(Mul(), [value_name, node.constant(np.array(alpha, np.float32), "alpha")], "scaled")
    if not has_bias:
        node.builder.alias(node.output, value_name)
        return
    c = node.inputs[2]
    if beta != 1.0:
        c = node.step(Mul(), [c, node.constant(np.array(beta, np.float32), "beta")], "scaled_c")
    node.finish(Add(), node.aligned([value_name, c]))


def conv(node: NodeReader) -> None:
    """Conv of one or two dimensions that cuts its input into patches: stride = kernel, no padding, one group."""
    x_shape, weight = node.type().shape, node.array(1)
    dimensions = weight.ndim - 2
    kernel = weight.shape[2:]
    strides = tuple(node.attribute("strides", [1] * dimensions))
    pads = list(node.attribute("pads", [0] * 2 * dimensions))
    auto = node.attribute("auto_pad", "NOTSET")
    plain = auto in ("NOTSET", "VALID") or (auto.startswith("SAME") and all(
        size % step == 0 for size, step in zip(x_shape[2:], strides, strict=True)
    ))  # fmt: skip
    dilated = any(d != 1 and k != 1 for d, k in zip(node.attribute("dilations", [1] * dimensions), kernel, strict=True))
    if dimensions not in (1, 2) or strides != kernel or any(pads) or not plain or dilated:
        raise node.unsupported(
            f"is a convolution with kernel {list(kernel)}, strides {list(strides)}, pads {pads}",
            "only patches are covered: stride equal to the kernel, no padding, no dilation",
        )
    if node.attribute("group", 1) != 1:
        raise node.unsupported("has several groups", "only group = 1 is covered")
    if any(size % step for size, step in zip(x_shape[2:], kernel, strict=True)):
        raise node.unsupported(f"does not cover {list(x_shape[2:])} in whole patches", "crop or pad the input")
    bias = node.inputs[2:3] if node.has_input(2) else []
    if dimensions == 2:
        node.finish(Conv(), [*node.inputs[:2], *bias])
        return
    x = node.step(Reshape((*x_shape[:2], 1, x_shape[2])), node.inputs[:1], "image")
    flat = node.constant(weight.reshape(*weight.shape[:2], 1, weight.shape[2]), "weight")
    y = node.step(Conv(), [x, flat, *bias], "patches")
    rows = node.builder.type_of(y).shape
    node.finish(Reshape((rows[0], rows[1], rows[3])), [y])
