"""Text on a Raspberry Pi: the same flags and the same seed give what `picoformer generate` gives, token for token."""

from __future__ import annotations

import json
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hugging_face
import test_llama2c
from command_line import picoformer, refuses, succeeds
from picoformer.bundling.options import BundleOptions
from picoformer.bundling.write import package
from picoformer.decoder.generating import GenerateOptions, generate_files
from picoformer.models.checkpoint import save_checkpoint
from picoformer.models.config import TransformerConfig
from picoformer.models.importers import load_decoder
from picoformer.models.transformer import Transformer
from picoformer.raspberry_pi import Runner, open_bundle, open_runner
from text_models import built, model_folder

FLAGS: list[dict[str, Any]] = [
    {"greedy": True},
    {"seed": 7},
    {"seed": 8, "temperature": 0.6, "top_k": 12},
    {"seed": 9, "top_p": 0.7, "repetition_penalty": 1.4},
    {"seed": 10, "min_p": 0.03, "temperature": 1.7},
    {"greedy": True, "repetition_penalty": 1.5},
    {"beams": 4, "length_penalty": 0.5, "early_stopping": "never"},
    {"seed": 3, "stops": ("e",)},
    {"seed": 11, "stop_ids": (47, 54, 258)},
]
PROMPT = "The list"


@pytest.fixture(scope="module")
def runner(place: Path) -> Runner:
    """The tiny Llama in float."""
    out = place / "pi-float32"
    record = succeeds("pi", "package", model_folder(place), "-o", out, "--json").record
    assert record["task"] == "generate" and record["scheme"] == "float32" and record["parity"]["tokens_equal"]
    return open_runner(open_bundle(out), threads=1)


@cache
def _wanted(folder: Path, flags: str) -> dict[str, Any]:
    asked = {key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(flags).items()}
    return generate_files(folder, GenerateOptions(scheme="float32", tokens=20, prompt=PROMPT, **asked))


@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: "-".join(flags))
def test_the_same_flags_and_seed_give_the_same_text(runner: Runner, place: Path, flags: dict[str, Any]) -> None:
    wanted = _wanted(model_folder(place), json.dumps(flags))
    pieces: list[str] = []
    found = runner.generate(runner.request(prompt=PROMPT, tokens=20, **flags), lambda text: pieces.append(text))
    assert list(found.tokens) == wanted["tokens"] and found.text == wanted["text"]
    if "beams" in flags:
        for ours, theirs in zip(found.texts, wanted["texts"], strict=True):
            assert ours["tokens"] == theirs["tokens"] and ours["text"] == theirs["text"]
            assert abs(ours["log_probability"] - theirs["log_probability"]) < 1e-5
        return
    assert found.end == wanted["end"] and "".join(pieces) == PROMPT + (wanted["text"] or "")


def test_the_command_writes_what_generate_writes(runner: Runner, place: Path) -> None:
    more = ["--prompt", PROMPT, "--tokens", "12", "--seed", "5", "--temperature", "0.8"]
    ours = succeeds("pi", "generate", runner.bundle.folder, *more, "--json").record
    theirs = succeeds("generate", model_folder(place), "--scheme", "float32", *more, "--json").record
    assert {key: ours[key] for key in ("tokens", "text", "end", "prompt_tokens")} == {
        key: theirs[key] for key in ("tokens", "text", "end", "prompt_tokens")
    }
    shown = succeeds("pi", "generate", runner.bundle.folder, *more).out
    assert shown.startswith(PROMPT + ours["text"]) and "tokens per second" in shown
    refuses(["pi", "generate", runner.bundle.folder, *more, "--greedy"], "--temperature does nothing with --greedy")
    refuses(["pi", "generate", runner.bundle.folder, "--prompt", "a" * 400], "the prompt has", "shorten")
    refuses(["pi", "generate", runner.bundle.folder, "--prompt-ids", "5,280"], "token 280", "outside the vocabulary")


@pytest.mark.parametrize("kind", ["gpt2", "llama2c", "own"])
def test_every_kind_of_checkpoint_writes_its_own_text(kind: str, tmp_path: Path) -> None:
    """Without a tokenizer: token ids in and out."""
    source = tmp_path / "model"
    if kind == "gpt2":
        hugging_face.save(hugging_face.CASES["gpt2"], source)
    elif kind == "llama2c":
        source = tmp_path / "model.bin"
        shape = next(iter(test_llama2c.SHAPES.values()))
        test_llama2c.write(source, shape, test_llama2c.random_weights(shape), 1)
    else:
        source = tmp_path / "own.safetensors"
        keys = {"vocab_size": 40, "classes": 40, "sequence": 32, "causal": True, "pooling": "none"}
        model = Transformer(TransformerConfig.uniform(2, 2, 20, 16, **keys), seed=1)
        with torch.no_grad():
            model.embedding.token.weight.mul_(20)
        save_checkpoint(model, source)
    record = package(source, tmp_path / "out", BundleOptions(context=30))
    assert record["parity"]["worst"] < 1e-5
    runner = open_runner(open_bundle(tmp_path / "out"), 1)
    asked: dict[str, Any] = {"prompt_ids": (5, 17, 2), "tokens": 16, "seed": 4, "temperature": 0.9}
    wanted = generate_files(source, GenerateOptions(scheme="float32", context=30, **asked))
    pieces: list[str] = []
    found = runner.generate(runner.request(**asked), pieces.append)
    assert list(found.tokens) == wanted["tokens"] and found.text is None
    refuses(["pi", "generate", tmp_path / "out", "--prompt", "a"], "has no tokenizer", "--prompt-ids")
    assert "".join(pieces).split() == [str(token) for token in found.tokens]
    assert load_decoder(source).config.vocab_size == runner.bundle.manifest.generate.vocabulary


