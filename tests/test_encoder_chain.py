"""Encoders from folders down to firmware: the commands take them, padded pairs are equal along the chain, shared layers
lie in flash once, and bad options and samples are refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import picoformer
from command_line import picoformer as run_command
from encoder_models import CASES, ROWS, answers, cut, make_sentence_folder, save, texts
from picoformer import EncoderChoice
from picoformer.backends.c import draft_c
from picoformer.build_folder import open_build
from picoformer.encoder.graph import encoder_graph
from picoformer.encoder.inputs import text_inputs
from picoformer.errors import DataError, PicoformerError
from picoformer.estimate.made_up import made_up_graph
from picoformer.frontends.onnx import load_onnx
from picoformer.ir import DType
from picoformer.models.importers import load_encoder
from picoformer.passes import optimize
from picoformer.quantize import QuantizeSettings, quantize
from picoformer.reference import run_float
from picoformer.targets import load_target
from picoformer.verification import Runner


def calibration(segments: int, seed: int = 5) -> dict[str, NDArray[Any]]:
    lengths = tuple(int(n) for n in np.random.default_rng(2).integers(1, ROWS + 1, 32))
    return texts(segments, seed, lengths)


CHAIN = [
    ("bert_classify", "int8", "mps2-an386"),
    ("bert_score_of_a_pair", "int8x16", "host"),
    pytest.param("albert_masked_groups", "int4x8", "mps2-an386", marks=pytest.mark.slow),
    ("bert_embedding", "int8", "host"),
    ("albert_masked_groups", "float32", "host"),
]


def check_chain(name: str, scheme: str, target: str, folder: Path) -> None:
    case = CASES[name]
    theirs = save(case, folder / "model")
    choice = EncoderChoice(ROWS, case.task)
    imported = load_encoder(folder / "model", case.task)
    segments = imported.config.segments
    given = None if scheme == "float32" else calibration(segments)
    picoformer.build(folder / "model", calibration=given, scheme=scheme, target=target, out=folder / "out",
                     encoder=choice)  # fmt: skip
    samples = texts(segments, 6)
    found = picoformer.verify(folder / "out", inputs=samples)
    assert found.report.passed, found.report.failures
    links = {(link.source, link.to): link for link in found.report.links}
    assert ("float onnx", "float graph") in links
    if scheme != "float32":
        assert all(link.equal for ends, link in links.items() if ends[0] in ("reference", "host"))
        end = found.report.links[-1]
        assert end.sqnr_db is not None and end.sqnr_db > (12 if scheme.startswith("int4") else 25)
        return
    build = open_build(folder / "out")
    host = load_target("host")
    from picoformer.emulator.session import open_device

    with open_device(build.firmware(host), host) as session:
        runner = Runner(session, build.graph, len(build.steps(host)), "host", None)
        fed = {name: (value[:, None] if value.ndim > 1 else value) for name, value in samples.items()}
        outputs = runner({name: value.astype(np.int32) for name, value in fed.items()}).outputs
    wanted = answers(theirs, imported.task, samples)
    ours = cut(outputs[build.graph.outputs[0]].reshape(wanted.shape), samples["valid_length"], ROWS)
    assert np.abs(ours - wanted).max() <= 1e-4  # float32 sums in another order


@pytest.mark.parametrize(("name", "scheme", "target"), CHAIN)
def test_folders_hold_down_the_chain(name: str, scheme: str, target: str, tmp_path: Path, arm_tools: None) -> None:
    check_chain(name, scheme, target, tmp_path)


SWEEP = list(zip(CASES, itertools.cycle(("int8", "int4x8", "int8x16", "float32", "int8")), strict=False))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scheme"), SWEEP)
def test_every_folder_holds_down_the_chain(name: str, scheme: str, tmp_path: Path) -> None:
    check_chain(name, scheme, "host", tmp_path)


# --- stored once --------------------------------------------------------------------------------------------


def graph_of(folder: Path, name: str, **keys: Any) -> Any:
    import dataclasses

    case = CASES[name]
    save(dataclasses.replace(case, keys={**case.keys, **keys}), folder)
    imported = load_encoder(folder, case.task)
    from picoformer.backends.onnx.export import onnx_bytes

    path = folder / "model.onnx"
    path.write_bytes(onnx_bytes(encoder_graph(imported.config, imported.weights, ROWS)))
    return optimize(load_onnx(path))


def matrix_bytes(folder: Path, scheme: str, layers: int, groups: int) -> tuple[int, int]:
    """Bytes of the arrays of matrices, and of all constants, in the C of an ALBERT."""
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": layers, "num_hidden_groups": groups}
    draft = draft_c(made_up_graph(graph_of(folder, "albert_pooled", **sizes), scheme), ["generic"])
    weights = [array for array in draft.parts.arrays.values() if array.symbol.endswith("_weight")]
    return sum(array.values.nbytes for array in weights if array.values.nbytes > 1000), draft.weights_bytes


@pytest.mark.parametrize(
    ("scheme", "weight_bytes"), [("int8", 1.0), pytest.param("int4x8", 0.5, marks=pytest.mark.slow), ("float32", 4.0)]
)
def test_layers_that_share_weights_lie_in_flash_once(scheme: str, weight_bytes: float, tmp_path: Path) -> None:
    """Four layers with one set of weights against one layer, and against four of their own. Beside the matrices lie
    biases, multipliers and norms, on each layer's own grids."""
    one, _ = matrix_bytes(tmp_path / "one", scheme, 1, 1)
    shared, all_shared = matrix_bytes(tmp_path / "shared", scheme, 4, 1)
    own, all_own = matrix_bytes(tmp_path / "own", scheme, 4, 4)
    layer = int(weight_bytes * (4 * 48 * 48 + 2 * 48 * 96))
    assert shared == one and own == one + 3 * layer
    assert all_own - all_shared > 2.9 * layer


