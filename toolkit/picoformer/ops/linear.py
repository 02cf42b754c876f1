"""Linear: y = x · Wᵀ + b over the last axis, one requantize per output channel; weights of 16, 8 or 4 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.ir.operator import Array, Lowered, LoweringError, Operand, Operator
from picoformer.ir.types import BLOCK, DType, TensorType
from picoformer.ops.fixedpoint import (
    exact_matmul,
    multiplier_of,
    quantize_multipliers,
    requantize,
    short_factors,
)
from picoformer.ops.quantized import quant_of

WIDE_SHIFT_MIN = 17
"""A 64-bit sum is rescaled in two halves of 16 bits, which takes a shift of more than 16."""


@dataclass(frozen=True)
class LoweredLinear(Lowered):
    """acc[n] = bias[n] + Σₖ m[n,k]·weight[n,k]·x[k]; y[n] = requantize(acc[n], multiplier[n], shift, zero_point).

    weight: (N, K) int8, int16 where `weight_dtype` says so, in that type's range. block_multiplier: (N, ⌈K / BLOCK⌉)
    uint8 or None; m[n,k] is that of the block k lies in, 1 where there are none. bias: (N,) int32, the input's zero
    point already folded in. factor: (N,) uint16, the multipliers as they are stored (see `multiplier_of`). `wide` says
    that a sum may pass 31 bits and the accumulator is 64 bits. Every sum, partial ones included, times 2^headroom stays
    below 2^31. gain: (N,) float64, about 1: what the stored multipliers are of those that the scales ask for.
    """

    weight: Array
    bias: Array
    factor: Array
    gain: Array
    shift: int
    zero_point: int
    input: TensorType
    output: TensorType
    wide: bool
    headroom: int
    weight_dtype: DType = DType.INT8
    block_multiplier: Array | None = None

    def expanded_weight(self) -> Array:
        """(N, K): the weight, times its block multipliers where there are any."""
        if self.block_multiplier is None:
            return self.weight
        blocks = np.repeat(self.block_multiplier.astype(np.int64), BLOCK, axis=1)[:, : self.weight.shape[1]]
        result: Array = blocks * self.weight
        return result

    @property
    def multiplier(self) -> Array:
        """(N,) int32."""
        return multiplier_of(self.factor)

    def execute(self, *activations: Array) -> Array:
        (x,) = activations
        acc = exact_matmul(x, self.expanded_weight().T) + self.bias.astype(np.int64)
        return requantize(acc, self.multiplier, self.shift, self.zero_point, self.output.dtype)


def accumulator_bound(weight: Array, bias: Array, dtype: DType) -> int:
    """Largest magnitude any partial sum can take: max over rows of Σ|w|·max|x| + |bias|; (N, K) weight with its block
    multipliers."""
    total = np.abs(weight.astype(np.int64)).sum(axis=-1) * -dtype.minimum + np.abs(bias.astype(np.int64))
    return int(total.max(initial=0))


@dataclass(frozen=True)
class Linear(Operator):
    """Inputs: x (…, K), weight (N, K), optionally bias (N,). Output (…, N)."""

    kind = "Linear"

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        x, weight, *bias = inputs
        if weight.rank != 2 or x.rank < 1 or x.shape[-1] != weight.shape[1]:
            raise ValueError(f"input {x} does not go with weight {weight}")
        if bias and bias[0].shape != (weight.shape[0],):
            raise ValueError(f"bias {bias[0]} is not one number per output of weight {weight}")
        return TensorType((*x.shape[:-1], weight.shape[0]))

    def compute(self, *inputs: Array) -> Array:
        x, weight, *bias = inputs
        y = x @ weight.T
        return y + bias[0] if bias else y

    def macs(self, inputs: Sequence[TensorType], output: TensorType) -> int:
        return output.elements * inputs[1].shape[1]

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredLinear:
        x, weight, *rest = inputs
        if weight.constant is None:
            raise LoweringError("the weight is not a constant")
        x_quant, w_quant, y_quant = quant_of(x.type), quant_of(weight.type), quant_of(output)
        blocks = w_quant.block_multipliers
        types = (DType.INT16, DType.INT8, DType.INT4)
        if weight.type.dtype not in types or w_quant.zero_point or w_quant.axis not in (None, -2):
            raise LoweringError("weights are symmetric int16, int8 or int4, per tensor or per output channel")
        if weight.type.dtype is not DType.INT4 and blocks:
            raise LoweringError(f"{weight.type.dtype.name.lower()} weights take no block multipliers, int4 ones do")
        w = weight.constant.astype(np.int64) * w_quant.element_multipliers(weight.type.shape)
        bias = np.zeros(len(w), np.int64)
        if rest:
            if rest[0].constant is None or rest[0].type.dtype is not DType.INT32:
                raise LoweringError("the bias is not an int32 constant")
            bias += rest[0].constant
        bias -= x_quant.zero_point * w.sum(axis=1)
        if np.abs(bias).max(initial=0) >= 1 << 31:
            raise LoweringError("a bias passes 32 bits: the scale of its channel is too small")
        scales = np.broadcast_to(np.asarray(w_quant.scale, np.float64), (len(w),)) * x_quant.per_tensor_scale
        out_scales = np.broadcast_to(np.asarray(y_quant.scale, np.float64), (len(w),))
        wanted = scales / out_scales
        multiplier, shift = quantize_multipliers(wanted)
        factor = short_factors(multiplier)
        bound = accumulator_bound(w, bias, x.type.dtype)
        wide = bound >= 1 << 31
        if wide and (shift < WIDE_SHIFT_MIN or bound >= 1 << 47):
            raise LoweringError("sums pass 32 bits while the scale of the output is far below that of the sums")
        return LoweredLinear(
            weight.constant,
            bias.astype(np.int32),
            factor,
            np.ldexp(multiplier_of(factor).astype(np.float64), -shift) / wanted,
            shift,
            y_quant.zero_point,
            x.type,
            output,
            wide,
            max(0, 31 - bound.bit_length()),
            weight.type.dtype,
            np.asarray(blocks, np.uint8) if blocks else None,
        )
