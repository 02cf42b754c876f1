"""CachedAttention: the queries of a block against the keys and values of all positions so far."""

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
from picoformer.ops.fixedpoint import (
    exact_matmul,
    quantize_multipliers,
    rounding_shift,
    saturate,
    scaled_reciprocal,
    split_scale,
)
from picoformer.ops.quantized import quant_of, scale_of

NUMERATOR_BITS = 15
"""Bits of a softmax numerator: sums over the keys take 64 bits here, so that nothing has to be given up for them."""
SLOPE_BITS = 8
"""Fraction bits of a slope, in units of the score."""
SCORE_BITS = 30
"""A product q·k stays within ±2^30, and so does what a slope adds."""
DROP_MAX = 14
"""Low bits that a query may lose at most."""
KEYS_MAX = 1 << 16
"""Longest cache: sums of numerators stay in 32 bits, and those of values, less what they lose, too."""


@dataclass(frozen=True)
class LoweredCachedAttention(Lowered):
    """Head h of row i, over the keys j ≤ position + i of head h·kv_heads/heads (rounded down).

    q' = narrow(q, query_drop); score[j] = Σ q'·k[j] + rounding_shift(slope_multiplier[h]·j, 8), the latter only with
    slopes; p[j] = table[min(1023, rounding_shift((max − score[j])·score_multiplier, score_shift))];
    t = narrow(Σ p[j]·v[j], value_shift), the sum in 64 bits; (m, n) = scaled_reciprocal(value_mantissa, value_exponent,
    Σp); y = clamp((t·m + 2^(n−1)) >> n). |score| < 2^31, |t| < 2^31.
    """

    op: CachedAttention
    score_multiplier: int
    score_shift: int
    query_drop: int
    slope_multiplier: Array | None
    table: Array
    value_shift: int
    value_mantissa: int
    value_exponent: int
    query: TensorType
    key: TensorType
    value: TensorType
    output: TensorType

    def execute(self, *activations: Array) -> Array:
        query, keys, values, position = (x.astype(np.int64) for x in map(np.asarray, activations))
        q, k, v = self.op.heads_of(narrow(query, self.query_drop), keys, values)
        scores = exact_matmul(q, np.swapaxes(k, -1, -2))
        if self.slope_multiplier is not None:
            bias = self.slope_multiplier.astype(np.int64)[:, None, None] * np.arange(k.shape[-2])
            scores = scores + rounding_shift(bias, SLOPE_BITS)
        hidden = self.op.hidden(q.shape[-2], k.shape[-2], position, scores.ndim)
        scores = np.where(hidden, LOWEST_SCORE, scores)
        p = np.where(hidden, 0, numerators(scores, np.int64(self.score_multiplier), self.score_shift, self.table))
        total = p.sum(axis=-1, keepdims=True)
        multiplier, shift = scaled_reciprocal(self.value_mantissa, self.value_exponent, total)
        sums = narrow(exact_matmul(p, v), self.value_shift)
        return merge_heads(saturate(rounding_shift(sums * multiplier, shift), self.output.dtype))


