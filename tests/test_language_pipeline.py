"""A pipeline that ends in text: its sections, how it is judged, which weights are widened, and a whole miniature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import picoformer, refuses, succeeds
from picoformer.config import TEXT_SCHEMES, ModelSection
from picoformer.datasets import Dataset
from picoformer.decoder.graph import LOGITS, TABLE, decoder_graph
from picoformer.decoder.judging import foretold_nats, nats_of, parting
from picoformer.decoder.quantize import (
    DECODER_SCHEMES,
    every_token,
    quantize_decoder,
    step_graph,
    window_graph,
    window_inputs,
)
from picoformer.decoder.sessions import real_logits
from picoformer.decoder.stages import held_back
from picoformer.decoder.writing import reference_session
from picoformer.errors import ConfigError
from picoformer.ir import DType, Graph
from picoformer.models.config import TransformerConfig
from picoformer.models.weights import weight_shapes
from picoformer.ops import Embedding, Linear
from picoformer.quantize import QuantizeSettings
from picoformer.quantize.cost import constant_bytes
from picoformer.reference import lower_graph, run_float, run_integer
from picoformer.report import Report, Sample, TextFigures, load_report, report_text, save_report

WINDOW, CONTEXT = 12, 16
LLAMA: dict[str, Any] = {
    "norm": "rms", "positions": "rotary", "activation": "silu", "gated": True, "bias": False, "tied_head": True,
}  # fmt: skip


def section(**more: Any) -> ModelSection:
    return ModelSection(**{"layers": 2, "d_model": 16, "heads": 2, "kv_heads": 1, "d_ff": 24, **LLAMA, **more})


def config(**more: Any) -> TransformerConfig:
    return section(**more).transformer((CONTEXT,), True, 40, 40, labels_rows=True)


def weights(wanted: TransformerConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Random ones, gains of norms about 1, an embedding that makes the logits say something."""
    chance = np.random.default_rng(seed)
    return {
        name: ((1.0 if len(shape) == 1 else 0.0) + chance.normal(size=shape) * (0.3 if len(shape) > 1 else 0.1)).astype(
            np.float32
        )
        for name, shape in weight_shapes(wanted).items()
    }


def windows(count: int = 12, seed: int = 1, length: int = WINDOW) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 40, (count, length))


def quantized(scheme: str = "int8x16", **settings: Any) -> Graph:
    wanted = config()
    return quantize_decoder(wanted, weights(wanted), windows(), scheme, CONTEXT, QuantizeSettings(**settings))


def types_of(typed: Graph) -> dict[str, DType]:
    """Weights and tables → their type."""
    return {
        node.inputs[1]: typed.types[node.inputs[1]].dtype
        for node in typed.nodes
        if isinstance(node.op, Linear | Embedding)
    }


def test_a_section_says_the_whole_family() -> None:
    found = config()
    assert (found.norm, found.positions, found.gated, found.tied_head) == ("rms", "rotary", True, True)
    assert found.key_heads == (1, 1) and found.causal and found.pooling == "none"
    assert not any((found.attention_bias, found.out_bias, found.feed_forward_bias, found.head_bias))
    assert config(bias=True).attention_bias and not config(bias=True).head_bias
    usual = ModelSection(layers=1, d_model=8, heads=2, d_ff=8).transformer((4,), True, 9, 9, labels_rows=True)
    assert (usual.norm, usual.positions, usual.gated, usual.head_bias) == ("layer", "learned", False, True)
    with pytest.raises(ValueError, match="is odd"):
        section(d_model=6, heads=2)


def test_the_schemes_of_a_pipeline_are_those_of_decoders() -> None:
    assert TEXT_SCHEMES == DECODER_SCHEMES


def test_every_token_undoes_a_step() -> None:
    typed = quantized()
    again = every_token(step_graph(typed, 3, CONTEXT), WINDOW)
    assert again.nodes == typed.nodes and dict(again.types) == dict(typed.types)
    wanted = config()
    window = window_graph(wanted, weights(wanted), WINDOW, CONTEXT)
    inputs = window_inputs(window, windows(3))
    found = every_token(decoder_graph(wanted, weights(wanted), 2, CONTEXT), WINDOW)
    np.testing.assert_array_equal(run_float(found, inputs)[LOGITS], run_float(window, inputs)[LOGITS])


