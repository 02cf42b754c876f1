"""The same distributions in float64, as transformers' logits processors define them: what the integers are held to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from picoformer.generation.scores import Array
from picoformer.generation.settings import SamplerSettings


def probabilities(logits: Array, history: Sequence[int], settings: SamplerSettings) -> Array:
    """float64 (V,): probabilities after penalty, temperature, top-k, top-p and min-p of real logits (V,).

    At the k-th place and at the edge of top-p the lower index comes first among equals, as in IntegerSampler."""
    scores = np.array(logits, np.float64)
    seen = np.unique(np.fromiter(history, np.int64))
    penalty = settings.repetition_penalty
    scores[seen] = np.where(scores[seen] > 0, scores[seen] / penalty, scores[seen] * penalty)
    scores /= settings.temperature
    weights = np.exp(scores - scores.max())
    order = np.argsort(-scores, kind="stable")
    if settings.top_k:
        weights[order[settings.top_k :]] = 0
    if settings.top_p < 1:
        before = np.cumsum(weights[order]) - weights[order]
        weights[order[before >= settings.top_p * weights.sum()]] = 0
    if settings.min_p > 0:
        weights[weights < settings.min_p * weights.max()] = 0
    result: Array = weights / weights.sum()
    return result
