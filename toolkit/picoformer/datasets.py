"""Labelled data as numpy arrays: files, scikit-learn's digits, a synthetic sensor signal, text; no torch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from picoformer.errors import DataError
from picoformer.files import atomic_write_bytes
from picoformer.metrics import IGNORED

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
TEXT_BLOCK = 4096
"""Characters that go to one part together, so that the held-back text is not a neighbour of every training window."""


@dataclass(frozen=True)
class Dataset:
    """Inputs float32 or int64 (n, ...), labels int64 (n,), or (n, rows) with one per row, in 0..classes-1 or
    IGNORED; split in training and held-back test part.

    Raises DataError when the arrays do not belong together or hold numbers that are not finite.
    """

    x_train: NDArray[Any]
    y_train: NDArray[np.int64]
    x_test: NDArray[Any]
    y_test: NDArray[np.int64]
    name: str
    classes: int
    characters_per_label: float = 0.0  # mean characters of text a label stands for; 0: no text
    tokenizer: str = ""  # SHA-256 of the tokenizer.json whose tokens these are; "" for none, or an unknown one
    label_names: tuple[str, ...] = ()  # what the classes are called; () where nobody said

    @property
    def labels_rows(self) -> bool:
        """True when every row has a label: a language model's next tokens, say."""
        return self.y_train.ndim == 2

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            if x.ndim < 2 or x.dtype not in (np.float32, np.int64):
                raise DataError(f"x_{part} is {x.dtype} {x.shape}; give float32 or int64, samples along axis 0")
            if y.dtype != np.int64 or y.ndim not in (1, 2) or (y.ndim == 2 and y.shape[1:] != x.shape[1:2]):
                raise DataError(f"y_{part} is {y.dtype} {y.shape}; give one int64 label per sample or per row of it")
            if len(x) != len(y) or not len(x):
                raise DataError(
                    f"x_{part} has {len(x)} samples and y_{part} {len(y)}; give as many of both, at least 1"
                )
            if not np.isfinite(x).all():
                sample = int(np.argwhere(~np.isfinite(x))[0][0])
                raise DataError(f"x_{part} holds NaN or infinity, first in sample {sample}; remove or mend the sample")
            judged = y[y != IGNORED]
            if not len(judged):
                raise DataError(f"every label of y_{part} is {IGNORED}, which means: not judged; give labels")
            if judged.min() < 0 or judged.max() >= self.classes:
                raise DataError(
                    f"y_{part} holds labels {judged.min()} to {judged.max()}; they must lie in 0 to {self.classes - 1}"
                )
        if self.y_train.ndim != self.y_test.ndim:
            raise DataError(f"y_train is {self.y_train.shape}, y_test {self.y_test.shape}; label both alike")
        if not (np.isfinite(self.characters_per_label) and self.characters_per_label >= 0):
            raise DataError(f"characters_per_label = {self.characters_per_label}; give a number from 0 up")
        if self.label_names and len(self.label_names) != self.classes:
            raise DataError(f"{len(self.label_names)} label names for {self.classes} classes; name all, or none")
        if self.x_train.shape[1:] != self.x_test.shape[1:] or self.x_train.dtype != self.x_test.dtype:
            raise DataError(
                f"x_train is {self.x_train.dtype} {self.x_train.shape}, x_test {self.x_test.dtype} "
                f"{self.x_test.shape}; give both the same type and sample shape"
            )


