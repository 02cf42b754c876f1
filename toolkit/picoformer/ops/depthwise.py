"""DepthwiseConv: each channel of an image with a small kernel of its own, one requantize per channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.ir.operator import Array, Lowered, LoweringError, Operand
from picoformer.ir.types import DType, TensorType
from picoformer.ops.fixedpoint import quantize_multipliers, requantize
from picoformer.ops.linear import accumulator_bound
from picoformer.ops.quantized import quant_of, scale_of
from picoformer.ops.window import Window


@dataclass(frozen=True)
class LoweredDepthwiseConv(Lowered):
    """acc[c] = bias[c] + Σₜ weight[t,c]·x[t,c] over the taps t of a window; y[c] = requantize(acc[c], multiplier[c],
    shift, zero_point). x is zero_in where an entry is not there; bias has −zero_in·Σₜ weight[t,c] in it.

    weight: (T, C) int8. bias, multiplier: (C,) int32. Every sum, partial ones included, is below 2^31.
    """

    op: DepthwiseConv
    weight: Array
    bias: Array
    multiplier: Array
    shift: int
    zero_in: int
    zero_point: int
    input: TensorType
    output: TensorType

    def execute(self, *activations: Array) -> Array:
        acc = self.op.sums(activations[0].astype(np.int64), self.weight.astype(np.int64), self.zero_in) + self.bias
        return requantize(acc, self.multiplier.astype(np.int64), self.shift, self.zero_point, self.output.dtype)


@dataclass(frozen=True)
class DepthwiseConv(Window):
    """Inputs: x (…, H, W, C), weight (T, C) with T = kernel height · kernel width, optionally bias (C,). Output
    (…, R, Q, C): over each window the sum of its entries times the weight, zeros where there is no entry."""

    kind = "DepthwiseConv"

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        x, weight, *bias = inputs
        places = self.places(x)
        if weight.shape != (self.taps, x.width):
            raise ValueError(f"weight {weight} is not one number for each of {self.taps} taps of {x}")
        if bias and bias[0].shape != (x.width,):
            raise ValueError(f"bias {bias[0]} is not one number per channel of {x}")
        return TensorType((*places, x.width))

    def sums(self, x: Array, weight: Array, fill: int) -> Array:
        """(…, R, Q, C) sums of products."""
        windows = self.windows(x, fill)
        result: Array = np.einsum("...ijc,ijc->...c", windows, weight.reshape(*self.kernel, -1))
        return result

    def compute(self, *inputs: Array) -> Array:
        x, weight, *bias = inputs
        y = self.sums(x, weight, 0)
        return y + bias[0] if bias else y

    def macs(self, inputs: Sequence[TensorType], output: TensorType) -> int:
        return output.elements * self.taps

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredDepthwiseConv:
        x, weight, *rest = inputs
        w_quant = quant_of(weight.type)
        if weight.constant is None or weight.type.dtype is not DType.INT8:
            raise LoweringError("the weight is not an int8 constant")
        if w_quant.zero_point or w_quant.axis not in (None, -1):
            raise LoweringError("weights are symmetric, per tensor or per channel")
        if x.type.dtype not in (DType.INT8, DType.INT16):
            raise LoweringError(f"the input {x.type} is not int8 or int16")
        w, zero_in = weight.constant.astype(np.int64), quant_of(x.type).zero_point
        bias = np.zeros(w.shape[1], np.int64)
        if rest:
            if rest[0].constant is None or rest[0].type.dtype is not DType.INT32:
                raise LoweringError("the bias is not an int32 constant")
            bias += rest[0].constant
        bias -= zero_in * w.sum(axis=0)
        if np.abs(bias).max(initial=0) >= 1 << 31 or accumulator_bound(w.T, bias, x.type.dtype) >= 1 << 31:
            raise LoweringError("a sum may pass 32 bits: the kernel is too large, or the scale of a channel too small")
        scales = np.broadcast_to(np.asarray(w_quant.scale, np.float64), (w.shape[1],)) * scale_of(x.type)
        multiplier, shift = quantize_multipliers(scales / scale_of(output))
        zero_point = quant_of(output).zero_point
        return LoweredDepthwiseConv(
            self, weight.constant, bias.astype(np.int32), multiplier, shift, zero_in, zero_point, x.type, output
        )
