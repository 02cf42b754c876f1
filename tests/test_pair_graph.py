"""Encoder-decoders as graphs: float logits are those of torch at every step, texts those of transformers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from hugging_face_pairs import CASES, NAMES, VOCABULARY, example
from picoformer.decoder.graph import LOGITS, TOKENS
from picoformer.decoder.sessions import context_of
from picoformer.encoder_decoder.graph import SOURCE, SOURCE_LENGTH, Sizes, pair_graph
from picoformer.encoder_decoder.sessions import PairSession, pair_session, source_inputs
from picoformer.errors import ConfigError, DataError
from picoformer.generation import BeamSettings, SamplerSettings, Stopping, beam_search, generate
from picoformer.ir import Graph, verify
from picoformer.ir.operator import Array
from picoformer.ir.verify import GraphError
from picoformer.ops.graph_file import load_graph, save_graph
from picoformer.reference import run_float

torch.set_num_threads(1)

TOLERANCE = 1e-4
"""Of float logits: sums in another order."""
SOURCE_ROWS, CONTEXT, BLOCK, STEPS = 17, 36, 5, 33
LENGTHS = (17, 1, 9)


@functools.cache
def step(name: str, block: int = BLOCK) -> Graph:
    model = example(name).model
    return pair_graph(model.config, model.weights, Sizes(SOURCE_ROWS, CONTEXT, block))


@functools.cache
def texts(name: str) -> tuple[Array, Array]:
    chance, config = np.random.default_rng(4), example(name).model.config
    source = chance.integers(0, config.encoder.vocab_size, (len(LENGTHS), SOURCE_ROWS))
    return source, chance.integers(0, config.vocab_size, (len(LENGTHS), STEPS))


def wanted(name: str) -> Array:
    """(texts, steps, vocabulary) of torch."""
    source, target = map(torch.from_numpy, texts(name))
    return example(name).logits(source, target, torch.tensor(LENGTHS)).numpy()


def decode(session: PairSession, tokens: Sequence[int], sizes: Sequence[int]) -> dict[int, Array]:
    """Position of the last token of each block → the logits behind it."""
    found, at = {}, 0
    for size in sizes:
        found[at + size - 1] = session.decode(tokens[at : at + size], at)
        at += size
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_step_gives_the_logits_of_torch(name: str) -> None:
    """Token by token, and in blocks; sources of several lengths, one after the other in the same session."""
    expected = wanted(name)
    for block, sizes in ((1, [1] * STEPS), (BLOCK, [3, 5, 5, 1, 4, 5, 1, 1, 1, 2, 5])):
        session = pair_session(step(name, block))
        for text, (source, target) in enumerate(zip(*texts(name), strict=True)):
            session.read_source(source[: LENGTHS[text]].tolist())
            for position, logits in decode(session, target.tolist(), sizes).items():
                assert np.abs(logits - expected[text, position]).max() <= TOLERANCE, (block, text, position)


@pytest.mark.parametrize("name", ["bart", "t5", "own"])
def test_the_whole_text_at_once_gives_the_same(name: str) -> None:
    """Samples side by side, as calibration runs them."""
    model = example(name).model
    graph = pair_graph(model.config, model.weights, Sizes(SOURCE_ROWS, CONTEXT, STEPS, STEPS), every=True)
    source, target = texts(name)
    count = len(LENGTHS)
    inputs = {
        SOURCE: source.astype(np.int32), SOURCE_LENGTH: np.array(LENGTHS, np.int32), TOKENS: target.astype(np.int32),
        "position": np.zeros(count, np.int32), "count": np.full(count, STEPS, np.int32),
        **{before: np.zeros((count, *graph.types[before].shape), np.float32) for before, _ in graph.states},
    }  # fmt: skip
    assert np.abs(run_float(graph, inputs)[LOGITS] - wanted(name)).max() <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("t5", {"relative_reach": 20}),
        ("bart", {"decoder.norm_position": "pre"}),
        ("marian", {"encoder.scale_embedding": False}),
        ("own", {"decoder.positions": "none"}),
    ],
)
def test_the_comparison_would_see_a_mistake(name: str, change: dict[str, Any]) -> None:
    model = example(name).model
    ((key, value),) = change.items()
    side, _, inner = key.partition(".")
    config = model.config
    new = dataclasses.replace(getattr(config, side), **{inner: value}) if inner else value
    graph = pair_graph(dataclasses.replace(config, **{side: new}), model.weights, Sizes(SOURCE_ROWS, CONTEXT))
    session = pair_session(graph)
    source, target = texts(name)
    session.read_source(source[0].tolist())
    found = decode(session, target[0].tolist(), [1] * STEPS)
    assert max(np.abs(found[at] - wanted(name)[0, at]).max() for at in found) > 2 * TOLERANCE


# --- texts ---------------------------------------------------------------------------------------------------


def theirs(name: str, source: list[int], **keys: Any) -> list[list[int]]:
    """The new tokens of each text that transformers writes, up to its end."""
    pair = example(name)
    begin = pair.model.begin
    network = pair.theirs
    network.generation_config.forced_eos_token_id = None  # ours ends where there is no room, and forces nothing
    with torch.no_grad():
        found = network.generate(
            torch.tensor([source]), attention_mask=torch.ones(1, len(source), dtype=torch.long),
            decoder_input_ids=torch.tensor([begin]), do_sample=False, max_new_tokens=24,
            eos_token_id=list(pair.model.eos), pad_token_id=pair.model.pad, **keys,
        )  # fmt: skip
    result = []
    for row in found[:, len(begin) :].tolist():
        ends = [i for i, token in enumerate(row) if token in pair.model.eos]
        result.append(row[: ends[0] + 1] if ends else row)
    return result


SOURCES = [[7, 9, 11, 3, 20, 41, 13], [5], [30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46]]


@pytest.mark.parametrize("name", CASES)
def test_greedy_texts_are_those_of_transformers(name: str) -> None:
    pair = example(name)
    session = pair_session(step(name))
    for source in SOURCES:
        session.read_source(source)
        stopping = Stopping(24, pair.model.eos)
        found = generate(session, pair.model.begin, SamplerSettings(greedy=True), None, stopping)
        assert [list(found.tokens)] == theirs(name, source, num_beams=1)


@pytest.mark.parametrize(
    ("name", "penalty"), [("bart", 1.0), ("bart_uneven", 0.0), ("marian", 1.0), ("t5", 0.0), ("t5_gated", 1.0)]
)
def test_beams_are_those_of_transformers(name: str, penalty: float) -> None:
    pair = example(name)
    session = pair_session(step(name))
    for source in SOURCES[:2]:
        session.read_source(source)
        settings = BeamSettings(3, penalty, max_tokens=24, stop_tokens=pair.model.eos)
        found = beam_search(session, pair.model.begin, settings, None)
        keys = {"num_beams": 3, "num_return_sequences": 3, "length_penalty": penalty, "early_stopping": False}
        assert [list(text.tokens) for text in found] == theirs(name, source, **keys)


# --- what a graph with a source is -----------------------------------------------------------------------------


def test_the_prologue_is_the_encoder(tmp_path: Any) -> None:
    graph = step("bart")
    assert all(name.startswith("encoder.") or ".cross." in name for name in graph.prologue)
    assert {after for _, after in graph.states if ".cross." in after} <= graph.prologue
    assert not any(name in graph.block for name in graph.prologue) and SOURCE not in graph.block
    assert context_of(graph) == CONTEXT
    caches = [
        (node.op, graph.producers[node.inputs[1]].op) for node in graph.nodes if node.op.kind == "CachedAttention"
    ]
    assert caches and all(attention.key_bits == append.bits for attention, append in caches)  # type: ignore[attr-defined]
    save_graph(graph, tmp_path)
    loaded = load_graph(tmp_path)
    assert loaded.source == graph.source and loaded.prologue == graph.prologue


def test_what_the_prologue_does_not_keep_is_not_read() -> None:
    graph = step("bart")
    kept = next(after for _, after in graph.states if after in graph.prologue)
    states = tuple(pair for pair in graph.states if pair[1] != kept)
    inputs = tuple(name for name in graph.inputs if name != f"{kept}.before")
    outputs = tuple(name for name in graph.outputs if name != kept)
    with pytest.raises(GraphError, match=f"reads '{kept}', which the prologue does not keep"):
        verify(graph.replace(states=states, inputs=inputs, outputs=outputs))


def test_a_session_wants_its_source_first() -> None:
    session = pair_session(step("bart"))
    with pytest.raises(DataError, match="has read no source yet"):
        session.decode([2], 0)
    with pytest.raises(DataError, match="a source of 18 tokens: this model takes 1 to 17"):
        session.read_source([1] * 18)
    with pytest.raises(DataError, match="a source of 0 tokens"):
        session.read_source([])
    with pytest.raises(DataError, match=f"token {VOCABULARY} of the source"):
        session.read_source([VOCABULARY])


def test_another_source_begins_anew() -> None:
    """Nothing of the text before stays, in none of the slots."""
    session, fresh = pair_session(step("t5")), pair_session(step("t5"))
    session.read_source([3, 4, 5])
    session.decode([0, 7], 0)
    session.copy_state(0, 1)
    for one in (session, fresh):
        one.read_source([9, 8])
    for slot in (0, 1):
        np.testing.assert_array_equal(session.decode([0], 0, slot), fresh.decode([0], 0, slot))


def test_what_fills_up_a_source_is_not_seen() -> None:
    graph = step("own")
    first, second = (pair_session(graph, pad) for pad in (0, 5))
    assert source_inputs(graph, [1, 2], 5)[SOURCE].tolist() == [1, 2, *[5] * 15]
    for one in (first, second):
        one.read_source([1, 2, 3])
    np.testing.assert_allclose(first.decode([1], 0), second.decode([1], 0), atol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        (Sizes(0, 8), "a source of 0 tokens holds none"),
        (Sizes(8, 0), "a context of 0 tokens holds none"),
        (Sizes(41, 8), "a source of 41 is more than the 40 positions"),
        (Sizes(8, 41), "a context of 41 is more than the 40 positions"),
        (Sizes(8, 8, 9), "a block of 9 tokens does not go with a context of 8"),
    ],
)
def test_sizes_that_cannot_be(sizes: Sizes, says: str) -> None:
    model = example("bart").model
    with pytest.raises(ConfigError, match=says):
        pair_graph(model.config, model.weights, sizes)


def test_a_bias_of_distances_has_no_last_position() -> None:
    model = example("t5").model
    assert pair_graph(model.config, model.weights, Sizes(700, 600)).types[SOURCE].shape == (700,)
