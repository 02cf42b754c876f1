"""Attention: softmax(q·kᵀ·scale)·v for every head, one query row at a time, scores never kept as a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.ir.operator import Array, Lowered, LoweringError, Operand, Operator
from picoformer.ir.types import DType, TensorType
from picoformer.ops.fixedpoint import (
    exact_matmul,
    quantize_multipliers,
    rounding_shift,
    saturate,
    scaled_reciprocal,
    split_scale,
)
from picoformer.ops.quantized import symmetric_scales

EXP_STEP = 1.0 / 64.0
"""Distance, in the exponent, of neighbouring entries of the numerator table."""
EXP_ENTRIES = 1024
"""Entries of the numerator table: e^(−1023/64) is 1.1e−7 of the largest."""
LOWEST_SCORE = np.int64(-(1 << 31))
"""Below every score of 32 bits, yet so near that its distance to any of them times a multiplier stays below 2^63."""


def numerator_bits(keys: int, values: DType = DType.INT8) -> int:
    """Bits of a softmax numerator, at most 15: with int8 values as many as keep Σ numerator·v inside int32 for `keys`
    keys, with int16 values half of what numerator and value may have together (see `value_drop`)."""
    both = _product_bits(keys)
    return max(1, min(15, both - 7 if values is DType.INT8 else (both + 1) // 2))


def value_drop(keys: int) -> int:
    """Low bits that int16 values lose so that Σ numerator·v stays inside int32 for `keys` keys."""
    return max(0, 15 - (_product_bits(keys) - numerator_bits(keys, DType.INT16)))


def _product_bits(keys: int) -> int:
    """Bits that a numerator and a value's magnitude may have together for a sum of `keys` products below 2^31."""
    return 31 - math.ceil(math.log2(max(keys, 1)))


def narrow(x: Array, drop: int) -> Array:
    """`x` without its `drop` low bits, rounded to nearest, ties up; `x` itself where `drop` is 0."""
    return rounding_shift(x, drop) if drop else x


def numerator_table(bits: int) -> Array:
    """uint16 (EXP_ENTRIES,): round((2^bits − 1)·e^(−i·EXP_STEP)), i the quantized distance to the row's maximum."""
    values = ((1 << bits) - 1) * np.exp(-EXP_STEP * np.arange(EXP_ENTRIES))
    result: Array = np.rint(values).astype(np.uint16)
    return result


def numerators(scores: Array, multiplier: Array | np.int64, shift: int, table: Array) -> Array:
    """table[min(last, requantize(row maximum − score))] over the last axis of int64 `scores`."""
    distance = scores.max(axis=-1, keepdims=True) - scores
    index = rounding_shift(distance * multiplier, shift)
    return table.astype(np.int64)[np.minimum(index, len(table) - 1)]


def hidden_keys(scores: Array, causal: bool, valid_length: Array | None) -> Array | None:
    """Booleans that broadcast to `scores` (…, S, T): True where a key takes no part; None where all do."""
    queries, keys = scores.shape[-2:]
    position = np.arange(keys)
    hidden: Array | None = position > np.arange(queries)[:, None] + (keys - queries) if causal else None
    if valid_length is not None:
        lengths = np.asarray(valid_length, np.int64).reshape(-1)
        padding = position >= lengths.reshape(len(lengths), *([1] * (scores.ndim - 1)))
        hidden = padding if hidden is None else hidden | padding
    return hidden


@dataclass(frozen=True)
class LoweredAttention(Lowered):
    """The attention of all heads; head h reads the keys and values of head h·kv_heads/heads (rounded down).

    q, k and v are made narrow first, so that no sum below passes 32 bits: they lose the low query_drop, key_drop and
    value_drop bits (see `narrow`), none where they are int8.
    score[j] = Σ q·k[j]; p[j] = table[min(1023, requantize(max − score[j], score_multiplier[head], score_shift))];
    (m, n) = scaled_reciprocal(value_mantissa[head], value_exponent[head], Σp);
    y = clamp((Σ p[j]·v[j]·m + 2^(n−1)) >> n). Keys at or past the valid length do not take part, nor, when causal,
    keys j > i + (T − S) in row i; with none, y = 0.
    """

    heads: int
    kv_heads: int
    causal: bool
    score_multiplier: Array
    score_shift: int
    query_drop: int
    key_drop: int
    value_drop: int
    table: Array
    value_mantissa: Array
    value_exponent: Array
    query: TensorType
    key: TensorType
    value: TensorType
    output: TensorType
    has_valid_length: bool

    def execute(self, *activations: Array) -> Array:
        narrowed = zip(activations[:3], (self.query_drop, self.key_drop, self.value_drop), strict=True)
        query, *keys_and_values = (narrow(x.astype(np.int64), drop) for x, drop in narrowed)
        q = split_heads(query, self.heads)
        k, v = (split_heads(x, self.kv_heads, self.heads) for x in keys_and_values)
        scores = exact_matmul(q, np.swapaxes(k, -1, -2))
        hidden = hidden_keys(scores, self.causal, activations[3] if self.has_valid_length else None)
        if hidden is not None:
            scores = np.where(hidden, LOWEST_SCORE, scores)
        per_head = (self.heads, 1, 1)
        p = numerators(scores, self.score_multiplier.astype(np.int64).reshape(per_head), self.score_shift, self.table)
        if hidden is not None:
            p = np.where(hidden, 0, p)
        total = np.maximum(p.sum(axis=-1, keepdims=True), int(self.table[0]))  # less only where no key takes part
        multiplier, shift = scaled_reciprocal(
            self.value_mantissa.reshape(per_head), self.value_exponent.reshape(per_head), total
        )
        return merge_heads(saturate(rounding_shift(exact_matmul(p, v) * multiplier, shift), self.output.dtype))


