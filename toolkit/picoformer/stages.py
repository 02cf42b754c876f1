"""The stages before a build, each from files to files: data, teacher, student, pruned, factorized, ONNX."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.compress.settings import DistillSettings, FactorizeSettings, PruneSettings, TrainSettings
from picoformer.config import ModelSection
from picoformer.datasets import (
    Dataset,
    augment_digits,
    digits,
    load_dataset,
    next_tokens,
    python_documentation,
    save_dataset,
    split_text,
    synthetic_signal,
)
from picoformer.errors import ConfigError, DataError
from picoformer.files import is_first_process, save_arrays
from picoformer.metrics import judge
from picoformer.models.config import TransformerConfig

Progress = Callable[[str, int, int, float], None]
"""Label, steps done, steps in all, last loss."""
Notify = Callable[[str], None]
"""One line that somebody should read."""

SOURCES = ("digits", "synthetic_signal", "python_documentation")


@dataclass(frozen=True)
class TextSettings:
    """How text becomes a data set: windows of `sequence` tokens of a tokenizer ("character", "bpe" with `vocabulary`
    tokens, or the path of a tokenizer.json)."""

    tokenizer: str = "character"
    vocabulary: int = 512
    sequence: int = 64


def tokenizer_path(data: Path) -> Path:
    """Where the tokenizer of a data set of text lies: beside it."""
    return data.with_name("tokenizer.json")


def make_dataset(
    source: str, out: Path, seed: int = 0, test_fraction: float = 0.2, text: TextSettings | None = None
) -> dict[str, Any]:
    """Write the data set `source` (a name in SOURCES, the path of a .txt or of an .npz) to `out`; returns its sizes.

    The tokenizer of a text is written beside it.
    """
    if source == "python_documentation" or source.endswith(".txt"):
        return _make_text_dataset(source, out, seed, test_fraction, text or TextSettings())
    if source == "digits":
        data = digits(seed, test_fraction)
    elif source == "synthetic_signal":
        data = synthetic_signal(seed)
    elif source.endswith(".npz"):
        data = load_dataset(Path(source))
    else:
        raise ConfigError(f"unknown data source '{source}'; use {', '.join(SOURCES)} or the path of a .txt or .npz")
    save_dataset(data, out)
    return {"train": len(data.x_train), "test": len(data.x_test), "classes": data.classes}


def _make_text_dataset(source: str, out: Path, seed: int, test_fraction: float, wanted: TextSettings) -> dict[str, Any]:
    from picoformer.models.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer

    text = python_documentation() if source == "python_documentation" else _read_text(Path(source))
    train, test = split_text(text, seed, test_fraction)
    if wanted.tokenizer.endswith(".json"):
        tokenizer = load_tokenizer(Path(wanted.tokenizer))
    else:
        tokenizer = train_tokenizer("".join(train), wanted.tokenizer, wanted.vocabulary)
    parts = [[np.array(tokenizer.encode(block).ids, np.int64) for block in blocks] for blocks in (train, test)]
    characters = sum(map(len, test)) / sum(map(len, parts[1]))
    name = "python_documentation" if source == "python_documentation" else "text"
    data = next_tokens(parts[0], parts[1], wanted.sequence, tokenizer.get_vocab_size(), characters, name)
    save_tokenizer(tokenizer, tokenizer_path(out))
    save_dataset(data, out)
    sizes = {"train": len(data.x_train), "test": len(data.x_test), "classes": data.classes}
    return {**sizes, "characters": len(text), "characters_per_token": characters}


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give the path of a text") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start}); save the text as UTF-8") from error


def model_config(section: ModelSection, data: Dataset) -> TransformerConfig:
    """The configuration of a model for this data."""
    is_tokens = data.x_train.dtype.kind in "iu"
    vocabulary = 0
    if is_tokens:
        seen = int(max(data.x_train.max(), data.x_test.max())) + 1
        vocabulary = max(seen, data.classes) if data.labels_rows else seen
    return section.transformer(data.x_train.shape[1:], is_tokens, vocabulary, data.classes, data.labels_rows)


def _augmentation(data: Dataset, wanted: bool) -> Any:
    return augment_digits if wanted and data.name == "digits" else None


def _tick(progress: Progress | None, label: str) -> Any:
    return None if progress is None else lambda done, total, loss: progress(label, done, total, loss)


def _figures(model: Any, data: Dataset, **more: Any) -> dict[str, Any]:
    from picoformer.compress.count import count_macs, count_parameters

    return {
        **judge_model(model, data),
        "parameters": count_parameters(model.config),
        "macs": count_macs(model.config),
        **more,
    }


def _write(model: Any, out: Path, figures: dict[str, Any]) -> None:
    from picoformer.models.checkpoint import save_checkpoint

    # The same weights give the same file, however they came about.
    kept = {key: value for key, value in figures.items() if key not in ("resumed_at", "teacher_outputs")}
    save_checkpoint(model, out, {"figures": kept})


def judge_model(model: Any, data: Dataset) -> dict[str, Any]:
    """Accuracy and the other metrics of a model on the test part of its data."""
    from picoformer.compress.train import check_labels, predict

    check_labels(model, data.x_test, data.y_test)
    return judge(predict(model, data.x_test), data.y_test, data.characters_per_label).to_dict()


def train_model(
    data_path: Path,
    section: ModelSection,
    settings: TrainSettings,
    out: Path,
    augment: bool = True,
    progress: Progress | None = None,
    notify: Notify | None = None,
) -> dict[str, Any]:
    """Train a model from scratch on a data set; returns accuracy on the test part, parameters, MACs.

    The state of a run that was stopped lies beside `out` and is taken up; the curves stay there.
    """
    from picoformer.compress.train import train
    from picoformer.models.transformer import Transformer

    data = load_dataset(data_path)
    model = Transformer(model_config(section, data), seed=settings.seed)
    augmentation, tick, files = _augmentation(data, augment), _tick(progress, "training"), _files(out, notify)
    report = train(model, data.x_train, data.y_train, settings, augmentation, tick, files)
    return _finish(model, data, out, files, **_training_figures(report))


def distill_model(
    teacher_path: Path,
    data_path: Path,
    section: ModelSection,
    settings: DistillSettings,
    out: Path,
    augment: bool = True,
    progress: Progress | None = None,
    notify: Notify | None = None,
) -> dict[str, Any]:
    """Distill the teacher, a checkpoint or an ONNX file, into a new model of the shape `section`.

    Beside `out` lie the state of a run that was stopped, the curves, and in teacher-outputs what the teacher said.
    """
    from picoformer.compress.distill import distill
    from picoformer.compress.teacher import load_teacher
    from picoformer.models.transformer import Transformer

    teacher = load_teacher(teacher_path)
    data = load_dataset(data_path)
    student = Transformer(model_config(section, data), seed=settings.seed)
    augmentation, tick, files = _augmentation(data, augment), _tick(progress, "distilling"), _files(out, notify)
    report = distill(teacher, student, data.x_train, data.y_train, settings, augmentation, tick, files)
    return _finish(student, data, out, files, **_training_figures(report))


def generate_targets(
    teacher_path: Path, data_path: Path, settings: DistillSettings, out: Path, keep_text: bool = True
) -> dict[str, Any]:
    """Write a data set for sequence-level distillation: `settings.sequence_samples` windows that the teacher wrote,
    behind those of the training text or, without `keep_text`, in their place; the test part stays."""
    from picoformer.compress.generate import sequence_targets
    from picoformer.models.checkpoint import load_checkpoint

    data = load_dataset(data_path)
    teacher, _ = load_checkpoint(teacher_path)
    if not data.labels_rows or settings.sequence_samples < 1:
        raise ConfigError("sequences need a data set of text and sequence_samples of at least 1; set both")
    x, y = sequence_targets(teacher, data.x_train, settings)
    if keep_text:
        x, y = np.concatenate((data.x_train, x)), np.concatenate((data.y_train, y))
    save_dataset(replace(data, x_train=x, y_train=y), out)
    return {"train": len(x), "written": settings.sequence_samples, "test": len(data.x_test), "classes": data.classes}


def _files(out: Path, notify: Notify | None) -> Any:
    from picoformer.compress.training_state import RunFiles

    return RunFiles.beside(out) if notify is None else RunFiles.beside(out, notify)


def _finish(model: Any, data: Dataset, out: Path, files: Any, **more: Any) -> dict[str, Any]:
    """Write what a training made, by one process of several, and remove what it needed to go on; returns figures."""
    figures = _figures(model, data, **more)
    if is_first_process():
        _write(model, out, figures)
        files.finish()
    return figures


def _training_figures(report: Any) -> dict[str, Any]:
    """What the loop did, for a stage's figures."""
    figures = {"steps": report.steps, "loss": report.losses[-1], "resumed_at": report.resumed_at}
    if report.held_out:
        figures |= {"best_epoch": report.best_epoch, "held_out": report.held_out[report.best_epoch - 1]}
    if report.teacher_outputs:
        figures["teacher_outputs"] = report.teacher_outputs
    if report.initialised:
        figures["initialised"] = report.initialised
    return figures


