"""Distillation: each part of the loss teaches, teachers of every kind, answers kept on disk, bad pairs refused."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from picoformer.compress.distill import distill
from picoformer.compress.distill_losses import (
    attention_loss,
    attention_scores,
    relation_loss,
    spread_layers,
)
from picoformer.compress.generate import generate, sequence_targets
from picoformer.compress.initialise import init_from_teacher
from picoformer.compress.settings import DistillSettings, PruneSettings, TrainSettings
from picoformer.compress.teacher import load_teacher, observe
from picoformer.compress.train import IGNORED, RunFiles, predict, train
from picoformer.datasets import Dataset, augment_digits, save_dataset, synthetic_signal
from picoformer.errors import ConfigError, DataError, ModelError
from picoformer.models.checkpoint import save_checkpoint
from picoformer.models.config import TransformerConfig
from picoformer.models.export import export_onnx
from picoformer.models.transformer import Transformer
from picoformer.stages import prune_model, take_teacher

torch.set_num_threads(1)

CONFIG = TransformerConfig.uniform(layers=2, heads=4, d_ff=16, d_model=16, sequence=6, input_size=3, classes=3)
SMALL = TransformerConfig.uniform(layers=1, heads=2, d_ff=8, d_model=12, sequence=6, input_size=3, classes=3)
TEXT = TransformerConfig.uniform(
    layers=2, heads=4, d_ff=16, d_model=16, sequence=8, vocab_size=7, classes=7, causal=True, pooling="none", kv_heads=2
)
SETTINGS = DistillSettings(epochs=8, batch=32, learning_rate=5e-3)
LAYER_LOSSES: dict[str, Any] = {"hidden_weight": 1.0, "attention_weight": 1.0, "relation_weight": 1.0}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthetic_signal(seed=0, n=160, seq=6, features=3, classes=3, noise=0.3)


@pytest.fixture(scope="module")
def teacher(data: Dataset) -> Transformer:
    model = Transformer(CONFIG)
    train(model, data.x_train, data.y_train, TrainSettings(epochs=10, batch=32, learning_rate=5e-3))
    return model


@pytest.fixture(scope="module")
def text() -> tuple[np.ndarray, np.ndarray]:
    """Windows of counting upwards by 1 or 2, and what follows each token."""
    rng = np.random.default_rng(0)
    rows = (rng.integers(0, 7, (64, 1)) + rng.integers(1, 3, (64, 1)) * np.arange(9)) % 7
    return rows[:, :-1].copy(), rows[:, 1:].copy()


@pytest.fixture(scope="module")
def counter(text: Any) -> Transformer:
    """A decoder that has learnt to count."""
    model = Transformer(TEXT)
    train(model, *text, TrainSettings(epochs=30, batch=16, learning_rate=1e-2))
    return model


@pytest.fixture(scope="module")
def onnx_file(teacher: Transformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "t.onnx"
    export_onnx(teacher, path)
    return path


@pytest.mark.parametrize("weight", ["attention_weight", "relation_weight"])
def test_a_weighted_loss_draws_the_student_to_the_teacher(weight: str, teacher: Transformer, data: Dataset) -> None:
    x = torch.from_numpy(data.x_test)

    def left_over(value: float) -> float:
        student = Transformer(SMALL)
        distill(teacher, student, data.x_train, data.y_train, dataclasses.replace(SETTINGS, **{weight: value}))
        with torch.no_grad():
            ours, theirs = (observe(m, x, ["query.0", "key.0"]) for m in (student, teacher))
            last = observe(teacher, x, ["query.1", "key.1"])
            if weight == "relation_weight":
                return sum(
                    float(relation_loss(ours[f"{p}.0"], last[f"{p}.1"], 2, None, None)) for p in ("query", "key")
                )
            del theirs
            scores = [attention_scores(f["query.0"], f["key.0"], SMALL, 0) for f in (ours,)]
            wanted = attention_scores(last["query.1"], last["key.1"], CONFIG, 1)
            return float(attention_loss(scores[0], wanted, "kl", None, None))

    assert left_over(20.0) < 0.6 * left_over(0.0)


@pytest.mark.parametrize("change", [{}, {"attention_loss": "mse", "init_from_teacher": True}])
def test_a_decoder_learns_from_every_part(change: dict[str, Any], counter: Transformer, text: Any) -> None:
    (x, y), teacher = text, counter
    student = Transformer(dataclasses.replace(TEXT, heads=(2,), kv_heads=(1,), d_ff=(8,)))
    y = np.where(np.arange(8) < 2, IGNORED, y)
    settings = DistillSettings(epochs=12, batch=16, learning_rate=1e-2, soft_weight=1.0, **LAYER_LOSSES, **change)
    report = distill(teacher, student, x, y, settings)
    agreement = (predict(student, x).argmax(-1) == predict(teacher, x).argmax(-1))[:, 2:].mean()
    assert agreement > 0.9 and report.losses[-1] < report.losses[0]


# --- the student's first weights -----------------------------------------------------------------------------


def test_the_same_shape_starts_as_the_teacher(teacher: Transformer, data: Dataset) -> None:
    student = Transformer(CONFIG, seed=3)
    report = init_from_teacher(student, teacher)
    assert not report.cut and not report.left and len(report.copied) == len(list(student.parameters()))
    np.testing.assert_array_equal(predict(student, data.x_test), predict(teacher, data.x_test))


def test_first_weights_come_from_the_first_layer_on() -> None:
    """A student whose first layer never saw embeddings starts worse than a random one (measured on a decoder)."""
    assert spread_layers(2, 4) == (0, 3) and spread_layers(1, 4) == (0,) and spread_layers(3, 6) == (0, 2, 5)
    teacher, student = Transformer(CONFIG, seed=1), Transformer(dataclasses.replace(CONFIG, heads=(4,), d_ff=(16,)))
    init_from_teacher(student, teacher)
    given, taken = (m.state_dict()["layers.0.feed_forward.up.weight"] for m in (teacher, student))
    assert torch.equal(given, taken)


def test_what_does_nothing_is_what_is_cut(data: Dataset) -> None:
    """A layer, heads, columns of heads and neurons that do nothing: without them the student computes the same."""
    config = dataclasses.replace(CONFIG, heads=(4, 4, 4), d_ff=(16, 16, 16), kv_heads=(4, 4, 4), head_dim=6)
    model = Transformer(config, seed=5)
    with torch.no_grad():
        for index, layer in enumerate(model.layers):
            block: Any = layer
            if index == 1:
                block.attention.out.weight.zero_()
                block.feed_forward.down.weight.zero_()
            block.attention.out.weight[:, 6:18] = 0.0  # heads 1 and 2
            for projection in (block.attention.query, block.attention.value):
                projection.weight.view(4, 6, 16)[:, 1:3] = 0.0
                projection.bias.view(4, 6)[:, 1:3] = 0.0
            block.attention.query.weight *= math.sqrt(6 / 4)  # scores are divided by the root of head_dim
            block.attention.key.weight.view(4, 6, 16)[:, 1:3] *= 9.0
            block.feed_forward.down.weight[:, ::2] = 0.0
    whole = predict(model, data.x_test)
    with torch.no_grad():
        for layer in model.layers:
            block = layer
            block.attention.query.weight /= math.sqrt(6 / 4)
    smaller = dataclasses.replace(CONFIG, heads=(2, 2), d_ff=(8, 8), head_dim=4)
    student = Transformer(smaller, seed=6)
    report = init_from_teacher(student, model, (0, 2))
    assert "layers.1.attention.query.weight" in report.cut and "head.weight" in report.copied and not report.left
    np.testing.assert_allclose(predict(student, data.x_test), whole, atol=2e-5)


@pytest.mark.parametrize("change", [{"head_dim": 3}, {"heads": (2, 2), "kv_heads": (2, 2)}, {"kv_heads": (1, 1)}])
def test_the_teacher_stays_as_it_is(change: dict[str, Any]) -> None:
    teacher = Transformer(dataclasses.replace(CONFIG, kv_heads=(2, 2)), seed=1)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    report = init_from_teacher(Transformer(dataclasses.replace(teacher.config, **change), seed=2), teacher)
    assert "layers.0.attention.query.weight" in (*report.cut, *report.copied)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_shared_keys_and_values_are_group_means() -> None:
    config = dataclasses.replace(CONFIG, kv_heads=(2, 2))
    teacher, student = Transformer(CONFIG, seed=1), Transformer(config, seed=2)
    report = init_from_teacher(student, teacher)
    given, taken = (m.layers[0].attention.key.weight for m in (teacher, student))  # type: ignore[union-attr]
    torch.testing.assert_close(taken, given.reshape(2, 2, 4, 16).mean(1).reshape(8, 16))  # type: ignore[operator]
    assert "layers.0.attention.key.weight" in report.cut and "layers.0.attention.query.weight" in report.copied


def test_what_cannot_be_taken_over_is_left() -> None:
    wider = dataclasses.replace(CONFIG, heads=(8, 2), d_ff=(32, 8), ranks=((0,) * 6, (0, 0, 0, 0, 3, 0)))
    student = Transformer(wider, seed=2)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    report = init_from_teacher(student, Transformer(CONFIG))
    assert "layers.0.attention.query.weight" in report.left and "layers.1.feed_forward.up.reduce.weight" in report.left
    assert "layers.1.attention.query.weight" in report.cut and "layers.0.attention_norm.weight" in report.copied
    after = student.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in report.left)
    assert sorted((*report.copied, *report.cut, *report.left)) == sorted(dict(student.named_parameters()))


def test_a_student_wider_than_its_teacher_is_refused() -> None:
    wider = Transformer(dataclasses.replace(CONFIG, d_model=24))
    with pytest.raises(ConfigError, match=r"d_model = 24 is more than the teacher's 16.*set init_from_teacher = false"):
        init_from_teacher(wider, Transformer(CONFIG))


# --- teachers and their answers ------------------------------------------------------------------------------


class Counting(nn.Module):
    """Any module as a teacher; counts the samples it was asked about."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.asked: list[int] = []

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        self.asked.append(len(x))
        return (self.inner(x),)