@pytest.mark.parametrize("scheme", ["float32", "int8x16", "int4x16"])
def test_a_window_is_foretold_as_it_is_token_by_token(scheme: str) -> None:
    wanted = config()
    graph = (
        decoder_graph(wanted, weights(wanted), 2, CONTEXT)
        if scheme == "float32"
        else step_graph(quantized(scheme), 2, CONTEXT)
    )
    x, y = windows(2, seed=5), windows(2, seed=6)
    found = foretold_nats(graph, x, y)
    for row in range(2):
        session = reference_session(graph)
        for position, token in enumerate(x[row].tolist()):
            logits = real_logits(graph, session.decode([token], position))
            assert found[row, position] == pytest.approx(nats_of(logits, y[row, position]), abs=1e-5)
    assert 1.0 < found.mean() < 20.0


def test_nats_are_those_of_softmax() -> None:
    logits = np.array([[1.0, 2.0, 4.0], [1000.0, 0.0, 0.0]], np.float32)
    wanted = -np.log(np.exp(2.0) / np.exp([1.0, 2.0, 4.0]).sum())
    np.testing.assert_allclose(nats_of(logits, np.array([1, 0])), [wanted, 0.0], rtol=1e-12)


def test_where_a_text_parts_from_the_float_model() -> None:
    wanted = config()
    graph = decoder_graph(wanted, weights(wanted), 1, CONTEXT)
    session, text, logits = reference_session(graph), [], []
    logits.append(session.decode([3, 5], 0))
    for index in range(6):
        text.append(int(np.argmax(logits[-1])))
        logits.append(session.decode([text[-1]], 2 + index))
    assert parting(graph, [3, 5], text).tokens == 6 and parting(graph, [3, 5], text).margin is None
    order = np.argsort(logits[4])[::-1]
    other = parting(graph, [3, 5], [*text[:4], int(order[2]), 7])
    assert other.tokens == 4
    assert other.margin == pytest.approx(float(logits[4][order[0]] - logits[4][order[1]]))
    assert other.behind == pytest.approx(float(logits[4][order[0]] - logits[4][order[2]]))


def test_the_tied_table_is_widened_first_and_no_more_than_was_allowed() -> None:
    plain = quantized(wide_weights=0.0)
    size = constant_bytes(plain)
    assert set(types_of(plain).values()) == {DType.INT8}
    table = plain.constants[TABLE].size
    narrow = quantized(wide_weights=(table + 8) / size)
    assert [name for name, dtype in types_of(narrow).items() if dtype is DType.INT16] == [TABLE]
    assert constant_bytes(narrow) == size + table, "the table is there once"
    for share in (0.1, 0.4, 4.0):
        typed = quantized(wide_weights=share)
        assert constant_bytes(typed, refined=True) <= constant_bytes(plain, refined=True) * (1 + share)
    widest = list(types_of(quantized(wide_weights=4.0)).values())  # all but what nothing would be gained by
    assert widest.count(DType.INT16) > 0.7 * len(widest)


def test_wider_weights_leave_less_noise() -> None:
    wanted = config()
    float_graph = window_graph(wanted, weights(wanted), WINDOW, CONTEXT)
    inputs = window_inputs(float_graph, windows(8, seed=9))
    real = run_float(float_graph, inputs)[LOGITS]
    noise = []
    for scheme, share in (("int4x16", 0.0), ("int4x16", 0.3), ("int8x16", 0.0), ("int8x16", 0.3), ("int8x16", 4.0)):
        typed = quantized(scheme, wide_weights=share)
        found = real_logits(typed, run_integer(lower_graph(typed), inputs)[LOGITS])
        noise.append(float(np.square(found - real).mean()))
    assert noise[1] < 0.8 * noise[0] and noise[3] < 0.8 * noise[2] and noise[4] < noise[3]


def test_a_budget_and_wider_weights_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="budget"):
        QuantizeSettings(budget=1000, wide_weights=0.1)
    assert set(types_of(quantized("int8x16", budget=10_000)).values()) <= {DType.INT8, DType.INT4}


