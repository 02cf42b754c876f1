"""Beam search on integer log-probabilities against that of transformers, on tiny models with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from generation_library import TextLibrary, ToyModel, c_beam_search
from picoformer.errors import ConfigError, DataError
from picoformer.generation import BeamSettings, IntegerBeam, beam_search
from picoformer.generation.scores import Array

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCABULARY, CONTEXT, SCALE = 61, 40, 0.001
PER_TOKEN = 1e-5
"""Error of a token's log-probability, in nats: float32 logits are rounded to 2^−18, twice half of it; the logarithm of
the sum of weights takes over their relative error (4e−6); float32's log_softmax has about 1e−6 of its own."""
KINDS = ["float gpt2", "float llama", "int16 gpt2", "int16 llama"]


@cache
def network_of(kind: str) -> Any:
    """A tiny model with random weights, large enough that logits spread."""
    torch.manual_seed(4)
    torch.set_num_threads(1)
    sizes = {
        "vocab_size": VOCABULARY,
        "initializer_range": 0.6,
        "bos_token_id": 0,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    if kind.endswith("gpt2"):
        config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=CONTEXT, **sizes)
        return transformers.GPT2LMHeadModel(config).eval()
    sizes |= {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(max_position_embeddings=CONTEXT, **sizes)
    return transformers.LlamaForCausalLM(config).eval()


@cache
def logits_of(kind: str, tokens: tuple[int, ...]) -> Array:
    """Behind the last token, float32 or rounded to int16 on SCALE."""
    with torch.no_grad():
        real = network_of(kind)(torch.tensor([tokens])).logits[0, -1].numpy() * np.float32(0.6)
    return real if kind.startswith("float") else np.rint(real / SCALE).clip(-32768, 32767).astype(np.int16)


@cache
def model_of(kind: str) -> Any:
    """The network as transformers generates with it, on the very logits that the session gives: computed for each text
    alone, or the last bit would hang on how many texts go together, and an int16 logit with it."""
    network = network_of(kind)

    class Replayed(type(network)):  # type: ignore[misc]
        def forward(self, input_ids: Any, **_: Any) -> Any:
            rows = np.stack([logits_of(kind, tuple(row)) for row in input_ids.tolist()])
            logits = torch.tensor(rows.astype(np.float64) * (scale_of(kind) or 1.0), dtype=torch.float32)
            return transformers.modeling_outputs.CausalLMOutput(logits=logits[:, None])

    return Replayed(network.config).eval()


def session_of(kind: str, slots: int) -> ToyModel:
    """The network behind the seam, fed whole texts."""
    return ToyModel(lambda tokens: logits_of(kind, tokens), VOCABULARY, CONTEXT, slots)


def expected(kind: str, prompt: list[int], settings: BeamSettings) -> tuple[list[tuple[int, ...]], list[float]]:
    """What transformers generates: the new tokens of each text, and scores."""
    stops = list(settings.stop_tokens)
    with torch.no_grad():
        out = model_of(kind).generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            num_beams=settings.beams,
            num_return_sequences=settings.beams,
            do_sample=False,
            use_cache=False,
            length_penalty=settings.length_penalty,
            early_stopping=settings.early_stopping,
            max_new_tokens=settings.max_tokens,
            eos_token_id=stops or None,
            pad_token_id=0,
            output_scores=True,
            return_dict_in_generate=True,
        )
    texts = []
    for row in out.sequences[:, len(prompt) :].tolist():
        ends = [i for i, token in enumerate(row) if token in stops]
        texts.append(tuple(row[: ends[0] + 1] if ends else row))
    return texts, out.sequences_scores.tolist()


CASES = [
    (BeamSettings(2, 1.0, False, 12), 0),
    (BeamSettings(4, 1.0, False, 12), 1),
    (BeamSettings(4, 1.0, True, 16), 3),
    (BeamSettings(4, 1.0, "never", 16), 3),
    (BeamSettings(3, 0.0, False, 14), 2),
    (BeamSettings(3, 0.0, "never", 14), 2),
    (BeamSettings(5, 2.0, False, 14), 3),
    (BeamSettings(5, 2.0, "never", 14), 3),
    (BeamSettings(3, 0.6, True, 10), 5),
    (BeamSettings(4, -1.0, False, 14), 4),
    (BeamSettings(4, -1.0, "never", 14), 4),
    (BeamSettings(1, 1.0, False, 10), 1),
    (BeamSettings(8, 1.0, False, 6), 0),
]
"""Settings, and how many stop tokens are picked from the texts that come without."""


