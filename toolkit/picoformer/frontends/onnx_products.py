"""ONNX operators that multiply by weights: MatMul, Gemm."""

from __future__ import annotations

import numpy as np

from picoformer.frontends.onnx_builder import NodeReader
from picoformer.ops import Add, Linear, MatMul, Mul, Reshape, Transpose


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
