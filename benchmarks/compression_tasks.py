"""The two tasks that compression is measured on: handwritten digits and the text of Python's documentation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from picoformer.compress.settings import DistillSettings, PruneSettings, QatSettings, TrainSettings
from picoformer.datasets import Dataset, augment_digits, digits, load_dataset
from picoformer.models.config import TransformerConfig
from picoformer.stages import TextSettings, make_dataset


@dataclass(frozen=True)
class Task:
    """Data, models and settings of one task; `runs` are its folds or seeds."""

    name: str
    title: str
    metric: str  # the key of a Judgement
    better: int  # 1: higher is better, -1: lower
    runs: tuple[int, ...]
    data: Callable[[Path, int], Dataset]
    augment: bool  # while training, for all alike
    teacher: Callable[[Dataset], TransformerConfig]
    student: Callable[[Dataset], TransformerConfig]
    teaching: TrainSettings
    alone: TrainSettings  # the student without a teacher: as many steps as with one
    distilling: DistillSettings
    pruning: dict[str, PruneSettings]  # by the name of the row; a budget's limit is set where it is used
    recovering: DistillSettings
    ranks: tuple[int, ...]  # the same of every layer's matrices
    keeps: tuple[float, ...]  # shares of parameters that factorization leaves, ranks chosen
    calibration: int  # samples
    qat: QatSettings
    qat_samples: int


def digits_fold(_folder: Path, fold: int) -> Dataset:
    """Fold `fold` of five of scikit-learn's 1,797 digits held back, each class spread evenly."""
    from sklearn.model_selection import StratifiedKFold

    whole = digits(0)
    x, y = np.concatenate((whole.x_train, whole.x_test)), np.concatenate((whole.y_train, whole.y_test))
    train, test = list(StratifiedKFold(5, shuffle=True, random_state=0).split(x, y))[fold]
    return Dataset(x[train], y[train], x[test], y[test], "digits", 10)


def documentation(folder: Path, seed: int) -> Dataset:
    """Characters of the reference topics that come with Python, a tenth held back, in windows of 64."""
    path = folder / "data.npz"
    make_dataset("python_documentation", path, seed, 0.1, TextSettings("character", sequence=64))
    return load_dataset(path)


def digits_model(layers: int, heads: int, d_ff: int, d_model: int) -> Callable[[Dataset], TransformerConfig]:
    """An encoder over the eight rows of an image."""
    return lambda data: TransformerConfig.uniform(
        layers, heads, d_ff, d_model, sequence=8, input_size=8, classes=data.classes
    )


def language_model(layers: int, heads: int, d_ff: int, d_model: int) -> Callable[[Dataset], TransformerConfig]:
    """A decoder over a window of text."""
    return lambda data: TransformerConfig.uniform(
        layers, heads, d_ff, d_model, sequence=data.x_train.shape[1], vocab_size=data.classes, classes=data.classes,
        causal=True, pooling="none",
    )  # fmt: skip


AUGMENT = augment_digits

PRUNING = {
    "error, as many parameters": PruneSettings(budget="parameters"),
    "error, half of each layer": PruneSettings(ranking="layer"),
    "taylor, half of each layer": PruneSettings(ranking="layer", importance="taylor"),
    "chance, half of each layer": PruneSettings(ranking="layer", importance="random", reconstruct=False),
}

DIGITS = Task(
    name="digits",
    title="Digits: accuracy in percent, five folds",
    metric="accuracy",
    better=1,
    runs=(0, 1, 2, 3, 4),
    data=digits_fold,
    augment=True,
    teacher=digits_model(4, 4, 128, 64),
    student=digits_model(2, 2, 32, 24),
    teaching=TrainSettings(epochs=40, batch=128, learning_rate=3e-3),
    alone=TrainSettings(epochs=50, batch=128, learning_rate=5e-3),
    distilling=DistillSettings(
        epochs=50, batch=128, learning_rate=5e-3, temperature=2.0, soft_weight=0.7, init_from_teacher=True
    ),
    pruning=PRUNING,
    recovering=DistillSettings(epochs=15, batch=128, learning_rate=5e-4, temperature=2.0, soft_weight=0.7),
    ranks=(24, 16, 8),
    keeps=(0.8, 0.6, 0.4),
    calibration=256,
    qat=QatSettings(),
    qat_samples=1440,
)

LANGUAGE = Task(
    name="language",
    title="Language model: bits per character, three seeds",
    metric="bits_per_character",
    better=-1,
    runs=(0, 1, 2),
    data=documentation,
    augment=False,
    teacher=language_model(3, 4, 384, 96),
    student=language_model(2, 4, 192, 64),
    teaching=TrainSettings(epochs=5, batch=32, learning_rate=2e-3, label_smoothing=0.0, weight_decay=0.1),
    alone=TrainSettings(epochs=3, batch=32, learning_rate=4e-3, label_smoothing=0.0),
    distilling=DistillSettings(
        epochs=3,
        batch=32,
        learning_rate=4e-3,
        label_smoothing=0.0,
        temperature=1.0,
        soft_weight=0.9,
        init_from_teacher=True,
        cache_type="float16",
    ),
    pruning={name: replace(way, samples=256) for name, way in PRUNING.items() if way.importance != "taylor"},
    recovering=DistillSettings(
        epochs=3,
        batch=32,
        learning_rate=2e-3,
        label_smoothing=0.0,
        temperature=1.0,
        soft_weight=0.9,
        cache_type="float16",
    ),
    ranks=(64, 48, 32),
    keeps=(0.8, 0.6, 0.4),
    calibration=128,
    qat=QatSettings(epochs=4, soft_weight=0.5, temperature=1.0),
    qat_samples=4000,
)

TASKS = {task.name: task for task in (DIGITS, LANGUAGE)}
