"""Small decoders that run blocks of tokens against caches: the graphs that tests of a decode step share."""

from __future__ import annotations

import numpy as np

from graphs import Array, Builder
from picoformer.ir import DType, Graph
from picoformer.ops import (
    Activation,
    Add,
    CachedAttention,
    Embedding,
    ExpertLinear,
    ExpertWeights,
    KvAppend,
    Linear,
    Mul,
    PositionIds,
    RmsNorm,
    Rope,
    ScaleRows,
    TakeRow,
    TopExperts,
)

VOCABULARY, WIDTH, HEADS, KV_HEADS, SIZE = 27, 16, 4, 2, 4


def rotations(positions: int, size: int) -> Array:
    """(positions, size): cosine and sine of every position's angles, in turn."""
    angles = np.arange(positions)[:, None] * 100.0 ** (-np.arange(0, size, 2) / size)
    return np.stack([np.cos(angles), np.sin(angles)], -1).reshape(positions, size).astype(np.float32)


def decoder(
    block: int, positions: int, *, key_bits: int = 13, value_bits: int = 16, experts: int = 0, learned: bool = False,
    interleaved: bool = False, slopes: bool = False,
) -> Graph:  # fmt: skip
    """One layer: tied embedding, rotary or learned positions, grouped queries, gated or mixed feed-forward.

    Outputs are the logits of the last real row and both caches.
    """
    b = Builder("decoder", seed=5)
    tokens = b.input("tokens", block, dtype=DType.INT32)
    position, count = (b.input(name, dtype=DType.INT32) for name in ("position", "count"))
    keys, values = b.input("keys", positions, KV_HEADS * SIZE), b.input("values", KV_HEADS * SIZE, positions)
    table = b.constant("table", shape=(VOCABULARY, WIDTH), spread=1.0)
    residual = b.node(Embedding(), tokens, table, name="embedded")
    if learned:
        places = b.node(PositionIds(block), position, name="places")
        learned_rows = b.node(Embedding(), places, b.constant("learned", shape=(positions, WIDTH)), name="placed")
        residual = b.node(Add(), residual, learned_rows, name="started")
    h = norm(b, residual, "norm1")
    q = b.linear(h, HEADS * SIZE, "query")
    k, v = (b.linear(h, KV_HEADS * SIZE, name, bias=False) for name in ("key", "value"))
    if not learned and not slopes:
        turns = b.constant("rotations", rotations(positions, SIZE))
        q = b.node(Rope(HEADS, SIZE, interleaved), q, turns, position, name="query_turned")
        k = b.node(Rope(KV_HEADS, SIZE, interleaved), k, turns, position, name="key_turned")
    keys = b.node(KvAppend(False, key_bits), keys, k, position, count, name="keys_after")
    values = b.node(KvAppend(True, value_bits), values, v, position, count, name="values_after")
    slope = tuple(2.0 ** -(i + 1) for i in range(HEADS)) if slopes else ()
    attention = CachedAttention(HEADS, KV_HEADS, SIZE**-0.5, key_bits, slope)
    mixed = b.node(attention, q, keys, values, position, name="mixed")
    residual = b.node(Add(), residual, b.linear(mixed, WIDTH, "projected", bias=False), name="residual1")
    h = norm(b, residual, "norm2")
    fed = mixture(b, h, experts) if experts else gated(b, h)
    residual = b.node(Add(), residual, fed, name="residual2")
    last = b.node(TakeRow(), norm(b, residual, "norm3"), count, name="last")
    logits = b.node(Linear(), last, table, name="logits")
    return b.graph(logits, keys, values)


def norm(b: Builder, x: str, name: str) -> str:
    """A RmsNorm with a gain."""
    gain = b.constant(f"{name}.weight", 1 + b.random.normal(0, 0.2, b.types[x].width))
    return b.node(RmsNorm(1e-5), x, gain, name=name)


def gated(b: Builder, h: str) -> str:
    """silu(gate) · up, and down again."""
    gate = b.node(Activation("silu"), b.linear(h, 24, "gate", bias=False), name="gate_silu")
    product = b.node(Mul(), gate, b.linear(h, 24, "up", bias=False), name="product")
    return b.linear(product, WIDTH, "down", bias=False)


def mixture(b: Builder, h: str, experts: int) -> str:
    """Two experts of several for every row."""
    router = b.linear(h, experts, "router", bias=False)
    ids = b.node(TopExperts(2), router, name="ids")
    weights = b.node(ExpertWeights(), router, ids, name="shares")
    parts = []
    for slot in range(2):
        up = b.constant(f"experts_up_{slot}", shape=(experts * 12, WIDTH), spread=WIDTH**-0.5)
        bias = b.constant(f"experts_bias_{slot}", shape=(experts * 12,), spread=0.2)
        down = b.constant(f"experts_down_{slot}", shape=(experts * WIDTH, 12), spread=12**-0.5)
        wide = b.node(ExpertLinear(slot, experts), h, ids, up, bias, name=f"expert_up_{slot}")
        wide = b.node(Activation("relu"), wide, name=f"expert_relu_{slot}")
        part = b.node(ExpertLinear(slot, experts), wide, ids, down, name=f"expert_down_{slot}")
        parts.append(b.node(ScaleRows(slot), part, weights, name=f"share_{slot}"))
    return b.node(Add(), *parts, name="mixture")


def windows(graph: Graph, samples: int, seed: int = 0) -> dict[str, Array]:
    """Samples of a whole window each: position 0, all rows real, empty caches."""
    block = graph.types["tokens"].shape[0]
    tokens = np.random.default_rng(seed).integers(0, VOCABULARY, (samples, block)).astype(np.int32)
    given = {"tokens": tokens, "position": np.zeros(samples, np.int32), "count": np.full(samples, block, np.int32)}
    return given | {name: np.zeros((samples, *graph.types[name].shape), np.float32) for name in ("keys", "values")}
