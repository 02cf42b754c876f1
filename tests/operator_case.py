"""One operator on quantized operands with data: what the tables of cases are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from picoformer.ir.operator import Array, Lowered, Operand, Operator
from picoformer.ir.types import DType, QuantParams, TensorType
from picoformer.ops import Activation, LoweredKvAppend
from picoformer.ops.functions import FUNCTIONS

S8, S16 = DType.INT8, DType.INT16
TYPES = {"s8": S8, "s16": S16}


@dataclass(frozen=True)
class Case:
    """One operator on quantized operands: `activations` are the values of those that are not constants."""

    note: str
    op: Operator
    inputs: tuple[Operand, ...]
    output: TensorType
    activations: tuple[Array, ...]
    lowered: Lowered = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lowered", self.op.lower(self.inputs, self.output))

    @property
    def expected(self) -> Array:
        """The integer meaning."""
        return self.lowered.execute(*self.activations)

    def meaning(self) -> Array:
        """The float meaning on dequantized operands, float64, in steps of the output, clamped to its range."""
        rest = iter(self.activations)
        values = []
        for operand in self.inputs:
            value = next(rest) if operand.constant is None else operand.constant
            quant = operand.type.quant
            if quant is not None:
                scale = quant.scale_array(value.ndim).astype(np.float64)
                value = (value.astype(np.float64) - quant.zero_point) * scale * quant.element_multipliers(value.shape)
            values.append(value)
        with np.errstate(all="ignore"):  # outside of its domain a function is taken as 0
            real = np.asarray(self.op.compute(*values), np.float64)
            real = np.where(np.isnan(real), 0.0, real)
        quant, dtype = self.output.quant, self.output.dtype
        if quant is None:
            return real
        steps = real / quant.scale_array(real.ndim).astype(np.float64) + quant.zero_point
        limit = 1 << (self.lowered.bits - 1) if isinstance(self.lowered, LoweredKvAppend) else -dtype.minimum
        return np.clip(steps, -limit, limit - 1)


ACTIVATIONS: tuple[Activation, ...] = (
    Activation("clip", (-1.3, 6.0)),
    Activation("celu", (0.7,)),
    Activation("elu", (0.8,)),
    Activation("hard_sigmoid", (0.2, 0.5)),
    Activation("leaky_relu", (0.1,)),
    Activation("selu", (1.6732632, 1.050701)),
    Activation("swish", (1.702,)),
    *(Activation(name) for name, function in FUNCTIONS.items() if not function.parameters),  # type: ignore[arg-type]
)
"""Every function, with parameters where it takes any."""


def of(shape: tuple[int, ...], dtype: DType, scale: float, zero: int = 0) -> TensorType:
    """Type with one scale; 16-bit values are symmetric whatever `zero` says."""
    return TensorType(shape, dtype, QuantParams((scale,), zero if dtype is S8 else 0))


def patterns(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Iterator[tuple[str, Array]]:
    """Named data of one shape and type."""
    low, high = dtype.minimum, dtype.maximum
    yield "random", rng.integers(low, high + 1, shape).astype(dtype.numpy)
    yield "saturated", rng.choice([low, high], shape).astype(dtype.numpy)
    yield "lowest", np.full(shape, low, dtype.numpy)
    yield "equal", np.full(shape, rng.integers(low, high + 1), dtype.numpy)
    nearly = np.full(shape, int(rng.integers(low // 2, high // 2)))
    nearly[..., -1] += 1
    yield "nearly equal", nearly.astype(dtype.numpy)
    spike = np.full(shape, low)
    spike[..., 0] = high
    yield "spike", spike.astype(dtype.numpy)
    yield "small", rng.integers(-3, 4, shape).astype(dtype.numpy)
