"""Tokenizers for language models: characters or byte-level BPE, trained on a text and kept as tokenizer.json."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from picoformer.errors import ConfigError, DataError
from picoformer.files import atomic_write_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KINDS = ("character", "bpe")
BYTES = 256
"""Tokens of a byte-level BPE before its first merge."""
MAX_FILE = 64 << 20
MAX_TOKENS = 1 << 24
"""More would make the library count through them for minutes."""


def train_tokenizer(text: str, kind: str, vocabulary: int = 0) -> Tokenizer:
    """A tokenizer for `text`: "character" has a token per character that occurs, and token 0 for all others; "bpe" is
    byte-level (Radford et al. 2019) with `vocabulary` tokens, and loses nothing of any text.

    The same text gives the same tokenizer. Raises ConfigError for a kind or a size that cannot be, DataError for a
    text without characters.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    if not text:
        raise DataError("the text to train a tokenizer on is empty")
    if kind == "character":
        names = ["\N{REPLACEMENT CHARACTER}", *sorted(set(text) - {"\N{REPLACEMENT CHARACTER}"})]
        tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token=names[0]))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
        return tokenizer
    if kind != "bpe":
        raise ConfigError(f"tokenizer '{kind}' is not known; use {', '.join(KINDS)} or the path of a tokenizer.json")
    if vocabulary < BYTES:
        raise ConfigError(f"vocabulary = {vocabulary}; a byte-level BPE has at least {BYTES} tokens")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json. Raises DataError for a file that is none."""
    from tokenizers import Tokenizer

    if not path.is_file():
        raise DataError(f"{path}: no such file; give the path of a tokenizer.json")
    if path.stat().st_size > MAX_FILE:
        raise DataError(f"{path}: {path.stat().st_size} bytes is no tokenizer.json; give a smaller file")
    try:
        text = path.read_text("utf-8")
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a tokenizer.json, as it is no JSON ({error}); save it again") from error
    if not isinstance(parsed, dict) or not isinstance(parsed.get("model"), dict):
        raise DataError(
            f"{path}: JSON, but not a tokenizer, which has a table 'model'; give a tokenizer.json that `picoformer "
            "dataset` or the library tokenizers wrote"
        )
    vocabulary = parsed["model"].get("vocab")
    ids = vocabulary.values() if isinstance(vocabulary, dict) else ()
    if wrong := [i for i in ids if not isinstance(i, int) or not 0 <= i < MAX_TOKENS]:
        raise DataError(f"{path}: a token has the id {wrong[0]}; number the tokens from 0")
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library raises a bare Exception
        raise DataError(f"{path}: not a tokenizer.json ({str(error).splitlines()[0]}); save it again") from error


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write tokenizer.json, atomically."""
    atomic_write_text(path, _text(tokenizer))


def hash_tokenizer(tokenizer: Tokenizer) -> str:
    """The SHA-256 of the file that `save_tokenizer` writes: the same however the one it was loaded from is laid out."""
    return hashlib.sha256(_text(tokenizer).encode()).hexdigest()


def _text(tokenizer: Tokenizer) -> str:
    return tokenizer.to_str(pretty=True) + "\n"