def save_dataset(dataset: Dataset, path: Path) -> None:
    """Write a dataset as .npz, atomically; the same dataset gives the same bytes."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {key: getattr(dataset, key) for key in ARRAYS}
    arrays |= {"name": np.array(dataset.name), "classes": np.array(dataset.classes)}
    arrays |= {key: np.array(getattr(dataset, key)) for key in ("characters_per_label", "tokenizer")}
    if dataset.label_names:
        arrays["label_names"] = np.array(dataset.label_names)
    np.savez_compressed(buffer, **arrays)
    atomic_write_bytes(Path(path), buffer.getvalue())


def load_dataset(path: Path) -> Dataset:
    """Read what `save_dataset` wrote. Raises DataError for a broken file or arrays that do not fit."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the path of a data set")
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: one array, not an .npz; save {', '.join(ARRAYS)}, name and classes in one file")
        with archive:
            arrays = {key: archive[key] for key in archive.files}
    except DataError:
        raise
    except Exception as error:  # broken bytes surface as zip, zlib, struct, syntax, value and other errors
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise DataError(f"{path}: not a readable .npz ({reason}); save the data set again") from error
    wanted = (*ARRAYS, "name", "classes")
    if missing := [key for key in wanted if key not in arrays]:
        raise DataError(f"{path}: array '{missing[0]}' is missing; an .npz data set holds {', '.join(wanted)}")
    name, classes = arrays["name"], arrays["classes"]
    if name.shape or name.dtype.kind != "U" or classes.shape or classes.dtype.kind not in "iu":
        raise DataError(f"{path}: name must be one string and classes one integer; save the data set again")
    characters = arrays.get("characters_per_label", np.array(0.0))
    if characters.shape or characters.dtype.kind != "f":
        raise DataError(f"{path}: characters_per_label must be one number; save the data set again")
    tokenizer = arrays.get("tokenizer", np.array(""))
    if tokenizer.shape or tokenizer.dtype.kind != "U":
        raise DataError(f"{path}: tokenizer must be one string; save the data set again")
    names = arrays.get("label_names", np.array([], "U1"))
    if names.ndim != 1 or (names.size and names.dtype.kind != "U"):
        raise DataError(f"{path}: label_names must be one string for each class; save the data set again")
    try:
        parts = {key: arrays[key] for key in ARRAYS}
        return Dataset(
            **parts, name=str(name), classes=int(classes), characters_per_label=float(characters),
            tokenizer=str(tokenizer), label_names=tuple(map(str, names)),
        )  # fmt: skip
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def split_labelled(
    x: NDArray[Any], labels: NDArray[np.int64], name: str, label_names: Sequence[str] = (), test_fraction: float = 0.2,
    seed: int = 0, stretches: Sequence[tuple[int, int]] = (), overlap: int = 0,
) -> Dataset:  # fmt: skip
    """Labelled samples (n, ...) as a data set. The test part is drawn by `seed`, the same share of every class; or,
    where the samples are `stretches` (first, how many) of one recording each, it is the end of each stretch, and the
    `overlap` samples before it, which hold readings of it too, are in neither part.

    Raises DataError for a fraction that leaves a part empty.
    """
    test, kept = np.zeros(len(x), bool), np.ones(len(x), bool)
    for first, count in stretches:
        begin = first + count - max(1, round(count * test_fraction))
        test[begin : first + count] = True
        kept[max(first, begin - overlap) : begin] = False
    if not stretches:
        rng = np.random.default_rng(seed)
        rows = labels if labels.ndim == 1 else np.zeros(len(labels), np.int64)
        for label in np.unique(rows):
            members = rng.permutation(np.flatnonzero(rows == label))
            test[members[: max(1, round(len(members) * test_fraction))]] = True
    train = kept & ~test
    if not train.any():
        raise DataError(f"{len(x)} samples leave none to train with; give more, or a smaller test_fraction")
    values = x.astype(np.float32 if x.dtype.kind == "f" else np.int64)
    classes = max(len(label_names), int(labels.max()) + 1)
    names = tuple(label_names) if len(label_names) == classes else ()
    return Dataset(values[train], labels[train], values[test], labels[test], name, classes, label_names=names)


def digits(seed: int = 0, test_fraction: float = 0.2) -> Dataset:
    """The 1,797 handwritten 8x8 digits that ship inside scikit-learn (UCI Optical Recognition of Handwritten
    Digits).

    Each image is 8 tokens (rows) of 8 pixels, float32 in 0..1: x (n, 8, 8). The test part holds the same
    share of every class. Raises DataError for a fraction that leaves a part empty.
    """
    from sklearn.datasets import load_digits  # type: ignore[import-untyped,unused-ignore]

    if not 0.01 <= test_fraction <= 0.9:
        raise DataError(f"test_fraction = {test_fraction}; give a number from 0.01 to 0.9")
    bunch = load_digits()
    x = (np.asarray(bunch.images) / 16.0).astype(np.float32)
    y = np.asarray(bunch.target).astype(np.int64)
    rng = np.random.default_rng(seed)
    test = np.zeros(len(y), dtype=bool)
    for label in range(10):
        members = rng.permutation(np.flatnonzero(y == label))
        test[members[: max(1, round(len(members) * test_fraction))]] = True
    return Dataset(x[~test], y[~test], x[test], y[test], name="digits", classes=10)


