"""The C of firmware/text equals its numpy definition: integers, tokens and whole texts, through ctypes."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from generation_library import (
    ERRORS,
    FIRMWARE,
    PTR,
    TEXT,
    U64,
    Sampler,
    TextLibrary,
    ToyModel,
    c_beam_search,
    c_exponent,
    c_generate,
    c_settings,
)
from picoformer.generation import (
    BeamSettings,
    IntegerBeam,
    IntegerSampler,
    RandomNumbers,
    SamplerSettings,
    Stopping,
    generate,
)
from picoformer.generation.logarithm import LOWEST, log2, log_of_sum, normalize, power2
from picoformer.generation.scores import Array, Exponent


@pytest.fixture(scope="module", params=["gcc", "clang"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextLibrary:
    return TextLibrary(tmp_path_factory.mktemp("text"), request.param)


def random_logits(rng: np.random.Generator, vocabulary: int, is_float: bool) -> Array:
    """Flat, spread, peaked, with many ties, and at the ends of the range."""
    spread = rng.choice([0.0, 0.3, 2.0, 8.0, 40.0])
    real = rng.normal(0, spread, vocabulary)
    kind = rng.integers(5)
    if kind == 1:
        real = np.round(real)
    if kind == 2:
        real[rng.integers(vocabulary)] += 20
    if kind == 3:
        real[rng.integers(0, vocabulary, max(1, vocabulary // 4))] = rng.choice(
            [-1e6, 1e6, np.inf, -np.inf, np.nan, -0.0]
        )
    if is_float:
        return real.astype(np.float32)
    return np.nan_to_num(np.clip(real / 0.002, -32768, 32767)).astype(np.int16)


def random_settings(rng: np.random.Generator, vocabulary: int) -> SamplerSettings:
    def sometimes(value: float, otherwise: float) -> float:
        return value if rng.random() < 0.5 else otherwise

    return SamplerSettings(
        float(np.exp(rng.uniform(np.log(0.01), np.log(20)))),
        int(sometimes(int(rng.integers(1, vocabulary + 3)), 0)),
        float(sometimes(float(rng.choice([0.001, 0.1, 0.5, 0.9, 0.95, rng.uniform(0.01, 1)])), 1.0)),
        float(sometimes(float(rng.uniform(0, 1)), 0.0)),
        float(sometimes(float(np.exp(rng.uniform(-3, 3))), 1.0)),
        int(rng.integers(0, 1 << 63)),
        bool(rng.random() < 0.15),
    )


def test_the_generator_is_the_published_one() -> None:
    """The check values of PCG32 for seed 42 on stream 54, as its C library's demonstration prints them."""
    numbers = RandomNumbers(42)
    published = [0xA15C02B7, 0x7B47F409, 0xBA1D3330, 0x83D2F293, 0xBFA4784B, 0xCBED606E]
    assert [numbers.word() for _ in published] == published


def test_random_numbers(library: TextLibrary) -> None:
    rng = np.random.default_rng(1)
    for seed in (0, 1, 2**64 - 1, *map(int, rng.integers(0, 2**63, 20))):
        numbers = RandomNumbers(seed)
        state = U64(numbers.state)
        limits = [1, 2, 3, 2**31 - 1, 2**31, 2**32, 2**32 + 1, 2**46 + 12345, 2**63 - 1]
        for limit in limits * 5:
            assert library.c.pf_random_below(ctypes.byref(state), limit) == numbers.below(limit)
            assert library.c.pf_random_word(ctypes.byref(state)) == numbers.word()
        assert state.value == numbers.state


def test_weights(library: TextLibrary) -> None:
    rng = np.random.default_rng(2)
    for temperature in (0.01, 0.7, 1.0, 3.0, 100.0):
        for unit in (2.0**-18, 1e-6, 3.7e-5, 0.01):
            exponent = Exponent.of(unit, temperature)
            c = c_exponent(exponent)
            ends = [0, 1, exponent.reach, min(exponent.reach + 1, 2**31), 2**31]
            distance = np.concatenate([ends, rng.integers(0, exponent.reach + 1, 300)]).astype(np.int64)
            got = [library.c.pf_weight(ctypes.byref(c), int(d)) for d in distance]
            assert got == exponent.weights(distance).tolist()


