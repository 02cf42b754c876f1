"""Decode steps of every family: float logits are those of torch over 64 steps, C those of ours, integers are equal."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from c_host import Objects, host, object_cache
from conftest import require_tools
from decoder_models import (
    BLOCK,
    CONTEXT,
    NAMES,
    STEPS,
    Trace,
    decode,
    device_trace,
    example,
    float_step,
    host_trace,
    reference_trace,
    runs,
    typed_step,
    with_config,
)
from picoformer.backends.c import emit_c
from picoformer.compress.graph_module import GraphModule
from picoformer.decoder.graph import LOGITS, decoder_graph, macs_per_token
from picoformer.decoder.quantize import quantize_decoder, step_graph, window_graph, window_inputs
from picoformer.decoder.sessions import DeviceSession
from picoformer.emulator.session import open_device
from picoformer.errors import ConfigError, DataError
from picoformer.firmware import build_firmware
from picoformer.ir.operator import Array
from picoformer.models.positions import alibi_bias
from picoformer.ops import CachedAttention
from picoformer.ops.graph_file import graph_identity
from picoformer.reference import lower_graph, run_float
from picoformer.reference.session import float_session, integer_session
from picoformer.targets import load_target

torch.set_num_threads(1)

TOLERANCE = 1e-4
"""Of float logits: sums in another order."""
SCHEMES = ("int8x16", "int4x16")
FEW = ["gpt2_one_head", "llama", "qwen2", "falcon_alibi_rounded", "bloom_untied", "mixtral", "llama2c_untied",
       "own_post_norm", "own_low_rank"]  # fmt: skip
"""One of each kind of layer, odd shapes among them: what the quick tests compile."""
SINGLE = [(position, 1) for position in range(STEPS)]
CORES = ["mps2-an386", "mps2-an385-m0", "riscv32-virt", "mps3-an547"]
"""M4, M0, RV32 and M55."""


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return object_cache(tmp_path_factory.mktemp("objects"))


def apart(wanted: Array, found: list[Array], blocks: list[tuple[int, int]]) -> float:
    rows = wanted[[position + count - 1 for position, count in blocks]]
    return float(np.abs(np.stack(found) - rows).max())


# --- float --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_64_steps_give_the_logits_of_torch(name: str) -> None:
    """Token by token, and in blocks of all sizes."""
    case = example(name)
    for block, blocks in ((1, SINGLE), (BLOCK, runs())):
        session = float_session(float_step(name, block))
        assert apart(case.logits, decode(session, case.tokens, blocks), blocks) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("falcon_alibi_rounded", {"alibi_bfloat16": False}),
        ("bloom", {"alibi_slopes": (0.5, 0.25, 0.125)}),
        ("llama_yarn", {"rotary_scale": 1.0}),
        ("llama", {"rotary_interleaved": True}),
        ("mixtral", {"experts_per_token": 1}),
        ("own_post_norm", {"norm_position": "pre"}),
        ("own_post_norm", {"scale_embedding": False}),
    ],
)
def test_the_comparison_would_see_a_mistake(name: str, change: dict[str, object]) -> None:
    case = example(name)
    wrong = with_config(case.model, **change)
    session = float_session(decoder_graph(wrong.config, wrong.weights, BLOCK, CONTEXT))
    assert apart(case.logits, decode(session, case.tokens, runs()), runs()) > 2 * TOLERANCE


@pytest.mark.parametrize("name", ["llama_llama3", "falcon_alibi_rounded", "own_low_rank", "mixtral_one_of_three"])
def test_a_window_gives_the_logits_of_every_token(name: str) -> None:
    case = example(name)
    graph = window_graph(case.model.config, case.model.weights, STEPS)
    inputs = window_inputs(graph, np.array([case.tokens]))
    found = run_float(graph, inputs)[LOGITS][0]
    assert np.abs(found - case.logits).max() <= TOLERANCE
    with torch.no_grad():
        traced = GraphModule(graph)({key: torch.from_numpy(np.array(value)) for key, value in inputs.items()})
    assert np.abs(traced[LOGITS].numpy()[0] - case.logits).max() <= TOLERANCE


def test_rounded_slopes_are_those_of_the_model() -> None:
    config = example("falcon_alibi_rounded").model.config
    op = CachedAttention(12, 1, config.head_dim**-0.5, 16, config.alibi_slopes, True)
    np.testing.assert_allclose(op.bias(300), alibi_bias(config, 300), rtol=1e-6)
    exact = dataclasses.replace(op, bfloat16=False)
    assert np.abs(op.bias(300) - exact.bias(300)).max() > 0.1
    with pytest.raises(ValueError, match="0 slopes"):
        CachedAttention(12, 1, 1.0, bfloat16=True)


@pytest.mark.parametrize(
    ("name", "change", "context", "reason"),
    [
        ("llama", {"causal": False}, 0, "only a causal language model can be decoded"),
        ("llama", {"pooling": "mean"}, 0, "only a causal language model can be decoded"),
        ("llama", {"classes": 7}, 0, "only a causal language model can be decoded"),
        ("llama", {"cls_token": True}, 0, "cls_token"),
        ("gpt2", {}, 81, "a context of 81 is more than the 80 positions of the model; lower it"),
        ("own_post_norm", {}, CONTEXT + 1, "a context of 73 is more than the 72 positions"),
        ("llama", {}, -1, "a context of -1"),
    ],
)
def test_what_cannot_be_decoded_is_refused(name: str, change: dict[str, object], context: int, reason: str) -> None:
    model = with_config(example(name).model, **change)
    with pytest.raises(ConfigError) as caught:
        decoder_graph(model.config, model.weights, 1, context)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("block", "context", "reason"), [(0, 16, "a block of 0"), (17, 16, "a block of 17"), (-3, 16, "a block of -3")]
)
def test_a_block_has_a_place_in_the_context(block: int, context: int, reason: str) -> None:
    model = example("llama").model
    with pytest.raises(ConfigError, match=reason):
        decoder_graph(model.config, model.weights, block, context)


def test_a_rotary_model_may_reach_further_than_it_was_trained() -> None:
    model = example("llama").model
    graph = decoder_graph(model.config, model.weights, 4, 200)
    assert graph.types["rotations"].shape == (200, 6)
    assert macs_per_token(graph) > macs_per_token(decoder_graph(model.config, model.weights, 4, 100))


# --- integers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FEW)
def test_a_step_gives_the_integers_of_a_window(name: str) -> None:
    """The grids and weights of the window stay: with caches of one length, 64 steps of few tokens are a block of 64."""
    model = example(name).model
    windows = np.array([example(name).tokens], np.int32)
    typed = quantize_decoder(model.config, model.weights, windows, "int8x16", STEPS)
    whole = integer_session(lower_graph(typed))
    inputs = window_inputs(typed, windows)
    wanted = whole.run({key: value[0] for key, value in inputs.items() if key in typed.ports[0]})[LOGITS]
    steps = integer_session(lower_graph(step_graph(typed, BLOCK, STEPS)))
    found = decode(steps, example(name).tokens, runs())
    assert all((logits == wanted[position + count - 1]).all()
               for (position, count), logits in zip(runs(), found, strict=True))  # fmt: skip


@pytest.mark.parametrize(
    ("windows", "scheme", "reason"),
    [
        (np.zeros((2, 8), np.int32), "int8", "scheme 'int8' is not for language models"),
        (np.zeros((2, 8), np.int32), "float32", "scheme 'float32'"),
        (np.zeros((0, 8), np.int32), "int8x16", "two tokens or more"),
        (np.zeros((2, 1), np.int32), "int8x16", "two tokens or more"),
        (np.full((2, 8), 53, np.int32), "int8x16", "outside the vocabulary of 53"),
        (np.full((2, 8), -1, np.int32), "int8x16", "outside the vocabulary of 53"),
    ],
)
def test_bad_calibration_is_refused(windows: Array, scheme: str, reason: str) -> None:
    model = example("llama").model
    with pytest.raises((ConfigError, DataError)) as caught:
        quantize_decoder(model.config, model.weights, windows, scheme)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


# --- C ------------------------------------------------------------------------------------------------------


def check_host(name: str, scheme: str, folder: Path, objects: Objects) -> None:
    """64 steps on this machine: float within 1e-4 of ours, integers equal in every step's bytes."""
    is_float = scheme == "float32"
    graph = float_step(name) if is_float else typed_step(name, scheme)
    built = host(graph, folder, objects)
    steps = [tensor.name.decode() for tensor in built.device.steps[: built.device.step_count]]
    tokens = example(name).tokens
    found = host_trace(built, tokens)
    session = float_session(graph) if is_float else integer_session(lower_graph(graph))
    if is_float:
        wanted = decode(session, tokens, runs())
        logits = np.stack([np.frombuffer(trace.logits, np.float32) for trace in found])
        assert np.abs(logits - np.stack(wanted)).max() <= TOLERANCE
        return
    compare(found, reference_trace(session, steps, tokens), steps)


