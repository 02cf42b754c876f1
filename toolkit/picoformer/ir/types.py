"""What a value is: its shape, its element type and, when quantized, what its integers stand for."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np


class DType(enum.Enum):
    """Element types a value may have. The value of each member is its short name in C symbols and in files."""

    FLOAT32 = "f32"
    INT4 = "s4"
    INT8 = "s8"
    INT16 = "s16"
    INT32 = "s32"
    BOOL = "bool"

    @property
    def bytes(self) -> int:
        """Bytes an element takes in memory; raises ValueError for INT4, of which two share a byte."""
        if self is DType.INT4:
            raise ValueError("an int4 element is half a byte: ask its TensorType for bytes")
        return self.bits // 8

    @property
    def bits(self) -> int:
        """Bits of an element in memory."""
        return {"f32": 32, "s4": 4, "s8": 8, "s16": 16, "s32": 32, "bool": 8}[self.value]

    @property
    def minimum(self) -> int:
        """Smallest integer of the type."""
        return -(1 << (self.bits - 1))

    @property
    def maximum(self) -> int:
        """Largest integer of the type."""
        return (1 << (self.bits - 1)) - 1

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The numpy type that holds the same elements; int8, one to a byte, for INT4."""
        if self is DType.INT4:
            return np.dtype(np.int8)
        return np.dtype(
            {"f32": np.float32, "s8": np.int8, "s16": np.int16, "s32": np.int32, "bool": np.bool_}[self.value]
        )

    @property
    def is_integer(self) -> bool:
        """True for the types a quantized value may have."""
        return self in (DType.INT4, DType.INT8, DType.INT16, DType.INT32)


def round_to_float32(scale: float) -> float:
    """The float32 nearest to `scale`: every scale is one, so that files of any format carry it exactly."""
    return float(np.float32(scale))


def _is_scale(scale: float) -> bool:
    """Whether a number is positive and finite, rounded to float32 too."""
    return 0 < scale <= float(np.finfo(np.float32).max) and round_to_float32(scale) > 0


BLOCK = 32
"""Weights that share a block multiplier."""
BLOCK_MULTIPLIER_MAX = 15
"""A block multiplier is at least 1, and its product with any int4 is an int8: sums are bounded as with int8 weights."""


@dataclass(frozen=True)
class QuantParams:
    """real = scale · (integer − zero_point), with one scale per tensor or one per index of `axis`.

    `scale` holds one positive float32 number, or as many as the tensor is long along `axis` (counted from the
    end, so −1 is the last). `zero_point` is 0 wherever there is an axis.

    `block_multipliers`, where there are any, belong to a matrix with scales along axis −2: each row is cut into blocks
    of BLOCK elements (the last may be shorter), and real = scale[row] · block_multipliers[row][block] · integer. They
    are integers from 1 to BLOCK_MULTIPLIER_MAX, so that a sum of products stays an integer on one scale per row.
    """

    scale: tuple[float, ...]
    zero_point: int = 0
    axis: int | None = None
    block_multipliers: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.scale or not all(_is_scale(s) for s in self.scale):
            raise ValueError(f"scales must be positive and finite as float32, got {self.scale[:4]}")
        if (self.axis is None) != (len(self.scale) == 1) and self.axis is None:
            raise ValueError("several scales need an axis")
        if self.axis is not None and (self.axis >= 0 or self.zero_point != 0):
            raise ValueError("an axis counts from the end (negative) and goes with zero_point 0")
        if self.block_multipliers:
            if self.axis != -2 or len(self.block_multipliers) != len(self.scale):
                raise ValueError("block multipliers go with scales along axis -2, a row of them for each scale")
            if len({len(row) for row in self.block_multipliers}) != 1 or not self.block_multipliers[0]:
                raise ValueError("every row has the same number of block multipliers, at least one")
            if not all(
                type(m) is int and 1 <= m <= BLOCK_MULTIPLIER_MAX for row in self.block_multipliers for m in row
            ):
                raise ValueError(f"block multipliers are integers from 1 to {BLOCK_MULTIPLIER_MAX}")
        object.__setattr__(self, "scale", tuple(round_to_float32(s) for s in self.scale))

    @property
    def per_tensor_scale(self) -> float:
        """The one scale; raises ValueError when there are several."""
        if self.axis is not None:
            raise ValueError("per-channel parameters have no single scale")
        return self.scale[0]

    def scale_array(self, rank: int) -> np.ndarray:
        """Scales as float32, shaped to broadcast against a tensor of `rank` dimensions; without block multipliers."""
        scales = np.asarray(self.scale, np.float32)
        if self.axis is None:
            return scales.reshape(())
        shape = [1] * rank
        shape[self.axis] = len(scales)
        return scales.reshape(shape)

    def element_multipliers(self, shape: tuple[int, ...]) -> np.ndarray | int:
        """The block multiplier of each element of a (rows, width) matrix, int64, or 1 where there are no blocks."""
        if not self.block_multipliers:
            return 1
        return np.repeat(np.asarray(self.block_multipliers, np.int64), BLOCK, axis=1)[:, : shape[-1]]


@dataclass(frozen=True)
class TensorType:
    """Shape (all dimensions known), element type, and quantization parameters of a value."""

    shape: tuple[int, ...]
    dtype: DType = DType.FLOAT32
    quant: QuantParams | None = None

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of the value in memory: rows of int4 start at a byte each, and block multipliers take a byte each."""
        blocks = 0 if self.quant is None else sum(map(len, self.quant.block_multipliers))
        return self.rows * -(-self.width * self.dtype.bits // 8) + blocks

    @property
    def rows(self) -> int:
        """Product of all dimensions but the last: how many vectors of `width` elements there are."""
        return math.prod(self.shape[:-1])

    @property
    def width(self) -> int:
        """Length of the last dimension (1 for a scalar)."""
        return self.shape[-1] if self.shape else 1

    def __str__(self) -> str:
        return f"{self.dtype.value}[{','.join(map(str, self.shape))}]"