@pytest.mark.parametrize("weights", [DType.INT8, DType.INT4])
def test_rounding_leaves_shared_weights_one(weights: DType, tmp_path: Path) -> None:
    """By GPTQ and with biases corrected, which are each layer's own."""
    graph = graph_of(tmp_path, "albert_pooled")
    given = {name: value[:, None] if value.ndim > 1 else value for name, value in calibration(2).items()}
    fed = {name: value.astype(np.int32) for name, value in given.items()}
    typed = quantize(graph, fed, run_float, QuantizeSettings(weights=weights))
    for part in ("attention.query", "attention.out", "feed_forward.up", "feed_forward.down"):
        readers = [typed.producers[f"layers.{layer}.{part}"] for layer in range(4)]
        assert len({node.inputs[1] for node in readers}) == 1
        assert len({node.inputs[2] for node in readers}) == 4


def test_a_tied_table_lies_in_flash_once(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, "bert_masked", vocab_size=600)
    typed = made_up_graph(graph, "int8")
    tables = [name for name in typed.constants if typed.types[name].shape == (600, 18)]
    assert len(tables) == 1 and len(typed.consumers[tables[0]]) == 2


# --- commands -----------------------------------------------------------------------------------------------


def test_commands_take_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-minilm"
    make_sentence_folder(CASES["bert_embedding"], folder)
    samples = calibration(0)
    mask = (np.arange(ROWS) < samples["valid_length"][:, None]).astype(np.int64)
    short = {"input_ids": samples["input_ids"][:, :8], "attention_mask": mask[:, :8]}
    np.savez(tmp_path / "calib.npz", **short, token_type_ids=np.zeros_like(short["input_ids"]))
    given = ["--calibration", str(tmp_path / "calib.npz"), "--length", "8"]
    done = run_command("quantize", str(folder), *given, "-o", str(tmp_path / "quantized"), "--json")
    assert done.code == 0, done.err
    assert "task embedding, 8 rows of 12 (--length), inputs input_ids, valid_length" in done.err
    assert json.loads(done.out)["model"] == "tiny-minilm"
    done = run_command("build", str(folder), "--quantized", str(tmp_path / "quantized"), "--length", "8", "--target",
                       "host", "-o", str(tmp_path / "out"))  # fmt: skip
    assert done.code == 0, done.err
    done = run_command("verify", str(tmp_path / "out"), "--inputs", str(tmp_path / "calib.npz"), "--samples", "4")
    assert done.code == 0, done.err
    for form, file in (("onnx", "m.onnx"), ("c-arrays", "arrays"), ("tflite", "m.tflite")):
        done = run_command("export", str(folder), *given, "--format", form, "-o", str(tmp_path / file))
        assert done.code == 0, done.err
        assert (tmp_path / file).exists()
    done = run_command("inspect", str(folder), "--length", "8", "--json")
    assert done.code == 0 and json.loads(done.out)["inputs"] == {"input_ids": [1, 8], "valid_length": []}
    done = run_command("inspect", str(folder), "--target", "rp2040-pico", "--json")
    assert done.code == 0 and json.loads(done.out)["fits"]