def test_logarithms(library: TextLibrary) -> None:
    rng = np.random.default_rng(3)
    values = [1, 2, 3, 2**31 - 1, 2**31, 2**63, 2**64 - 1, *(int(v) >> int(n) or 1 for v, n in
              zip(rng.integers(0, 2**63, 300), rng.integers(0, 63, 300), strict=True))]  # fmt: skip
    for value in values:
        assert library.c.pf_log2(value) == log2(value)
        assert library.c.pf_log_of_sum(value) == log_of_sum(value)
        assert abs(log2(value) / 2**28 - float(np.log2(float(value)))) < 2e-8
    for fraction in (0, 1, 2**28 - 1, *map(int, rng.integers(0, 2**28, 200))):
        assert library.c.pf_power2(fraction) == power2(fraction)
        assert abs(power2(fraction) / 2.0 ** (31 - fraction / 2**28) - 1) < 2e-8
    for _ in range(2000):
        score = -int(2.0 ** rng.uniform(0, 46))
        length, penalty = int(rng.integers(1, 65537)), int(rng.integers(-(1 << 26), (1 << 26) + 1))
        assert library.c.pf_normalize(score, length, penalty) == normalize(score, length, penalty)
    for length, penalty in ((1, 0), (65536, 1 << 26), (65536, -(1 << 26))):
        for score in (0, -1, LOWEST):
            assert library.c.pf_normalize(score, length, penalty) == normalize(score, length, penalty)


@pytest.mark.parametrize("is_float", [False, True])
@pytest.mark.parametrize("vocabulary", [1, 2, 33, 512])
def test_tokens(library: TextLibrary, vocabulary: int, is_float: bool) -> None:
    rng = np.random.default_rng(vocabulary)
    for _ in range(300):
        settings = random_settings(rng, vocabulary)
        sampler = IntegerSampler.from_settings(settings, None if is_float else 0.002)
        own, numbers = library.sampler(sampler, vocabulary), RandomNumbers(settings.seed)
        history: list[int] = [int(t) for t in rng.integers(0, vocabulary, rng.integers(0, 5))]
        for token in history:
            assert own.accept(token) == 0
        for _ in range(3):
            logits = random_logits(rng, vocabulary, is_float)
            token = sampler.sample(logits, history, numbers)
            assert own.sample(logits) == token, settings
            assert own.state.random == numbers.state or settings.greedy
            history.append(token)
            assert own.accept(token) == 0


@pytest.mark.parametrize("is_float", [False, True])
def test_tokens_of_a_large_vocabulary(library: TextLibrary, is_float: bool) -> None:
    rng = np.random.default_rng(5)
    for _ in range(40):
        settings = random_settings(rng, 1000)
        sampler = IntegerSampler.from_settings(settings, None if is_float else 0.002)
        own, numbers = library.sampler(sampler, 32000), RandomNumbers(settings.seed)
        logits = random_logits(rng, 32000, is_float)
        assert own.sample(logits) == sampler.sample(logits, [], numbers)


def test_float_scores_are_rounded_by_their_bits(library: TextLibrary) -> None:
    """Greedy under a penalty of one token compares scores on the grid: every float32 pattern class is met."""
    rng = np.random.default_rng(6)
    sampler = IntegerSampler.from_settings(SamplerSettings(repetition_penalty=1.5, greedy=True), None)
    for _ in range(3000):
        near = rng.normal(0, 1, 4).astype(np.float32)
        pattern = rng.integers(0, 2**32, 4, dtype=np.uint32).view(np.float32)
        half = ((rng.integers(-50, 50, 4) + 0.5) / 2**18).astype(np.float32)
        logits = np.where(rng.integers(0, 2, 4) == 0, pattern, np.where(rng.integers(0, 2, 4) == 0, near, half))
        logits = logits.astype(np.float32)
        own = library.sampler(sampler, 4)
        own.accept(1)
        assert own.sample(logits) == sampler.sample(logits, [1], RandomNumbers(0)), logits


