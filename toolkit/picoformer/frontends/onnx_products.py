"""ONNX operators that multiply: MatMul, Gemm, and Attention in its plain form."""

from __future__ import annotations

import math

import numpy as np

from picoformer.frontends.onnx_builder import NodeReader
from picoformer.ir import DType
from picoformer.ops import Add, Linear, MatMul, Mul, Reshape, Softmax, Transpose, Where


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


def attention(node: NodeReader) -> None:
    """Attention (opset 23) spelled out; what is beyond softmax(q·kᵀ·scale + mask)·v is refused."""
    if any(node.has_input(i) for i in (4, 5, 6)) or any(name for name in node.node.output[1:]):
        raise node.unsupported("keeps past keys or gives more than its result", "export without a cache")
    if float(node.attribute("softcap", 0.0)) != 0.0:
        raise node.unsupported("caps its scores (softcap)", "export without softcap")
    names = list(node.inputs[:3])
    merged = node.type().rank == 3
    if merged:
        heads = int(node.attribute("q_num_heads", 0))
        kv_heads = int(node.attribute("kv_num_heads", heads))
        for index, (role, count) in enumerate((("query", heads), ("key", kv_heads), ("value", kv_heads))):
            batch, rows, width = node.builder.type_of(names[index]).shape
            if count < 1 or width % count:
                raise node.unsupported(f"cuts {width} columns into {count} heads", "give q_num_heads and kv_num_heads")
            split = node.step(Reshape((batch, rows, count, width // count)), [names[index]], f"{role}_split")
            names[index] = node.step(Transpose((-4, -2, -3, -1)), [split], f"{role}_heads")
    shapes = [node.builder.type_of(name).shape for name in names]
    readers = shapes[0][1] // shapes[1][1]
    if readers * shapes[1][1] != shapes[0][1]:
        raise node.unsupported(
            f"has {shapes[0][1]} heads of queries and {shapes[1][1]} of keys", "the second number must divide the first"
        )
    if readers > 1:
        names[1:] = [
            _repeat_heads(node, name, readers, role) for name, role in zip(names[1:], ("key", "value"), strict=True)
        ]
    scale = float(node.attribute("scale", 0.0)) or 1.0 / math.sqrt(shapes[0][-1])
    key = node.step(Transpose((-4, -3, -1, -2)), [names[1]], "key_transposed")
    scores = node.step(MatMul(), [names[0], key], "scores")
    scores = node.step(Mul(), [scores, node.constant(np.array(scale, np.float32), "scale")], "scaled")
    if node.attribute("is_causal", 0):  # from the upper left corner, whatever the shape
        triangle = np.triu(np.full((shapes[0][2], shapes[1][2]), -np.inf, np.float32), 1)
        scores = node.step(Add(), [scores, node.constant(triangle[None, None], "causal")], "seen")
    if node.has_input(3):
        mask = node.inputs[3]
        if node.builder.type_of(mask).dtype is DType.BOOL:
            lowest = node.constant(np.array(-np.inf, np.float32), "lowest")
            scores = node.step(Where(), node.aligned([mask, scores, lowest]), "masked")
        else:
            scores = node.step(Add(), node.aligned([scores, mask]), "masked")
    weights = node.step(Softmax(), [scores], "weights")
    if not merged:
        node.finish(MatMul(), [weights, names[2]])
        return
    context = node.step(MatMul(), [weights, names[2]], "context")
    batch, heads, rows, width = node.builder.type_of(context).shape
    joined = node.step(Transpose((-4, -2, -3, -1)), [context], "joined")
    node.finish(Reshape((batch, rows, heads * width)), [joined])


def _repeat_heads(node: NodeReader, name: str, times: int, role: str) -> str:
    """Heads (B, G, T, D), each `times` in a row: (B, G·times, T, D)."""
    batch, heads, rows, width = node.builder.type_of(name).shape
    apart = node.step(Reshape((batch, heads, 1, rows, width)), [name], f"{role}_apart")
    ones = node.constant(np.ones((batch, heads, times, rows, width), np.float32), f"{role}_ones")
    repeated = node.step(Mul(), [apart, ones], f"{role}_repeated")
    return node.step(Reshape((batch, heads * times, rows, width)), [repeated], f"{role}_shared")


__all__ = ["attention", "gemm", "matmul"]
