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


def numerator_bits(keys: int) -> int:
    """Bits of a softmax numerator: as many as keep Σ numerator·v inside int32 for `keys` keys, at most 15."""
    return max(1, min(15, 31 - 7 - math.ceil(math.log2(max(keys, 1)))))


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


@dataclass(frozen=True)
class LoweredAttention(Lowered):
    """The attention of all heads.

    score[j] = Σ q·k[j]; p[j] = table[min(1023, requantize(max − score[j], score_multiplier[head], score_shift))];
    (m, n) = scaled_reciprocal(value_mantissa[head], value_exponent[head], Σp);
    y = clamp((Σ p[j]·v[j]·m + 2^(n−1)) >> n). Keys at or past the valid length do not take part; with none, y = 0.
    """

    heads: int
    score_multiplier: Array
    score_shift: int
    table: Array
    value_mantissa: Array
    value_exponent: Array
    query: TensorType
    key: TensorType
    output: TensorType
    has_valid_length: bool

    def execute(self, *activations: Array) -> Array:
        q, k, v = (split_heads(x, self.heads) for x in activations[:3])
        scores = exact_matmul(q, np.swapaxes(k, -1, -2))
        lengths: Array | None = None
        if self.has_valid_length:
            lengths = np.asarray(activations[3], np.int64).reshape((-1, 1, 1, 1))
            lengths = lengths.reshape(lengths.shape[0], *([1] * (scores.ndim - 1)))
            invalid = np.arange(scores.shape[-1]) >= lengths
            scores = np.where(invalid, LOWEST_SCORE, scores)
        per_head = (self.heads, 1, 1)
        p = numerators(scores, self.score_multiplier.astype(np.int64).reshape(per_head), self.score_shift, self.table)
        if lengths is not None:
            p = np.where(invalid, 0, p)
        total = np.maximum(p.sum(axis=-1, keepdims=True), 1)
        multiplier, shift = scaled_reciprocal(
            self.value_mantissa.reshape(per_head), self.value_exponent.reshape(per_head), total
        )
        acc = exact_matmul(p, v)
        return merge_heads(saturate(rounding_shift(acc * multiplier, shift), self.output.dtype))


def split_heads(x: Array, heads: int) -> Array:
    """(…, S, H·D) → (…, H, S, D)."""
    return np.swapaxes(x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads), -3, -2)


def merge_heads(x: Array) -> Array:
    """(…, H, S, D) → (…, S, H·D)."""
    x = np.swapaxes(x, -3, -2)
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


@dataclass(frozen=True)
class Attention(Operator):
    """Inputs: q (…, S, H·D), k (…, T, H·D), v (…, T, H·E), optionally valid_length int32 () of the keys.

    Output (…, S, H·E). `scale` multiplies q·k (1/√D as a rule). Keys at or past valid_length are left out; a row
    with no key at all is zero.
    """

    heads: int
    scale: float

    kind = "Attention"

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        q, k, v = inputs[:3]
        same = q.shape[:-2] == k.shape[:-2] == v.shape[:-2] and k.shape[-2] == v.shape[-2]
        if not same or q.shape[-1] != k.shape[-1] or q.shape[-1] % self.heads or v.shape[-1] % self.heads:
            raise ValueError(f"query {q}, key {k} and value {v} do not make {self.heads} heads")
        if len(inputs) > 3 and inputs[3].elements != 1:
            raise ValueError(f"valid_length is one number, not {inputs[3]}")
        return TensorType((*q.shape[:-1], v.shape[-1]))

    def compute(self, *inputs: Array) -> Array:
        q, k, v = (split_heads(x, self.heads) for x in inputs[:3])
        scores = (q @ np.swapaxes(k, -1, -2)) * np.float32(self.scale)
        if len(inputs) > 3:
            lengths = np.asarray(inputs[3]).reshape(-1)
            lengths = lengths.reshape(len(lengths), *([1] * (scores.ndim - 1)))
            invalid = np.arange(scores.shape[-1]) >= lengths
            scores = np.where(invalid, -np.inf, scores)
        top = scores.max(axis=-1, keepdims=True)
        e = np.exp(scores - np.where(np.isfinite(top), top, 0))
        total = e.sum(axis=-1, keepdims=True)
        return merge_heads((e / np.where(total == 0, 1, total)) @ v).astype(np.float32)

    def macs(self, inputs: Sequence[TensorType], output: TensorType) -> int:
        q, k = inputs[:2]
        return k.shape[-2] * (q.elements + output.elements)

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredAttention:
        q, k, v = (x.type for x in inputs[:3])
        if any(t.dtype is not DType.INT8 for t in (q, k, v)):
            raise LoweringError("queries, keys and values are int8")
        if q.shape[-1] // self.heads >= 1 << 17:
            raise LoweringError("heads of 2^17 elements or more: a score would not fit 32 bits")
        head_scales = [symmetric_scales(t, self.heads) for t in (q, k, v, output)]
        multiplier, shift = quantize_multipliers(head_scales[0] * head_scales[1] * self.scale / EXP_STEP)
        split = [split_scale(float(s)) for s in head_scales[2] / head_scales[3]]
        keys = k.shape[-2]
        table = numerator_table(numerator_bits(keys))
        exponent = np.array([e for _, e in split], np.int64)
        if (exponent + 31 - 31 < 1).any() or (exponent + 31 - (32 - (keys * 32767).bit_length()) > 62).any():
            raise LoweringError("the scale of the output is too far from that of the values")
        return LoweredAttention(
            self.heads,
            multiplier,
            shift,
            table,
            np.array([m for m, _ in split], np.int64),
            exponent,
            q,
            k,
            output,
            len(inputs) > 3,
        )
