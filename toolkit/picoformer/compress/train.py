"""Training from labels, and how well a model does: accuracy, bits per label, predictions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from picoformer.compress.distill_losses import full
from picoformer.compress.loop import Loss, Progress, TrainReport, run_loop, schedule, use_threads
from picoformer.compress.samples import Augment, Samples
from picoformer.compress.settings import TrainSettings
from picoformer.compress.training_state import RunFiles
from picoformer.errors import DataError
from picoformer.metrics import IGNORED
from picoformer.models.transformer import Transformer

__all__ = [
    "EVALUATION_BATCH",
    "IGNORED",
    "Augment",
    "Loss",
    "Progress",
    "RunFiles",
    "TrainReport",
    "bits_per_label",
    "check_labels",
    "check_several_labels",
    "cross_entropy",
    "evaluate",
    "fit",
    "predict",
    "schedule",
    "train",
    "use_threads",
]

EVALUATION_BATCH = 128


def train(
    model: Transformer,
    x: NDArray[Any],
    y: NDArray[np.int64],
    settings: TrainSettings,
    augment: Augment | None = None,
    progress: Progress | None = None,
    files: RunFiles | None = None,
) -> TrainReport:
    """Train `model` in place on samples `x` (n, *input) with labels `y` (n,), or (n, rows) for a model that labels
    every row, by smoothed cross-entropy.

    `augment` sees each batch as numpy. The same seeds give the same weights. Raises DataError for data that
    does not fit the model and PicoformerError when the loss stops being a number or stays hopeless.
    """
    check_labels(model, x, y)
    check_several_labels(y)

    def loss(inputs: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(model(inputs), labels, settings.label_smoothing)

    def judge(chosen: NDArray[np.int64]) -> float:
        return bits_per_label(model, x[chosen], y[chosen], settings.threads)

    return run_loop(
        model, Samples(x, y, augment), settings, loss, progress=progress, files=files,
        guess=math.log(model.config.classes), judge=judge, identity="train",
    )  # fmt: skip


def fit(
    model: nn.Module,
    x: NDArray[Any],
    y: NDArray[Any],
    settings: TrainSettings,
    loss: Loss,
    extra: Iterable[nn.Module] = (),
    augment: Augment | None = None,
    progress: Progress | None = None,
    files: RunFiles | None = None,
    guess: float = math.inf,
) -> TrainReport:
    """Train any module in place by any loss(inputs, labels), a mean over the batch or a dict of such means.

    Modules in `extra` (a projection that the loss uses) are trained along. The model is left in eval mode. With
    `guess`, the loss of a uniform guess, a run that stays far above it is stopped. See `run_loop`.
    """
    return run_loop(model, Samples(x, y, augment), settings, loss, extra, progress, files, guess)


def evaluate(model: Transformer, x: NDArray[Any], y: NDArray[np.int64], threads: int = 1) -> float:
    """The fraction of labels whose logit is the largest; labels that are IGNORED do not count. Raises DataError."""
    check_labels(model, x, y)
    correct = sum(int((part.argmax(axis=-1) == labels).sum()) for part, labels in _in_batches(model, x, y, threads))
    return correct / int((y != IGNORED).sum())


def bits_per_label(model: Transformer, x: NDArray[Any], y: NDArray[np.int64], threads: int = 1) -> float:
    """Mean cross-entropy of the labels in bits; for a language model, bits per token. Raises DataError."""
    check_labels(model, x, y)
    total = 0.0
    for logits, labels in _in_batches(model, x, y, threads):
        flat = torch.from_numpy(logits).flatten(0, -2)
        wanted = torch.from_numpy(labels).flatten()
        total += float(functional.cross_entropy(flat, wanted, ignore_index=IGNORED, reduction="sum"))
    return total / math.log(2.0) / int((y != IGNORED).sum())


def _in_batches(
    model: Transformer, x: NDArray[Any], y: NDArray[np.int64], threads: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    for start in range(0, len(x), EVALUATION_BATCH):
        stop = start + EVALUATION_BATCH
        yield predict(model, x[start:stop], threads), y[start:stop]


def predict(model: Transformer, x: NDArray[Any], threads: int = 1) -> NDArray[np.float32]:
    """The outputs of `model` in eval mode for samples `x` (n, *input), in batches: (n, classes) or (n, rows,
    classes)."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    with use_threads(threads), torch.no_grad():
        parts = [
            model(torch.from_numpy(x[start : start + EVALUATION_BATCH]).to(device)).cpu().numpy()
            for start in range(0, len(x), EVALUATION_BATCH)
        ]
    model.train(training)
    logits: NDArray[np.float32] = np.concatenate(parts)
    return logits


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Mean cross-entropy of labels (batch,) or (batch, rows), those that are IGNORED left out (0 when all are), the
    target spread by `label_smoothing` (Szegedy et al. 2016)."""
    flat, wanted = full(logits).flatten(0, -2), labels.flatten()
    total = functional.cross_entropy(
        flat, wanted, label_smoothing=label_smoothing, ignore_index=IGNORED, reduction="sum"
    )
    return total / (wanted != IGNORED).sum().clamp(min=1)


def check_labels(model: Transformer, x: NDArray[Any], y: NDArray[np.int64]) -> None:
    """Raise DataError unless `x` and `y` belong together and the model has an output for every label."""
    if len(x) != len(y) or not len(x):
        raise DataError(f"{len(x)} samples and {len(y)} labels; give as many of both, at least 1")
    if model.config.pooling == "none":
        rows = (len(x), x.shape[1] + int(model.config.cls_token))
        if y.shape != rows:
            raise DataError(
                f"pooling = 'none' gives one output per row, {rows} here, and labels are {y.shape}; "
                "label every row, or choose 'mean' or 'cls'"
            )
    elif y.ndim != 1:
        raise DataError(f"labels are {y.shape}; a model with pooling = '{model.config.pooling}' takes one per sample")
    if (y == IGNORED).all():
        raise DataError(f"every label is {IGNORED}, which means: not judged; give labels")
    y = y[y != IGNORED]
    if model.config.classes < 2:
        raise DataError(f"the model has classes = {model.config.classes}; give it as many as the data has")
    if int(y.min()) < 0 or int(y.max()) >= model.config.classes:
        raise DataError(f"labels run from {y.min()} to {y.max()}, but the model has classes = {model.config.classes}")


def check_several_labels(y: NDArray[np.int64]) -> None:
    """Raise DataError for data of one class, from which nothing can be learnt."""
    judged = y[y != IGNORED]
    if len(judged) and judged.min() == judged.max():
        raise DataError(f"every label is {judged.min()}; a model learns from samples of at least two classes")
