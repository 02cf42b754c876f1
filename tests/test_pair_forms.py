"""Encoder-decoders in integers and in C: the reference near the float model, C of every step equal to the reference."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from c_host import Objects, host, object_cache
from conftest import require_tools
from hugging_face_pairs import NAMES, example
from pair_models import (
    BLOCKS,
    SIZES,
    Trace,
    device_traces,
    float_graph,
    host_traces,
    random_pairs,
    reference_traces,
    text_of,
    typed_graph,
)
from picoformer.backends.c import emit_c
from picoformer.compress.graph_module import GraphModule
from picoformer.decoder.graph import LOGITS
from picoformer.decoder.quantize import every_token
from picoformer.decoder.sessions import real_logits
from picoformer.decoder.writing import logits_scale
from picoformer.emulator.session import open_device
from picoformer.encoder_decoder.graph import pair_graph
from picoformer.encoder_decoder.quantize import Pairs, quantize_pair, window_inputs
from picoformer.encoder_decoder.sessions import PairDeviceSession, pair_session
from picoformer.errors import ConfigError, DataError
from picoformer.firmware import build_firmware
from picoformer.generation import SamplerSettings, Stopping, generate
from picoformer.ops.graph_file import graph_identity
from picoformer.reference import lower_graph, run_float, run_integer
from picoformer.reference.session import float_session, integer_session
from picoformer.targets import load_target

torch.set_num_threads(1)

FEW = ["bart_uneven", "t5_far", "own"]
"""One of each kind, odd shapes among them: what the quick tests compile."""


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return object_cache(tmp_path_factory.mktemp("objects"))


@pytest.mark.parametrize("name", NAMES)
def test_integers_are_near_the_float_model(name: str) -> None:
    """Eight-bit weights alone leave random models at 25 to 45 dB; a wrong grid would leave nothing."""
    sessions = pair_session(float_graph(name)), pair_session(typed_graph(name, "int8x16"))
    exact, found = [], []
    for index in (1, 4):
        source, tokens = text_of(name, index)
        for session, rows in zip(sessions, (exact, found), strict=True):
            session.read_source(source)
            rows += [real_logits(session.graph, session.decode(tokens[a : a + n], a)) for a, n in BLOCKS]
    wanted, got = np.stack(exact), np.stack(found)
    noise = float(np.square(wanted - got).mean())
    assert 10 * np.log10(float(np.square(wanted).mean()) / noise) > 22


def compare_on_the_host(name: str, scheme: str, objects: Objects, folder: Path) -> None:
    graph = typed_graph(name, scheme)
    built = host(graph, folder, objects)
    steps = [step.name.decode() for step in built.device.steps[: built.device.step_count]]
    texts = [text_of(name, index) for index in (2, 5)]
    wanted = reference_traces(integer_session(lower_graph(graph)), steps, texts)
    assert host_traces(built, graph, texts) == wanted
    assert len({trace.logits for trace in wanted}) > len(BLOCKS)
    assert "rows /* queries */" in (folder / "model.c").read_text("utf-8")  # of a block only those that are there


@pytest.mark.parametrize("name", FEW)
def test_c_is_the_reference(name: str, objects: Objects, tmp_path: Path) -> None:
    """Every step of two sources and of the blocks behind each of them."""
    compare_on_the_host(name, "int8x16", objects, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scheme"),
    [*((name, "int8x16") for name in NAMES if name not in FEW), *((name, "int4x16") for name in FEW)],
)
def test_c_of_every_model_is_the_reference(name: str, scheme: str, objects: Objects, tmp_path: Path) -> None:
    compare_on_the_host(name, scheme, objects, tmp_path)


@pytest.mark.parametrize("name", ["t5_gated", "own"])
def test_float_c_is_the_float_graph(name: str, objects: Objects, tmp_path: Path) -> None:
    graph = float_graph(name)
    built = host(graph, tmp_path, objects)
    texts = [text_of(name, 3)]
    wanted = reference_traces(float_session(graph), (), texts)
    found = host_traces(built, graph, texts)
    for one, other in zip(wanted, found, strict=True):
        exact, got = (np.frombuffer(trace.logits, np.float32) for trace in (one, other))
        assert np.abs(exact - got).max(initial=0) <= 1e-5 * max(1.0, np.abs(exact).max(initial=0))


def on_a_device(name: str, board: str, folder: Path) -> tuple[list[Trace], list[Trace]]:
    """What the board computes, and what the reference does; a text that both write is compared here."""
    graph, target = typed_graph(name, "int8x16"), load_target(board)
    model = emit_c(graph, target.isa, "model", folder / "source")
    firmware = build_firmware(model.folder, target, folder / "built", strict=True)
    texts, prompt, greedy = (
        [text_of(name, 2), text_of(name, 5)],
        example(name).model.begin,
        SamplerSettings(greedy=True),
    )
    prologue = sum(step in graph.prologue for step in model.step_outputs)
    with open_device(firmware, target, identity=graph_identity(graph)[:16], count=False) as opened:
        session = PairDeviceSession(opened.device, graph, prologue)
        found = device_traces(opened.device, session, texts)
        session.read_source(text_of(name, 3)[0])
        written = generate(session, prompt, greedy, logits_scale(graph), Stopping(8))
    reference = pair_session(graph)
    reference.read_source(text_of(name, 3)[0])
    assert written == generate(reference, prompt, greedy, logits_scale(graph), Stopping(8))
    return found, reference_traces(integer_session(lower_graph(graph)), model.step_outputs, texts)


@pytest.mark.parametrize("name", ["t5_far"])
def test_an_emulated_board_is_the_reference(name: str, tmp_path: Path, arm_tools: None) -> None:
    found, wanted = on_a_device(name, "mps2-an386", tmp_path)
    assert found == wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "board"),
    [("bart_uneven", "mps2-an385-m0"), ("bart_uneven", "mps3-an547"), ("t5_gated", "riscv32-virt"),
     ("t5_gated", "mps3-an547")],
)  # fmt: skip
def test_every_core_is_the_reference(name: str, board: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    require_tools(board, request)
    found, wanted = on_a_device(name, board, tmp_path)
    assert found == wanted


@pytest.mark.parametrize("name", ["t5_far", "own"])
def test_torch_computes_both_meanings(name: str) -> None:
    """As training on the grids of the integers needs it: float, and rounded as the device rounds."""
    model = example(name).model
    pairs = Pairs.of(random_pairs(name), model, SIZES)
    window = dataclasses.replace(SIZES, block=pairs.target.shape[1], caches=pairs.target.shape[1])
    graph = pair_graph(model.config, model.weights, window, every=True)
    samples = window_inputs(graph, pairs)
    tensors = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in samples.items()}
    wanted = run_float(graph, samples)[LOGITS]
    with torch.no_grad():
        found = GraphModule(graph)(tensors)[LOGITS].numpy()
    assert np.abs(found - wanted).max() <= 2e-5 * np.abs(wanted).max()
    typed = every_token(typed_graph(name, "int8x16"), pairs.target.shape[1])
    integers = real_logits(typed, run_integer(lower_graph(typed), samples)[LOGITS])
    module = GraphModule(typed)
    rounded = module(tensors)[LOGITS]
    noise = float(np.square(integers - rounded.detach().numpy()).mean())
    assert 10 * np.log10(float(np.square(integers).mean()) / noise) > 45
    rounded.square().mean().backward()
    still = [key for key, value in module.named_parameters() if value.grad is None or not value.grad.abs().sum()]
    assert not [key for key in still if "relative_bias" in key]


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ([], "there is no pair to calibrate on"),
        ([([1], [])], "the text of pair 0 is empty"),
        ([([], [1])], "the source of pair 0 is empty"),
        ([([29], [1])], "the source of pair 0 is empty or has a token outside 0 to 28"),
        ([([1], [-1])], "the text of pair 0 is empty or has a token outside 0 to 52"),
    ],
)
def test_pairs_that_cannot_be(pairs: list[tuple[list[int], list[int]]], says: str) -> None:
    with pytest.raises(DataError, match=says):
        Pairs.of(pairs, example("own").model, SIZES)


def test_another_scheme_is_refused() -> None:
    model = example("own").model
    with pytest.raises(ConfigError, match="scheme 'int8' is not for text"):
        quantize_pair(model, Pairs.of(random_pairs("own"), model, SIZES), "int8", SIZES)