def augment_digits(
    x: NDArray[np.float32],
    rng: np.random.Generator,
    shift: float = 0.6,
    rotate: float = 10.0,
    scale: float = 0.1,
) -> NDArray[np.float32]:
    """Each image (n, height, width) moved, turned and resized a little, sampled bilinearly, zero outside.

    `shift` in pixels, `rotate` in degrees and `scale` as a fraction are the largest changes, drawn uniformly
    per image.
    """
    count, height, width = x.shape
    angle = np.deg2rad(rng.uniform(-rotate, rotate, (count, 1, 1)))
    zoom = 1.0 + rng.uniform(-scale, scale, (count, 1, 1))
    move_y, move_x = rng.uniform(-shift, shift, (2, count, 1, 1))
    y = np.arange(height)[None, :, None] - (height - 1) / 2
    z = np.arange(width)[None, None, :] - (width - 1) / 2
    source_y = (np.cos(angle) * y - np.sin(angle) * z) * zoom + move_y + (height - 1) / 2
    source_x = (np.sin(angle) * y + np.cos(angle) * z) * zoom + move_x + (width - 1) / 2
    # One pixel of border, which is zero, stands for everything outside.
    source_y = np.clip(source_y, -1.0, height) + 1.0
    source_x = np.clip(source_x, -1.0, width) + 1.0
    padded = np.pad(x, ((0, 0), (1, 2), (1, 2)))
    row, column = source_y.astype(np.int64), source_x.astype(np.int64)
    down, right = source_y - row, source_x - column
    image = np.arange(count)[:, None, None]
    top = padded[image, row, column] * (1 - right) + padded[image, row, column + 1] * right
    bottom = padded[image, row + 1, column] * (1 - right) + padded[image, row + 1, column + 1] * right
    moved: NDArray[np.float32] = (top * (1 - down) + bottom * down).astype(np.float32)
    return moved


def synthetic_signal(
    seed: int = 0, n: int = 2400, seq: int = 64, features: int = 16, classes: int = 6, noise: float = 1.0
) -> Dataset:
    """A sensor-like task: x (n, seq, features) float32, `n` training samples and a quarter as many for the
    test.

    Every class has its own frequency and phase per channel; a sample is that chord with a random start, speed
    and loudness, each channel's gain wobbling, plus white noise of deviation `noise`. Raises DataError for
    sizes below 1.
    """
    for key, value, low in (("n", n, 4), ("seq", seq, 2), ("features", features, 1), ("classes", classes, 2)):
        if value < low:
            raise DataError(f"{key} = {value}; give at least {low}")
    rng = np.random.default_rng(seed)
    frequency = rng.uniform(0.02, 0.2, (classes, features))
    phase = rng.uniform(0.0, 2 * np.pi, (classes, features))
    count = n + n // 4
    y = rng.permutation(np.arange(count) % classes).astype(np.int64)
    speed = rng.uniform(0.95, 1.05, (count, 1, 1))
    start = rng.uniform(0.0, 4.0, (count, 1, 1))
    gain = rng.uniform(0.6, 1.4, (count, 1, 1)) * rng.uniform(0.5, 1.5, (count, 1, features))
    time = np.arange(seq)[None, :, None] * speed + start
    x = gain * np.sin(2 * np.pi * frequency[y][:, None, :] * time + phase[y][:, None, :])
    x = (x + noise * rng.standard_normal(x.shape)).astype(np.float32)
    return Dataset(x[:n], y[:n], x[n:], y[n:], name="synthetic_signal", classes=classes)


def python_documentation() -> str:
    """The reference topics that come with Python (about 465,000 characters), for language models."""
    from pydoc_data import topics

    return "\n\n".join(topics.topics[name] for name in sorted(topics.topics))


def split_text(text: str, seed: int = 0, test_fraction: float = 0.1) -> tuple[list[str], list[str]]:
    """(training, held-back) blocks of TEXT_BLOCK characters, chosen by `seed`. Raises DataError for too little text."""
    blocks = [text[start : start + TEXT_BLOCK] for start in range(0, len(text), TEXT_BLOCK)]
    count = max(1, round(len(blocks) * test_fraction))
    if len(blocks) <= count:
        raise DataError(f"{len(text)} characters of text; give at least {2 * TEXT_BLOCK} to hold some back")
    held_back = set(np.random.default_rng(seed).permutation(len(blocks))[:count].tolist())
    train = [block for index, block in enumerate(blocks) if index not in held_back]
    return train, [block for index, block in enumerate(blocks) if index in held_back]


def next_tokens(
    train: Sequence[NDArray[np.int64]],
    test: Sequence[NDArray[np.int64]],
    sequence: int,
    vocabulary: int,
    characters_per_label: float,
    name: str = "text",
    tokenizer: str = "",
) -> Dataset:
    """Windows of `sequence` token ids, each labelled with the ids one further; blocks of ids in, none is crossed.

    Training windows overlap by half, test windows do not. Raises DataError when no block is long enough.
    """
    parts: dict[str, Any] = {}
    for part, blocks, stride in (("train", train, max(1, sequence // 2)), ("test", test, sequence)):
        windows = [
            block[start : start + sequence + 1] for block in blocks for start in range(0, len(block) - sequence, stride)
        ]
        if not windows:
            raise DataError(f"no block of the {part} text has more than {sequence} tokens; lower sequence")
        rows = np.stack(windows).astype(np.int64)
        parts |= {f"x_{part}": rows[:, :-1].copy(), f"y_{part}": rows[:, 1:].copy()}
    return Dataset(
        **parts, name=name, classes=vocabulary, characters_per_label=characters_per_label, tokenizer=tokenizer
    )
