"""What a language model is opened with: its checkpoint, the tokenizer that goes with it, and texts as token ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from picoformer.errors import ConfigError, DataError
from picoformer.models.importers import ImportedModel, load_decoder
from picoformer.samples import load_samples

if TYPE_CHECKING:
    from picoformer.tokenizers import TextTokenizer


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, its tokenizer and that one's file, the tokens to calibrate on, and what the model is called."""

    model: ImportedModel
    tokenizer: TextTokenizer | None
    tokenizer_file: Path | None
    calibration: Any
    name: str


def open_checkpoint(model: Path, tokenizer: Path | None, calibration: Path | None) -> Checkpoint:
    """A checkpoint with what lies beside it; `tokenizer` in place of its own. Raises a PicoformerError naming the file
    that cannot be used."""
    imported = load_decoder(model)
    path = tokenizer or imported.tokenizer
    loaded = load_tokenizer(path, imported.config.vocab_size)
    tokens = None if calibration is None else calibration_tokens(calibration, loaded)
    kept = path if path is not None and path.is_file() else None
    return Checkpoint(imported, loaded, kept, tokens, (model.stem if model.is_file() else model.name) or "decoder")


def read_tokens(path: Path, tokenizer: TextTokenizer) -> Any:
    """The tokens of a text file, int32 (n,). Raises DataError for one that cannot be read or is no UTF-8."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a text file") from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is no UTF-8; convert the text") from None
    return np.asarray(tokenizer.encode(text), np.int32)


def load_tokenizer(path: Path | None, vocabulary: int) -> TextTokenizer | None:
    """The tokenizer of a file, if there is one; DataError where it does not go with a vocabulary."""
    if path is None:
        return None
    from picoformer.tokenizers import load_text_tokenizer

    found = load_text_tokenizer(path)
    found.check_vocabulary(vocabulary)
    return found


def calibration_tokens(path: Path, tokenizer: TextTokenizer | None) -> Any:
    """The tokens of a text file, or of the array `tokens` of an .npz, int32 (n,)."""
    if path.suffix == ".npz":
        return token_rows(path).reshape(-1)
    if tokenizer is None:
        raise ConfigError(f"{path}: --calibration is a text: give --tokenizer too, or an .npz of tokens")
    return read_tokens(path, tokenizer)


def token_rows(path: Path) -> Any:
    """The array `tokens` of an .npz, or the only one it has: int32 (texts, length). Raises DataError for another."""
    arrays = load_samples(path)
    found = arrays.get("tokens", next(iter(arrays.values())) if len(arrays) == 1 else None)
    if found is not None and found.dtype.kind not in "iu":
        raise DataError(f"{path}: 'tokens' holds {found.dtype}, and token ids are integers; save it as int32")
    if found is None or not 1 <= found.ndim <= 2 or found.size == 0:
        raise DataError(f"{path}: has no array 'tokens' of token ids, (texts, length); save one under this name")
    if found.min() < 0 or found.max() >= 1 << 31:
        raise DataError(f"{path}: holds numbers that are no token ids")
    return np.atleast_2d(found).astype(np.int32)
