"""ONNX's Attention (opset 23 and 24), and what every kind of attention node is spelled out with.

Nodes become MatMul, Mul, masks, Softmax and MatMul, which the passes fuse again: there is one place that knows what an
attention is. Heads are (batch, heads, rows, channels).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from picoformer.frontends.onnx_builder import Converter, NodeReader
from picoformer.ir import DType
from picoformer.ops import Add, Binary, Concat, MatMul, Mul, Reshape, Slice, Softmax, Transpose, Where


@dataclass(frozen=True)
class Heads:
    """What attends: query, key and value (batch, heads, rows, channels), and what is done to the scores.

    `scale` multiplies them. With `causal` row i sees keys up to i + `offset`. `mask` is a value that is added to the
    scores, or a boolean one that says which are seen. `lengths` (batch,) says how many keys of each sample are real.
    """

    names: tuple[str, str, str]
    scale: float
    causal: bool = False
    offset: int = 0
    mask: str | None = None
    lengths: str | None = None


def split_heads(node: NodeReader, name: str, heads: int, role: str) -> str:
    """(B, S, H·D) → (B, H, S, D); UnsupportedError when the columns do not make so many heads."""
    batch, rows, width = _three(node, name)
    if heads < 1 or width % heads:
        raise node.unsupported(f"cuts {width} columns into {heads} heads", "give the numbers of heads")
    apart = node.step(Reshape((batch, rows, heads, width // heads)), [name], f"{role}_split")
    return node.step(Transpose((-4, -2, -3, -1)), [apart], f"{role}_heads")


def _three(node: NodeReader, name: str) -> tuple[int, int, int]:
    shape = node.builder.type_of(name).shape
    if len(shape) != 3:
        raise node.unsupported(f"reads '{name}' of shape {list(shape)}", "give it three axes: batch, rows, columns")
    return shape[0], shape[1], shape[2]


def merge_heads(node: NodeReader, name: str, role: str = "joined") -> tuple[Reshape, list[str]]:
    """The last step of (B, H, S, D) → (B, S, H·D): the operator and its input."""
    batch, heads, rows, width = node.builder.type_of(name).shape
    joined = node.step(Transpose((-4, -2, -3, -1)), [name], role)
    return Reshape((batch, rows, heads * width)), [joined]


def scale_of(node: NodeReader, query: str) -> float:
    """What the scores of the heads `query` are multiplied by: what the node says, else 1/√channels."""
    return float(node.attribute("scale", 0.0)) or 1.0 / math.sqrt(node.builder.type_of(query).shape[-1])


def with_past(node: NodeReader, past: int, name: str, output: int, role: str) -> str:
    """The heads `name` behind those that input `past` holds, if it is there; named as output `output` if that is."""
    wanted = node.node.output[output] if len(node.node.output) > output else ""
    if node.has_input(past):
        joined = wanted or node.builder.fresh(f"{node.output}_{role}")
        return node.builder.add(node.label, Concat(-2), [node.inputs[past], name], joined)
    if wanted:
        node.builder.alias(wanted, name)
    return name


def attend(node: NodeReader, heads: Heads) -> str:
    """The context (B, H, S, E) of `heads`."""
    rows, keys = (node.builder.type_of(name).shape[2] for name in heads.names[:2])
    if heads.causal and heads.mask is None and heads.lengths is None:
        seen = min(keys, rows + heads.offset)
        if seen < 1:
            raise node.unsupported("has rows that see no key at all", "give at least one key to each row")
        if seen < keys:  # no row sees the rest
            key, value = (
                node.step(Slice(-2, 0, seen), [name], f"{role}_seen")
                for name, role in zip(heads.names[1:], ("key", "value"), strict=True)
            )
            heads, keys = replace(heads, names=(heads.names[0], key, value)), seen
        causal = keys - heads.offset
        if causal < rows:  # the rows behind see all keys
            parts = []
            for start, stop, role in ((0, causal, "causal"), (causal, rows, "rest")):
                if stop > start:
                    part = node.step(Slice(-2, start, stop), [heads.names[0]], f"query_{role}")
                    names = (part, *heads.names[1:])
                    parts.append(_plain(node, replace(heads, names=names, causal=role == "causal")))
            return parts[0] if len(parts) == 1 else node.step(Concat(-2), parts, "rows")
    return _plain(node, heads)


def _plain(node: NodeReader, heads: Heads) -> str:
    names = list(heads.names)
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
    key = node.step(Transpose((-4, -3, -1, -2)), [names[1]], "key_transposed")
    scores = node.step(MatMul(), [names[0], key], "scores")
    scores = node.step(Mul(), [scores, node.constant(np.array(heads.scale, np.float32), "scale")], "scaled")
    rows, keys = node.builder.type_of(scores).shape[-2:]
    if heads.causal:
        triangle = np.triu(np.full((rows, keys), -np.inf, np.float32), 1 + heads.offset)
        scores = node.step(Add(), [scores, node.constant(triangle[None, None], "causal")], "seen")
    if heads.lengths is not None:
        scores = _first_keys(node, scores, heads.lengths)
    if heads.mask is not None:
        scores = _masked(node, scores, heads.mask)
    weights = node.step(Softmax(), [scores], "weights")
    return node.step(MatMul(), [weights, names[2]], "context")


def _first_keys(node: NodeReader, scores: str, lengths: str) -> str:
    """Hide the keys at or past the lengths (batch,)."""
    batch, _, _, keys = node.builder.type_of(scores).shape
    if node.builder.type_of(lengths).elements not in (1, batch):
        raise node.unsupported(f"reads lengths {node.builder.type_of(lengths)}", "give one number for each sample")
    count = node.reshaped(lengths, (node.builder.type_of(lengths).elements, 1, 1, 1), "lengths")
    positions = node.constant(np.arange(keys, dtype=np.int64)[None, None, None], "positions")
    real = node.step(Binary("less"), [positions, count], "real")
    return _masked(node, scores, real)


def _masked(node: NodeReader, scores: str, mask: str) -> str:
    """Add a mask, or hide what a boolean one does not let through; keys that it does not speak of are hidden."""
    type_, keys = node.builder.type_of(mask), node.builder.type_of(scores).shape[-1]
    if type_.width < keys and type_.width > 1:
        shape = (*type_.shape[:-1], keys - type_.width)
        hidden = np.zeros(shape, np.bool_) if type_.dtype is DType.BOOL else np.full(shape, -np.inf, np.float32)
        mask = node.step(Concat(-1), [mask, node.constant(hidden, "beyond")], "padded_mask")
    if type_.dtype is DType.BOOL:
        lowest = node.constant(np.array(-np.inf, np.float32), "lowest")
        return node.step(Where(), node.aligned([mask, scores, lowest]), "masked")
    return node.step(Add(), node.aligned([scores, mask]), "masked")


def _repeat_heads(node: NodeReader, name: str, times: int, role: str) -> str:
    """Heads (B, G, T, D), each `times` in a row: (B, G·times, T, D)."""
    batch, heads, rows, width = node.builder.type_of(name).shape
    apart = node.step(Reshape((batch, heads, 1, rows, width)), [name], f"{role}_apart")
    repeated = node.step(Concat(-3), [apart] * times, f"{role}_repeated")
    return node.step(Reshape((batch, heads * times, rows, width)), [repeated], f"{role}_shared")


def attention(node: NodeReader) -> None:
    """Attention: its past joined to keys and values, its context the output, in three axes or four."""
    if float(node.attribute("softcap", 0.0)) != 0.0:
        raise node.unsupported("caps its scores (softcap)", "export without softcap")
    if len(node.node.output) > 3 and node.builder.is_read(node.node.output[3]):
        raise node.unsupported("gives its scores too (qk_matmul_output)", "drop that output")
    query, key, value = node.inputs[:3]
    merged = node.type().rank == 3
    if merged:
        count = int(node.attribute("q_num_heads", 0))
        kv_count = int(node.attribute("kv_num_heads", count))
        query = split_heads(node, query, count, "query")
        key, value = split_heads(node, key, kv_count, "key"), split_heads(node, value, kv_count, "value")
    before = node.type(4).shape[2] if node.has_input(4) else 0
    key = with_past(node, 4, key, 1, "present_key")
    value = with_past(node, 5, value, 2, "present_value")
    causal, lengths = bool(node.attribute("is_causal", 0)), node.inputs[6] if node.has_input(6) else None
    offset = before
    if causal and lengths is not None and before == 0:
        counts = {int(n) for n in node.array(6).reshape(-1)} if node.builder.is_constant(lengths) else set()
        if len(counts) != 1:
            raise node.unsupported("is causal up to lengths that are computed", "fix nonpad_kv_seqlen, or drop one")
        offset = counts.pop() - node.builder.type_of(query).shape[2]
    mask = node.inputs[3] if node.has_input(3) else None
    found = Heads((query, key, value), scale_of(node, query), causal, offset, mask, lengths)
    finish_heads(node, attend(node, found), merged)


def finish_heads(node: NodeReader, context: str, merged: bool) -> None:
    """Give the context (B, H, S, E) as the node's output, in three axes if `merged`."""
    if merged:
        node.finish(*merge_heads(node, context))
    else:
        node.give(context)


CONVERTERS: dict[str, Converter] = {"Attention": attention}