def says(model: Transformer, data: Dataset) -> np.ndarray:
    """What it has become. (Its key biases change nothing, so Adam makes them out of rounding errors.)"""
    return predict(model, data.x_test)


def test_answers_are_computed_once(teacher: Transformer, data: Dataset, tmp_path: Path) -> None:
    files = RunFiles(teacher_outputs=tmp_path)

    def run(files: RunFiles, x: Any = data.x_train, **change: Any) -> tuple[np.ndarray, str, int]:
        counting, student = Counting(teacher), Transformer(SMALL)
        settings = dataclasses.replace(SETTINGS, epochs=2, **change)
        report = distill(counting, student, x, data.y_train, settings, files=files)
        return says(student, data), report.teacher_outputs, sum(counting.asked) - 1  # one sample to try the teacher

    direct, origin, asked = run(RunFiles())
    assert origin == "on the fly" and asked == 320
    first, origin, asked = run(files)
    assert origin == "computed" and asked == 160
    np.testing.assert_allclose(first, direct, atol=1e-5)
    again, origin, asked = run(files)
    assert origin == "read" and asked == 0 and (again == first).all()
    half, origin, asked = run(files, cache_type="float16")
    assert origin == "computed" and asked == 160 and np.abs(half - first).max() < 1e-3
    assert run(files, x=data.x_train + np.float32(1))[1:] == ("computed", 160)
    for file in tmp_path.rglob("logits.0.npy"):
        file.write_bytes(file.read_bytes()[:200])
    again, origin, asked = run(files)
    assert origin == "computed" and asked == 160 and (again == first).all()
    files = RunFiles(teacher_outputs=tmp_path / "alone")
    run(files)
    (file,) = (tmp_path / "alone").rglob("logits.0.npy")
    np.save(file, np.load(file).astype(np.float64))
    assert run(files)[1:] == ("computed", 160), "of another type than it says"
    np.save(file, np.load(file)[:, :1])
    with pytest.raises(DataError, match="remove teacher-outputs"):
        run(files)


