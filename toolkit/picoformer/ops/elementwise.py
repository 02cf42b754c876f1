"""Add and Mul: two tensors, element by element, broadcast; one rounding each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.ir.operator import Array, Lowered, LoweringError, Operand, Operator
from picoformer.ir.types import DType, TensorType
from picoformer.ops.fixedpoint import quantize_multipliers, rounding_shift, saturate
from picoformer.ops.quantized import quant_of, scale_of


def broadcast_type(inputs: Sequence[TensorType]) -> TensorType:
    """Float type of the numpy-style broadcast of two shapes; raises ValueError when they do not fit."""
    try:
        return TensorType(tuple(np.broadcast_shapes(inputs[0].shape, inputs[1].shape)))
    except ValueError:
        raise ValueError(f"{inputs[0]} and {inputs[1]} do not broadcast") from None


@dataclass(frozen=True)
class LoweredAdd(Lowered):
    """y = clamp((a·multiplier_a + b·multiplier_b + offset + 2^(shift−1)) >> shift), 64 bits, zero points in `offset`.

    `constant` is b when it is known. With `is_plain` both factors are 2^shift and the sum is only saturated.
    """

    multiplier_a: int
    multiplier_b: int
    offset: int
    shift: int
    constant: Array | None
    a: TensorType
    b: TensorType
    output: TensorType

    @property
    def is_plain(self) -> bool:
        """True when no input is rescaled: y = clamp(a + b)."""
        return self.multiplier_a == self.multiplier_b == 1 << self.shift and self.offset == 0

    def execute(self, *activations: Array) -> Array:
        a = activations[0].astype(np.int64)
        b = (activations[1] if self.constant is None else self.constant).astype(np.int64)
        total = a * self.multiplier_a + b * self.multiplier_b + self.offset
        return saturate(rounding_shift(total, self.shift), self.output.dtype)


@dataclass(frozen=True)
class LoweredMul(Lowered):
    """y = clamp(zero_point + (((a − zero_a)·(b − zero_b)·multiplier + 2^(shift−1)) >> shift)), 64 bits."""

    multiplier: int
    shift: int
    zero_a: int
    zero_b: int
    zero_point: int
    constant: Array | None
    a: TensorType
    b: TensorType
    output: TensorType

    def execute(self, *activations: Array) -> Array:
        a = activations[0].astype(np.int64) - self.zero_a
        b = (activations[1] if self.constant is None else self.constant).astype(np.int64) - self.zero_b
        return saturate(rounding_shift(a * b * self.multiplier, self.shift) + self.zero_point, self.output.dtype)


def _check(inputs: Sequence[Operand]) -> tuple[TensorType, TensorType, Array | None]:
    a, b = inputs
    if a.constant is not None:
        raise LoweringError("a constant stands first")
    for operand in inputs:
        if operand.type.dtype not in (DType.INT8, DType.INT16):
            raise LoweringError(f"the input {operand.type} is not int8 or int16")
    return a.type, b.type, b.constant


@dataclass(frozen=True)
class Add(Operator):
    """Inputs a, b that broadcast. Output a + b."""

    kind = "Add"

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        return broadcast_type(inputs)

    def compute(self, *inputs: Array) -> Array:
        return inputs[0] + inputs[1]

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredAdd:
        a, b, constant = _check(inputs)
        multipliers, shift = quantize_multipliers(np.array([scale_of(a), scale_of(b)]) / scale_of(output))
        m_a, m_b = (int(m) for m in multipliers)
        offset = (quant_of(output).zero_point << shift) - quant_of(a).zero_point * m_a - quant_of(b).zero_point * m_b
        return LoweredAdd(m_a, m_b, offset, shift, constant, a, b, output)


@dataclass(frozen=True)
class Mul(Operator):
    """Inputs a, b that broadcast. Output a · b."""

    kind = "Mul"

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        return broadcast_type(inputs)

    def compute(self, *inputs: Array) -> Array:
        return inputs[0] * inputs[1]

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredMul:
        a, b, constant = _check(inputs)
        multipliers, shift = quantize_multipliers(np.array([scale_of(a) * scale_of(b) / scale_of(output)]))
        zeros = [quant_of(t).zero_point for t in (a, b, output)]
        return LoweredMul(int(multipliers[0]), shift, zeros[0], zeros[1], zeros[2], constant, a, b, output)
