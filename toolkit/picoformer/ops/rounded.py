"""The grids of a model that comes quantized, as operators: a value rounded to its grid, a constant off its integers.

No pass sees through them, so no fusion can swallow a value that carries a grid unless it is taught to. They live
between the front door and `passes.given`, which takes them out again; `Rounded` lives in simulated graphs, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from picoformer.ir.operator import Array, Operator
from picoformer.ir.types import DType, QuantParams, TensorType
from picoformer.ops.fixedpoint import dequantize


@dataclass(frozen=True)
class Rounded(Operator):
    """Input x (…). Output: x as the integers of a grid stand for it.

    For those who compare with the file: `source` is its name of the tensor with these integers, `moved` what makes that
    tensor this value, where passes have put the rounding elsewhere, and `stored` the file's own grid, made signed,
    where that is another one. `called` is the file's name of the real numbers behind them.
    """

    quant: QuantParams
    dtype: DType
    source: str = field(default="", compare=False)
    moved: tuple[Operator, ...] = field(default=(), compare=False)
    stored: QuantParams | None = field(default=None, compare=False)
    called: str = field(default="", compare=False)

    kind = "Rounded"

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        return TensorType(inputs[0].shape)

    def behind(self, move: Operator) -> Rounded:
        """The same rounding where `move` has been applied to the value."""
        return replace(self, moved=(*self.moved, move))

    def order(self, shape: tuple[int, ...]) -> Array:
        """Where each element of this value lies in the tensor `source` of `shape`, both flat."""
        places: Array = np.arange(math.prod(shape)).reshape(shape)
        for move in self.moved:
            places = move.compute(places)
        return places.reshape(-1)

    def compute(self, *inputs: Array) -> Array:
        zero_point = np.float32(self.quant.zero_point)
        scale = self.quant.scale_array(inputs[0].ndim)
        steps = np.rint(inputs[0] / scale)
        np.clip(steps, self.dtype.minimum - zero_point, self.dtype.maximum - zero_point, out=steps)
        result: Array = (steps * scale).astype(np.float32)
        return result


@dataclass(frozen=True)
class Dequantized(Operator):
    """Input: an integer constant. Output: the real numbers that it stands for.

    Not a constant to the passes, which would otherwise compute other numbers out of it.
    """

    quant: QuantParams
    dtype: DType

    kind = "Dequantized"

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        return TensorType(inputs[0].shape)

    def compute(self, *inputs: Array) -> Array:
        return np.asarray(dequantize(inputs[0], self.quant))  # a scalar stays an array


@dataclass(frozen=True)
class Given:
    """What a file says of its integers: value → its type, constant → its type and integers.

    `sources`: value → its rounding, which knows the file's tensor with the integers.
    """

    values: Mapping[str, TensorType]
    constants: Mapping[str, tuple[TensorType, Array]]
    sources: Mapping[str, Rounded]

    @property
    def empty(self) -> bool:
        """True for a float file."""
        return not self.values and not self.constants