def prune_model(
    checkpoint: Path,
    data_path: Path,
    settings: PruneSettings,
    out: Path,
    recovery: DistillSettings | None = None,
    teacher_path: Path | None = None,
    augment: bool = True,
    progress: Progress | None = None,
    notify: Notify | None = None,
) -> dict[str, Any]:
    """Prune, in rounds where the settings say so, then recover: from the teacher where there is one, else from the
    labels. Between rounds it recovers likewise, with the rates of `recovery`."""
    from picoformer.compress.prune import prune
    from picoformer.models.checkpoint import load_checkpoint

    data = load_dataset(data_path)
    model, _ = load_checkpoint(checkpoint)
    if settings.rounds > 1 and recovery is None:
        raise ConfigError(f"rounds = {settings.rounds} needs the section [recovery], which trains in between; add it")

    def recover(smaller: Any, _round: int) -> None:
        assert recovery is not None
        short = dataclasses.replace(recovery, epochs=settings.round_epochs)
        _recover(smaller, data, short, teacher_path, augment, progress)

    smaller, report = prune(
        model,
        data.x_train,
        data.y_train,
        settings,
        board_limits(settings),
        recover,
        lambda found: float(judge_model(found, data)[_metric(data)]),
    )
    before_recovery = report.rounds[-1].metric
    files = _files(out, notify)
    _recover(smaller, data, recovery, teacher_path, augment, progress, files)
    more = {f"{_metric(data)}_before_recovery": before_recovery, "bytes_int8": report.bytes_after}
    return _finish(smaller, data, out, files, **more, pruning=report.to_dict())


