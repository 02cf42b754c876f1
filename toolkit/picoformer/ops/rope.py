"""Rope: queries or keys turned by their position, pair by pair.

Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding" (2021). The angles are a constant
table, so that every scaling of them (linear, NTK, YaRN, Llama 3) is one and the same operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.ir.operator import Array, Lowered, LoweringError, Operand, Operator
from picoformer.ir.types import DType, QuantParams, TensorType
from picoformer.ops.block import check_number
from picoformer.ops.fixedpoint import rounding_shift, saturate
from picoformer.ops.quantized import quant_of

ROTATION_BITS = 14
"""Fraction bits of a rotation: sines and cosines with a factor on them stay below 2 in int16."""
ROTATION_QUANT = QuantParams((2.0**-ROTATION_BITS,))
"""The grid of every table of rotations."""


@dataclass(frozen=True)
class LoweredRope(Lowered):
    """Pairs (x0, x1) of row i with (c, s) = the pair's two numbers in rotations[position + i]:
    y0 = clamp((x0·c − x1·s + 2^13) >> 14), y1 = clamp((x0·s + x1·c + 2^13) >> 14); other elements are copied.

    rotations: (T, R) int16 without −32768, so that no sum passes 32 bits. `first`: the position where it is known.
    """

    op: Rope
    rotations: Array
    input: TensorType
    output: TensorType
    first: Array | None = None

    def execute(self, *activations: Array) -> Array:
        x, *computed = activations
        position = computed[0] if self.first is None else self.first
        y = self.op.turned(x.astype(np.int64), self.rotations.astype(np.int64), position)
        return saturate(y, self.output.dtype)


@dataclass(frozen=True)
class Rope(Operator):
    """Inputs: x (…, B, H·D), rotations (T, R), position int32 () of the first row. Output (…, B, H·D).

    Row p of the rotations holds the R/2 pairs cos, sin of position p: cos₀, sin₀, cos₁, sin₁, … In every head the
    elements (2i, 2i+1) are a pair when `interleaved`, else (i, i + R/2); those past R = `rotary_dim` stay. A position
    outside the table is an IndexError.
    """

    heads: int
    rotary_dim: int
    interleaved: bool = False

    kind = "Rope"

    def __post_init__(self) -> None:
        whole = all(type(number) is int and number > 0 for number in (self.heads, self.rotary_dim))
        if not whole or self.rotary_dim % 2 or type(self.interleaved) is not bool:
            raise ValueError(f"{self.heads} heads, {self.rotary_dim} elements turned, interleaved {self.interleaved}")

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        x, rotations, position = inputs
        check_number(position, "the position")
        if x.rank < 2 or x.width % self.heads or x.width // self.heads < self.rotary_dim:
            raise ValueError(f"{x} does not make {self.heads} heads of at least {self.rotary_dim} elements")
        if rotations.rank != 2 or rotations.width != self.rotary_dim:
            raise ValueError(f"rotations {rotations} are not a row of {self.rotary_dim} numbers for every position")
        return TensorType(x.shape)

    def compute(self, *inputs: Array) -> Array:
        return self.turned(*inputs)

    def turned(self, x: Array, rotations: Array, position: Array) -> Array:
        """The rotated rows; on integers each turned element is rounded off by the rotations' fraction bits."""
        rows = np.asarray(position, np.int64)[..., None] + np.arange(x.shape[-2])
        if rows.size and not (rows.min() >= 0 and rows.max() < len(rotations)):
            raise IndexError(f"a position is outside the {len(rotations)} rows of the rotations")
        turn = rotations[rows][..., None, :]  # (…, B, 1, R)
        turn = turn.reshape(*rows.shape[:-1], *([1] * (x.ndim - 1 - rows.ndim)), *turn.shape[-3:])
        c, s = turn[..., 0::2], turn[..., 1::2]
        y = x.reshape(*x.shape[:-1], self.heads, -1).copy()
        half = self.rotary_dim // 2
        first = slice(0, self.rotary_dim, 2) if self.interleaved else slice(0, half)
        second = slice(1, self.rotary_dim, 2) if self.interleaved else slice(half, self.rotary_dim)
        a, b = y[..., first].copy(), y[..., second].copy()
        turned = a * c - b * s, a * s + b * c
        if x.dtype.kind == "i":
            turned = rounding_shift(turned[0], ROTATION_BITS), rounding_shift(turned[1], ROTATION_BITS)
        y[..., first], y[..., second] = turned
        return y.reshape(x.shape)

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredRope:
        x, table = inputs[0].type, inputs[1]
        if x.dtype is not DType.INT16 or (x.dtype, x.quant) != (output.dtype, output.quant):
            raise LoweringError(f"{x} and {output} are not int16 on one grid")
        if quant_of(x).axis is not None:
            raise LoweringError(f"{x} has a scale per channel where one per tensor is needed")
        if table.constant is None or (table.type.dtype, table.type.quant) != (DType.INT16, ROTATION_QUANT):
            raise LoweringError(f"the rotations are not an int16 constant in steps of 2^-{ROTATION_BITS}")
        if int(table.constant.min(initial=0)) == DType.INT16.minimum:
            raise LoweringError("a rotation is -2: keep them above, or their sum may pass 32 bits")
        return LoweredRope(self, table.constant, x, output, inputs[2].constant)