def test_training_integers_on_windows_keeps_the_form() -> None:
    from picoformer.compress.settings import QatSettings

    wanted = config()
    given = weights(wanted)
    text = windows(16)
    plain = quantize_decoder(wanted, given, text, "int4x16", CONTEXT, QuantizeSettings(wide_weights=0.0))
    training = QatSettings(epochs=6, batch=8, soft_weight=0.9)
    trained = quantize_decoder(
        wanted, given, text, "int4x16", CONTEXT, QuantizeSettings(wide_weights=0.0), training=training
    )
    assert dict(trained.types) == dict(plain.types) and trained.states == plain.states
    x, real = text, run_float(window_graph(wanted, given, WINDOW, CONTEXT), window_inputs(plain, text))[LOGITS]
    noise = [
        float(np.square(real_logits(g, run_integer(lower_graph(g), window_inputs(g, x))[LOGITS]) - real).mean())
        for g in (plain, trained)
    ]
    assert noise[1] < noise[0]


def test_held_back_windows_are_cut_and_spread() -> None:
    x = np.arange(40).reshape(4, 10)
    data = Dataset(x, x + 1, x, x + 1, name="text", classes=50)
    given, wanted = held_back(data, 4, 0)
    assert given.shape == (8, 4) and np.array_equal(wanted, given + 1)
    few, _ = held_back(data, 5, 3)
    assert few.shape == (3, 5) and few[0, 0] == 0 and few[-1, -1] == 39


def test_a_report_with_texts_is_read_back_as_it_was(tmp_path: Path) -> None:
    verification = {
        "model": "m", "scheme": "int8x16", "target": "host", "samples": 1, "links": [], "macs": 1,
        "instructions": {"per_inference": None, "per_operator": []},
        "ram_bytes": {"total": None}, "flash_bytes": {"total": None},
    }  # fmt: skip
    texts = (
        TextFigures("host, int8x16", 16, 99, 500, 1.5, 1.503, 1.6, 15, 1234.0, 10, 20,
                    (Sample("a ", "b\nc", 3, 2, 0.0123), Sample("d", "e", 1, 1))),
    )  # fmt: skip
    save_report(Report(verification, True, texts=texts), tmp_path)
    found = load_report(tmp_path / "report.json")
    assert found.texts == texts
    text = report_text(found, 140)
    for said in ("+0.20 %", "1.6000", "1,234", "a |b↵c", "2 of 3, 0.012", "all"):
        assert said in text
    assert "a |b" in (tmp_path / "report.html").read_text("utf-8")


MINIATURE = """\
name = "miniature"
output = "out"
seed = 1

[data]
source = "grammar.txt"
test_fraction = 0.2
tokenizer = "bpe"
vocabulary = 300
sequence = 32

[teacher]
layers = 1
d_model = 32
heads = 2
d_ff = 48
norm = "rms"
positions = "rotary"
activation = "silu"
gated = true
bias = false
tied_head = true

[teacher_training]
epochs = 6
batch = 32
learning_rate = 1e-2
label_smoothing = 0.0

[student]
layers = 1
d_model = 24
heads = 2
kv_heads = 1
d_ff = 32
norm = "rms"
positions = "rotary"
activation = "silu"
gated = true
bias = false
tied_head = true

[distillation]
epochs = 6
batch = 32
learning_rate = 1e-2
label_smoothing = 0.0
temperature = 1.0

[quantization]
scheme = "int8x16"
samples = 32

[qat]
epochs = 2
soft_weight = 0.5

[firmware]
target = "mps2-an500"

[generation]
context = 32
block = 4
tokens = 12
prompts = ["the cat ", "a bird "]

[[generation.also]]
scheme = "int4x16"

[[generation.also]]
target = "microbit"
context = 20
block = 1

[verification]
samples = 1
"""