def split_heads(x: Array, heads: int, readers: int = 0) -> Array:
    """(…, S, H·D) → (…, H, S, D); with `readers` each head as often as its share of them: (…, readers, S, D)."""
    x = np.swapaxes(x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads), -3, -2)
    return np.repeat(x, readers // heads, axis=-3) if readers > heads else x


def merge_heads(x: Array) -> Array:
    """(…, H, S, D) → (…, S, H·D)."""
    x = np.swapaxes(x, -3, -2)
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


@dataclass(frozen=True)
class Attention(Operator):
    """Inputs: q (…, S, H·D), k (…, T, G·D), v (…, T, G·E), optionally valid_length int32 () of the keys.

    Output (…, S, H·E). `scale` multiplies q·k (1/√D as a rule). Keys at or past valid_length are left out, and with
    `causal` keys j > i + (T − S) in row i (the last row sees all); a row with no key at all is zero. G = `kv_heads`
    divides H (0 means H): head h reads the keys and values of head h // (H/G), which is grouped-query attention
    (Ainslie et al. 2023).
    """

    heads: int
    scale: float
    causal: bool = False
    kv_heads: int = 0

    kind = "Attention"

    def __post_init__(self) -> None:
        if self.kv_heads == 0:
            object.__setattr__(self, "kv_heads", self.heads)
        whole = all(type(number) is int and number > 0 for number in (self.heads, self.kv_heads))
        if not whole or type(self.causal) is not bool or not math.isfinite(self.scale):
            raise ValueError(f"{self.heads} and {self.kv_heads} heads, causal {self.causal}, scale {self.scale}")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.kv_heads} heads of keys and values do not divide {self.heads} heads of queries")

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        q, k, v = inputs[:3]
        same = q.shape[:-2] == k.shape[:-2] == v.shape[:-2] and k.shape[-2] == v.shape[-2]
        group = self.heads // self.kv_heads
        if not same or q.shape[-1] != group * k.shape[-1] or q.shape[-1] % self.heads or v.shape[-1] % self.kv_heads:
            raise ValueError(
                f"query {q}, key {k} and value {v} do not make {self.heads} heads that read {self.kv_heads}"
            )
        if len(inputs) > 3 and inputs[3].elements != 1:
            raise ValueError(f"valid_length is one number, not {inputs[3]}")
        return TensorType((*q.shape[:-1], group * v.shape[-1]))

    def compute(self, *inputs: Array) -> Array:
        q = split_heads(inputs[0], self.heads)
        k, v = (split_heads(x, self.kv_heads, self.heads) for x in inputs[1:3])
        scores = (q @ np.swapaxes(k, -1, -2)) * np.float32(self.scale)
        hidden = hidden_keys(scores, self.causal, inputs[3] if len(inputs) > 3 else None)
        if hidden is not None:
            scores = np.where(hidden, -np.inf, scores)
        top = scores.max(axis=-1, keepdims=True)
        e = np.exp(scores - np.where(np.isfinite(top), top, 0))
        total = e.sum(axis=-1, keepdims=True)
        return merge_heads((e / np.where(total == 0, 1, total)) @ v).astype(np.float32)

    def macs(self, inputs: Sequence[TensorType], output: TensorType) -> int:
        """Both products in full, masked keys too: the usual convention for causal attention as well."""
        q, k = inputs[:2]
        return k.shape[-2] * (q.elements + output.elements)

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredAttention:
        q, k, v = (x.type for x in inputs[:3])
        if {q.dtype, k.dtype, v.dtype} not in ({DType.INT8}, {DType.INT16}):
            raise LoweringError("queries, keys and values are int8, or all three int16")
        wide, size, keys = q.dtype is DType.INT16, q.shape[-1] // self.heads, k.shape[-2]
        if size >= 1 << 17:
            raise LoweringError("heads of 2^17 elements or more: a score would not fit 32 bits")
        if wide and keys > 1 << 16:
            raise LoweringError("more than 2^16 keys of 16 bits: less than 7 bits would be left of a value")
        head_scales = [symmetric_scales(t, self.heads) for t in (q, output)]
        key_scales, value_scales = (
            np.repeat(symmetric_scales(t, self.kv_heads), self.heads // self.kv_heads) for t in (k, v)
        )
        drop = math.ceil(math.log2(size)) if wide else 0  # of both together: a score stays within 2^30
        dropped = value_drop(keys) if wide else 0
        multiplier, shift = quantize_multipliers(head_scales[0] * key_scales * (self.scale / EXP_STEP * 2.0**drop))
        split = [split_scale(float(s)) for s in value_scales / head_scales[1] * 2.0**dropped]
        bits = numerator_bits(keys, v.dtype)
        exponent = np.array([e for _, e in split], np.int64)
        # The sum of the numerators lies between the largest, 2^bits − 1, and that times the number of keys.
        least, most = exponent - 1 + bits, exponent - 1 + (keys * 32767).bit_length()
        if (least < 1).any() or (most > 62).any():
            raise LoweringError("the scale of the output is too far from that of the values")
        return LoweredAttention(
            self.heads,
            self.kv_heads,
            self.causal,
            multiplier,
            shift,
            (drop + 1) // 2,
            drop // 2,
            dropped,
            numerator_table(bits),
            np.array([m for m, _ in split], np.int64),
            exponent,
            q,
            k,
            v,
            output,
            len(inputs) > 3,
        )