def test_weights_of_four_bits_write_what_our_graph_with_these_weights_writes(place: Path, tmp_path: Path) -> None:
    """Unpacked here from the file: what MatMulNBits multiplies with, put into our own float graph."""
    import onnx

    from picoformer.decoder.build import decoder_graphs
    from picoformer.decoder.writing import reference_session
    from picoformer.generation import SamplerSettings, Stopping
    from picoformer.generation.loop import generate

    out = tmp_path / "bundle"
    record = succeeds("pi", "package", model_folder(place), "-o", out, "--scheme", "int4", "--json").record
    assert record["parity"]["rule"] == "close" and record["parity"]["tokens_equal"]
    graph = decoder_graphs(load_decoder(model_folder(place)), "float32").graph
    constants, products = dict(graph.constants), 0
    file = onnx.load(out / "model.onnx")
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in file.graph.initializer}
    for node in file.graph.node:
        if node.op_type == "MatMulNBits":
            name = node.input[1].removesuffix("_packed")
            packed = stored[node.input[1]]
            halves = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:2], 32).astype(np.float32)
            rows = ((halves - 8) * stored[node.input[2]].reshape(*packed.shape[:2], 1)).reshape(len(packed), -1)
            before = constants[name]
            constants[name] = rows[:, : before.shape[1]].astype(np.float32)
            assert not np.array_equal(before, constants[name])
            assert np.abs(before - constants[name]).max() < 0.2 * np.abs(before).max()
            products += 1
    assert products >= 8
    runner = open_runner(open_bundle(out), 1)
    request = runner.request(prompt=PROMPT, tokens=24, seed=5, temperature=0.9)
    ids = request.ids(runner.bundle.manifest.generate.bos, runner.bundle.tokenizer)
    wanted = generate(
        reference_session(graph.replace(constants=constants)), ids, SamplerSettings(temperature=0.9, seed=5), None,
        Stopping(24, (2,)),
    )  # fmt: skip
    assert runner.generate(request).tokens == wanted.tokens


@pytest.mark.parametrize("tied", [False, True])
def test_weights_of_eight_bits_are_near_the_model(tied: bool, tmp_path: Path) -> None:
    """A scale a row; a table that head and embedding share is rounded for the head alone."""
    import onnx

    keys = {"vocab_size": 90, "classes": 90, "sequence": 24, "causal": True, "pooling": "none", "tied_head": tied}
    model = Transformer(TransformerConfig.uniform(1, 2, 48, 32, **keys), seed=1)
    save_checkpoint(model, tmp_path / "own.safetensors")
    out = tmp_path / "bundle"
    record = succeeds("pi", "package", tmp_path / "own.safetensors", "-o", out, "--scheme", "int8", "--json").record
    assert record["parity"]["rule"] == "likeness" and record["parity"]["worst"] > 0.995
    file = onnx.load(out / "model.onnx")
    kinds = [(t.name, t.data_type) for t in file.graph.initializer if "embedding.token" in t.name or "head" in t.name]
    assert (onnx.TensorProto.INT8 in {kind for _, kind in kinds}) and kinds
    floats = [t for t in file.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 2]
    shapes = sorted(tuple(t.dims) for t in floats)
    assert (90, 32) in shapes and (32, 90) not in shapes
    words = ["pi", "package", tmp_path / "own.safetensors", "-o", out, "--scheme", "int8"]
    refuses([*words, "--calibration", "x.npz"], "rounds weights alone")


@pytest.mark.parametrize("scheme", ["int8x16", "int4x16"])
def test_integers_are_those_of_the_build(scheme: str, place: Path, tmp_path: Path) -> None:
    """The folder that firmware was built from: logits as its integers have them, and the same likeliest tokens."""
    folder = built(place, scheme, "host").build.folder
    out = tmp_path / "bundle"
    record = succeeds("pi", "package", folder, "-o", out, "--json").record
    assert record["scheme"] == scheme and record["answers_of"] == "picoformer's integers"
    assert record["parity"]["worst"] > 0.999 and record["parity"]["tokens_equal"]
    manifest = open_bundle(out).manifest
    assert manifest.generate is not None and manifest.generate.logits_scale is not None and manifest.tokenizer
    refuses(["pi", "package", folder, "-o", out, "--context", "9"], "was built with 64")
    refuses(["pi", "package", folder, "-o", out, "--classes", "a,b"], "says nothing about a language model")


