"""Operators that only move data: Reshape, Transpose, Slice, Concat. Their integers are their floats'."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.ir.operator import Array, Lowered, LoweringError, Operand, Operator
from picoformer.ir.types import TensorType


@dataclass(frozen=True)
class LoweredMove(Lowered):
    """The operator itself on integers; `constants` holds the value of each input that is known, None elsewhere."""

    op: Operator
    constants: tuple[Array | None, ...]
    inputs: tuple[TensorType, ...]
    output: TensorType

    def execute(self, *activations: Array) -> Array:
        rest = iter(activations)
        leading = activations[0].shape[: activations[0].ndim - self._first_activation.rank]
        values = [
            next(rest) if value is None else np.broadcast_to(value, (*leading, *value.shape))
            for value in self.constants
        ]
        return self.op.compute(*values)

    @property
    def _first_activation(self) -> TensorType:
        return next(type_ for type_, value in zip(self.inputs, self.constants, strict=True) if value is None)


@dataclass(frozen=True)
class Move(Operator):
    """Base of the data movers: every input and the output share one type and one grid."""

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredMove:
        for operand in inputs:
            if (operand.type.dtype, operand.type.quant) != (output.dtype, output.quant):
                raise LoweringError(f"{operand.type} and {output} are on different grids")
        return LoweredMove(self, tuple(x.constant for x in inputs), tuple(x.type for x in inputs), output)


@dataclass(frozen=True)
class Reshape(Move):
    """Input x. Output: the same elements in order, as `shape`."""

    shape: tuple[int, ...]

    kind = "Reshape"

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        if math.prod(self.shape) != inputs[0].elements:
            raise ValueError(f"{inputs[0]} does not have the elements of shape {list(self.shape)}")
        return TensorType(self.shape, inputs[0].dtype)

    def compute(self, *inputs: Array) -> Array:
        (x,) = inputs
        leading = x.size // max(math.prod(self.shape), 1)
        if leading == 1 and x.ndim <= len(self.shape):
            return x.reshape(self.shape)
        return x.reshape(_leading_axes(x.shape, math.prod(self.shape)) + self.shape)


def _leading_axes(shape: tuple[int, ...], elements: int) -> tuple[int, ...]:
    """The sample axes in front: the shortest prefix after which `elements` elements are left."""
    for count in range(len(shape) + 1):
        if math.prod(shape[count:]) == elements:
            return shape[:count]
    raise ValueError(f"shape {shape} does not end in {elements} elements")


@dataclass(frozen=True)
class Transpose(Move):
    """Input x. Output axis i is input axis `permutation[i]`; axes count from the end (negative)."""

    permutation: tuple[int, ...]

    kind = "Transpose"

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        if sorted(self.permutation) != list(range(-inputs[0].rank, 0)):
            raise ValueError(f"{list(self.permutation)} does not permute the axes of {inputs[0]}")
        return TensorType(tuple(inputs[0].shape[axis] for axis in self.permutation), inputs[0].dtype)

    def compute(self, *inputs: Array) -> Array:
        (x,) = inputs
        leading = x.ndim - len(self.permutation)
        return np.transpose(x, (*range(leading), *(axis + x.ndim for axis in self.permutation)))


@dataclass(frozen=True)
class Slice(Move):
    """Input x. Output: entries start, start + step … before stop along `axis` (negative); with `keep` false (one
    entry only) the axis is dropped."""

    axis: int
    start: int
    stop: int
    step: int = 1
    keep: bool = True

    kind = "Slice"

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        shape = list(inputs[0].shape)
        if not -len(shape) <= self.axis < 0:
            raise ValueError(f"axis {self.axis} is not one of {inputs[0]}")
        size = shape[self.axis]
        count = len(range(self.start, self.stop, self.step)) if self.step > 0 else 0
        if not (0 <= self.start < self.stop <= size and count and (self.keep or count == 1)):
            raise ValueError(f"entries {self.start}:{self.stop}:{self.step} of axis {self.axis} of {inputs[0]}")
        shape[self.axis] = count
        if not self.keep:
            del shape[self.axis]
        return TensorType(tuple(shape), inputs[0].dtype)

    def compute(self, *inputs: Array) -> Array:
        (x,) = inputs
        index: list[slice | int] = [slice(None)] * x.ndim
        index[self.axis] = slice(self.start, self.stop, self.step) if self.keep else self.start
        return x[tuple(index)]


@dataclass(frozen=True)
class Concat(Move):
    """Inputs that agree but along `axis` (negative). Output: one after the other along it."""

    axis: int

    kind = "Concat"

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        first = inputs[0]
        if not -first.rank <= self.axis < 0:
            raise ValueError(f"axis {self.axis} is not one of {first}")
        rest = [x.shape[: self.axis + x.rank] + x.shape[self.axis + x.rank + 1 :] for x in inputs]
        if len(set(rest)) != 1:
            raise ValueError(f"{', '.join(map(str, inputs))} do not line up along axis {self.axis}")
        shape = list(first.shape)
        shape[self.axis] = sum(x.shape[self.axis] for x in inputs)
        return TensorType(tuple(shape), first.dtype)

    def compute(self, *inputs: Array) -> Array:
        rank = max(x.ndim for x in inputs)
        leading = next((x.shape[: x.ndim - min(y.ndim for y in inputs)] for x in inputs if x.ndim == rank), ())
        full = [np.broadcast_to(x, (*leading, *x.shape)) if x.ndim < rank else x for x in inputs]
        return np.concatenate(full, axis=self.axis)