def toy(vocabulary: int, is_float: bool, slots: int = 1, context: int = 24, sharpness: float = 2.0) -> ToyModel:
    """Logits from a hash of the tokens so far."""

    def function(tokens: tuple[int, ...]) -> Array:
        rng = np.random.default_rng([len(tokens), *tokens])
        real = rng.normal(0, sharpness, vocabulary)
        return real.astype(np.float32) if is_float else np.rint(real / 0.002).clip(-32768, 32767).astype(np.int16)

    return ToyModel(function, vocabulary, context, slots)


@pytest.mark.parametrize("is_float", [False, True])
def test_whole_texts(library: TextLibrary, is_float: bool) -> None:
    rng = np.random.default_rng(7)
    ends = set()
    for case in range(250):
        vocabulary = int(rng.integers(2, 40))
        settings = random_settings(rng, vocabulary)
        alphabet = [bytes(rng.choice(list(b"abc"), int(rng.integers(0, 4))).tolist()) for _ in range(vocabulary)]
        strings = [bytes(rng.choice(list(b"abc"), int(rng.integers(1, 6))).tolist()) for _ in range(rng.integers(0, 4))]
        tokens = tuple(map(int, rng.integers(0, vocabulary, rng.integers(0, 2))))
        stopping = Stopping(int(rng.integers(1, 30)), tokens, tuple(strings))
        prompt = [int(t) for t in rng.integers(0, vocabulary, rng.integers(1, 25))]
        scale = None if is_float else 0.002
        after = int(rng.integers(1, 40))
        told: list[int] = []

        def emit(token: int, told: list[int] = told, after: int = after) -> bool:
            told.append(token)
            return len(told) == after

        expected = generate(
            toy(vocabulary, is_float), prompt, settings, scale, stopping, bytes_of=alphabet.__getitem__, emit=emit
        )
        sampler = IntegerSampler.from_settings(settings, scale)
        got = c_generate(library, toy(vocabulary, is_float), prompt, sampler, stopping, alphabet.__getitem__, after)
        assert got == (list(expected.tokens), expected.text, expected.end), case
        assert told == list(expected.tokens)
        ends.add(expected.end)
    assert len(ends) == 5


@pytest.mark.parametrize("is_float", [False, True])
def test_beam_search(library: TextLibrary, is_float: bool) -> None:
    rng = np.random.default_rng(8)
    lengths = set()
    for case in range(150):
        beams = int(rng.integers(1, 6))
        stops = tuple(map(int, rng.integers(0, 12, rng.integers(0, 3))))
        settings = BeamSettings(
            beams,
            float(rng.choice([0, 1, 0.6, 2, -1, rng.uniform(-4, 4)])),
            [False, True, "never"][rng.integers(3)],
            int(rng.integers(1, 20)),
            stops,
        )
        vocabulary = max(settings.candidates, int(rng.integers(2, 40)))
        prompt = [int(t) for t in rng.integers(0, vocabulary, rng.integers(1, 25))]
        beam = IntegerBeam.from_settings(settings, None if is_float else 0.002)
        sharpness = float(rng.choice([0.0, 0.5, 2.0, 5000.0]))
        python, c = (toy(vocabulary, is_float, beams, sharpness=sharpness) for _ in range(2))
        expected = [(text.tokens, text.score) for text in beam.search(python, prompt)]
        assert c_beam_search(library, c, prompt, beam, is_float) == expected, case
        assert python.copies == c.copies
        lengths |= {len(tokens) for tokens, _ in expected}
    assert len(lengths) > 10


