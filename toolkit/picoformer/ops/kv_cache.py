"""KvAppend: the keys or values of a block of new positions written into their cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.ir.operator import Array, Lowered, LoweringError, Operand, Operator
from picoformer.ir.types import DType, TensorType
from picoformer.ops.block import before, check_number
from picoformer.ops.fixedpoint import quantize_multipliers, requantize
from picoformer.ops.quantized import quant_of, scale_of


@dataclass(frozen=True)
class LoweredKvAppend(Lowered):
    """cache[position + i] = clamp to `bits` bits of requantize(rows[i] − zero_in, multiplier, shift), for i < count.

    Entry position + i is a row of the cache, a column when `transposed`; all others stay. On the device the result lies
    on the cache itself. `bits` is at most the bits of the cache's type.
    """

    op: KvAppend
    multiplier: int
    shift: int
    zero_in: int
    bits: int
    cache: TensorType
    rows: TensorType
    output: TensorType

    def execute(self, *activations: Array) -> Array:
        cache, rows, position, count = activations
        steps = requantize(rows.astype(np.int64) - self.zero_in, self.multiplier, self.shift, 0, self.output.dtype)
        limit = 1 << (self.bits - 1)
        return self.op.compute(cache, np.clip(steps, -limit, limit - 1), position, count)


@dataclass(frozen=True)
class KvAppend(Operator):
    """Inputs: cache (…, T, W), rows (…, B, W), position int32 (), count int32 (). Output: the cache with its rows
    position … position + count − 1 replaced by the first `count` rows.

    With `transposed` the cache is (…, W, T) and columns are replaced. `bits`, 2 to 16: how many the integers of the
    cache may take (8 or fewer make it int8), see `quantize/caches.py`. Entries outside the cache, or more than there
    are rows, are an IndexError.
    """

    transposed: bool = False
    bits: int = 16

    kind = "KvAppend"
    keeps_rows = False

    @property
    def axis(self) -> int:
        """Which axis of the cache its positions are."""
        return -1 if self.transposed else -2

    def __post_init__(self) -> None:
        if type(self.transposed) is not bool or type(self.bits) is not int or not 2 <= self.bits <= 16:
            raise ValueError(f"transposed {self.transposed}, {self.bits} bits: a cache has 2 to 16 bits")

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        cache, rows, position, count = inputs
        check_number(position, "the position")
        check_number(count, "the count")
        width = cache.shape[-2 if self.transposed else -1] if cache.rank == rows.rank >= 2 else 0
        if width != rows.width or cache.shape[:-2] != rows.shape[:-2]:
            raise ValueError(f"rows {rows} do not go into the cache {cache}")
        return TensorType(cache.shape)

    def compute(self, *inputs: Array) -> Array:
        cache, rows = inputs[:2]
        leading = np.broadcast_shapes(cache.shape[:-2], rows.shape[:-2])
        result = np.broadcast_to(cache, (*leading, *cache.shape[-2:])).copy()
        rows = np.broadcast_to(rows, (*leading, *rows.shape[-2:]))
        first, number = (np.broadcast_to(before(x, len(leading)), leading) for x in inputs[2:])
        entries = np.swapaxes(result, -1, -2) if self.transposed else result
        for index in np.ndindex(leading):
            start, taken = int(first[index]), int(number[index])
            if start < 0 or not 0 <= taken <= rows.shape[-2] or start + taken > entries.shape[-2]:
                raise IndexError(
                    f"{taken} of {rows.shape[-2]} rows at position {start} are outside the cache of "
                    f"{entries.shape[-2]} entries"
                )
            entries[index][start : start + taken] = rows[index][:taken]
        return result

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredKvAppend:
        cache, rows = (x.type for x in inputs[:2])
        if (cache.dtype, cache.quant) != (output.dtype, output.quant):
            raise LoweringError(f"the cache {cache} and the output {output} are on different grids")
        if cache.dtype not in (DType.INT8, DType.INT16) or quant_of(cache).zero_point:
            raise LoweringError(f"the cache {cache} is not symmetric int8 or int16")
        if rows.dtype not in (DType.INT8, DType.INT16):
            raise LoweringError(f"the rows {rows} are not int8 or int16")
        multipliers, shift = quantize_multipliers(np.array([scale_of(rows) / scale_of(cache)]))
        bits = min(self.bits, cache.dtype.bits)
        zero_in = quant_of(rows).zero_point
        return LoweredKvAppend(self, int(multipliers[0]), shift, zero_in, bits, cache, rows, output)
