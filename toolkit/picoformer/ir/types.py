"""What a value is: its shape, its element type and, when quantized, what its integers stand for."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np


class DType(enum.Enum):
    """Element types a value may have. The value of each member is its short name in C symbols and in files."""

    FLOAT32 = "f32"
    INT8 = "s8"
    INT16 = "s16"
    INT32 = "s32"
    BOOL = "bool"

    @property
    def bytes(self) -> int:
        """Bytes an element takes in memory."""
        return {"f32": 4, "s8": 1, "s16": 2, "s32": 4, "bool": 1}[self.value]

    @property
    def bits(self) -> int:
        """Bits of an integer element."""
        return 8 * self.bytes

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
        """The numpy type that holds the same elements."""
        return np.dtype(
            {"f32": np.float32, "s8": np.int8, "s16": np.int16, "s32": np.int32, "bool": np.bool_}[self.value]
        )

    @property
    def is_integer(self) -> bool:
        """True for the types a quantized value may have."""
        return self in (DType.INT8, DType.INT16, DType.INT32)


def round_to_float32(scale: float) -> float:
    """The float32 nearest to `scale`: every scale is one, so that files of any format carry it exactly."""
    return float(np.float32(scale))


@dataclass(frozen=True)
class QuantParams:
    """real = scale · (integer − zero_point), with one scale per tensor or one per index of `axis`.

    `scale` holds one positive float32 number, or as many as the tensor is long along `axis` (counted from the
    end, so −1 is the last). `zero_point` is 0 wherever there is an axis.
    """

    scale: tuple[float, ...]
    zero_point: int = 0
    axis: int | None = None

    def __post_init__(self) -> None:
        if not self.scale or not all(math.isfinite(s) and s > 0 for s in self.scale):
            raise ValueError(f"scales must be positive and finite, got {self.scale[:4]}")
        if (self.axis is None) != (len(self.scale) == 1) and self.axis is None:
            raise ValueError("several scales need an axis")
        if self.axis is not None and (self.axis >= 0 or self.zero_point != 0):
            raise ValueError("an axis counts from the end (negative) and goes with zero_point 0")
        object.__setattr__(self, "scale", tuple(round_to_float32(s) for s in self.scale))

    @property
    def per_tensor_scale(self) -> float:
        """The one scale; raises ValueError when there are several."""
        if self.axis is not None:
            raise ValueError("per-channel parameters have no single scale")
        return self.scale[0]

    def scale_array(self, rank: int) -> np.ndarray:
        """Scales as float32, shaped to broadcast against a tensor of `rank` dimensions."""
        scales = np.asarray(self.scale, np.float32)
        if self.axis is None:
            return scales.reshape(())
        shape = [1] * rank
        shape[self.axis] = len(scales)
        return scales.reshape(shape)


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
        """Bytes of the value in memory."""
        return self.elements * self.dtype.bytes

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