def compare(found: list[Trace], wanted: list[Trace], steps: list[str]) -> None:
    for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
        wrong = [step for step, a, b in zip(steps, one.crcs, other.crcs, strict=True) if a != b]
        assert not wrong, f"run {index}: {wrong}"
        assert one.logits == other.logits


def check_device(name: str, scheme: str, core: str, folder: Path) -> None:
    """64 steps in an emulator: as on this machine."""
    graph, target, tokens = typed_step(name, scheme), load_target(core), example(name).tokens
    model = emit_c(graph, target.isa, "model", folder / "source")
    build = build_firmware(model.folder, target, folder / "built", strict=True)
    with open_device(build, target, identity=graph_identity(graph)[:16], count=False) as opened:
        session = DeviceSession(opened.device, graph)
        found = device_trace(opened.device, session.write, tokens)
    wanted = reference_trace(integer_session(lower_graph(graph)), model.step_outputs, tokens)
    compare(found, wanted, list(model.step_outputs))


@pytest.mark.parametrize("scheme", ["float32", *SCHEMES])
@pytest.mark.parametrize("name", FEW)
def test_c_on_this_machine(name: str, scheme: str, tmp_path: Path, objects: Objects) -> None:
    check_host(name, scheme, tmp_path, objects)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["float32", *SCHEMES])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in FEW])