def with_stops(kind: str, prompt: list[int], case: tuple[BeamSettings, int]) -> BeamSettings:
    settings, count = case
    texts = beam_search(session_of(kind, settings.beams), prompt, settings, scale_of(kind))
    tokens = sorted({token for text in texts for token in text.tokens[2:]})
    chosen = np.random.default_rng(len(tokens)).permutation(tokens)[:count]
    return replace(settings, stop_tokens=tuple(map(int, chosen)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0].beams}-{c[0].length_penalty}-{c[0].early_stopping}")
def test_sequences_and_scores_are_those_of_transformers(kind: str, case: tuple[BeamSettings, int]) -> None:
    rng = np.random.default_rng(2)
    for _ in range(4):
        prompt = [int(t) for t in rng.integers(0, VOCABULARY, rng.integers(1, 8))]
        settings = with_stops(kind, prompt, case)
        texts = beam_search(session_of(kind, settings.beams), prompt, settings, scale_of(kind))
        if settings.beams == 1:  # transformers takes one beam for greedy and gives no scores
            wanted = greedy(kind, prompt, settings)
            assert texts[0].tokens == wanted
            continue
        sequences, scores = expected(kind, prompt, settings)
        assert [text.tokens for text in texts] == sequences
        for text, score in zip(texts, scores, strict=True):
            length = len(text.tokens)
            error = PER_TOKEN * length / length**settings.length_penalty + 4e-7 * abs(score)  # float32's own at the end
            assert abs(text.log_probability - score) <= error, (text.log_probability, score)


def scale_of(kind: str) -> float | None:
    return None if kind.startswith("float") else SCALE


def greedy(kind: str, prompt: list[int], settings: BeamSettings) -> tuple[int, ...]:
    session, tokens = session_of(kind, 1), []
    logits = session.decode(prompt, 0)
    while len(tokens) < settings.max_tokens:
        tokens.append(int(logits.argmax()))
        if tokens[-1] in settings.stop_tokens:
            break
        logits = session.decode(tokens[-1:], len(prompt) + len(tokens) - 1)
    return tuple(tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities(kind: str) -> None:
    beam = IntegerBeam.from_settings(BeamSettings(), scale_of(kind))
    for token in range(0, VOCABULARY, 5):
        logits = session_of(kind, 1).decode([token], 0)
        real = torch.tensor(logits.astype(np.float64) * (scale_of(kind) or 1))
        wanted = torch.log_softmax(real, -1).numpy()
        assert np.abs(beam.log_probabilities(logits) / 2.0**24 - wanted).max() < PER_TOKEN


def test_the_texts_end_in_all_ways() -> None:
    """The cases above would say little if no stop token were ever met."""
    kinds = set()
    for case in CASES:
        settings = with_stops("float gpt2", [1, 2], case)
        for text in beam_search(session_of("float gpt2", settings.beams), [1, 2], settings, None):
            kinds.add((text.tokens[-1] in settings.stop_tokens, len(text.tokens) == settings.max_tokens))
    assert {(True, False), (False, True)} <= kinds


def test_the_context_ends_a_search() -> None:
    settings = BeamSettings(2, max_tokens=50)
    texts = beam_search(session_of("float gpt2", 2), [1] * (CONTEXT - 2), settings, None)
    assert {len(text.tokens) for text in texts} == {3}


def test_c_on_a_model(tmp_path: Path) -> None:
    """The C finds the same texts with the same scores, with the torch model behind its callbacks."""
    library = TextLibrary(tmp_path)
    for kind in KINDS:
        for case in CASES:
            settings = with_stops(kind, [3, 1, 4], case)
            beam = IntegerBeam.from_settings(settings, scale_of(kind))
            found = c_beam_search(library, session_of(kind, settings.beams), [3, 1, 4], beam, kind.startswith("float"))
            wanted = beam.search(session_of(kind, settings.beams), [3, 1, 4])
            assert found == [(text.tokens, text.score) for text in wanted]


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: BeamSettings(0), "beams"),
        (lambda: BeamSettings(65), "beams"),
        (lambda: BeamSettings(length_penalty=9), "length_penalty"),
        (lambda: BeamSettings(early_stopping="always"), "early_stopping"),
        (lambda: BeamSettings(max_tokens=0), "max_tokens"),
        (lambda: BeamSettings(stop_tokens=(-1,)), "stop token"),
        (lambda: beam_search(session_of("float gpt2", 3), [1], BeamSettings(4), None), "slots"),
        (lambda: beam_search(session_of("float gpt2", 40), [1], BeamSettings(40), None), "fewer beams"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], word: str) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("prompt", "word"), [([], "no token"), ([1] * 41, "context 40"), ([61], "token 61")])
def test_bad_prompts_are_refused(prompt: list[int], word: str) -> None:
    with pytest.raises(DataError, match=word):
        beam_search(session_of("float gpt2", 4), prompt, BeamSettings(), None)
