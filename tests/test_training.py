"""The training loop: killed and resumed it ends the same, it stops when it should, several processes are one."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from command_line import picoformer, refuses, succeeds
from picoformer.compress.settings import TrainSettings
from picoformer.compress.train import RunFiles, bits_per_label, evaluate, fit, train
from picoformer.datasets import Dataset, save_dataset, synthetic_signal
from picoformer.errors import ConfigError, DataError, PicoformerError
from picoformer.models.transformer import Transformer
from training_script import CONFIG, run_distillation, signal_data
from training_script import SETTINGS as DISTILLATION

torch.set_num_threads(1)

SETTINGS = TrainSettings(epochs=4, batch=16, learning_rate=5e-3, checkpoint_steps=1)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthetic_signal(seed=0, n=88, seq=6, features=3, classes=3, noise=0.3)


def noisy(x: Any, rng: np.random.Generator) -> Any:
    return x + rng.normal(0, 0.1, x.shape).astype(np.float32)


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# --- stopped and resumed ------------------------------------------------------------------------------------


def test_killed_at_any_moment_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    """A distillation in a process of its own, SIGKILL, the rest in this one; against one that was left alone."""
    done, script = tmp_path / "steps", Path(__file__).with_name("training_script.py")
    process = subprocess.Popen([sys.executable, str(script), "killed", str(tmp_path), str(done)], env=environment())
    wanted, deadline = int(np.random.default_rng().integers(3, 40)), time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if done.exists() and done.stat().st_size >= wanted:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    lines: list[str] = []
    resumed, report = run_distillation(dataclasses.replace(RunFiles.beside(tmp_path / "s"), notify=lines.append))
    alone, whole = run_distillation(RunFiles.beside(tmp_path / "alone" / "s"))
    assert 0 < report.resumed_at < report.steps == whole.steps and "goes on after step" in lines[0]
    assert same(resumed, alone)
    assert report.losses == whole.losses


class Interrupt(Exception):
    pass


def interrupted(at: int) -> Any:
    def progress(done: int, _total: int, _loss: float) -> None:
        if done == at:
            raise Interrupt

    return progress


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("at", [1, 5, 6, 17, 20])
def test_stopped_at_a_step_it_ends_with_the_same_weights(
    data: Dataset, tmp_path: Path, at: int, precision: str
) -> None:
    """Batch order, augmentation, dropout, moments, held-out part, best weights and scaler all go on."""
    settings = dataclasses.replace(SETTINGS, holdout=0.2, patience=3, precision=precision, checkpoint_steps=2)

    def run(files: RunFiles, progress: Any = None) -> tuple[nn.Module, Any]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(18, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        other = nn.Linear(3, 3)

        def loss(x: Tensor, y: Tensor) -> dict[str, Tensor]:
            logits = other(model(x))
            return {"a": nn.functional.cross_entropy(logits.float(), y), "b": 1e-3 * logits.float().square().mean()}

        torch.manual_seed(at)  # what is outside must not matter
        report = fit(model, data.x_train, data.y_train, settings, loss, [other], noisy, progress, files)
        return nn.ModuleList((model, other)), report

    files = RunFiles(tmp_path / "state", tmp_path / "curves.json")
    with pytest.raises(Interrupt):
        run(files, interrupted(at))
    resumed, report = run(files)
    alone, whole = run(RunFiles(curves=tmp_path / "alone.json"))
    assert report.resumed_at == (at - 1) // 2 * 2
    assert same(resumed, alone) and report.losses == whole.losses and report.held_out == whole.held_out
    assert (tmp_path / "curves.json").read_text() == (tmp_path / "alone.json").read_text()


def test_the_state_of_another_run_is_left_with_a_line(data: Dataset, tmp_path: Path) -> None:
    lines: list[str] = []
    files = RunFiles(tmp_path / "state", notify=lines.append)

    def run(x: Any = data.x_train, start: int = 0, augment: Any = None, **change: Any) -> Any:
        model = Transformer(CONFIG, seed=start)
        return train(model, x, data.y_train, dataclasses.replace(SETTINGS, **change), augment, files=files)

    settings: dict[str, Any] = {"epochs": 1}
    assert run(**settings).resumed_at == 0 and not lines
    assert run(**settings).resumed_at == run(**settings, checkpoint_steps=5).resumed_at == 6
    assert all("goes on after step 6 of 6" in line for line in lines)
    state = (tmp_path / "state").read_bytes()
    for change in ({"learning_rate": 1e-3}, {"x": data.x_train * np.float32(2)}, {"start": 1}, {"augment": noisy}):
        lines.clear()
        (tmp_path / "state").write_bytes(state)
        assert run(**{**settings, **change}).resumed_at == 0
        assert len(lines) == 1 and "other settings, data or models" in lines[0]
    (tmp_path / "state").write_bytes((tmp_path / "state").read_bytes()[:100])
    lines.clear()
    assert run(**settings).resumed_at == 0
    assert len(lines) == 1 and "not the state of a training" in lines[0]
    files.finish()
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("what", ["order", "weights", "record"])
def test_a_doctored_state_is_refused_by_name(data: Dataset, tmp_path: Path, what: str) -> None:
    files = RunFiles(tmp_path / "state")
    settings = dataclasses.replace(SETTINGS, epochs=1)

    def run() -> Any:
        return train(Transformer(CONFIG, seed=0), data.x_train, data.y_train, settings, files=files)

    run()
    with safe_open(tmp_path / "state", framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in list(file.keys())}, dict(file.metadata())
    if what == "order":
        tensors["order"] += 10_000
    elif what == "weights":
        name = next(name for name in tensors if name.startswith("module."))
        tensors[name] = torch.zeros(3)
    else:
        metadata = {key: value.replace('"losses"', '"loses"') for key, value in metadata.items()}
    save_file(tensors, tmp_path / "state", metadata=metadata)
    with pytest.raises(PicoformerError, match=r"is broken .*delete it"):
        run()


# --- when it stops -------------------------------------------------------------------------------------------


def test_early_stopping_keeps_the_best_weights(data: Dataset) -> None:
    rng = np.random.default_rng(0)
    y = np.where(rng.random(len(data.y_train)) < 0.5, rng.integers(0, 3, len(data.y_train)), data.y_train)
    settings = TrainSettings(epochs=40, batch=16, learning_rate=2e-2, holdout=0.3, patience=3)
    model = Transformer(CONFIG)
    report = train(model, data.x_train, y, settings)
    assert report.stopped_early and len(report.held_out) == report.best_epoch + 3 < 40
    assert report.best_epoch == int(np.argmin(report.held_out)) + 1
    held = np.sort(np.random.default_rng([0, 2]).permutation(len(y))[: round(0.3 * len(y))])
    assert bits_per_label(model, data.x_train[held], y[held]) == pytest.approx(min(report.held_out))


def test_held_out_samples_are_not_trained_on(data: Dataset) -> None:
    seen: set[bytes] = set()

    def watch(x: Any, _rng: Any) -> Any:
        seen.update(sample.tobytes() for sample in x)
        return x

    train(Transformer(CONFIG), data.x_train, data.y_train, TrainSettings(epochs=1, holdout=0.25), augment=watch)
    assert len(seen) == 66


def test_a_loss_that_stays_hopeless_stops_the_run() -> None:
    model = nn.Linear(2, 2)
    x, y = np.zeros((64, 2), np.float32), np.zeros(64, np.int64)
    settings = TrainSettings(epochs=50, batch=32, warmup=0.1)
    bad = lambda inputs, _labels: 4.0 + model(inputs).square().mean()  # noqa: E731
    with pytest.raises(PicoformerError, match=r"diverged at step 31 of 100: .*4.* uniform guess.* 1; lower learning_r"):
        fit(model, x, y, settings, bad, guess=1.0)
    assert fit(model, x, y, settings, bad, guess=2.0).steps == 100


def test_one_class_and_patience_without_a_held_out_part_are_refused(data: Dataset) -> None:
    with pytest.raises(DataError, match="every label is 1"):
        train(Transformer(CONFIG), data.x_train, np.ones_like(data.y_train), SETTINGS)
    with pytest.raises(ConfigError, match=r"patience = 3 needs .*holdout"):
        TrainSettings(patience=3)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no GPU"):
            train(Transformer(CONFIG), data.x_train, data.y_train, TrainSettings(device="cuda"))


# --- how it computes and what it keeps -----------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_learns(data: Dataset, precision: str) -> None:
    half: set[torch.dtype] = set()
    model = Transformer(CONFIG)
    up: Any = model.layers[0]
    up.feed_forward.up.register_forward_hook(lambda _m, _i, output: half.add(output.dtype))
    settings = TrainSettings(epochs=20, batch=16, learning_rate=1e-2, precision=precision)
    train(model, data.x_train, data.y_train, settings)
    assert half == {getattr(torch, precision)}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert evaluate(model, data.x_test, data.y_test) > 0.7


def test_curves_hold_every_part_of_the_loss(data: Dataset, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(18, 3))

    def loss(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"labels": nn.functional.cross_entropy(model(x), y), "size": 0.1 * model(x).square().mean()}

    report = fit(
        model, data.x_train, data.y_train, dataclasses.replace(SETTINGS, holdout=0.1), loss,
        files=RunFiles(curves=tmp_path / "curves.json"),
    )  # fmt: skip
    curves = json.loads((tmp_path / "curves.json").read_text())
    assert [point["step"] for point in curves["points"]] == list(range(1, report.steps + 1))
    for point in curves["points"]:
        assert point["loss"] == pytest.approx(sum(point["parts"].values())) and set(point["parts"]) == {
            "labels",
            "size",
        }
    assert curves["losses"] == list(report.losses) and curves["held_out"] == list(report.held_out)


# --- several processes ----------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """For a process that runs training_script.py: this tree's package, one thread."""
    toolkit = Path(__file__).parents[1] / "toolkit"
    return {**os.environ, "PYTHONPATH": str(toolkit), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """The same loss and weights but for rounding, although the last batch leaves one without a sample; the teacher is
    asked once; one writes."""
    script = Path(__file__).with_name("training_script.py")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [sys.executable, *command, str(script), "together", str(tmp_path)],
        env=environment(), check=True, timeout=120, capture_output=True,
    )  # fmt: skip
    records = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert sorted(record["teacher_outputs"] for record in records) == ["computed", "read"]
    assert len(list((tmp_path / "teacher-outputs").iterdir())) == 1
    assert records[0]["losses"] == records[1]["losses"] and records[0]["weights"] == records[1]["weights"]
    assert len(signal_data().x_train) % DISTILLATION.batch == 1
    alone, report = run_distillation(RunFiles())
    np.testing.assert_allclose(records[0]["losses"], report.losses, rtol=1e-5)
    weights = np.concatenate([p.detach().numpy().ravel() for p in alone.parameters()])
    np.testing.assert_allclose(records[0]["weights"], weights, atol=1e-4)
    assert records[0]["wrote"] and not records[1]["wrote"]


