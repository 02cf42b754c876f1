"""Integer constants of a quantized ONNX file: read whatever their layout, and held by a type that a device has."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from picoformer.ir import DType, QuantParams, TensorType
from picoformer.ir.operator import Array
from picoformer.ir.types import BLOCK, BLOCK_MULTIPLIER_MAX

LIMITS = {DType.INT4: 7, DType.INT8: 127, DType.INT16: 32767}
"""Type of a weight → the largest magnitude it uses on a device."""
SHARE_MAX = 1.0 / 64.0
"""How far a weight may lie from the file's number, as a share of the file's step, where no type holds it exactly."""
UNIT_SHARES = 255
"""Largest whole multiple of a row's unit that is tried for a block's scale."""

Refuse = Callable[[str, str], Exception]
"""(why, mend) → the error for the node that reads the constant."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Steps:
    """A constant as the file has it: real = steps · scale, zero points taken off. Both arrays have its shape.

    steps: int64. scale: float32, positive. bits: of one element in the file.
    """

    steps: Array
    scale: Array
    bits: int

    @staticmethod
    def read(values: Array, scale: Array, zero_point: Array | None, axis: int, block: int) -> Steps:
        """What DequantizeLinear means by its inputs: one scale, one per index of `axis`, or one per `block` of it."""
        bits = integer_bits(values.dtype)
        steps = values.astype(np.int64)
        spread = _spread(scale.astype(np.float32), values.shape, axis, block)
        if zero_point is not None:
            steps = steps - _spread(zero_point.astype(np.int64), values.shape, axis, block)
        return Steps.signed(steps, np.broadcast_to(spread, values.shape), bits)

    @staticmethod
    def signed(steps: Array, scale: Array, bits: int) -> Steps:
        """With scales of either sign, or 0 where all steps of a block stand for nothing, made positive."""
        some = float(np.abs(scale).max(initial=0.0)) or 1.0
        return Steps(steps * np.sign(scale).astype(np.int64), np.where(scale == 0, some, np.abs(scale)), bits)

    @property
    def real(self) -> Array:
        """The numbers that the integers stand for, float32."""
        return np.asarray(self.steps * self.scale.astype(np.float64), np.float32)

    @property
    def one_scale(self) -> float | None:
        """The scale when there is only one."""
        first = self.scale.reshape(-1)[:1]
        return float(first[0]) if self.scale.size and (self.scale == first).all() else None

    def moved(self, move: Callable[[Array], Array]) -> Steps:
        """The same constant transposed, reshaped or cut, as `move` does with any array of its shape."""
        return Steps(move(self.steps), move(np.array(self.scale)), self.bits)


def integer_bits(dtype: np.dtype[np.generic]) -> int:
    """Bits of an integer type of ONNX, int4 and uint4 included; raises ValueError for any other."""
    name = str(dtype).removeprefix("uint").removeprefix("int")
    if name not in ("2", "4", "8", "16", "32"):
        raise ValueError(f"quantized numbers of type {dtype} are not covered")
    return int(name)


