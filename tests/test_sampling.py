"""Which tokens are drawn, and how often: the integer sampler against transformers' processors on the same logits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from picoformer.errors import ConfigError, DataError
from picoformer.generation import IntegerSampler, RandomNumbers, SamplerSettings
from picoformer.generation.float_processors import probabilities
from picoformer.generation.scores import Array, unit_of

WEIGHT_ERROR = 4e-6
"""Relative error of a weight: half a step of the exponent is 2^−18 octaves, 2.7e−6; interpolation adds up to 0.9e−6."""


def bound(settings: SamplerSettings, scale: float | None) -> float:
    """Of the total variation distance: the error of weights, and of what rounds a score, half a unit each time, for
    scores and for the largest one. int16 scores are exact before the penalty."""
    rounds = scale is None or settings.repetition_penalty != 1
    return WEIGHT_ERROR + (2 * unit_of(scale) / settings.temperature if rounds else 0)


def made_logits(rng: np.random.Generator, kind: str, vocabulary: int) -> Array:
    """float64: random, peaked at a few tokens, or falling off as words of a language do."""
    if kind == "flat":
        return rng.normal(0, 0.5, vocabulary)
    if kind == "spread":
        return rng.normal(0, 5, vocabulary) - 3
    if kind == "peaked":
        real = rng.normal(0, 1, vocabulary)
        real[rng.integers(0, vocabulary, 3)] += 15
        return real
    return rng.permutation(-1.1 * np.log(np.arange(1, vocabulary + 1))) * 2 + rng.normal(0, 1, vocabulary)


def transformers_probabilities(real: Array, history: list[int], settings: SamplerSettings) -> Array:
    """The processors in the order in which `generate` applies them, in float64."""
    torch = pytest.importorskip("torch")
    processors = pytest.importorskip("transformers")
    stages = []
    if settings.repetition_penalty != 1:
        stages.append(processors.RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    stages.append(processors.TemperatureLogitsWarper(float(settings.temperature)))
    if settings.top_k:
        stages.append(processors.TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        stages.append(processors.TopPLogitsWarper(settings.top_p))
    if settings.min_p > 0:
        stages.append(processors.MinPLogitsWarper(settings.min_p))
    scores = torch.tensor(real, dtype=torch.float64)[None]
    for stage in stages:
        scores = stage(torch.tensor([history]), scores)
    result: Array = torch.softmax(scores, -1)[0].numpy()
    return result


SETTINGS = {
    "plain": SamplerSettings(),
    "cold": SamplerSettings(temperature=0.1),
    "hot": SamplerSettings(temperature=3.0),
    "top-k": SamplerSettings(temperature=0.8, top_k=40),
    "top-p": SamplerSettings(top_p=0.9),
    "small top-p": SamplerSettings(top_p=0.05),
    "min-p": SamplerSettings(min_p=0.07),
    "penalty": SamplerSettings(repetition_penalty=1.3),
    "reward": SamplerSettings(repetition_penalty=0.8),
    "all": SamplerSettings(temperature=0.7, top_k=50, top_p=0.95, min_p=0.01, repetition_penalty=1.2),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("vocabulary", "turns"), [(50, 30), (512, 15), (32000, 2)])
@pytest.mark.parametrize("is_float", [False, True])
def test_distributions_are_those_of_transformers(name: str, vocabulary: int, turns: int, is_float: bool) -> None:
    """Equal sets of kept tokens, but where the edge of a set lies within the error of the weights or among equal
    scores; distributions within the bound on what both keep."""
    rng = np.random.default_rng(vocabulary)
    settings = SETTINGS[name]
    at_the_edge, cases = 0, 0
    for kind in ("flat", "spread", "peaked", "words"):
        for _ in range(turns):
            real = made_logits(rng, kind, vocabulary)
            scale = None if is_float else float(np.float32(np.abs(real).max() * 1.5 / 32767))
            logits = real.astype(np.float32) if scale is None else np.rint(real / scale).astype(np.int16)
            real = logits.astype(np.float64) * (scale or 1.0)
            history = [int(t) for t in rng.integers(0, vocabulary, 20)]
            sampler = IntegerSampler.from_settings(settings, scale)
            weights = sampler.weights(logits, history).astype(np.float64)
            expected = transformers_probabilities(real, history, settings)
            error = bound(settings, scale)
            differing = ((weights > 0) != (expected > 0)) & (np.maximum(expected, weights / weights.sum()) > 1e-9)
            if differing.any():
                at_the_edge += 1
                check_edge(np.flatnonzero(differing), real, history, settings, error)
            both = (weights > 0) & (expected > 0)
            mine, theirs = weights[both] / weights[both].sum(), expected[both] / expected[both].sum()
            assert np.abs(mine - theirs).sum() / 2 <= error
            own = probabilities(real, history, settings)
            if not ((own > 0) ^ (weights > 0))[own > 1e-9].any():
                assert np.abs(own - weights / weights.sum()).sum() / 2 <= error
            cases += 1
    assert at_the_edge <= cases / 3


def check_edge(differing: Array, real: Array, history: list[int], settings: SamplerSettings, error: float) -> None:
    """Tokens that one keeps and the other does not: equal to the last one kept by top-k, or at the very edge of top-p
    or min-p."""
    loose = SamplerSettings(settings.temperature, repetition_penalty=settings.repetition_penalty)
    p = probabilities(real, history, loose)
    order = np.argsort(-p, kind="stable")
    if settings.top_k:
        kth = p[order[settings.top_k - 1]]
        p[order[settings.top_k :]] = np.where(p[order[settings.top_k :]] == kth, kth, 0)
    else:
        kth = -1.0
    first = np.where(np.arange(len(order)) < (settings.top_k or len(order)), p[order], 0)
    before = (np.cumsum(first) - first) / first.sum()
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    for token in differing:
        at_top_k = np.isclose(p[token], kth, rtol=1e-9)
        equals = np.isclose(p[order], p[token], rtol=3 * error)
        low, high = before[equals].min(), before[equals].max() + p[token]
        at_top_p = low - 3 * error <= settings.top_p <= high + 3 * error
        at_min_p = math.isclose(p[token] / p.max(), settings.min_p, rel_tol=3 * error)
        assert at_top_k or (settings.top_p < 1 and at_top_p) or at_min_p, (int(place[token]), low, high)


def test_equals_at_the_edge_of_top_k_and_top_p_are_kept_from_the_lowest_index() -> None:
    """transformers keeps all that equal the k-th; here exactly k are kept."""
    logits = np.array([3, 5, 3, 5, 3, 3], np.int16)
    for kwargs, kept in (
        ({"top_k": 1}, [1]),
        ({"top_k": 2}, [1, 3]),
        ({"top_k": 4}, [0, 1, 2, 3]),
        ({"top_k": 5}, [0, 1, 2, 3, 4]),
        ({"top_k": 99}, [0, 1, 2, 3, 4, 5]),
        ({"top_p": 0.001}, [1]),
    ):
        sampler = IntegerSampler.from_settings(SamplerSettings(**kwargs), 1.0)
        assert np.flatnonzero(sampler.weights(logits)).tolist() == kept
    flat = np.zeros(10, np.int16)
    for p, count in ((0.1, 1), (0.1001, 2), (0.5, 5), (0.51, 6), (0.9999, 10)):
        sampler = IntegerSampler.from_settings(SamplerSettings(top_p=p), 1.0)
        assert np.flatnonzero(sampler.weights(flat)).tolist() == list(range(count)), p


def test_the_edge_of_top_p_is_decided_by_the_integer_weights() -> None:
    """Two tokens whose real probabilities are 0.75 and 0.25 within 1e−8: which side of the edge top_p falls on is exact
    in the integers, so that host and device cannot part."""
    scale = math.log(3) / 20000
    logits = np.array([20000, 0], np.int16)
    weights = IntegerSampler.from_settings(SamplerSettings(), scale).weights(logits)
    mass = int(weights[0]) / int(weights.sum())
    assert abs(mass - 0.75) < WEIGHT_ERROR
    for step, kept in ((-1e-9, 1), (1e-9, 2)):
        sampler = IntegerSampler.from_settings(SamplerSettings(top_p=mass + step), scale)
        assert np.count_nonzero(sampler.weights(logits)) == kept


@pytest.mark.parametrize("is_float", [False, True])
@pytest.mark.parametrize("name", ["plain", "all"])
def test_draws_follow_the_distribution(name: str, is_float: bool) -> None:
    """Chi-square of 20,000 draws with a fixed seed."""
    from scipy.stats import chisquare

    settings = SETTINGS[name]
    real = np.random.default_rng(3).normal(0, 1.5, 14)
    logits = real.astype(np.float32) if is_float else np.rint(real / 1e-3).astype(np.int16)
    sampler, numbers = IntegerSampler.from_settings(settings, None if is_float else 1e-3), RandomNumbers(11)
    draws = np.bincount([sampler.sample(logits, [1, 2], numbers) for _ in range(20000)], minlength=14)
    expected = probabilities(logits.astype(np.float64) * (1 if is_float else 1e-3), [1, 2], settings)
    assert (draws[expected == 0] == 0).all()
    assert chisquare(draws[expected > 0], 20000 * expected[expected > 0]).pvalue > 0.01


def test_draws_below_a_limit_are_uniform() -> None:
    from scipy.stats import chisquare

    numbers = RandomNumbers(5)
    for limit in (3, 10, 2**20 + 1):
        draws = np.array([numbers.below(limit) for _ in range(20000)])
        assert draws.min() >= 0 and draws.max() < limit
        assert chisquare(np.bincount(draws * min(limit, 10) // limit)[: min(limit, 10)]).pvalue > 0.01


def test_greedy() -> None:
    greedy = SamplerSettings(greedy=True)
    floats, numbers = IntegerSampler.from_settings(greedy, None), RandomNumbers(0)
    assert floats.sample(np.array([1.0, 1.0 + 2**-23, np.nan, -np.inf], np.float32), [], numbers) == 1
    assert floats.sample(np.array([-0.0, 0.0], np.float32), [], numbers) == 0
    assert floats.sample(np.array([np.nan, 7e7, 7.1e7, 7.1e7], np.float32), [], numbers) == 2
    ints = IntegerSampler.from_settings(greedy, 0.01)
    assert ints.sample(np.array([-5, 3, 3], np.int16), [], numbers) == 1
    penalized = IntegerSampler.from_settings(SamplerSettings(greedy=True, repetition_penalty=2.0), 0.01)
    assert penalized.sample(np.array([-5, 3, 2], np.int16), [1], numbers) == 2
    assert penalized.sample(np.array([-5, -3, -4], np.int16), [1], numbers) == 2
    assert penalized.sample(np.array([-5, -3, -7], np.int16), [1], numbers) == 0


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 2.5}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"min_p": -0.1}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"repetition_penalty": True}, "repetition_penalty"),
        ({"seed": -1}, "seed"),
        ({"seed": 1 << 64}, "seed"),
        ({"greedy": 1}, "greedy"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, float], word: str) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        SamplerSettings(**settings)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_bad_logits_are_refused() -> None:
    sampler = IntegerSampler.from_settings(SamplerSettings(), 0.01)
    with pytest.raises(DataError, match="float32"):
        sampler.weights(np.zeros(4, np.float32))
    with pytest.raises(DataError, match="float64"):
        sampler.weights(np.zeros(4))
    with pytest.raises(DataError, match=r"shape \(2, 4\)"):
        sampler.weights(np.zeros((2, 4), np.int16))
    with pytest.raises(DataError, match="token 4"):
        sampler.weights(np.zeros(4, np.int16), [4])
    with pytest.raises(ConfigError, match="logits scale"):
        IntegerSampler.from_settings(SamplerSettings(), 0.0)
    with pytest.raises(ConfigError, match="out of range"):
        IntegerSampler.from_settings(SamplerSettings(), 1e12)
