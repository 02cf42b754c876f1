"""What onnxruntime's optimizer writes (com.microsoft): attention with packed weights or heads, biased GELU, …"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from picoformer.errors import ModelError
from picoformer.frontends.onnx_attention import Heads, attend, finish_heads, scale_of, split_heads, with_past
from picoformer.frontends.onnx_builder import Converter, NodeReader
from picoformer.frontends.onnx_functions import function
from picoformer.frontends.onnx_rotary import picked, rotations_of, turn
from picoformer.ops import Activation, Add, Linear, MatMul, Mul, Reshape, Slice, Transpose
from picoformer.ops.functions import Function


def _refuse(node: NodeReader, attributes: dict[str, object]) -> None:
    """UnsupportedError for an attribute that says something else than what is covered."""
    for name, plain in attributes.items():
        if node.attribute(name, plain) != plain:
            raise node.unsupported(f"has {name} = {node.attribute(name, plain)}", f"only {plain} is covered")


def _padding(node: NodeReader, index: int, keys: int, heads: Heads) -> Heads:
    """What a mask of keys in input `index` means: lengths (batch,), or 0 and 1 for each key (batch, keys)."""
    if not node.has_input(index):
        return heads
    shape = node.type(index).shape
    batch = node.builder.type_of(heads.names[0]).shape[0]
    if shape == (batch,):
        return replace(heads, lengths=node.inputs[index])
    if len(shape) == 2 and shape[1] == keys:
        if not node.builder.is_constant(node.inputs[index]):
            raise node.unsupported(
                f"has a mask of keys '{node.inputs[index]}' that is computed",
                "fix that input (picoformer fix), or export without it and build with --valid-length",
            )
        real = node.array(index).astype(np.bool_).reshape(shape[0], 1, 1, keys)
        if real.all():
            return heads
        if heads.mask is not None:
            raise node.unsupported("has a mask of keys and one that is added", "export with one of them")
        return replace(heads, mask=node.constant(real, "real"))
    raise node.unsupported(f"has a mask of keys of shape {list(shape)}", "give lengths, or one number for each key")


def packed_attention(node: NodeReader) -> None:
    """com.microsoft.Attention: queries, keys and values are one product of the input with packed weights."""
    _refuse(node, {"do_rotary": 0})
    weight = node.array(1).astype(np.float32)
    heads = int(node.attribute("num_heads", 0))
    sizes = [int(n) for n in node.attribute("qkv_hidden_sizes", None) or [weight.shape[1] // 3] * 3]
    if len(sizes) != 3 or sum(sizes) != weight.shape[1]:
        raise ModelError(f"{node.builder.path}: node '{node.label}' packs {weight.shape[1]} columns as {sizes}")
    names, start = [], 0
    for size, role in zip(sizes, ("query", "key", "value"), strict=True):
        part = [node.inputs[0], node.constant(weight[:, start : start + size].T, f"{role}_weight")]
        if node.has_input(2):
            part.append(node.constant(node.array(2)[start : start + size].astype(np.float32), f"{role}_bias"))
        names.append(split_heads(node, node.step(Linear(), part, role), heads, role))
        start += size
    if node.has_input(4) or (len(node.node.output) > 1 and node.builder.is_read(node.node.output[1])):
        raise node.unsupported(
            "keeps keys and values in one tensor", "export without a cache, or with past_key and past_value apart"
        )
    query, key, value = names
    mask = node.inputs[5] if node.has_input(5) else None
    causal = bool(node.attribute("unidirectional", 0))
    found = Heads((query, key, value), scale_of(node, query), causal, mask=mask)
    keys = node.builder.type_of(key).shape[2]
    finish_heads(node, attend(node, _padding(node, 3, keys, found)), merged=True)


def multi_head_attention(node: NodeReader) -> None:
    """com.microsoft.MultiHeadAttention: query, key, value, bias, mask of keys, bias of scores, past."""
    heads = int(node.attribute("num_heads", 0))
    query, key, value = _apart(node, heads)
    before = node.type(6).shape[2] if node.has_input(6) else 0
    if any(node.has_input(i) for i in (8, 9)) or (len(node.node.output) > 3 and node.node.output[3]):
        raise node.unsupported("keeps a buffer of past keys, or gives its scores", "export with past_key, past_value")
    key = with_past(node, 6, key, 1, "present_key")
    value = with_past(node, 7, value, 2, "present_value")
    causal, mask = bool(node.attribute("unidirectional", 0)), node.inputs[5] if node.has_input(5) else None
    found = Heads((query, key, value), scale_of(node, query), causal, before, mask)
    keys = node.builder.type_of(key).shape[2]
    finish_heads(node, attend(node, _padding(node, 4, keys, found)), merged=True)


def _apart(node: NodeReader, heads: int) -> list[str]:
    """Queries, keys and values (B, H, S, D) out of the forms that MultiHeadAttention takes them in, bias added."""
    shape = node.type(0).shape
    packed = {0: 3} if len(shape) == 5 else {1: 2} if node.has_input(1) and node.type(1).rank == 5 else {}
    if packed:  # (B, S, H, 3, D), or keys and values alone (B, T, H, 2, D)
        ((index, count),) = packed.items()
        batch, rows, _, _, width = node.type(index).shape
        parts = [node.step(Slice(-2, i, i + 1, keep=False), [node.inputs[index]], f"part_{i}") for i in range(count)]
        flat = [node.step(Reshape((batch, rows, heads * width)), [part], f"flat_{i}") for i, part in enumerate(parts)]
        names = flat if index == 0 else [node.inputs[0], *flat]
    else:
        if not node.has_input(1) or not node.has_input(2):
            raise node.unsupported("has no keys or values", "give query, key and value")
        names = list(node.inputs[:3])
    if node.has_input(3):
        bias, start = node.array(3).astype(np.float32), 0
        for index, name in enumerate(names):
            width = _width(node, name)
            part = node.constant(bias[start : start + width], f"bias_{index}")
            if node.builder.type_of(name).rank != 3:
                raise node.unsupported("adds a bias to heads that are apart", "add it in front")
            names[index], start = node.step(Add(), [name, part], f"biased_{index}"), start + width
    roles = ("query", "key", "value")
    return [
        split_heads(node, name, heads, role) if node.builder.type_of(name).rank == 3 else name
        for name, role in zip(names, roles, strict=True)
    ]


def _width(node: NodeReader, name: str) -> int:
    shape = node.builder.type_of(name).shape
    return shape[-1] if len(shape) == 3 else shape[1] * shape[-1]


def group_query_attention(node: NodeReader) -> None:
    """com.microsoft.GroupQueryAttention: causal, rotated inside if asked, its past in front of what is new.

    How many keys are real is known: seqlens_k is a constant, and says that all are.
    """
    _refuse(node, {"local_window_size": -1, "softcap": 0.0, "smooth_softmax": 0, "k_quant_type": "NONE",
                   "v_quant_type": "NONE"})  # fmt: skip
    heads, kv_heads = int(node.attribute("num_heads", 0)), int(node.attribute("kv_num_heads", 0))
    names = list(node.inputs[:3])
    _, rows, width = node.type().shape
    if not node.has_input(1):  # query, key and value side by side
        size = width // max(1, heads + 2 * kv_heads)
        edges = [0, heads * size, (heads + kv_heads) * size, (heads + 2 * kv_heads) * size]
        names = [node.step(Slice(-1, edges[i], edges[i + 1]), node.inputs[:1], f"part_{i}") for i in range(3)]
    before = node.type(3).shape[2] if node.has_input(3) else 0
    for index in range(9, len(node.inputs)):
        if node.has_input(index) and index != 9:
            raise node.unsupported(f"has an input '{node.inputs[index]}' beyond its tables", "export without it")
    lengths = node.array(5).astype(np.int64).reshape(-1) + 1
    if (lengths != before + rows).any():
        raise node.unsupported(
            f"has {lengths.tolist()} real keys, of {before} past ones and {rows} new ones",
            "give every sample all its keys, and past keys without room behind them",
        )
    if node.attribute("do_rotary", 0):
        positions = before + np.arange(rows)
        if node.has_input(9):
            positions = node.array(9).astype(np.int64).reshape(-1)
        rotations = rotations_of(node, picked(node, 7, positions), picked(node, 8, positions))
        interleaved = bool(node.attribute("rotary_interleaved", 0))
        names[0] = turn(node, names[0], heads, rotations, interleaved, "query")
        names[1] = turn(node, names[1], kv_heads, rotations, interleaved, "key")
    query = split_heads(node, names[0], heads, "query")
    key = with_past(node, 3, split_heads(node, names[1], kv_heads, "key"), 1, "present_key")
    value = with_past(node, 4, split_heads(node, names[2], kv_heads, "value"), 2, "present_value")
    finish_heads(node, attend(node, Heads((query, key, value), scale_of(node, query), True, before)), merged=True)


def fused_matmul(node: NodeReader) -> None:
    """com.microsoft.FusedMatMul: alpha · A · B, either transposed."""
    _refuse(node, {"transBatchA": 0, "transBatchB": 0})
    names = list(node.inputs)
    for index, attribute in enumerate(("transA", "transB")):
        rank = node.type(index).rank
        if rank < 2:
            raise node.unsupported("multiplies a vector", "give it matrices")
        if node.attribute(attribute, 0):
            order = (*range(-rank, -2), -1, -2)
            names[index] = node.step(Transpose(order), [names[index]], f"transposed_{index}")
    alpha = float(node.attribute("alpha", 1.0))
    if alpha == 1.0:
        node.finish(MatMul(), node.aligned(names))
        return
    product = node.step(MatMul(), node.aligned(names), "product")
    node.finish(Mul(), [product, node.constant(np.array(alpha, np.float32), "alpha")])


def biased(name: Function) -> Converter:
    """An activation of x, with a bias added to it if there is one: BiasGelu, FastGelu, Gelu."""

    def convert(node: NodeReader) -> None:
        x = node.inputs[0]
        if node.has_input(1):
            x = node.step(Add(), node.aligned([x, node.inputs[1]]), "biased")
        node.finish(Activation(name), [x])

    return convert


CONVERTERS: dict[str, Converter] = {
    "com.microsoft.Attention": packed_attention,
    "com.microsoft.BiasGelu": biased("gelu"),
    "com.microsoft.FastGelu": biased("gelu_tanh"),
    "com.microsoft.FusedMatMul": fused_matmul,
    "com.microsoft.Gelu": biased("gelu"),
    "com.microsoft.GroupQueryAttention": group_query_attention,
    "com.microsoft.MultiHeadAttention": multi_head_attention,
    "com.microsoft.QuickGelu": function("swish", alpha=1.702),
}