def _spread(values: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """Scales or zero points, shaped to broadcast against a tensor of `shape`."""
    if block:
        spread: Array = np.repeat(values, block, axis=axis)
        return np.take(spread, np.arange(shape[axis]), axis=axis)
    if values.size == 1:
        return values.reshape(())
    rest = [1] * len(shape)
    rest[axis] = values.size
    return values.reshape(rest)


def held_weight(name: str, weight: Steps, refuse: Refuse, hint: Array | None = None) -> tuple[Array, TensorType]:
    """A Linear's weight (N, K) in the narrowest of int4, int8 and int16 that holds each number exactly.

    With scales that vary inside a row (blocks of any size, zero points) a row needs one unit of which every scale is a
    whole multiple. Where there is none, int16 holds the numbers to within SHARE_MAX of the file's own step, and a
    warning says so; a row whose scales lie too far apart for that is refused. `hint`: (N,) units to try first, those
    that the file's bias is on.
    """
    steps, scale = weight.steps, weight.scale
    if not (scale == scale[:, :1]).all():
        hints = [None] * len(scale) if hint is None else list(hint.astype(np.float32))
        units = [_unit(row, first) for row, first in zip(scale, hints, strict=True)]
        if any(unit is None for unit in units):
            return _nearest(name, weight, refuse)
        unit = np.array([u for u in units if u is not None], np.float32)
        multiples = np.rint(scale / unit[:, None]).astype(np.int64)
        blocks = _block_multipliers(multiples)
        if weight.bits <= 4 and np.abs(steps).max() <= LIMITS[DType.INT4] and blocks is not None:
            quant = QuantParams(tuple(map(float, unit)), 0, -2, blocks)
            return steps.astype(np.int8), TensorType(steps.shape, DType.INT4, quant)
        steps, scale = steps * multiples, np.broadcast_to(unit[:, None], steps.shape)
    largest = int(np.abs(steps).max(initial=0))
    narrow = [DType.INT4] if weight.bits <= 4 else []
    fitting = [dtype for dtype in (*narrow, DType.INT8, DType.INT16) if largest <= LIMITS[dtype]]
    if not fitting:
        raise refuse(f"weight '{name}' has steps up to {largest}, more than 16 bits", "quantize it to 8 or 16 bits")
    quant = QuantParams(tuple(map(float, scale[:, 0])), 0, -2)
    return steps.astype(fitting[0].numpy), TensorType(steps.shape, fitting[0], quant)


def held_rows(name: str, table: Steps, refuse: Refuse) -> tuple[Array, TensorType]:
    """An Embedding's table (V, D) as int8 or int16, exactly."""
    if not (table.scale == table.scale[:, :1]).all():
        raise refuse(f"table '{name}' has scales that vary inside a row", "quantize it with one scale, or one per row")
    steps, type_ = held_weight(name, Steps(table.steps, table.scale, 8), refuse)
    return steps, type_


def held_constant(name: str, constant: Steps, refuse: Refuse) -> tuple[Array, TensorType]:
    """A constant that is added or multiplied, as int8 or int16 of one scale: exactly, but for 16 bits with a zero
    point, which go on the symmetric grid of the same range as such activations do."""
    scale, largest = constant.one_scale, int(np.abs(constant.steps).max(initial=0))
    if scale is None or constant.bits > 16:
        raise refuse(f"constant '{name}' has several scales or more than 16 bits", "quantize it with one scale")
    dtype = DType.INT8 if largest <= LIMITS[DType.INT8] else DType.INT16
    share = max(1.0, largest / LIMITS[dtype])
    steps = np.rint(constant.steps / share).astype(dtype.numpy)
    return steps, TensorType(steps.shape, dtype, QuantParams((scale * share,)))


def held_bias(bias: Steps) -> tuple[Array, TensorType]:
    """A bias (N,) as the int32 of the file."""
    quant = QuantParams(tuple(map(float, bias.scale)), 0, -1)
    return bias.steps.astype(np.int32), TensorType(bias.steps.shape, DType.INT32, quant)


def _unit(scales: Array, hint: np.float32 | None) -> np.float32 | None:
    """A float32 of which each of `scales` is, rounded to float32, a whole multiple up to UNIT_SHARES.

    One near `hint` if that will do, else that with which the largest has the largest block multiplier, as files from
    here do, else the largest there is.
    """
    different = np.unique(scales)
    near = [] if hint is None else [hint]
    near += [np.float32(different[-1] / np.float32(n)) for n in (BLOCK_MULTIPLIER_MAX, *range(1, UNIT_SHARES + 1))]
    for value in near:
        steps = [value]
        for limit in (np.float32(0), np.float32(np.inf)):
            steps += [np.nextafter(value, limit), np.nextafter(np.nextafter(value, limit), limit)]
        for unit in steps:
            multiples = np.rint(different / unit)
            exact = ((np.float64(unit) * multiples).astype(np.float32) == different).all()
            if exact and multiples.min() >= 1 and multiples.max() <= UNIT_SHARES:
                return np.float32(unit)
    return None


def _block_multipliers(multiples: Array) -> tuple[tuple[int, ...], ...] | None:
    """(N, blocks) multipliers of BLOCK columns each, when the multiples (N, K) are so."""
    first = multiples[:, ::BLOCK]
    same = (np.repeat(first, BLOCK, axis=1)[:, : multiples.shape[1]] == multiples).all()
    return tuple(map(tuple, first.tolist())) if same and first.max() <= BLOCK_MULTIPLIER_MAX else None


def _nearest(name: str, weight: Steps, refuse: Refuse) -> tuple[Array, TensorType]:
    real = weight.steps * weight.scale.astype(np.float64)
    peak = np.abs(real).max(axis=1)
    unit = (np.where(peak > 0, peak, peak.max() or 1.0) / LIMITS[DType.INT16]).astype(np.float32)
    steps = np.clip(np.rint(real / unit[:, None]), -LIMITS[DType.INT16], LIMITS[DType.INT16])
    share = float((np.abs(steps * unit[:, None] - real) / weight.scale).max())
    if share > SHARE_MAX:
        raise refuse(
            f"weight '{name}' has blocks whose scales lie too far apart: in int16 a weight would be {share:.3f} of its "
            f"step off",
            "quantize the float model here (--scheme int4x8), or with a scale per channel",
        )
    log.warning("weight '%s': int16 holds its %d-bit blocks to within %.4f of a step", name, weight.bits, share)
    return steps.astype(np.int16), TensorType(steps.shape, DType.INT16, QuantParams(tuple(map(float, unit)), 0, -2))