# --- commands -------------------------------------------------------------------------------------------------

TOML = """
name = "tiny"
[data]
source = "data.npz"
[teacher]
layers = 1
d_model = 8
heads = 2
d_ff = 8
[teacher_training]
epochs = 2
[student]
layers = 1
d_model = 4
heads = 1
d_ff = 4
[distillation]
epochs = 2
relation_weight = 1.0
init_from_teacher = true
"""


def test_commands_leave_results_and_curves_and_take_up_what_was_stopped(data: Dataset, tmp_path: Path) -> None:
    save_dataset(data, tmp_path / "data.npz")
    (tmp_path / "tiny.toml").write_text(TOML)
    teacher, student = tmp_path / "teacher.safetensors", tmp_path / "student.safetensors"
    config = ["--config", tmp_path / "tiny.toml", "-o"]
    assert succeeds("train", tmp_path / "data.npz", *config, teacher, "--json").record["steps"] == 4
    words = ["distill", teacher, tmp_path / "data.npz", *config, student, "--json"]
    first = succeeds(*words).record
    assert first["teacher_outputs"] == "computed" and "embedding.frames.weight" in first["initialised"]["cut"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "data.npz", "tiny.toml", "teacher.safetensors", "teacher.curves.json", "student.safetensors",
        "student.curves.json", "teacher-outputs",
    }  # fmt: skip
    assert json.loads((tmp_path / "student.curves.json").read_text())["points"][-1]["step"] == 4
    weights = student.read_bytes()
    assert succeeds(*words).record["teacher_outputs"] == "read" and student.read_bytes() == weights
    (tmp_path / "student.resume").write_bytes(b"torn")
    answer = picoformer(*words)
    assert answer.code == 0 and student.read_bytes() == weights and not (tmp_path / "student.resume").exists()
    assert (
        answer.err == f"picoformer: {tmp_path / 'student.resume'}: not the state of a training; training starts anew\n"
    )
    words[1] = tmp_path / "none.onnx"
    refuses(words, "none.onnx: no such file; give the teacher's checkpoint or ONNX file")


def test_one_of_several_processes_is_silent_and_writes_nothing(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_dataset(data, tmp_path / "data.npz")
    (tmp_path / "tiny.toml").write_text(TOML)
    monkeypatch.setenv("RANK", "1")
    words = ["train", tmp_path / "data.npz", "--config", tmp_path / "tiny.toml", "-o", tmp_path / "teacher.safetensors"]
    assert succeeds(*words, "--json").out == ""
    assert not (tmp_path / "teacher.safetensors").exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    refuses(["run", tmp_path / "tiny.toml"], "run takes one process; start its commands `train` and `distill`")
