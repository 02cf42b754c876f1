"""Attention with a bias of distances to try: both directions, odd sizes, random and degenerate data; and its C call."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from operator_case import S16, Case, of, patterns
from picoformer.ir.operator import Array, Operand
from picoformer.ir.types import DType, TensorType
from picoformer.models.relative_positions import relative_buckets
from picoformer.ops import LoweredRelativeAttention, RelativeAttention

NUMBER = Operand(TensorType((), DType.INT32))
SIZES = [
    (1, 1, 1, 1, 1, 0),
    (1, 5, 2, 4, 3, 1),
    (3, 9, 4, 5, 5, 4),
    (5, 5, 1, 33, 2, 0),
    (2, 40, 3, 7, 7, 37),
    (4, 130, 2, 64, 8, 99),
]
"""(rows, positions, heads, head size, value size, number)"""
BUCKETS = ((8, 10), (4, 20))


def relative_attention(causal: bool) -> Iterator[Case]:
    """With biases of all sizes, and, both ways, as many keys as there are, some and none."""
    rng = np.random.default_rng(31)
    turn = 0
    for rows, positions, heads, size, value_size, at in SIZES:
        shapes = (rows, heads * size), (positions, heads * size), (positions, heads * value_size)
        for (note, q), (_, k), (_, v) in zip(*(patterns(rng, shape, S16) for shape in shapes), strict=True):
            for spread in (1.0, 2e4) if note == "random" else (30.0, 0.0):
                buckets, reach = BUCKETS[turn % 2]
                number = at if causal else (at, positions, 1)[turn % 3]
                turn += 1
                grid = math.sqrt(6.0 if note != "saturated" else 200.0) / 32768
                bias = rng.normal(0, spread, (buckets, heads)).astype(np.float32)
                inputs = (
                    Operand(of(q.shape, S16, grid)),
                    Operand(of(k.shape, S16, grid)),
                    Operand(of(v.shape, S16, 3.0 / 32768)),
                    Operand(TensorType(bias.shape), bias),
                    NUMBER,
                )
                op = RelativeAttention(heads, size**-0.5, causal, relative_buckets(buckets, reach, not causal))
                out = of((rows, heads * value_size), S16, 3.0 / 32768, 0)
                sizes = f"{rows}x{positions} at {number} {heads}x{size}x{value_size} {buckets} of {reach} {spread:g}"
                yield Case(f"{sizes} {note}", op, inputs, out, (q, k, v, np.int32(number)))


def both_ways() -> Iterator[Case]:
    """All cases of the one C function."""
    for causal in (True, False):
        yield from relative_attention(causal)


def table() -> Iterator[tuple[str, Callable[..., Iterator[Case]], tuple[Any, ...]]]:
    """(C symbol, generator of its cases, arguments)."""
    yield "pf_relative_attention_s16", both_ways, ()


def fields(op: RelativeAttention, key: TensorType, value: TensorType) -> dict[str, Any]:
    """What the parameters of a relative attention say of shapes."""
    return {
        "buckets": np.array(op.buckets, np.uint8), "heads": op.heads, "head_size": key.width // op.heads,
        "value_size": value.width // op.heads, "positions": key.shape[-2], "reach": op.reach, "causal": int(op.causal),
    }  # fmt: skip


def call(library: Any, lowered: LoweredRelativeAttention, given: tuple[Array, ...], q: Array, y: Array) -> str:
    """The call that computes `lowered` into `y`; its symbol."""
    name, own = "pf_relative_attention_s16", fields(lowered.op, lowered.key, lowered.value)
    keys, values = map(np.ascontiguousarray, given[1:3])
    p = library.structure("pf_relative_attention", lowered, **own)
    with library.scratch(4 * own["positions"] + 2 * own["head_size"]) as scratch:
        assert library.call(name, p, q, keys, values, y, int(given[3]), len(q), scratch) == 0
    return name
