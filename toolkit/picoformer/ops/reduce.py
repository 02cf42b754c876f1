"""ReduceMean: the mean over one axis, optionally over its first valid_length entries only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.ir.operator import Array, Lowered, LoweringError, Operand, Operator
from picoformer.ir.types import DType, TensorType
from picoformer.ops.fixedpoint import rounding_shift, saturate, scaled_reciprocal, split_scale
from picoformer.ops.quantized import quant_of, scale_of


@dataclass(frozen=True)
class LoweredReduceMean(Lowered):
    """(m, n) = scaled_reciprocal(mantissa, exponent, count);
    y = clamp(zero_point + ((Σ(x − zero_in)·m + 2^(n−1)) >> n)).

    count is the valid length where there is one (0 gives zero_point), else the length of the axis.
    """

    axis: int
    keep: bool
    mantissa: int
    exponent: int
    zero_in: int
    zero_point: int
    input: TensorType
    output: TensorType
    has_valid_length: bool

    def execute(self, *activations: Array) -> Array:
        x = activations[0].astype(np.int64) - self.zero_in
        count = np.asarray(x.shape[self.axis], np.int64)
        if self.has_valid_length:
            x, count = _mask(x, activations[1], self.axis)
        total = x.sum(axis=self.axis, keepdims=True)
        multiplier, shift = scaled_reciprocal(self.mantissa, self.exponent, np.maximum(count, 1))
        y = saturate(rounding_shift(total * multiplier, shift) + self.zero_point, self.output.dtype)
        return y if self.keep else y.squeeze(self.axis)


def _mask(x: Array, lengths: Array, axis: int) -> tuple[Array, Array]:
    """Zero the entries at or past each sample's length; also the lengths, shaped to divide the sum."""
    lengths = np.clip(np.asarray(lengths, np.int64).reshape(-1), 0, x.shape[axis])
    lengths = lengths.reshape(len(lengths), *([1] * (x.ndim - 1)))
    position = np.arange(x.shape[axis]).reshape(-1, *([1] * (-axis - 1)))
    return np.where(position < lengths, x, 0), lengths


@dataclass(frozen=True)
class ReduceMean(Operator):
    """Input x, optionally valid_length int32 (). Output: the mean over `axis` (negative), kept as 1 if `keep`."""

    axis: int
    keep: bool

    kind = "ReduceMean"

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        shape = list(inputs[0].shape)
        if not -len(shape) <= self.axis < 0:
            raise ValueError(f"axis {self.axis} is not one of {inputs[0]}")
        if self.keep:
            shape[self.axis] = 1
        else:
            del shape[self.axis]
        return TensorType(tuple(shape))

    def compute(self, *inputs: Array) -> Array:
        x = inputs[0]
        result: Array
        if len(inputs) == 1:
            result = x.mean(axis=self.axis, keepdims=self.keep, dtype=np.float64).astype(np.float32)
            return result
        x, count = _mask(x, inputs[1], self.axis)
        y = x.sum(axis=self.axis, keepdims=True, dtype=np.float64) / np.maximum(count, 1)
        result = (y if self.keep else y.squeeze(self.axis)).astype(np.float32)
        return result

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredReduceMean:
        x = inputs[0].type
        if x.dtype not in (DType.INT8, DType.INT16) or x.shape[self.axis] >= 1 << 15:
            raise LoweringError(f"the input {x} is not int8 or int16, or too long")
        mantissa, exponent = split_scale(scale_of(x) / scale_of(output))
        if not (exponent >= 1 and exponent + 31 - 16 <= 62):
            raise LoweringError("the scales of input and output are too far apart")
        return LoweredReduceMean(
            self.axis,
            self.keep,
            mantissa,
            exponent,
            quant_of(x).zero_point,
            quant_of(output).zero_point,
            x,
            output,
            len(inputs) > 1,
        )
