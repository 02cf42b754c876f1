"""The integers of the device inside a float computation: rounding forward, straight through backward."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from picoformer.ir import DType, QuantParams, TensorType

Array = np.ndarray[Any, Any]

HALF_UP, HALF_EVEN = "half up", "half even"
"""How ties are rounded: as every step of the device does, and as inputs and constants are."""


class _Round(torch.autograd.Function):
    """Nearest integer, limited to [low, high]; the gradient passes where the limits do not cut, and is zero there."""

    @staticmethod
    def forward(ctx: Any, steps: Tensor, low: float, high: float, ties: str) -> Tensor:
        rounded = torch.round(steps) if ties == HALF_EVEN else torch.floor(steps + 0.5)
        ctx.save_for_backward((rounded >= low) & (rounded <= high))
        return rounded.clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None


def round_straight(steps: Tensor, low: float, high: float, ties: str = HALF_UP) -> Tensor:
    """The nearest integers within [low, high], as real numbers.

    Straight-through gradient (Bengio et al. 2013): 1 where the rounded number is within the limits, 0 where it was cut.
    """
    result: Tensor = _Round.apply(steps, float(low), float(high), ties)  # type: ignore[no-untyped-call]
    return result


class FakeQuantize(nn.Module):
    """A value on the grid of a quantized type: scale · (clamp(round(x / scale) + zero_point) − zero_point).

    Everything comes from the type, so that what is trained on is what the device has.
    """

    def __init__(self, type_: TensorType, ties: str = HALF_UP) -> None:
        super().__init__()
        quant = type_.quant
        if quant is None:
            raise ValueError(f"{type_} is not quantized")
        self.ties = ties
        self.low = type_.dtype.minimum - quant.zero_point
        self.high = type_.dtype.maximum - quant.zero_point
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(quant.scale_array(type_.rank)))

    def forward(self, x: Tensor) -> Tensor:
        """`x` (samples, *shape) or (*shape) rounded to the grid, still real numbers."""
        return round_straight(x.to(self.scale.dtype) / self.scale, self.low, self.high, self.ties) * self.scale


class Constant(nn.Module):
    """A constant of a graph that trains: a parameter, counted in steps, and what the graph is to hold."""

    real: nn.Parameter

    def value(self) -> Array:
        """The constant as the graph holds it: integers of a grid, or reals where there is none."""
        raise NotImplementedError


class QuantizedConstant(Constant):
    """A weight, a table or a constant operand that trains on its grid.

    The parameter counts in steps of the grid, so that one learning rate suits wide and narrow grids alike: it is about
    how far, in steps, an update of the optimizer moves a weight.
    """

    def __init__(self, integers: Array, type_: TensorType) -> None:
        super().__init__()
        quant = type_.quant
        if quant is None:
            raise ValueError(f"{type_} is not quantized")
        self.zero_point = quant.zero_point
        # A symmetric grid leaves the lowest integer out, as the quantizer does: ranges and products stay bounded.
        self.low = (-type_.dtype.maximum if quant.zero_point == 0 else type_.dtype.minimum) - quant.zero_point
        self.high = type_.dtype.maximum - quant.zero_point
        self.scale: Tensor
        scale = quant.scale_array(type_.rank) * quant.element_multipliers(type_.shape)
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.real = nn.Parameter(torch.tensor(integers, dtype=torch.float32) - quant.zero_point)

    def steps(self) -> Tensor:
        """The integers less the zero point, as real numbers."""
        return round_straight(self.real, self.low, self.high, HALF_EVEN)

    def forward(self) -> Tensor:
        """The constant as the device has it, real numbers."""
        return self.steps() * self.scale

    def value(self) -> Array:
        return self.steps().detach().cpu().numpy().astype(np.int64) + self.zero_point


class QuantizedBias(Constant):
    """The bias of a Linear on the grid of its accumulators: input scale times weight scale, per output.

    The parameter counts in steps of the weight at an input of an eighth of its range, for a bias to move as fast as the
    weights beside it.
    """

    LIMIT = DType.INT32.maximum >> 1  # a bit is kept free for the input's folded zero point

    def __init__(self, integers: Array, weight: QuantParams, input_type: TensorType) -> None:
        super().__init__()
        assert input_type.quant is not None
        grid = np.asarray(weight.scale, np.float64) * input_type.quant.per_tensor_scale
        self.grid: Tensor
        self.register_buffer("grid", torch.from_numpy(np.broadcast_to(grid, integers.shape).copy()))
        self.unit = 2.0 ** (input_type.dtype.bits - 3)
        self.real = nn.Parameter(torch.tensor(integers / self.unit, dtype=torch.float32))

    def steps(self) -> Tensor:
        """The integers, as real numbers."""
        return round_straight(self.real.double() * self.unit, -self.LIMIT, self.LIMIT, HALF_EVEN)

    def forward(self) -> Tensor:
        """(N,) the bias as the device has it, real numbers."""
        return (self.steps() * self.grid).to(self.real.dtype)

    def value(self) -> Array:
        return self.steps().detach().cpu().numpy().astype(np.int64)


class RealConstant(Constant):
    """A constant that the device has no grid for (the gain and bias of a norm), trained as a real number.

    The parameter counts in 127ths of the largest magnitude, as an int8 grid would.
    """

    def __init__(self, value: Array) -> None:
        super().__init__()
        self.unit = max(float(np.abs(value).max(initial=0.0)), 1e-3) / 127
        self.real = nn.Parameter(torch.tensor(value.astype(np.float64) / self.unit, dtype=torch.float32))

    def forward(self) -> Tensor:
        """The constant, real numbers."""
        return self.real * self.unit

    def value(self) -> Array:
        result: Array = self().detach().cpu().numpy()
        return result