def test_layers_are_kept_too_and_views_are_frozen(teacher: Transformer, data: Dataset, tmp_path: Path) -> None:
    calls = []

    def noisy(x: Any, rng: np.random.Generator) -> Any:
        calls.append(len(x))
        return x + rng.normal(0, 0.1, x.shape).astype(np.float32)

    def run(**change: Any) -> Any:
        student = Transformer(SMALL)
        settings = dataclasses.replace(SETTINGS, epochs=3, **LAYER_LOSSES, **change)
        files = RunFiles(teacher_outputs=tmp_path)
        return distill(teacher, student, data.x_train, data.y_train, settings, noisy, files=files), says(student, data)

    report, first = run(views=3)
    assert report.teacher_outputs == "computed" and calls == [160, 160]
    names = {file.name for file in tmp_path.rglob("*.npy")}
    assert names == {f"{part}.1.{v}.npy" for part in ("hidden", "query", "key", "value") for v in range(3)} | {
        f"logits.{v}.npy" for v in range(3)
    }
    report, again = run(views=3)
    assert report.teacher_outputs == "read" and (first == again).all()
    assert run()[0].teacher_outputs == "on the fly"


def test_a_file_teaches_as_its_model(teacher: Transformer, data: Dataset, onnx_file: Path, tmp_path: Path) -> None:
    save_checkpoint(teacher, tmp_path / "t.safetensors")
    found = []
    for source in (teacher, tmp_path / "t.safetensors", onnx_file):
        student = Transformer(SMALL)
        distill(source, student, data.x_train, data.y_train, dataclasses.replace(SETTINGS, epochs=2))
        found.append(says(student, data))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], found[2], atol=1e-3)
    settings = dataclasses.replace(SETTINGS, epochs=2)
    still = lambda x, _rng: x  # noqa: E731
    with pytest.raises(ConfigError, match=r"t\.onnx: .*set views = 8.* augment = false"):
        distill(onnx_file, Transformer(SMALL), data.x_train, data.y_train, settings, still)
    student = Transformer(SMALL)
    viewed = dataclasses.replace(settings, views=2)
    report = distill(onnx_file, student, data.x_train, data.y_train, viewed, still)
    assert report.teacher_outputs == "computed"
    np.testing.assert_allclose(says(student, data), found[2], atol=1e-6)
    for key in LAYER_LOSSES:
        with pytest.raises(ConfigError, match=f"{key} looks inside the teacher, and an ONNX file .* set {key} = 0"):
            distill(
                onnx_file, Transformer(SMALL), data.x_train, data.y_train,
                dataclasses.replace(SETTINGS, **{key: 1.0}),
            )  # fmt: skip