def grammar(characters: int = 40_000) -> str:
    """Sentences of a few words in a fixed order."""
    chance = np.random.default_rng(0)
    parts = (
        ("the", "a"), ("cat", "dog", "bird"), ("sees", "hears", "likes"), ("the", "a"),
        ("house", "tree", "river", "cat"),
    )  # fmt: skip
    text = ""
    while len(text) < characters:
        text += " ".join(str(chance.choice(part)) for part in parts) + ".\n"
    return text


def write(folder: Path, old: str = "", new: str = "") -> Path:
    assert old in MINIATURE
    path = folder / "miniature.toml"
    path.write_text(MINIATURE.replace(old, new, 1) if old else MINIATURE)
    return path


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('source = "grammar.txt"', 'source = "digits"', "[generation] needs text"),
        ('scheme = "int8x16"', 'scheme = "int8"', "'int8' is not for [generation]"),
        ('scheme = "int4x16"', 'scheme = "int4x8"', "'int4x8' is not for [generation]"),
        ('target = "mps2-an500"', 'target = "mps2-an500"\ntile = "least"', "tile"),
        ('prompts = ["the cat ", "a bird "]', "prompts = []", "prompts"),
        ("tokens = 12", "tokens = 12\ntemperature = 0.0", "temperature"),
        ("tokens = 12", "tokens = 12\ntop_p = 2.0", "top_p"),
        ("tokens = 12", "tokens = 12\nbeams = 2", "beams"),
        ('target = "microbit"', 'target = "microbat"', "microbat"),
        ('target = "microbit"\ncontext = 20\nblock = 1', 'scheme = "int4x16"', "one build twice"),
        ("samples = 32", "samples = 32\nwide_weights = 9.0", "wide_weights"),
        ("d_model = 24\nheads = 2", "d_model = 9\nheads = 3", "is odd"),
    ],
)
def test_a_fault_in_the_sections(tmp_path: Path, old: str, new: str, said: str) -> None:
    refuses(["run", write(tmp_path, old, new)], "miniature.toml", said)
    assert not (tmp_path / "out" / "stages").exists()


@pytest.mark.slow
def test_a_miniature_from_text_to_text(tmp_path: Path) -> None:
    (tmp_path / "grammar.txt").write_text(grammar())
    path = write(tmp_path)
    answer = picoformer("run", path, "--json")
    assert answer.code == 0, answer.err
    record = answer.record
    links = {(link["from"], link["to"]): link["equal"] for link in record["links"]}
    assert links["reference", "host"] and links["host", "mps2-an500"]
    student = next(stage for stage in record["stages"] if stage["name"] == "student")
    bits = {build["name"]: build for build in record["texts"]}
    assert set(bits) == {"mps2-an500, int8x16", "mps2-an500, int4x16", "microbit, int8x16"}
    first = bits["mps2-an500, int8x16"]
    assert first["float_bits_per_character"] == pytest.approx(student["bits_per_character"], rel=1e-4)
    assert first["float_bits_per_character"] < 0.8, "it has learned the grammar"
    for name, limit in (("mps2-an500, int8x16", 0.003), ("mps2-an500, int4x16", 0.02), ("microbit, int8x16", 0.003)):
        build = bits[name]
        assert build["bits_per_character"] <= build["float_bits_per_character"] * (1 + limit)
        assert build["device_bits_per_character"] > 0 and build["instructions_per_token"] > 1000
        for sample in build["samples"]:
            assert 1 <= sample["tokens"] <= 12 and sample["text"]
            assert sample["as_float"] == sample["tokens"] or sample["float_margin"] < 0.5
    assert bits["microbit, int8x16"]["ram"] < 16 * 1024
    verified = json.loads((tmp_path / "out" / "verify-int8x16-microbit-20.json").read_text())
    device, expected = (verified["text"][f"device{kind}_bits_per_character"] for kind in ("", "_expected"))
    assert device == pytest.approx(expected, rel=1e-12), "equal logits foretell equally"
    again = picoformer("run", path, "--json")
    assert again.record == record
    assert {line.split()[1] for line in again.err.splitlines()} == {"unchanged"}
    written = succeeds(
        "generate", tmp_path / "out" / "firmware", "--prompt", "the cat ", "--tokens", "12", "--greedy", "--json"
    ).record
    assert written["text"] == first["samples"][0]["text"]
