"""From names and files to a data set, and from a data set to the configuration of a model for it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.config import ModelSection
from picoformer.datasets import (
    Dataset,
    digits,
    load_dataset,
    next_tokens,
    python_documentation,
    save_dataset,
    split_labelled,
    split_text,
    synthetic_signal,
)
from picoformer.errors import ConfigError, DataError
from picoformer.models.config import TransformerConfig
from picoformer.samples import LABELS, read_arrays, recorded_stretches, split_labels

SOURCES = ("digits", "synthetic_signal", "python_documentation")


@dataclass(frozen=True)
class TextSettings:
    """How text becomes a data set: windows of `sequence` tokens of a tokenizer ("character", "bpe" with `vocabulary`
    tokens, or the path of a tokenizer.json)."""

    tokenizer: str = "character"
    vocabulary: int = 512
    sequence: int = 64


def is_text(source: str) -> bool:
    """Whether a data source is text, which comes with a tokenizer."""
    return source == "python_documentation" or source.endswith(".txt")


def tokenizer_path(data: Path) -> Path:
    """Where the tokenizer of a data set of text lies: beside it, data.tokenizer.json for data.npz."""
    return data.with_name(f"{data.stem}.tokenizer.json")


def make_dataset(
    source: str, out: Path, seed: int = 0, test_fraction: float = 0.2, text: TextSettings | None = None
) -> dict[str, Any]:
    """Write the data set `source` (a name in SOURCES, the path of a .txt or of an .npz) to `out`; returns its sizes.

    The tokenizer of a text is written beside it.
    """
    if is_text(source):
        return _make_text_dataset(source, out, seed, test_fraction, text or TextSettings())
    if given := _text_only(text):
        raise ConfigError(
            f"{given} is for text, and '{source}' is none; leave it out, or give python_documentation or a .txt"
        )
    if source == "digits":
        data = digits(seed, test_fraction)
    elif source == "synthetic_signal":
        data = synthetic_signal(seed)
    elif source.endswith(".npz"):
        data = labelled_dataset(Path(source), seed, test_fraction)
    else:
        raise ConfigError(f"unknown data source '{source}'; use {', '.join(SOURCES)} or the path of a .txt or .npz")
    save_dataset(data, out)
    return {"train": len(data.x_train), "test": len(data.x_test), "classes": data.classes}


def labelled_dataset(path: Path, seed: int, test_fraction: float) -> Dataset:
    """The data set in an .npz: as `picoformer dataset` wrote it, or made of one array of samples and "labels", as
    `capture` writes them: then a part of each recording is held back. Raises DataError for neither."""
    arrays = read_arrays(path)
    if LABELS not in arrays:
        return load_dataset(path)
    inputs, labels = split_labels(arrays, path)
    if len(inputs) != 1 or labels is None:
        names = ", ".join(f"'{name}'" for name in inputs) or "nothing"
        raise DataError(f"{path}: holds {names} beside its labels; give one array of samples")
    ((name, x),) = inputs.items()
    if not x.ndim or len(x) != len(labels.values) or x.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: '{name}' is {x.dtype}{list(x.shape)}, for {len(labels.values)} labels; give one for each"
        )
    stretches, overlap = recorded_stretches(arrays, len(x), path)
    try:
        return split_labelled(x, labels.values, path.stem, labels.names, test_fraction, seed, stretches, overlap)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _text_only(text: TextSettings | None) -> str:
    """The first key of `text` that is not as it is by default, with its value; "" for none."""
    usual = TextSettings()
    for key, value in dataclasses.asdict(text or usual).items():
        if value != getattr(usual, key):
            return f"{key} = {value!r}"
    return ""


def _make_text_dataset(source: str, out: Path, seed: int, test_fraction: float, wanted: TextSettings) -> dict[str, Any]:
    from picoformer.tokenizers.training import hash_tokenizer, load_tokenizer, save_tokenizer, train_tokenizer

    text = python_documentation() if source == "python_documentation" else read_text(Path(source))
    train, test = split_text(text, seed, test_fraction)
    if wanted.tokenizer.endswith(".json"):
        tokenizer = load_tokenizer(Path(wanted.tokenizer))
    else:
        tokenizer = train_tokenizer("".join(train), wanted.tokenizer, wanted.vocabulary)
    parts = [[np.array(tokenizer.encode(block).ids, np.int64) for block in blocks] for blocks in (train, test)]
    characters = sum(map(len, test)) / sum(map(len, parts[1]))
    name = "python_documentation" if source == "python_documentation" else "text"
    size, digest = tokenizer.get_vocab_size(), hash_tokenizer(tokenizer)
    data = next_tokens(parts[0], parts[1], wanted.sequence, size, characters, name, digest)
    save_tokenizer(tokenizer, tokenizer_path(out))
    save_dataset(data, out)
    sizes = {"train": len(data.x_train), "test": len(data.x_test), "classes": data.classes}
    return {**sizes, "characters": len(text), "characters_per_token": characters}


def check_tokenizer(model: Path, trained_on: str, data: Dataset) -> None:
    """Raise DataError when a model was trained on the tokens of another tokenizer than this data has; hashes, "" for
    one that is not known."""
    if trained_on and data.tokenizer and trained_on != data.tokenizer:
        raise DataError(
            f"{model}: trained on the tokens of another tokenizer (SHA-256 {trained_on[:12]}…) than the data's "
            f"({data.tokenizer[:12]}…); make the data with `picoformer dataset --tokenizer` and that tokenizer's file"
        )


def read_text(path: Path) -> str:
    """A text as UTF-8; raises DataError for what is none."""
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