def test_hidden_states_of_an_onnx_file(teacher: Transformer, data: Dataset, tmp_path: Path) -> None:
    class Shown(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            logits, hidden = teacher.forward_with_hidden(x)
            return (*hidden, logits)

    torch.onnx.export(
        Shown(), (torch.from_numpy(data.x_train[:1]),), str(tmp_path / "t.onnx"), dynamo=True, verbose=False,
        input_names=["x"], output_names=["hidden_0", "hidden_1", "logits"],
    )  # fmt: skip
    settings = dataclasses.replace(SETTINGS, epochs=2, hidden_weight=1.0)
    found = []
    for source in (teacher, tmp_path / "t.onnx"):
        student = Transformer(SMALL)
        distill(source, student, data.x_train, data.y_train, settings)
        found.append(says(student, data))
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)


# --- sequences -----------------------------------------------------------------------------------------------


def test_greedy_sequences_are_the_likeliest_tokens() -> None:
    model = Transformer(TEXT, seed=4)
    prompts = np.array([[1, 2], [3, 4], [5, 6]])
    found = generate(model, prompts, 12, temperature=0.0)
    assert found.shape == (3, 12) and (found[:, :2] == prompts).all()
    for position in range(2, 12):
        with torch.no_grad():
            logits = model(torch.from_numpy(found[:, max(0, position - 8) : position]))[:, -1]
        assert (found[:, position] == logits.argmax(-1).numpy()).all()
    drawn = generate(model, np.repeat(prompts, 100, 0), 4, temperature=1.0, seed=1)
    assert (drawn == generate(model, np.repeat(prompts, 100, 0), 4, temperature=1.0, seed=1)).all()
    with torch.no_grad():
        shares = torch.softmax(model(torch.from_numpy(prompts[:1]))[0, -1], -1).numpy()
    counts = np.bincount(drawn[:100, 2], minlength=7) / 100
    assert np.abs(counts - shares).max() < 0.16  # three deviations of a share of 1/2 in 100 draws


def test_the_student_learns_from_what_the_teacher_wrote(counter: Transformer, text: Any) -> None:
    """The teacher counts upwards; the training text for the student is noise, but what the teacher writes is not."""
    (x, y), teacher = text, counter
    settings = DistillSettings(
        epochs=15, batch=16, learning_rate=1e-2, soft_weight=0.0, sequence_samples=64, sequence_prompt=2,
        sequence_temperature=0.0,
    )  # fmt: skip
    more, labels = sequence_targets(teacher, x, settings)
    assert more.shape == labels.shape == (64, 8) and (labels[:, :1] == IGNORED).all()
    assert (more[:, 1:] == labels[:, :-1])[:, 1:].all() and (labels[:, 1:] != IGNORED).all()
    prompts = {tuple(row) for row in x[:, :2].tolist()}
    assert all(tuple(row) in prompts for row in more[:, :2].tolist())
    student = Transformer(dataclasses.replace(TEXT, heads=(2,), kv_heads=(2,), d_ff=(8,)))
    nothing = np.full_like(y, IGNORED)
    nothing[0, 0] = y[0, 0]
    nothing[1, 0] = y[1, 0]
    distill(teacher, student, x, nothing, settings)
    guess = predict(student, x).argmax(-1)
    assert (guess == predict(teacher, x).argmax(-1))[:, 1:].mean() > 0.8


