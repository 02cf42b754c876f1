"""The one training loop: training, distillation and recovery after pruning differ in their loss alone."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from picoformer.compress.settings import TrainSettings
from picoformer.errors import DataError, PicoformerError
from picoformer.metrics import IGNORED
from picoformer.models.transformer import Transformer

Augment = Callable[[NDArray[Any], np.random.Generator], NDArray[Any]]
Progress = Callable[[int, int, float], None]  # steps done, steps in all, loss of the last step
Loss = Callable[[Tensor, Tensor], Tensor]  # inputs and labels of a batch -> mean loss

EVALUATION_BATCH = 128


@dataclass(frozen=True)
class TrainReport:
    """What a run of the loop did: steps taken and the mean loss of every epoch."""

    steps: int
    losses: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**dataclasses.asdict(self), "losses": list(self.losses)}


def train(
    model: Transformer,
    x: NDArray[Any],
    y: NDArray[np.int64],
    settings: TrainSettings,
    augment: Augment | None = None,
    progress: Progress | None = None,
) -> TrainReport:
    """Train `model` in place on samples `x` (n, *input) with labels `y` (n,), or (n, rows) for a model that labels
    every row, by smoothed cross-entropy.

    `augment` sees each batch as numpy. The same seeds give the same weights. Raises DataError for data that
    does not fit the model and PicoformerError when the loss stops being a number.
    """
    check_labels(model, x, y)

    def loss(inputs: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(model(inputs), labels, settings.label_smoothing)

    return fit(model, x, y, settings, loss, augment=augment, progress=progress)


def fit(
    model: nn.Module,
    x: NDArray[Any],
    y: NDArray[np.int64],
    settings: TrainSettings,
    loss: Loss,
    extra: Iterable[nn.Module] = (),
    augment: Augment | None = None,
    progress: Progress | None = None,
) -> TrainReport:
    """AdamW (Loshchilov and Hutter 2019) with warm-up and a cosine schedule over `loss`, in place.

    Modules in `extra` (a projection that the loss uses) are trained along. The model is left in eval mode.
    """
    rng = np.random.default_rng(settings.seed)
    batches = math.ceil(len(x) / settings.batch)
    total = settings.epochs * batches
    warmup = round(settings.warmup * total)
    parameters = [p for module in (model, *extra) for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(_groups(model, extra, settings.weight_decay), lr=settings.learning_rate)
    losses: list[float] = []
    model.train()
    try:
        with use_threads(settings.threads):
            for epoch in range(settings.epochs):
                order = rng.permutation(len(x))
                sum_of_losses = 0.0
                for batch in range(batches):
                    step = epoch * batches + batch
                    chosen = order[batch * settings.batch : (batch + 1) * settings.batch]
                    inputs = x[chosen] if augment is None else augment(x[chosen], rng)
                    for group in optimizer.param_groups:
                        group["lr"] = settings.learning_rate * schedule(step, total, warmup)
                    optimizer.zero_grad(set_to_none=True)
                    value = loss(torch.from_numpy(inputs), torch.from_numpy(y[chosen]))
                    value.backward()  # type: ignore[no-untyped-call]
                    norm = nn.utils.clip_grad_norm_(parameters, settings.gradient_clip)
                    number = float(value.detach())
                    if not (math.isfinite(number) and math.isfinite(float(norm))):
                        raise PicoformerError(
                            f"training diverged at step {step + 1} of {total} (loss {number}); "
                            f"lower learning_rate (now {settings.learning_rate:g}) or lengthen warmup"
                        )
                    optimizer.step()
                    sum_of_losses += number * len(chosen)
                    if progress is not None:
                        progress(step + 1, total, number)
                losses.append(sum_of_losses / len(x))
    finally:
        model.eval()
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise PicoformerError(f"training diverged at its last step in '{name}'; lower learning_rate")
    return TrainReport(steps=total, losses=tuple(losses))


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
    with use_threads(threads), torch.no_grad():
        parts = [
            model(torch.from_numpy(x[start : start + EVALUATION_BATCH])).numpy()
            for start in range(0, len(x), EVALUATION_BATCH)
        ]
    model.train(training)
    logits: NDArray[np.float32] = np.concatenate(parts)
    return logits


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Mean cross-entropy of labels (batch,) or (batch, rows), those that are IGNORED left out, the target spread by
    `label_smoothing` (Szegedy et al. 2016)."""
    flat, wanted = logits.flatten(0, -2), labels.flatten()
    return functional.cross_entropy(flat, wanted, label_smoothing=label_smoothing, ignore_index=IGNORED)


def schedule(step: int, total: int, warmup: int) -> float:
    """The rate at a step as a fraction of its peak: linear up, then half a cosine down to zero."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


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


@contextlib.contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _groups(model: nn.Module, extra: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for module in (model, *extra):
        for name, parameter in module.named_parameters():
            matrix = parameter.ndim >= 2 and not name.startswith(
                ("embedding.token.", "embedding.position", "embedding.cls")
            )
            (decayed if matrix else free).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
