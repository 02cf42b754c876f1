"""The rows of a decoder's block: PositionIds numbers them, TakeRow picks the last real one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.ir.operator import Array, Lowered, LoweringError, Operand, Operator
from picoformer.ir.types import DType, TensorType


def check_number(type_: TensorType, what: str) -> None:
    """Raise ValueError unless the operand called `what` is one int32 without axes."""
    if type_.shape != () or type_.dtype is not DType.INT32:
        raise ValueError(f"{what} is one int32, not {type_}")


def before(number: Array, rank: int) -> Array:
    """A number for each sample, shaped to broadcast against arrays of `rank` dimensions with samples in front."""
    number = np.asarray(number, np.int64)
    return number.reshape((*number.shape, *([1] * (rank - number.ndim))))


@dataclass(frozen=True)
class LoweredPositionIds(Lowered):
    """y[i] = position + i, int32."""

    rows: int
    input: TensorType
    output: TensorType

    def execute(self, *activations: Array) -> Array:
        return PositionIds(self.rows).compute(*activations)


@dataclass(frozen=True)
class PositionIds(Operator):
    """Input: position int32 () of the block's first row. Output int32 (rows,): position + i."""

    rows: int

    kind = "PositionIds"
    makes_rows = True

    def __post_init__(self) -> None:
        if type(self.rows) is not int or self.rows < 1:
            raise ValueError(f"{self.rows} rows: a block has one at least")

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        check_number(inputs[0], "the position")
        return TensorType((self.rows,), DType.INT32)

    def compute(self, *inputs: Array) -> Array:
        result: Array = np.asarray(inputs[0], np.int32)[..., None] + np.arange(self.rows, dtype=np.int32)
        return result

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredPositionIds:
        if output.quant is not None or output.dtype is not DType.INT32:
            raise LoweringError(f"positions are plain int32 numbers, not {output}")
        return LoweredPositionIds(self.rows, inputs[0].type, output)


@dataclass(frozen=True)
class LoweredTakeRow(Lowered):
    """Row count − 1, unchanged."""

    input: TensorType
    output: TensorType

    def execute(self, *activations: Array) -> Array:
        return TakeRow().compute(*activations)


@dataclass(frozen=True)
class TakeRow(Operator):
    """Inputs: x (…, B, d), count int32 (). Output (…, 1, d): row count − 1. A count outside 1..B is an IndexError."""

    kind = "TakeRow"
    keeps_rows = False

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        x, count = inputs
        check_number(count, "the count")
        if x.rank < 2:
            raise ValueError(f"{x} has no rows")
        return TensorType((*x.shape[:-2], 1, x.width), x.dtype)

    def compute(self, *inputs: Array) -> Array:
        x, count = inputs[0], np.asarray(inputs[1], np.int64)
        if count.size and not (count.min() >= 1 and count.max() <= x.shape[-2]):
            raise IndexError(f"a count is outside 1..{x.shape[-2]}, the rows of the block")
        last = np.broadcast_to(before(count - 1, x.ndim), (*x.shape[:-2], 1, 1))
        return np.take_along_axis(x, last, axis=-2)

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredTakeRow:
        x = inputs[0].type
        if (x.dtype, x.quant) != (output.dtype, output.quant):
            raise LoweringError(f"{x} and {output} are on different grids")
        return LoweredTakeRow(x, output)