# --- pairs that do not go together ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("teacher_change", "settings", "error", "message"),
    [
        ({"classes": 4}, {}, DataError, "teacher Transformer has 4 classes, data and student have 3; distill on"),
        ({"input_size": 5}, {}, DataError, r"takes samples \[6, 5\], the data has \[6, 3\]"),
        ({"sequence": 4}, {}, DataError, r"takes samples \[4, 3\], the data has \[6, 3\]"),
        ({"pooling": "none"}, {}, DataError, r"gives logits \[1, 6, 3\] to one sample, student \[1, 3\]"),
        ({"sequence": 8}, {"relation_weight": 1.0}, DataError, "has 8 rows, data and student have 6; give both"),
        ({}, {"layer_map": (2,)}, ConfigError, r"layer_map\[0\] = 2; the teacher has 0 to 1"),
        ({}, {"layer_map": (0, 1)}, ConfigError, "layer_map has 2 entries; give one for each of 1"),
        ({"heads": (3, 3)}, {"attention_weight": 1.0}, ConfigError, "3 heads, the student's layer 0 has 2"),
        ({}, {"relation_weight": 1.0, "relation_heads": 5}, ConfigError, "relation_heads = 5 does not divide"),
        ({}, {"relation_weight": 1.0, "relation_layer": 2}, ConfigError, "relation_layer = 2; the teacher has 0 to 1"),
        ({}, {"sequence_samples": 4}, ConfigError, "written by a language model"),
    ],
)
def test_teachers_and_settings_that_do_not_fit(
    teacher_change: dict[str, Any], settings: dict[str, Any], error: type[Exception], message: str, data: Dataset
) -> None:
    config = {key: (value,) * 2 if key == "d_ff" else value for key, value in teacher_change.items()}
    with pytest.raises(error, match=message):
        distill(
            Transformer(dataclasses.replace(CONFIG, **config)), Transformer(SMALL), data.x_train, data.y_train,
            dataclasses.replace(SETTINGS, **settings),
        )  # fmt: skip


def test_modules_vocabularies_labels_and_files_that_do_not_fit(
    teacher: Transformer, data: Dataset, text: Any, onnx_file: Path, tmp_path: Path
) -> None:
    x, y = data.x_train, data.y_train
    student = Transformer(SMALL)
    with pytest.raises(DataError, match="teacher Linear does not take samples"):
        distill(nn.Linear(4, 3), student, x, y, SETTINGS)
    with pytest.raises(DataError, match=r"teacher Linear gives logits \[1, 6, 3\]"):
        distill(nn.Linear(3, 3), student, x, y, SETTINGS)
    inside = dataclasses.replace(SETTINGS, hidden_weight=1.0)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(18, 3))
    with pytest.raises(ConfigError, match="hidden_weight looks inside the teacher, and a Sequential shows"):
        distill(flat, student, x, y, inside)
    with pytest.raises(ConfigError, match="no layers to start from"):
        distill(flat, student, x, y, dataclasses.replace(SETTINGS, init_from_teacher=True))
    with pytest.raises(DataError, match=r"vocabulary of 9 tokens, data and student have 7; make .* --tokenizer"):
        distill(Transformer(dataclasses.replace(TEXT, vocab_size=9)), Transformer(TEXT), *text, SETTINGS)
    with pytest.raises(DataError, match=r"no labels, and soft_weight = 0\.7"):
        distill(teacher, student, x, None, SETTINGS)
    with pytest.raises(DataError, match="every label is 1"):
        distill(teacher, student, x, np.ones_like(y), SETTINGS)
    with pytest.raises(DataError, match="0 samples"):
        distill(teacher, student, x[:0], y[:0], SETTINGS)
    distill(teacher, student, x, None, dataclasses.replace(SETTINGS, epochs=1, soft_weight=1.0))
    for name in ("none.safetensors", "none.onnx"):
        with pytest.raises(ModelError, match=f"{name}: no such file; give the teacher's"):
            load_teacher(tmp_path / name)
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"bad\.onnx: onnxruntime cannot load it"):
        load_teacher(tmp_path / "bad.onnx")
    short = Transformer(dataclasses.replace(SMALL, sequence=4))
    with pytest.raises(
        DataError,
        match=r"t\.onnx: takes tensor\(float\) \[1, 6, 3\], the data has float32 \[1, 4.*; use data of its shape",
    ):
        distill(onnx_file, short, np.ascontiguousarray(x[:, :4]), y, SETTINGS)


