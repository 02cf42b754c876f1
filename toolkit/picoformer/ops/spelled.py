"""Operators that files spell larger ones out with. They have a float meaning only: fusion must take them up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from picoformer.ir.operator import Array, Operator
from picoformer.ir.types import DType, TensorType
from picoformer.ops.elementwise import broadcast_type
from picoformer.ops.window import Patches

UnaryFunction = Literal["sqrt", "erf", "exp", "neg", "reciprocal", "not", "float"]
BinaryFunction = Literal["sub", "div", "pow", "less"]


def _erf(x: Array) -> Array:
    from scipy.special import erf

    result: Array = erf(x)
    return result


UNARY: dict[str, Callable[[Array], Array]] = {
    "sqrt": np.sqrt,
    "erf": _erf,
    "exp": np.exp,
    "neg": np.negative,
    "reciprocal": np.reciprocal,
    "not": np.logical_not,
    "float": lambda x: x.astype(np.float32),
}
BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "sub": np.subtract,
    "div": np.divide,
    "pow": np.power,
    "less": np.less,
}


def spelled_type(op: Operator, inputs: Sequence[TensorType]) -> TensorType:
    """What `op.infer` says, but arithmetic on integers (lengths and positions of a mask) stays integer.

    Raises ValueError as `infer` does.
    """
    inferred = op.infer(inputs)
    arithmetic = op.kind in ("Add", "Mul") or (isinstance(op, Binary) and op.function == "sub")
    values = inputs[1:] if op.kind == "Where" else inputs if arithmetic else ()
    if values and all(x.dtype is DType.INT32 for x in values):
        return TensorType(inferred.shape, DType.INT32)
    return inferred


@dataclass(frozen=True)
class Unary(Operator):
    """Input x. Output: `function` of each element; "not" takes and gives booleans, "float" takes any type."""

    function: UnaryFunction

    kind = "Unary"

    def __post_init__(self) -> None:
        if self.function not in get_args(UnaryFunction):
            raise ValueError(f"unknown function '{self.function}'")

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        return TensorType(inputs[0].shape, DType.BOOL if self.function == "not" else DType.FLOAT32)

    def compute(self, *inputs: Array) -> Array:
        result: Array = UNARY[self.function](inputs[0])
        return result


@dataclass(frozen=True)
class Binary(Operator):
    """Inputs a, b that broadcast. Output: `function` of each pair; "less" gives booleans."""

    function: BinaryFunction

    kind = "Binary"

    def __post_init__(self) -> None:
        if self.function not in get_args(BinaryFunction):
            raise ValueError(f"unknown function '{self.function}'")

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        dtype = DType.BOOL if self.function == "less" else DType.FLOAT32
        return TensorType(broadcast_type(inputs).shape, dtype)

    def compute(self, *inputs: Array) -> Array:
        result: Array = BINARY[self.function](inputs[0], inputs[1])
        return result


@dataclass(frozen=True)
class Where(Operator):
    """Inputs condition (bool), a, b that broadcast. Output: a where the condition holds, else b."""

    kind = "Where"

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        return TensorType(broadcast_type([broadcast_type(inputs[:2]), inputs[2]]).shape)

    def compute(self, *inputs: Array) -> Array:
        return np.where(inputs[0], inputs[1], inputs[2])


@dataclass(frozen=True)
class MatMul(Operator):
    """Inputs a (…, m, k), b (…, k, n). Output a · b, leading axes broadcast."""

    kind = "MatMul"

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        a, b = inputs
        if a.rank < 2 or b.rank < 2 or a.shape[-1] != b.shape[-2]:
            raise ValueError(f"{a} and {b} do not multiply")
        leading = broadcast_type([TensorType(a.shape[:-2]), TensorType(b.shape[:-2])]).shape
        return TensorType((*leading, a.shape[-2], b.shape[-1]))

    def compute(self, *inputs: Array) -> Array:
        return inputs[0] @ inputs[1]

    def macs(self, inputs: Sequence[TensorType], output: TensorType) -> int:
        return output.elements * inputs[0].shape[-1]


@dataclass(frozen=True)
class Conv(Operator):
    """Inputs x (n, c, h, w), weight (m, c / groups, h', w'), optionally bias (m,). Output (n, m, rows, columns).

    Strides, dilations and pads are Window's; no strides are those of patches side by side, (h', w')."""

    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = (1, 1)
    pads: tuple[int, ...] = (0, 0, 0, 0)
    groups: int = 1

    kind = "Conv"

    def window(self, weight: Sequence[int]) -> Patches:
        """The windows that a weight of this shape is multiplied with, over an image with its channels last."""
        (up, side), (top, left, bottom, right) = self.dilations, self.pads
        high, wide = self.strides or tuple(weight[2:])
        return Patches((weight[2], weight[3]), (high, wide), (up, side), (top, left, bottom, right))

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        x, weight = inputs[:2]
        if x.rank != 4 or weight.rank != 4 or x.shape[1] != weight.shape[1] * self.groups:
            raise ValueError(f"input {x} does not go with weight {weight} in {self.groups} groups")
        if weight.shape[0] % self.groups:
            raise ValueError(f"{self.groups} groups do not divide the outputs of weight {weight}")
        n, _, height, width = x.shape
        rows, columns = self.window(weight.shape).places(TensorType((height, width, 1)))
        return TensorType((n, weight.shape[0], rows, columns))

    def compute(self, *inputs: Array) -> Array:
        x, weight, *bias = inputs
        windows = self.window(weight.shape).windows(np.moveaxis(x, -3, -1), 0)
        apart = windows.reshape(*windows.shape[:-1], self.groups, -1)
        own = weight.reshape(self.groups, -1, *weight.shape[1:])
        y: Array = np.einsum("...rqhwgc,gmchw->...gmrq", apart, own)
        y = y.reshape(*y.shape[:-4], weight.shape[0], *y.shape[-2:])
        result: Array = y + bias[0][:, None, None] if bias else y
        return result
