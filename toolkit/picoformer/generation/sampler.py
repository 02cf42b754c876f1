"""Logits to the next token on integers: the definition of what the device does (firmware/text/sampler.c)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from picoformer.errors import DataError
from picoformer.generation.random_numbers import RandomNumbers
from picoformer.generation.scores import SCORE_LIMIT, Array, Exponent, multiplier_of, scores_of, unit_of
from picoformer.generation.settings import SamplerSettings
from picoformer.ops.fixedpoint import rounding_shift

MASS_BITS = 31
"""top_p is a whole number of 2^−31, rounded down: ten equal tokens and 0.1 keep one."""


@dataclass(frozen=True)
class IntegerSampler:
    """`SamplerSettings` in integers, the fields of C's pf_sampler_settings.

    raise_* is the penalty as multiplier and shift, lower_* its reciprocal; `near` is the largest distance that min_p
    keeps.
    """

    exponent: Exponent
    raise_multiplier: int
    raise_shift: int
    lower_multiplier: int
    lower_shift: int
    is_penalized: bool
    top_k: int
    top_p: int
    near: int
    seed: int
    greedy: bool
    is_float: bool

    @classmethod
    def from_settings(cls, settings: SamplerSettings, logits_scale: float | None) -> IntegerSampler:
        """`logits_scale`: of int16 logits; None where logits are float32."""
        unit = unit_of(logits_scale)
        penalty = settings.repetition_penalty
        near = 2 * SCORE_LIMIT
        if settings.min_p > 0:
            near = min(near, math.floor(-math.log(settings.min_p) * settings.temperature / unit))
        return cls(
            Exponent.of(unit, settings.temperature),
            *multiplier_of(penalty, "repetition_penalty"),
            *multiplier_of(1 / penalty, "repetition_penalty"),
            penalty != 1.0,
            settings.top_k,
            max(1, math.floor(settings.top_p * 2**MASS_BITS)),
            near,
            settings.seed,
            settings.greedy,
            logits_scale is None,
        )

    def scores(self, logits: Array, history: Iterable[int]) -> Array:
        """int64 (V,): scores after the repetition penalty; tokens of `history` (prompt and text) are penalized."""
        if (logits.dtype == np.float32) != self.is_float:
            raise DataError(f"logits of type {logits.dtype}: the sampler was made for the other kind")
        scores = scores_of(logits)
        seen = np.unique(np.fromiter(history, np.int64))
        if seen.size and not 0 <= seen[0] <= seen[-1] < len(scores):
            raise DataError(f"token {seen[0] if seen[0] < 0 else seen[-1]} in a vocabulary of {len(scores)}")
        if self.is_penalized and seen.size:
            own = scores[seen]
            lower = rounding_shift(own * np.int64(self.lower_multiplier), self.lower_shift)
            higher = rounding_shift(own * np.int64(self.raise_multiplier), self.raise_shift)
            scores[seen] = np.clip(np.where(own > 0, lower, higher), -SCORE_LIMIT, SCORE_LIMIT)
        return scores

    def weights(self, logits: Array, history: Iterable[int] = ()) -> Array:
        """int64 (V,): weights with which tokens are drawn, 0 where top-k, top-p or min-p leave one out."""
        scores = self.scores(logits, history)
        distance = scores.max() - scores
        weights = self.exponent.weights(distance)
        order = np.argsort(distance, kind="stable")  # descending score, the lower index first
        if self.top_k:
            weights[order[self.top_k :]] = 0
        if self.top_p < 1 << MASS_BITS:
            before = np.cumsum(weights[order]) - weights[order]
            need = -(-int(weights.sum()) * self.top_p >> MASS_BITS)  # rounded up
            weights[order[before >= need]] = 0
        weights[distance > self.near] = 0
        return weights

    def sample(self, logits: Array, history: Iterable[int], numbers: RandomNumbers) -> int:
        """The next token; of equal scores greedy takes the lowest index."""
        if self.greedy and not self.is_penalized:
            return int(np.argmax(np.where(np.isnan(logits), -np.inf, logits) if self.is_float else logits))
        if self.greedy:
            return int(self.scores(logits, history).argmax())
        total = np.cumsum(self.weights(logits, history))
        return int(np.searchsorted(total, numbers.below(int(total[-1])), side="right"))
