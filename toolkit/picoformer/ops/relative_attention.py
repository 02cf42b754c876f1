"""RelativeAttention: attention with a learned number for each head and distance added to the scores, as T5 has it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.ir.operator import Array, Lowered, LoweringError, Operand, Operator
from picoformer.ir.types import DType, TensorType
from picoformer.ops.attention import (
    EXP_STEP,
    LOWEST_SCORE,
    merge_heads,
    narrow,
    numerator_table,
    numerators,
    split_heads,
)
from picoformer.ops.block import before, check_number
from picoformer.ops.cached_attention import DROP_MAX, KEYS_MAX, NUMERATOR_BITS, SCORE_BITS
from picoformer.ops.fixedpoint import (
    exact_matmul,
    quantize_multipliers,
    rounding_shift,
    saturate,
    scaled_reciprocal,
    split_scale,
)
from picoformer.ops.quantized import quant_of, scale_of

BUCKETS_MAX = 256


@dataclass(frozen=True)
class LoweredRelativeAttention(Lowered):
    """Head h of row i over the keys j that it sees, t = clamp(j − place of row i, −reach, reach or 0) + reach.

    score[j] = Σ narrow(q, query_drop)·narrow(k[j], key_drop) + bias[buckets[t]][h]; with the row's maximum max,
    p[j] = table[min(1023, rounding_shift((max − score[j])·score_multiplier, score_shift))];
    s = narrow(Σ p[j]·v[j], value_shift), the sum in 64 bits; (m, n) = scaled_reciprocal(value_mantissa, value_exponent,
    Σp); y = clamp((s·m + 2^(n−1)) >> n). |Σ q·k| ≤ 2^30, |bias| < 2^30, |s| < 2^31. Without a key y = 0.
    """

    op: RelativeAttention
    score_multiplier: int
    score_shift: int
    query_drop: int
    key_drop: int
    bias: Array
    table: Array
    value_shift: int
    value_mantissa: int
    value_exponent: int
    query: TensorType
    key: TensorType
    value: TensorType
    output: TensorType

    def execute(self, *activations: Array) -> Array:
        query, keys, values, number = (np.asarray(x).astype(np.int64) for x in activations)
        heads = self.op.heads
        q, k = split_heads(narrow(query, self.query_drop), heads), split_heads(narrow(keys, self.key_drop), heads)
        scores = exact_matmul(q, np.swapaxes(k, -1, -2))
        scores = scores + self.op.spread(self.bias.astype(np.int64), q.shape[-2], k.shape[-2], number)
        hidden = self.op.hidden(q.shape[-2], k.shape[-2], number, scores.ndim)
        scores = np.where(hidden, LOWEST_SCORE, scores)
        p = np.where(hidden, 0, numerators(scores, np.int64(self.score_multiplier), self.score_shift, self.table))
        total = np.maximum(p.sum(axis=-1, keepdims=True), int(self.table[0]))  # less only where there is no key
        multiplier, shift = scaled_reciprocal(self.value_mantissa, self.value_exponent, total)
        sums = narrow(exact_matmul(p, split_heads(values, heads)), self.value_shift)
        return merge_heads(saturate(rounding_shift(sums * multiplier, shift), self.output.dtype))


@dataclass(frozen=True)
class RelativeAttention(Operator):
    """Inputs: q (…, B, H·D), keys (…, T, H·D), values (…, T, H·E), bias (buckets, H), number int32 ().
    Output (…, B, H·E).

    softmax(q·kᵀ·scale + bias[bucket of j − i])·v of each head (Raffel et al. 2020). With `causal` the number is the
    position of the first query, and row i stands at position + i and sees the keys up to its own place; else row i
    stands at i, and the number is how many keys are there. `buckets`: of each distance from −reach to 0 (causal) or to
    reach, which is then half their number; distances beyond are the last ones. A position below 0, or rows past the
    end of the keys, are an IndexError.
    """

    heads: int
    scale: float
    causal: bool
    buckets: tuple[int, ...]

    kind = "RelativeAttention"

    def __post_init__(self) -> None:
        whole = type(self.heads) is int and self.heads > 0 and type(self.causal) is bool
        if not whole or not math.isfinite(self.scale):
            raise ValueError(f"{self.heads} heads, causal {self.causal}, scale {self.scale}")
        known = all(type(bucket) is int and 0 <= bucket < BUCKETS_MAX for bucket in self.buckets)
        if not self.buckets or not known or (not self.causal and len(self.buckets) % 2 == 0):
            raise ValueError(f"{len(self.buckets)} distances do not go with causal {self.causal}")

    @property
    def reach(self) -> int:
        """The farthest distance that has a bucket of its own."""
        return len(self.buckets) - 1 if self.causal else len(self.buckets) // 2

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        q, k, v, bias, number = inputs
        check_number(number, "the position" if self.causal else "the valid length")
        same = q.rank == k.rank == v.rank >= 2 and q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
        if not same or k.shape[-2] != v.shape[-2] or q.width != k.width or (self.causal and q.shape[-2] > k.shape[-2]):
            raise ValueError(f"query {q}, keys {k} and values {v} do not go together")
        if bias.rank != 2 or bias.shape[0] <= max(self.buckets) or bias.shape[1] != self.heads:
            raise ValueError(f"bias {bias} is not of {max(self.buckets) + 1} buckets and {self.heads} heads")
        if q.width % self.heads or v.width % self.heads:
            raise ValueError(f"query {q} and values {v} do not make {self.heads} heads")
        return TensorType((*q.shape[:-1], v.width))

    def hidden(self, rows: int, keys: int, number: Array, rank: int) -> Array:
        """Booleans that broadcast to scores (…, H, B, T) of `rank` axes: True for keys that a row does not see."""
        number = np.asarray(number, np.int64)
        if not self.causal:
            result: Array = np.arange(keys) >= before(number, rank)
            return result
        if number.size and not (number.min() >= 0 and number.max() + rows <= keys):
            raise IndexError(f"a position is outside the cache of {keys} entries")
        result = np.arange(keys) > before(number, rank) + np.arange(rows)[:, None]
        return result

    def spread(self, bias: Array, rows: int, keys: int, number: Array) -> Array:
        """`bias` (buckets, H) for every row and key: (…, H, B, T)."""
        first = np.asarray(number if self.causal else 0, np.int64)
        distance = np.arange(keys) - (first[..., None, None] + np.arange(rows)[:, None])
        at = np.clip(distance, -self.reach, 0 if self.causal else self.reach) + self.reach
        return np.moveaxis(bias[np.asarray(self.buckets)[at]], -1, -3)

    def compute(self, *inputs: Array) -> Array:
        q, k, v = (split_heads(x, self.heads) for x in inputs[:3])
        scores: Array = (q @ np.swapaxes(k, -1, -2)) * np.float32(self.scale)
        scores = scores + self.spread(inputs[3], q.shape[-2], k.shape[-2], inputs[4])
        scores = np.where(self.hidden(q.shape[-2], k.shape[-2], inputs[4], scores.ndim), -np.inf, scores)
        top = scores.max(axis=-1, keepdims=True)
        e = np.exp(scores - np.where(np.isfinite(top), top, 0))
        total = e.sum(axis=-1, keepdims=True)
        return merge_heads((e / np.where(total == 0, 1, total)) @ v).astype(np.float32)

    def macs(self, inputs: Sequence[TensorType], output: TensorType) -> int:
        """Both products over all keys."""
        q, k = inputs[:2]
        return k.shape[-2] * (q.elements + output.elements)

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredRelativeAttention:
        q, k, v, table = (x.type for x in inputs[:4])
        if any(t.dtype is not DType.INT16 for t in (q, k, v, output)):
            raise LoweringError("queries, keys, values and output of a relative attention are int16")
        if any(quant_of(t).zero_point for t in (q, k, v, output)):
            raise LoweringError("keys, values and output of an attention are symmetric")
        real = inputs[3].constant
        if real is None or table.dtype is not DType.FLOAT32:
            raise LoweringError("the bias of distances is a constant of real numbers")
        size, keys = q.width // self.heads, k.shape[-2]
        if keys > KEYS_MAX:
            raise LoweringError(f"{keys} keys: a relative attention has at most {KEYS_MAX}")
        unit, largest = scale_of(q) * scale_of(k) * self.scale, float(np.abs(real).max(initial=0))
        if unit <= 0:
            raise LoweringError(f"a scale of {self.scale}: scores count upwards")
        drop = max(0, math.ceil(math.log2(size)) + 30 - SCORE_BITS)
        while drop <= 2 * DROP_MAX and largest / (unit * 2.0**drop) >= (1 << SCORE_BITS) - 1:
            drop += 1
        if drop > 2 * DROP_MAX:
            raise LoweringError(
                f"heads of {size} elements with a bias up to {largest:g}: a score would not fit 32 bits"
            )
        unit *= 2.0**drop
        multipliers, score_shift = quantize_multipliers(np.array([unit / EXP_STEP]))
        value_shift = max(0, (keys * ((1 << NUMERATOR_BITS) - 1) * -v.dtype.minimum).bit_length() - 31)
        mantissa, exponent = split_scale(scale_of(v) * 2.0**value_shift / scale_of(output))
        # The sum of the numerators lies between the largest, 2^15 − 1, and that times the number of keys.
        if exponent - 1 + NUMERATOR_BITS < 1 or exponent - 1 + (keys * 32767).bit_length() > 62:
            raise LoweringError("the scale of the output is too far from that of the values")
        return LoweredRelativeAttention(
            self, int(multipliers[0]), score_shift, (drop + 1) // 2, drop // 2,
            np.rint(np.asarray(real, np.float64) / unit).astype(np.int32), numerator_table(NUMERATOR_BITS), value_shift,
            mantissa, exponent, q, k, v, output,
        )  # fmt: skip
