"""Requantize: the same real number on another integer grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.ir.operator import Array, Lowered, LoweringError, Operand, Operator
from picoformer.ir.types import DType, TensorType
from picoformer.ops.fixedpoint import quantize_multipliers, requantize
from picoformer.ops.quantized import quant_of, scale_of


@dataclass(frozen=True)
class LoweredRequantize(Lowered):
    """y = requantize(x − zero_in, multiplier, shift, zero_point)."""

    multiplier: int
    shift: int
    zero_in: int
    zero_point: int
    input: TensorType
    output: TensorType

    def execute(self, *activations: Array) -> Array:
        x = activations[0].astype(np.int64) - self.zero_in
        return requantize(x, self.multiplier, self.shift, self.zero_point, self.output.dtype)


@dataclass(frozen=True)
class Requantize(Operator):
    """Input x (…). Output: the same numbers with other quantization parameters; in float, nothing."""

    kind = "Requantize"

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        return TensorType(inputs[0].shape)

    def compute(self, *inputs: Array) -> Array:
        return inputs[0]

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredRequantize:
        x = inputs[0].type
        if x.dtype not in (DType.INT8, DType.INT16):
            raise LoweringError(f"the input {x} is not int8 or int16")
        multipliers, shift = quantize_multipliers(np.array([scale_of(x) / scale_of(output)]))
        zero_in, zero_out = quant_of(x).zero_point, quant_of(output).zero_point
        return LoweredRequantize(int(multipliers[0]), shift, zero_in, zero_out, x, output)
