"""Mixtures of experts: TopExperts chooses, ExpertWeights weighs, ExpertLinear computes, ScaleRows mixes.

Source: Shazeer et al., "Outrageously Large Neural Networks" (2017); the softmax over the chosen logits as in Jiang et
al., "Mixtral of Experts" (2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from picoformer.ir.operator import Array, Lowered, LoweringError, Operand, Operator
from picoformer.ir.types import DType, QuantParams, TensorType
from picoformer.ops.elementwise import LoweredMul, Mul
from picoformer.ops.fixedpoint import exact_matmul, requantize
from picoformer.ops.linear import Linear, LoweredLinear
from picoformer.ops.softmax import LoweredSoftmax, Softmax

WEIGHT_QUANT = QuantParams((2.0**-15,))
"""The grid of the weights of experts: numbers from 0 to 1 in int16."""


def check_ids(ids: TensorType, rows: tuple[int, ...], slot: int | None = None) -> None:
    """Raise ValueError unless `ids` are int32 (*rows, k), k above `slot`."""
    if ids.dtype is not DType.INT32 or ids.shape[:-1] != rows or (slot is not None and slot >= ids.width):
        raise ValueError(f"ids {ids} are not the int32 numbers of the experts of every row")


def _check_slot(slot: int) -> None:
    if type(slot) is not int or slot < 0:
        raise ValueError(f"slot {slot}: slots count from 0")


@dataclass(frozen=True)
class LoweredTopExperts(Lowered):
    """The indices of the k largest integers of each row, the largest first; of equal ones the lower index first."""

    k: int
    input: TensorType
    output: TensorType

    def execute(self, *activations: Array) -> Array:
        return TopExperts(self.k).compute(activations[0].astype(np.int64))


@dataclass(frozen=True)
class TopExperts(Operator):
    """Input: logits (…, B, E). Output int32 (…, B, k): the indices of the k largest, the largest first; of equal ones
    the lower index first."""

    k: int

    kind = "TopExperts"

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        if type(self.k) is not int or not 1 <= self.k <= inputs[0].width:
            raise ValueError(f"the {self.k} largest of {inputs[0]}: rows have {inputs[0].width} elements")
        return TensorType((*inputs[0].shape[:-1], self.k), DType.INT32)

    def compute(self, *inputs: Array) -> Array:
        result: Array = np.argsort(-inputs[0], axis=-1, kind="stable")[..., : self.k].astype(np.int32)
        return result

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredTopExperts:
        x = inputs[0].type
        if x.dtype not in (DType.INT8, DType.INT16) or x.quant is None or x.quant.axis is not None:
            raise LoweringError(f"the logits {x} are not int8 or int16 on one grid")
        if output.dtype is not DType.INT32 or output.quant is not None:
            raise LoweringError(f"the numbers of experts are plain int32, not {output}")
        return LoweredTopExperts(self.k, x, output)


@dataclass(frozen=True)
class LoweredExpertWeights(Lowered):
    """The integers of `softmax` on the chosen logits of each row, (…, B, k)."""

    softmax: LoweredSoftmax
    input: TensorType
    output: TensorType

    def execute(self, *activations: Array) -> Array:
        logits, ids = activations
        return self.softmax.execute(_chosen(logits, ids))


def _chosen(logits: Array, ids: Array) -> Array:
    if ids.size and not (ids.min() >= 0 and ids.max() < logits.shape[-1]):
        raise IndexError(f"the number of an expert is outside the {logits.shape[-1]} there are")
    return np.take_along_axis(logits, ids.astype(np.int64), axis=-1)


@dataclass(frozen=True)
class ExpertWeights(Operator):
    """Inputs: logits (…, B, E), ids int32 (…, B, k). Output (…, B, k): the softmax of the logits that the ids name."""

    kind = "ExpertWeights"

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        logits, ids = inputs
        check_ids(ids, logits.shape[:-1])
        return TensorType(ids.shape)

    def compute(self, *inputs: Array) -> Array:
        return Softmax().compute(_chosen(*inputs))

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredExpertWeights:
        if (output.dtype, output.quant) != (DType.INT16, WEIGHT_QUANT):
            raise LoweringError(f"the weights of experts are int16 in steps of 2^-15, not {output}")
        x = inputs[0].type
        softmax = Softmax().lower((Operand(replace(x, shape=output.shape)),), output)
        return LoweredExpertWeights(softmax, x, output)


@dataclass(frozen=True)
class LoweredExpertLinear(Lowered):
    """Row r is what `linear` gives for it in its outputs e·N … e·N + N − 1, where e = ids[r, slot].

    `linear` is the Linear of all experts' outputs, E·N of them.
    """

    linear: LoweredLinear
    experts: int
    slot: int
    input: TensorType
    output: TensorType

    def execute(self, *activations: Array) -> Array:
        x, ids = activations
        low, n = self.linear, self.output.width
        chosen = _expert_of(ids, self.slot, self.experts)
        weight = low.expanded_weight().reshape(self.experts, n, -1)
        bias, multiplier = (a.reshape(self.experts, n).astype(np.int64) for a in (low.bias, low.multiplier))
        result = np.zeros((*x.shape[:-1], n), self.output.dtype.numpy)
        for expert in np.unique(chosen):
            rows = chosen == expert
            acc = exact_matmul(x[rows], weight[expert].T) + bias[expert]
            result[rows] = requantize(acc, multiplier[expert], low.shift, low.zero_point, self.output.dtype)
        return result


def _expert_of(ids: Array, slot: int, experts: int) -> Array:
    """(…, B) int64: the expert in `slot` of each row; IndexError for one that there is not."""
    chosen = ids[..., slot].astype(np.int64)
    if chosen.size and not (chosen.min() >= 0 and chosen.max() < experts):
        raise IndexError(f"the number of an expert is outside the {experts} there are")
    return chosen


@dataclass(frozen=True)
class ExpertLinear(Operator):
    """Inputs: x (…, B, K), ids int32 (…, B, k), weight (E·N, K), optionally bias (E·N,). Output (…, B, N).

    Row r is x[r] · weight[e]ᵀ + bias[e] with e = ids[r, slot]; the N rows of expert e begin at e·N. E = `experts`.
    """

    slot: int
    experts: int

    kind = "ExpertLinear"

    def __post_init__(self) -> None:
        _check_slot(self.slot)
        if type(self.experts) is not int or self.experts < 1:
            raise ValueError(f"{self.experts} experts: there is one at least")

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        x, ids, weight, *bias = inputs
        check_ids(ids, x.shape[:-1], self.slot)
        if weight.rank == 2 and weight.shape[0] % self.experts:
            raise ValueError(f"the rows of weight {weight} do not make {self.experts} experts")
        every = Linear().infer([x, weight, *bias])
        return TensorType((*x.shape[:-1], every.width // self.experts))

    def compute(self, *inputs: Array) -> Array:
        x, ids, weight, *bias = inputs
        n = len(weight) // self.experts
        chosen = _expert_of(ids, self.slot, self.experts)
        result = np.zeros((*x.shape[:-1], n), np.result_type(x, weight))
        for expert in np.unique(chosen):
            rows, own = chosen == expert, slice(expert * n, (expert + 1) * n)
            result[rows] = Linear().compute(x[rows], weight[own], *(b[own] for b in bias))
        return result

    def macs(self, inputs: Sequence[TensorType], output: TensorType) -> int:
        return output.elements * inputs[2].width

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredExpertLinear:
        x, _, weight, *bias = inputs
        if weight.type.dtype is DType.INT16:
            raise LoweringError("weights of experts are int8 or int4")
        every = replace(output, shape=(*output.shape[:-1], weight.type.shape[0]))
        linear = Linear().lower([x, weight, *bias], every)
        return LoweredExpertLinear(linear, self.experts, self.slot, x.type, output)


@dataclass(frozen=True)
class LoweredScaleRows(Lowered):
    """The integers of `mul` on each row and its weight."""

    mul: LoweredMul
    slot: int
    input: TensorType
    output: TensorType

    def execute(self, *activations: Array) -> Array:
        x, weights = activations
        return self.mul.execute(x, weights[..., self.slot, None])


@dataclass(frozen=True)
class ScaleRows(Operator):
    """Inputs: x (…, B, d), weights (…, B, k). Output (…, B, d): row r times weights[r, slot]."""

    slot: int

    kind = "ScaleRows"

    def __post_init__(self) -> None:
        _check_slot(self.slot)

    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        x, weights = inputs
        if weights.shape[:-1] != x.shape[:-1] or self.slot >= weights.width:
            raise ValueError(f"weights {weights} hold no slot {self.slot} for every row of {x}")
        return TensorType(x.shape)

    def compute(self, *inputs: Array) -> Array:
        x, weights = inputs
        return x * weights[..., self.slot, None]

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> LoweredScaleRows:
        x, weights = inputs
        if weights.type.dtype is not DType.INT16 or weights.constant is not None:
            raise LoweringError(f"the weights {weights.type} of the rows are not computed int16")
        one = Operand(replace(weights.type, shape=(*weights.type.shape[:-1], 1)))
        return LoweredScaleRows(Mul().lower((x, one), output), self.slot, x.type, output)