@dataclass(frozen=True)
class CachedAttention(Operator):
    """Inputs: q (…, B, H·D), keys (…, T, G·D), values (…, G·E, T), position int32 (). Output (…, B, H·E).

    softmax(q·kᵀ·scale + slope·j)·v of each head over the keys j ≤ position + i that row i sees. The values are
    transposed, one row an element of them, so that a sum over the positions reads memory in a line. G = `kv_heads`
    divides H: head h reads the keys and values of head h // (H/G). `key_bits`: the most bits that the integers of the
    keys take (those of the KvAppend that wrote them). `slopes`: none, or one per query head (ALiBi, Press et al. 2022);
    with `bfloat16` they are numbers of bfloat16 over the scale, and so is their product with a position, as Falcon was
    trained with; integers leave that rounding out. A position below 0, or rows past the end of the cache, are an
    IndexError.
    """

    heads: int
    kv_heads: int
    scale: float
    key_bits: int = 16
    slopes: tuple[float, ...] = ()
    bfloat16: bool = False

    kind = "CachedAttention"

    def __post_init__(self) -> None:
        whole = all(type(number) is int and number > 0 for number in (self.heads, self.kv_heads, self.key_bits))
        numbers = [self.scale, *self.slopes]
        if not whole or not all(math.isfinite(x) for x in numbers) or not 2 <= self.key_bits <= 16:
            raise ValueError(
                f"{self.heads} and {self.kv_heads} heads, scale {self.scale}, {self.key_bits} bits, {self.slopes}"
            )
        if self.heads % self.kv_heads or len(self.slopes) not in (0, self.heads):
            raise ValueError(
                f"{self.kv_heads} heads of keys and {len(self.slopes)} slopes do not go with {self.heads} heads"
            )
        if self.bfloat16 and (not self.slopes or self.scale <= 0):
            raise ValueError(f"{len(self.slopes)} slopes over a scale of {self.scale} are not rounded to bfloat16")

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        q, k, v, position = inputs
        check_number(position, "the position")
        same = q.rank == k.rank == v.rank >= 2 and q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
        if not same or k.shape[-2] != v.shape[-1] or q.shape[-2] > k.shape[-2]:
            raise ValueError(f"query {q}, keys {k} and values {v} do not go together")
        group = self.heads // self.kv_heads
        if q.width != group * k.width or q.width % self.heads or v.shape[-2] % self.kv_heads:
            raise ValueError(f"query {q}, keys {k}, values {v} do not make {self.heads} heads, {self.kv_heads} read")
        return TensorType((*q.shape[:-1], group * v.shape[-2]))

    def heads_of(self, query: Array, keys: Array, values: Array) -> tuple[Array, Array, Array]:
        """Queries (…, H, B, D), keys (…, H, T, D) and values (…, H, T, E), as each head of queries reads them."""
        k, v = (split_heads(x, self.kv_heads, self.heads) for x in (keys, np.swapaxes(values, -1, -2)))
        return split_heads(query, self.heads), k, v

    def hidden(self, rows: int, keys: int, position: Array, rank: int) -> Array:
        """Booleans that broadcast to scores (…, H, B, T) of `rank` dimensions: True for keys past each row's own."""
        first = np.asarray(position, np.int64)
        if first.size and not (first.min() >= 0 and first.max() + rows <= keys):
            raise IndexError(f"a position is outside the cache of {keys} entries")
        hidden: Array = np.arange(keys) > before(first, rank) + np.arange(rows)[:, None]
        return hidden

    @property
    def slope_units(self) -> Array:
        """The slopes as they are multiplied by positions, float64 (heads,): with `bfloat16` over the scale."""
        slopes = np.asarray(self.slopes, np.float64)
        return _to_bfloat16(slopes / self.scale) if self.bfloat16 else slopes

    def bias(self, keys: int) -> Array:
        """What the slopes add to the scores of each head and key: float64 (heads, keys)."""
        products: Array = self.slope_units[:, None] * np.arange(keys)
        return _to_bfloat16(products) * self.scale if self.bfloat16 else products

    def compute(self, *inputs: Array) -> Array:
        q, k, v = self.heads_of(*inputs[:3])
        scores: Array = (q @ np.swapaxes(k, -1, -2)) * np.float32(self.scale)
        if self.slopes:
            scores = scores + self.bias(k.shape[-2])[:, None, :]
        scores = np.where(self.hidden(q.shape[-2], k.shape[-2], inputs[3], scores.ndim), -np.inf, scores)
        e = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return merge_heads((e / e.sum(axis=-1, keepdims=True)) @ v).astype(np.float32)

    def macs(self, inputs: Sequence[TensorType], output: TensorType) -> int:
        """Both products over a full cache."""
        q, k = inputs[:2]
        return k.shape[-2] * (q.elements + output.elements)

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredCachedAttention:
        q, k, v = (x.type for x in inputs[:3])
        if q.dtype is not DType.INT16 or any(t.dtype not in (DType.INT8, DType.INT16) for t in (k, v, output)):
            raise LoweringError("queries are int16, keys, values and output int8 or int16")
        if any(quant_of(t).zero_point for t in (k, v, output)):
            raise LoweringError("keys, values and output of an attention are symmetric")
        size, keys = q.width // self.heads, k.shape[-2]
        if keys > KEYS_MAX:
            raise LoweringError(f"{keys} keys: a cache has at most {KEYS_MAX}")
        key_bits = min(self.key_bits, k.dtype.bits)
        drop = max(0, math.ceil(math.log2(size)) + 15 + key_bits - 1 - SCORE_BITS)
        unit = scale_of(q) * scale_of(k) * self.scale
        while drop <= DROP_MAX and not self._slopes_fit(unit * 2.0**drop, keys):
            drop += 1
        if drop > DROP_MAX:
            raise LoweringError(
                f"heads of {size} elements with keys of {key_bits} bits and slopes over {keys} positions: "
                "a score would not fit 32 bits"
            )
        unit *= 2.0**drop
        multipliers, score_shift = quantize_multipliers(np.array([unit / EXP_STEP]))
        slopes = self._slope_multipliers(unit).astype(np.int32) if self.slopes else None
        value_shift = max(0, (keys * ((1 << NUMERATOR_BITS) - 1) * -v.dtype.minimum).bit_length() - 31)
        mantissa, exponent = split_scale(scale_of(v) * 2.0**value_shift / scale_of(output))
        # The sum of the numerators lies between the largest, 2^15 − 1, and that times the number of keys.
        if exponent - 1 + NUMERATOR_BITS < 1 or exponent - 1 + (keys * 32767).bit_length() > 62:
            raise LoweringError("the scale of the output is too far from that of the values")
        return LoweredCachedAttention(
            self, int(multipliers[0]), score_shift, drop, slopes, numerator_table(NUMERATOR_BITS), value_shift,
            mantissa, exponent, q, k, v, output,
        )  # fmt: skip

    def _slope_multipliers(self, unit: float) -> Array:
        """(heads,): slopes in 2^-8 of `unit`, what one step of a score stands for."""
        return np.rint(np.asarray(self.slopes, np.float64) / unit * (1 << SLOPE_BITS))

    def _slopes_fit(self, unit: float, keys: int) -> bool:
        """Whether what the slopes add stays below 2^30, and each of them in 32 bits."""
        if not self.slopes:
            return True
        most = float(np.abs(self._slope_multipliers(unit)).max()) if unit > 0 else math.inf
        return most < 1 << 31 and most * (keys - 1) / (1 << SLOPE_BITS) < (1 << SCORE_BITS) - 1


def _to_bfloat16(values: Array) -> Array:
    """The nearest numbers with the 8 significant bits of a bfloat16, ties to even; none here is near its ends."""
    mantissa, exponent = np.frexp(values)
    rounded: Array = np.ldexp(np.rint(mantissa * 256.0), exponent - 8)
    return rounded