def test_what_a_teachers_file_does_not_fit_is_said_with_its_name(text: Any, tmp_path: Path) -> None:
    """Windows of another length, other classes, other tokens: what the data has, what the teacher has, and the mend."""
    x, y = text
    path, exported = tmp_path / "taught.safetensors", tmp_path / "taught.onnx"
    model = Transformer(dataclasses.replace(TEXT, sequence=5))
    save_checkpoint(model, path)
    export_onnx(model, exported)
    with pytest.raises(
        DataError, match=r"taught\.safetensors takes at most 5 tokens a sample, .* has 8; .*--sequence 5`"
    ):
        distill(path, Transformer(TEXT), x, y, SETTINGS)
    with pytest.raises(DataError, match=r"taught\.onnx: takes .*\[1, 5\], the data has .*\[1, 8\]; .*--sequence 5`"):
        distill(exported, Transformer(TEXT), x, y, SETTINGS)
    brief = Transformer(dataclasses.replace(TEXT, sequence=4))
    with pytest.raises(DataError, match=r"taught\.safetensors has 5 rows, data and student have 4; .* --sequence 5`"):
        distill(path, brief, x[:, :4].copy(), y[:, :4].copy(), dataclasses.replace(SETTINGS, hidden_weight=1.0))
    distill(path, brief, x[:, :4].copy(), y[:, :4].copy(), dataclasses.replace(SETTINGS, epochs=1))
    labelled = dataclasses.replace(TEXT, causal=False, pooling="mean", classes=4)
    save_checkpoint(Transformer(labelled), path)
    student = Transformer(dataclasses.replace(labelled, classes=3))
    with pytest.raises(DataError, match=r"taught\.safetensors has 4 classes, data and student have 3; .* this data"):
        distill(path, student, x, y[:, 0] % 3, SETTINGS)

    numbers = Dataset(x[..., None].astype(np.float32), y[:, 0], x[..., None].astype(np.float32), y[:, 0], "numbers", 7)
    more = Dataset(x + 3, y[:, 0], x + 3, y[:, 0], "more", 7)
    for data, message in ((numbers, "takes tokens, the data holds numbers"), (more, "takes tokens 0 to 6, .* 3 to 9")):
        save_dataset(data, tmp_path / "data.npz")
        for stage in (
            lambda out: take_teacher(path, tmp_path / "data.npz", out),
            lambda out: prune_model(path, tmp_path / "data.npz", PruneSettings(samples=8), out),
        ):
            with pytest.raises(DataError, match=rf"taught\.safetensors {message}"):
                stage(tmp_path / "out.safetensors")


def test_outputs_too_large_for_float16_are_refused(data: Dataset, tmp_path: Path) -> None:
    loud = nn.Sequential(nn.Flatten(), nn.Linear(18, 3))
    with torch.no_grad():
        loud[1].weight.mul_(1e6)
    settings = dataclasses.replace(SETTINGS, cache_type="float16")
    with pytest.raises(DataError, match='not finite near sample 0; set cache_type = "float32"'):
        distill(
            loud, Transformer(SMALL), data.x_train, data.y_train, settings, files=RunFiles(teacher_outputs=tmp_path)
        )
    assert list(tmp_path.iterdir()) == []


def test_augmentation_of_frozen_views_starts_with_the_samples_themselves() -> None:
    from picoformer.compress.samples import frozen_views

    x = np.random.default_rng(0).random((4, 8, 8)).astype(np.float32)
    views = frozen_views(x, augment_digits, 3, seed=0)
    assert views[0] is x and len(views) == 3 and not np.array_equal(views[1], views[2])
    again = frozen_views(x, augment_digits, 3, seed=0)
    assert all(np.array_equal(a, b) for a, b in zip(views, again, strict=True))