def test_errors(library: TextLibrary) -> None:
    sampler = IntegerSampler.from_settings(SamplerSettings(repetition_penalty=1.2, top_k=3), 0.002)
    stopping = Stopping(4)
    assert c_generate(library, toy(9, False), [], sampler, stopping) == ERRORS["prompt"]
    assert c_generate(library, toy(9, False), [1] * 25, sampler, stopping) == ERRORS["prompt"]
    assert c_generate(library, toy(9, False), [1, 9], sampler, stopping) == ERRORS["token"]
    assert c_generate(library, toy(9, False), [-1], sampler, stopping) == ERRORS["token"]
    assert c_generate(library, toy(9, False), [1, 2], sampler, stopping, fail_at=3) == ERRORS["decoder"]
    assert c_generate(library, toy(9, True), [1, 2], sampler, stopping) == ERRORS["logits"]
    own = Sampler(library, sampler, 9)
    assert own.accept(9) == own.accept(-1) == ERRORS["token"]
    assert own.sample(np.zeros(8, np.int16)) == ERRORS["logits"]
    beam = IntegerBeam.from_settings(BeamSettings(3, stop_tokens=(1, 2)), 0.002)
    assert c_beam_search(library, toy(9, False, 3), [1], beam, False, missing=1) == ERRORS["scratch"]
    assert c_beam_search(library, toy(8, False, 3), [1], beam, False) == ERRORS["vocabulary"]
    assert c_beam_search(library, toy(9, False, 2), [1], beam, False) == ERRORS["settings"]
    assert c_beam_search(library, toy(9, True, 3), [1], beam, False) == ERRORS["logits"]
    assert c_beam_search(library, toy(9, False, 3), [], beam, False) == ERRORS["prompt"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("top_k", -1), ("top_p", 0), ("top_p", 2**31 + 1), ("near", 2**31 + 1), ("raise_multiplier", 2**30 - 1),
     ("raise_multiplier", 2**31), ("lower_multiplier", 0), ("raise_shift", 0), ("lower_shift", 63)],
)  # fmt: skip
def test_bad_settings_are_refused(library: TextLibrary, field: str, value: int) -> None:
    settings = c_settings(IntegerSampler.from_settings(SamplerSettings(repetition_penalty=2.0), None))
    assert library.c.pf_sampler_scratch(ctypes.byref(settings), 9) > 0
    setattr(settings, field, value)
    assert library.c.pf_sampler_scratch(ctypes.byref(settings), 9) == ERRORS["settings"]


@pytest.mark.parametrize(("field", "value"), [("multiplier", 2**31), ("multiplier", 5), ("shift", 0), ("shift", 63)])
def test_bad_exponents_are_refused(library: TextLibrary, field: str, value: int) -> None:
    settings = c_settings(IntegerSampler.from_settings(SamplerSettings(), None))
    setattr(settings.exponent, field, value)
    assert library.c.pf_sampler_scratch(ctypes.byref(settings), 9) == ERRORS["settings"]
    settings = c_settings(IntegerSampler.from_settings(SamplerSettings(), None))
    settings.exponent.reach += 1
    assert library.c.pf_sampler_scratch(ctypes.byref(settings), 9) == ERRORS["settings"]
    assert library.c.pf_sampler_scratch(ctypes.byref(settings), 0) == ERRORS["settings"]


def test_stop_string_scratch(library: TextLibrary) -> None:
    stops, alive = library.stops([b"ab", b"c"])
    arguments = (ctypes.byref(stops), PTR(stops.text), PTR(stops.lengths))
    assert library.c.pf_stops_init(*arguments, 2, PTR(stops.borders), 9) == ERRORS["scratch"]
    assert library.c.pf_stops_init(*arguments, 2, PTR(stops.borders), 10) == 0
    alive[1][1] = 0
    assert library.c.pf_stops_init(*arguments, 2, PTR(stops.borders), 10) == ERRORS["settings"]


_CORES = ("cortex-m0", "cortex-m4")


@pytest.mark.parametrize("core", _CORES)
def test_it_compiles_for_a_device(arm_tools: None, tmp_path: Path, core: str) -> None:
    flags = [
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Wconversion",
        "-Wshadow",
        "-Werror",
        "-ffreestanding",
        "-Os",
    ]
    for source in TEXT:
        include = [f"-I{FIRMWARE / 'include'}", f"-I{FIRMWARE / 'freestanding'}"]
        command = ["arm-none-eabi-gcc", "-mthumb", f"-mcpu={core}", *flags, *include, "-c", str(source)]
        subprocess.run([*command, "-o", str(tmp_path / "x.o")], check=True)