def test_the_bundle_knows_how_to_choose_where_nobody_says(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    words = ["pi", "package", model_folder(place), "-o", out]
    succeeds(*words, "--sampling", "temperature=0.7", "--sampling", "top_k=9", "--sampling", "tokens=6")
    runner = open_runner(open_bundle(out), 1)
    assert vars(runner.request(prompt="a")) == {
        **vars(runner.request(prompt="a")), "temperature": 0.7, "top_k": 9, "tokens": 6,
        "given": frozenset({"prompt"}),
    }  # fmt: skip
    said = runner.request(prompt="a", temperature=1.0, tokens=3)
    assert (said.temperature, said.top_k, said.tokens) == (1.0, 9, 3)
    assert runner.request(greedy=True).top_k == 0 and runner.request(beams=2).temperature == 1.0
    assert len(succeeds("pi", "generate", out, "--prompt", "a", "--json").record["tokens"]) <= 6
    for bad, said_of_it in (
        ("heat=1", "heat"), ("seed=1", "with each text"), ("top_k=many", "write KEY=VALUE"), ("top_k=0.5", "'top_k'"),
    ):  # fmt: skip
        refuses([*words, "--sampling", bad], said_of_it)


def test_a_listener_ends_a_text(runner: Runner) -> None:
    heard: list[str] = []

    def enough(text: str) -> bool:
        heard.append(text)
        return len(heard) == 3

    found = runner.generate(runner.request(prompt=PROMPT, tokens=30, seed=1), enough)
    assert found.end == "interrupted" and len(found.tokens) < 30

    class Gone(Exception):
        pass

    def gone(_: str) -> bool:
        raise Gone

    with pytest.raises(Gone):
        runner.generate(runner.request(prompt=PROMPT, tokens=30), gone)
    again = runner.generate(runner.request(prompt=PROMPT, tokens=30, seed=1))
    assert again.tokens[: len(found.tokens)] == found.tokens


def test_texts_side_by_side_do_not_mix(runner: Runner) -> None:
    requests = [runner.request(prompt=PROMPT, tokens=16, seed=seed) for seed in range(8)]
    alone = [runner.generate(request).tokens for request in requests]
    found: dict[int, tuple[int, ...]] = {}

    def work(at: int) -> None:
        found[at] = runner.generate(requests[at]).tokens

    workers = [threading.Thread(target=work, args=(at,)) for at in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [found[at] for at in range(8)] == alone and len(set(alone)) == 8


def test_prompts_of_a_file_and_of_standard_input(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("The\nA list\n")
    words = ["pi", "generate", runner.bundle.folder, "--tokens", "5", "--seed", "2"]
    record = succeeds(*words, "--inputs", tmp_path / "prompts.txt", "--json").record
    single = [succeeds(*words, "--prompt", prompt, "--json").record["tokens"] for prompt in ("The", "A list")]
    assert [result["tokens"] for result in record["results"]] == single
    refuses([*words, "--prompt", "x", "--inputs", tmp_path / "prompts.txt"], "both what to continue")
    np.savez(tmp_path / "samples.npz", x=np.zeros((2, 3), np.float32))
    refuses([*words, "--inputs", tmp_path / "samples.npz"], "holds no prompts; give a .txt")


def test_bench_says_tokens_a_second_of_reading_and_of_writing(runner: Runner) -> None:
    words = ["pi", "bench", runner.bundle.folder, "--threads", "1,2", "--tokens", "8", "--warm-up", "1"]
    record = succeeds(*words, "--json").record
    assert [one["threads"] for one in record["threads"]] == [1, 2] and record["best_threads"] in (1, 2)
    for one in record["threads"]:
        assert one["prompt_tokens"] == 32 and one["prompt_tokens_per_second"] > 0 and one["per_second"] > 0
        spread = one["milliseconds"]
        assert 0 < spread["min"] <= spread["p50"] <= spread["p90"] <= spread["p99"] <= spread["max"]
        assert one["runs"] == 7 and one["peak_memory_bytes"] > 1 << 20
    table = picoformer(*words).out
    assert "prompt tokens a second" in table and "a token, after 1 that do not count" in table


def test_logits_are_onnx_s_token_by_token(runner: Runner, place: Path) -> None:
    """Caches go round: behind every token the logits are those of the float graph, within 1e-4 of the largest."""
    from picoformer.decoder.build import decoder_graphs
    from picoformer.decoder.writing import reference_session
    from picoformer.raspberry_pi.decoding import StepSession

    model = load_decoder(model_folder(place))
    ours, decoding = reference_session(decoder_graphs(model, "float32").graph), runner.bundle.manifest.generate
    assert decoding is not None
    step = StepSession(runner.session, decoding)
    tokens = np.random.default_rng(6).integers(0, decoding.vocabulary, 40).tolist()
    for at, token in enumerate(tokens):
        wanted, found = ours.decode([token], at), step.decode([token], at)
        assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()