HOST = ("--target", "host", "-o", "{out}")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["inspect", "{bert}"], "architectures = 'BertModel' does not say what is to come out; choose with --task"),
        (["inspect", "{bert}", "--task", "rows", "--length", "13"], "--length 13: {bert} knows 12 rows"),
        (["inspect", "{bert}", "--task", "span"], "'qa_outputs.weight' is missing"),
        (["build", "{bert}", "--task", "rows", "--context", "5", *HOST], "--context says nothing about this model's"),
        (["build", "{gpt}", "--task", "rows", *HOST], "--task says nothing about a language model's"),
        (["inspect", "{onnx}", "--length", "5"], "--length is for the folder of an encoder"),
        (["build", "{bert}", "--task", "rows", *HOST], "scheme int8 needs --calibration"),
        (["generate", "{bert}", "--prompt-ids", "1"], "model_type = 'bert' is not covered"),
    ],
)  # fmt: skip
def test_what_commands_refuse(arguments: list[str], reason: str, tmp_path: Path) -> None:
    places = {name: tmp_path / name for name in ("bert", "gpt", "out")}
    save(CASES["bert_rows"], places["bert"])
    places["gpt"].mkdir()
    (places["gpt"] / "config.json").write_text('{"model_type": "gpt2"}')
    places["onnx"] = tmp_path / "m.onnx"
    places["onnx"].write_bytes(b"")
    done = run_command(*(word.format(**places) for word in arguments))
    assert done.code == 1
    line = done.err.strip().splitlines()[-1]
    assert reason.format(**places) in line, done.err
    assert not places["out"].exists()


# --- samples ------------------------------------------------------------------------------------------------


def test_samples_as_tokenizers_write_them(tmp_path: Path) -> None:
    save(CASES["bert_classify"], tmp_path)
    imported = load_encoder(tmp_path)
    graph = encoder_graph(imported.config, imported.weights, ROWS)
    ids = texts(2)["input_ids"]
    mask = (np.arange(ROWS) < np.array([[3], [11], [1], [7]])).astype(np.int64)
    found = text_inputs(graph, {"input_ids": ids, "attention_mask": mask})
    assert list(found["valid_length"]) == [3, 11, 1, 7] and not found["token_type_ids"].any()
    assert set(found) == set(graph.inputs)
    one = encoder_graph(load_encoder(tmp_path, pairs=False).config, imported.weights, ROWS, length=False)
    assert set(text_inputs(one, {"input_ids": ids, "token_type_ids": np.zeros_like(ids)})) == {"input_ids"}
    for wrong, reason in (
        (mask[:, ::-1], "ones and then zeros"),
        (mask * 2, "ones and then zeros"),
        (mask.astype(float), "is float64"),
    ):
        with pytest.raises(DataError, match=reason):
            text_inputs(graph, {"input_ids": ids, "attention_mask": wrong})
    with pytest.raises(DataError, match="disagree"):
        text_inputs(graph, {"input_ids": ids, "attention_mask": mask, "valid_length": np.array([3, 11, 1, 6])})
    with pytest.raises(DataError, match="the model has no 'valid_length'"):
        text_inputs(one, {"input_ids": ids, "attention_mask": mask})


def test_ids_and_kinds_outside_their_tables_are_refused(tmp_path: Path) -> None:
    save(CASES["bert_classify"], tmp_path / "model")
    wrong = calibration(2)
    wrong["token_type_ids"][1, 1] = 2
    with pytest.raises(PicoformerError, match="'token_type_ids' holds 0 to 2; the model takes 0 to 1"):
        picoformer.build(tmp_path / "model", calibration=wrong, target="host", out=tmp_path / "out",
                         encoder=EncoderChoice(ROWS))  # fmt: skip
