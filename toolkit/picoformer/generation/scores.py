"""Logits to integer scores, scores to weights: the grids on which a token is chosen, the same on host and device.

A score is an int64 number of *units*. Logits of 16 bits are multiplied by 2^INT16_BITS, so that a penalty rounds
finely; a unit is then scale / 2^INT16_BITS. Logits in float32 are rounded to FLOAT_UNIT. firmware/SPEC.md has the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from picoformer.errors import ConfigError, DataError
from picoformer.ops.fixedpoint import rounding_shift, split_scale

Array = np.ndarray[Any, Any]

INT16_BITS = 8
"""Fraction bits that a score has below a step of int16 logits."""
FLOAT_BITS = 18
FLOAT_UNIT = 2.0**-FLOAT_BITS
"""Grid of scores of float32 logits, which saturate at ±SCORE_LIMIT units, ±4096."""
SCORE_LIMIT = 1 << 30
STEP_BITS = 17
"""A distance in the exponent counts in steps of 2^−17 octaves: e^(−x) = 2^(−x·log2 e)."""
TABLE_BITS = 8
OCTAVES = 32
"""Beyond so many octaves below the largest weight, 2^31 − 1, nothing is left of one."""
TOP_WEIGHT = (1 << 31) - 1
_FRACTION_BITS = STEP_BITS - TABLE_BITS


def _table() -> Array:
    """int64 (257,): rint((2^31 − 1)·2^(−i/256)); the device has the same numbers as a constant."""
    result: Array = np.rint(TOP_WEIGHT * np.exp2(-np.arange((1 << TABLE_BITS) + 1) / (1 << TABLE_BITS))).astype(
        np.int64
    )
    return result


WEIGHTS = _table()


def float_scores(logits: Array) -> Array:
    """float32 logits to units of FLOAT_UNIT, int64: nearest, ties up, saturating; a NaN counts as the lowest score."""
    with np.errstate(invalid="ignore"):  # a signalling NaN
        scaled = np.asarray(logits, np.float32).astype(np.float64) * 2.0**FLOAT_BITS
    scaled = np.where(np.isnan(scaled), -np.inf, scaled)
    result: Array = np.floor(np.clip(scaled, -SCORE_LIMIT, SCORE_LIMIT) + 0.5).astype(np.int64)
    return result


def scores_of(logits: Array) -> Array:
    """int64 scores of int16 or float32 logits (V,)."""
    if logits.ndim != 1 or logits.size == 0:
        raise DataError(f"logits of shape {logits.shape}: expected those of one position, (vocabulary,)")
    if logits.dtype == np.int16:
        return logits.astype(np.int64) << INT16_BITS
    if logits.dtype == np.float32:
        return float_scores(logits)
    raise DataError(f"logits of type {logits.dtype}: expected int16 or float32")


def unit_of(logits_scale: float | None) -> float:
    """What one unit of score stands for; `logits_scale` is that of int16 logits, None for float32 ones."""
    if logits_scale is None:
        return FLOAT_UNIT
    if not (math.isfinite(logits_scale) and logits_scale > 0):
        raise ConfigError(f"logits scale {logits_scale}: expected a positive number")
    return logits_scale / 2.0**INT16_BITS


def multiplier_of(factor: float, what: str) -> tuple[int, int]:
    """(multiplier in [2^30, 2^31), shift 1 … 62) of a factor on distances; ConfigError names `what` where none fits."""
    multiplier, shift = split_scale(factor)
    if not 1 <= shift <= 62:
        raise ConfigError(f"{what}: a factor of {factor:g} on the logits is out of range")
    return multiplier, shift


@dataclass(frozen=True)
class Exponent:
    """Distances d to the largest score, in units, to weights of up to 31 bits: 2^31 · e^(−d · unit / temperature).

    x = rshift(d · multiplier, shift) counts in 2^−17 octaves. `reach` is the largest d with x below 32 octaves; what is
    farther weighs nothing.
    """

    multiplier: int
    shift: int
    reach: int

    @classmethod
    def of(cls, unit: float, temperature: float) -> Exponent:
        multiplier, shift = multiplier_of(unit / (temperature * math.log(2)) * 2.0**STEP_BITS, "temperature")
        end = OCTAVES << STEP_BITS
        reach = ((end << shift) - (1 << (shift - 1)) - 1) // multiplier
        return cls(multiplier, shift, min(reach, 2 * SCORE_LIMIT))

    def weights(self, distance: Array) -> Array:
        """int64 weights of int64 distances ≥ 0; 2^31 − 1 for 0."""
        near = distance <= self.reach
        x = rounding_shift(np.where(near, distance, 0) * np.int64(self.multiplier), self.shift)
        index, rest, octave = (x >> _FRACTION_BITS) & 255, x & ((1 << _FRACTION_BITS) - 1), x >> STEP_BITS
        fall = (WEIGHTS[index] - WEIGHTS[index + 1]) * rest
        value = WEIGHTS[index] - ((fall + (1 << (_FRACTION_BITS - 1))) >> _FRACTION_BITS)
        half = np.where(octave > 0, np.int64(1) << np.maximum(octave - 1, 0), 0)
        result: Array = np.where(near, (value + half) >> octave, 0)
        return result