def test_c_of_all_others_on_this_machine(name: str, scheme: str, tmp_path: Path, objects: Objects) -> None:
    check_host(name, scheme, tmp_path, objects)


QUICK = [
    ("llama", "int8x16", "mps2-an386"),
    ("mixtral", "int4x16", "mps2-an386"),
    ("gpt2_one_head", "int8x16", "mps2-an385-m0"),
    ("falcon_alibi_rounded", "int8x16", "riscv32-virt"),
    ("bloom_untied", "int4x16", "mps3-an547"),
]


@pytest.mark.parametrize(("name", "scheme", "core"), QUICK)
def test_c_in_an_emulator(name: str, scheme: str, core: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    require_tools(core, request)
    check_device(name, scheme, core, tmp_path)


SWEEP = [
    (name, scheme, core)
    for i, (name, scheme) in enumerate((name, scheme) for name in FEW for scheme in SCHEMES)
    for core in dict.fromkeys((CORES[i % len(CORES)], CORES[(i + 1 + i // len(CORES)) % len(CORES)]))
    if (name, scheme, core) not in QUICK
]
"""Every family in every scheme on two cores, which change from one to the next, so that all pairs come up."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scheme", "core"), SWEEP)
def test_c_of_all_families_on_all_cores(
    name: str, scheme: str, core: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    require_tools(core, request)
    check_device(name, scheme, core, tmp_path)
