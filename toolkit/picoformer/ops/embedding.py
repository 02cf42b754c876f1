"""Embedding: rows of a constant table picked by integer ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.ir.operator import Array, Lowered, LoweringError, Operand, Operator
from picoformer.ir.types import DType, TensorType
from picoformer.ops.fixedpoint import quantize_multipliers, requantize
from picoformer.ops.quantized import quant_of, scale_of


@dataclass(frozen=True)
class LoweredEmbedding(Lowered):
    """y[…, d] = requantize(table[id, d], multiplier[id], shift, zero_point). An id outside the table is an error.

    table: (V, D) int8 or int16; multiplier: (V,) int32.
    """

    table: Array
    multiplier: Array
    shift: int
    zero_point: int
    input: TensorType
    output: TensorType

    def execute(self, *activations: Array) -> Array:
        ids = activations[0].astype(np.int64)
        if ids.size and not (ids.min() >= 0 and ids.max() < len(self.table)):
            raise IndexError(f"an id is outside the {len(self.table)} rows of the embedding")
        rows = self.table[ids].astype(np.int64)
        return requantize(rows, self.multiplier[ids][..., None], self.shift, self.zero_point, self.output.dtype)


@dataclass(frozen=True)
class Embedding(Operator):
    """Inputs: ids int32 (…), table (V, D). Output (…, D)."""

    kind = "Embedding"

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        ids, table = inputs
        if table.rank != 2 or ids.dtype is not DType.INT32:
            raise ValueError(f"ids {ids} and table {table}: integers and a matrix are needed")
        return TensorType((*ids.shape, table.shape[1]))

    def compute(self, *inputs: Array) -> Array:
        ids, table = inputs
        if ids.size and not (ids.min() >= 0 and ids.max() < len(table)):
            raise IndexError(f"an id is outside the {len(table)} rows of the embedding")
        result: Array = table[ids]
        return result

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredEmbedding:
        ids, table = inputs
        if table.constant is None or table.type.dtype not in (DType.INT8, DType.INT16):
            raise LoweringError("the table is not an int8 or int16 constant")
        quant = quant_of(table.type)
        if quant.zero_point != 0 or quant.axis not in (None, -2):
            raise LoweringError("the table is symmetric, per tensor or per row")
        scales = np.broadcast_to(np.asarray(quant.scale, np.float64), (len(table.constant),))
        multiplier, shift = quantize_multipliers(scales / scale_of(output))
        return LoweredEmbedding(table.constant, multiplier, shift, quant_of(output).zero_point, ids.type, output)
