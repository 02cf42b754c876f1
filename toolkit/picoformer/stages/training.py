"""The stages that train, each from files to files: teacher, student, recovery."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.compress.settings import DistillSettings, TrainSettings
from picoformer.config import ModelSection
from picoformer.datasets import Dataset, augment_digits, load_dataset, save_dataset
from picoformer.errors import ConfigError, DataError
from picoformer.files import atomic_write_bytes, is_first_process
from picoformer.metrics import judge
from picoformer.stages.data import check_tokenizer, model_config

Progress = Callable[[str, int, int, float], None]
"""Label, steps done, steps in all, last loss."""
Notify = Callable[[str], None]
"""One line that somebody should read."""

TAKEN_BATCH = 128
"""Samples at a time of a teacher that is judged."""


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
    augmentation, tick, files = _augmentation(data, augment), _tick(progress, "training"), run_files(out, notify)
    report = train(model, data.x_train, data.y_train, settings, augmentation, tick, files)
    return finish(model, data, out, files, **_training_figures(report))


def take_teacher(path: Path, data_path: Path, out: Path) -> dict[str, Any]:
    """Take a teacher that exists, a checkpoint or an ONNX file, and judge it on the test part of a data set."""
    import torch

    from picoformer.compress.count import count_macs, count_parameters
    from picoformer.compress.teacher import check_takes, load_teacher
    from picoformer.frontends.onnx_load import self_contained

    teacher, data = load_teacher(path), load_dataset(data_path)
    check_tokenizer(path, teacher.tokenizer, data)
    if teacher.config is not None:
        check_takes(str(path), teacher.config, data.x_test)
    run_files(out, None).curves.unlink(missing_ok=True)  # of an earlier run, which trained one
    atomic_write_bytes(out, self_contained(path) if path.suffix == ".onnx" else path.read_bytes())
    parts = []
    with torch.no_grad():
        for start in range(0, len(data.x_test), TAKEN_BATCH):
            answers = teacher.answer(torch.from_numpy(data.x_test[start : start + TAKEN_BATCH]), ("logits",))
            parts.append(answers["logits"].numpy())
    logits = np.concatenate(parts)
    if logits.shape[:-1] != data.y_test.shape or logits.shape[-1] != data.classes:
        raise DataError(
            f"{path}: gives {list(logits.shape[1:])} a sample, the data has {data.classes} classes"
            f"{' for every row' if data.labels_rows else ''}; take a teacher of the same data"
        )
    config = teacher.config
    return {
        **judge(logits, data.y_test, data.characters_per_label).to_dict(),
        "parameters": None if config is None else count_parameters(config),
        "macs": None if config is None else count_macs(config),
    }


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

    teacher, data = load_teacher(teacher_path), load_dataset(data_path)
    check_tokenizer(teacher_path, teacher.tokenizer, data)
    student = Transformer(model_config(section, data), seed=settings.seed)
    augmentation, tick, files = _augmentation(data, augment), _tick(progress, "distilling"), run_files(out, notify)
    report = distill(teacher, student, data.x_train, data.y_train, settings, augmentation, tick, files)
    return finish(student, data, out, files, **_training_figures(report))


def generate_targets(
    teacher_path: Path, data_path: Path, settings: DistillSettings, out: Path, keep_text: bool = True
) -> dict[str, Any]:
    """Write a data set for sequence-level distillation: `settings.sequence_samples` windows that the teacher wrote,
    behind those of the training text or, without `keep_text`, in their place; the test part stays."""
    from picoformer.compress.generate import sequence_targets
    from picoformer.models.checkpoint import load_checkpoint, trained_tokenizer

    data = load_dataset(data_path)
    teacher, extra = load_checkpoint(teacher_path)
    check_tokenizer(teacher_path, trained_tokenizer(extra), data)
    if not data.labels_rows or settings.sequence_samples < 1:
        raise ConfigError("sequences need a data set of text and sequence_samples of at least 1; set both")
    x, y = sequence_targets(teacher, data.x_train, settings)
    if keep_text:
        x, y = np.concatenate((data.x_train, x)), np.concatenate((data.y_train, y))
    save_dataset(replace(data, x_train=x, y_train=y), out)
    return {"train": len(x), "written": settings.sequence_samples, "test": len(data.x_test), "classes": data.classes}


def recover(
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
        if files is not None:
            files.curves.unlink(missing_ok=True)  # of an earlier run, which trained
        return
    augmentation, tick = _augmentation(data, augment), _tick(progress, "recovering")
    if teacher_path is None:
        train(model, data.x_train, data.y_train, settings, augmentation, tick, files)
    else:
        distill(load_teacher(teacher_path), model, data.x_train, data.y_train, settings, augmentation, tick, files)


def _figures(model: Any, data: Dataset, **more: Any) -> dict[str, Any]:
    from picoformer.compress.count import count_macs, count_parameters

    return {
        **judge_model(model, data),
        "parameters": count_parameters(model.config),
        "macs": count_macs(model.config),
        **more,
    }


def _write(model: Any, out: Path, figures: dict[str, Any], tokenizer: str) -> None:
    from picoformer.models.checkpoint import save_checkpoint

    # The same weights give the same file, however they came about.
    kept = {key: value for key, value in figures.items() if key not in ("resumed_at", "teacher_outputs")}
    save_checkpoint(model, out, {"figures": kept, **({"tokenizer": tokenizer} if tokenizer else {})})


def _augmentation(data: Dataset, wanted: bool) -> Any:
    return augment_digits if wanted and data.name == "digits" else None


def _tick(progress: Progress | None, label: str) -> Any:
    return None if progress is None else lambda done, total, loss: progress(label, done, total, loss)


def run_files(out: Path, notify: Notify | None) -> Any:
    """The RunFiles of a training whose result is `out`."""
    from picoformer.compress.training_state import RunFiles

    return RunFiles.beside(out) if notify is None else RunFiles.beside(out, notify)


def finish(model: Any, data: Dataset, out: Path, files: Any, **more: Any) -> dict[str, Any]:
    """Write what a training made, by one process of several, and remove what it needed to go on; returns figures."""
    figures = _figures(model, data, **more)
    if is_first_process():
        _write(model, out, figures, data.tokenizer)
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