def _metric(data: Dataset) -> str:
    """The figure that a model for this data is judged by."""
    return "bits_per_character" if data.characters_per_label else "accuracy"


def board_limits(settings: PruneSettings) -> Any:
    """What the flash and RAM of `settings.board` leave for weights and activations; None without a board."""
    from picoformer.compress.budget import Limits
    from picoformer.targets import load_target

    if not settings.board:
        return None
    target = load_target(settings.board)
    if target.is_host:
        raise ConfigError(f"board = '{settings.board}' is this machine, which has no flash; name a board")
    flash, ram = target.region("code").length, target.region("data").length
    room = flash - settings.code_bytes
    if room <= 0:
        raise ConfigError(f"code_bytes = {settings.code_bytes:,}, but {target.name} has {flash:,} bytes of flash")
    return Limits(bytes=room, ram=ram - target.stack_bytes)


def prune_vocabulary_files(
    checkpoint: Path, tokenizer_file: Path, corpus: tuple[Path, ...], out: Path, tokenizer_out: Path, min_count: int = 1
) -> dict[str, Any]:
    """Keep the tokens that the texts `corpus` use, in a checkpoint and its tokenizer.json; returns sizes."""
    from picoformer.compress.vocabulary import prune_vocabulary
    from picoformer.models.checkpoint import load_checkpoint, save_checkpoint
    from picoformer.models.tokenizer import load_tokenizer, save_tokenizer

    model, _ = load_checkpoint(checkpoint)
    texts = [_read_text(path) for path in corpus]
    smaller = prune_vocabulary(model, load_tokenizer(tokenizer_file), texts, min_count)
    figures = smaller.report.to_dict()
    save_tokenizer(smaller.tokenizer, tokenizer_out)
    save_checkpoint(smaller.model, out, {"figures": figures})
    return figures


def factorize_model(
    checkpoint: Path,
    data_path: Path,
    settings: FactorizeSettings,
    out: Path,
    recovery: DistillSettings | None = None,
    teacher_path: Path | None = None,
    augment: bool = True,
    progress: Progress | None = None,
    notify: Notify | None = None,
) -> dict[str, Any]:
    """Make matrices into pairs of lower rank, then recover as after pruning."""
    from picoformer.compress.factorize import factorize
    from picoformer.compress.train import evaluate
    from picoformer.models.checkpoint import load_checkpoint

    data = load_dataset(data_path)
    model, _ = load_checkpoint(checkpoint)
    smaller, report = factorize(model, data.x_train, settings)
    before_recovery = evaluate(smaller, data.x_test, data.y_test)
    files = _files(out, notify)
    _recover(smaller, data, recovery, teacher_path, augment, progress, files)
    more = {"accuracy_before_recovery": before_recovery, "factorization": report.to_dict()}
    return _finish(smaller, data, out, files, **more)


def _recover(
    model: Any,
    data: Dataset,
    settings: DistillSettings | None,
    teacher_path: Path | None,
    augment: bool,
    progress: Progress | None,
    files: Any = None,
) -> None:
    """Train a compressed model further, in place; not at all without settings."""
    from picoformer.compress.distill import distill
    from picoformer.compress.teacher import load_teacher
    from picoformer.compress.train import train

    if settings is None:
        return
    augmentation, tick = _augmentation(data, augment), _tick(progress, "recovering")
    if teacher_path is None:
        train(model, data.x_train, data.y_train, settings, augmentation, tick, files)
    else:
        distill(load_teacher(teacher_path), model, data.x_train, data.y_train, settings, augmentation, tick, files)


def export_checkpoint(checkpoint: Path, out: Path, opset: int = 20) -> dict[str, Any]:
    """Export a checkpoint to ONNX (input 'x', output 'logits', batch 1)."""
    from picoformer.models.checkpoint import load_checkpoint
    from picoformer.models.export import export_onnx

    model, extra = load_checkpoint(checkpoint)
    export_onnx(model, out, opset=opset)
    return {"bytes": out.stat().st_size, **extra.get("figures", {})}


@contextlib.contextmanager
def onnx_file(model: Path) -> Iterator[Path]:
    """An ONNX file as it is; a checkpoint (.safetensors) exported to a temporary ONNX file of the same stem."""
    if model.suffix != ".safetensors":
        yield model
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{model.stem}.onnx"
        export_checkpoint(model, path)
        yield path


def write_samples(data_path: Path, calibration: Path, inputs: Path, count: int, seed: int = 0) -> None:
    """From a data set: `count` training samples for calibration, and the test part with its labels; input 'x'."""
    data = load_dataset(data_path)
    chosen = np.random.default_rng(seed).permutation(len(data.x_train))[:count]
    save_arrays(calibration, {"x": data.x_train[np.sort(chosen)]})
    characters = {"characters_per_label": np.array(data.characters_per_label)} if data.characters_per_label else {}
    save_arrays(inputs, {"x": data.x_test, "labels": data.y_test, **characters})


def write_training_samples(data_path: Path, out: Path) -> None:
    """The training part of a data set as samples of input 'x', with its labels."""
    data = load_dataset(data_path)
    save_arrays(out, {"x": data.x_train, "labels": data.y_train})


def torch_outputs(checkpoint: Path, x: Any, outputs: tuple[str, ...]) -> dict[str, Any]:
    """What the torch model of a checkpoint says to `x` (samples, …), under the name of the one output."""
    import torch

    from picoformer.models.checkpoint import load_checkpoint

    if len(outputs) != 1:
        raise DataError(f"a checkpoint has one output, the model has {len(outputs)}")
    model, _ = load_checkpoint(checkpoint)
    model.eval()
    with torch.no_grad():
        result = model(torch.from_numpy(np.ascontiguousarray(x))).numpy()
    return {outputs[0]: result[:, None]}
