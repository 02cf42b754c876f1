"""The tokenizers of the training commands, under the name that they had before `tokenizers` became a room."""

from __future__ import annotations

from picoformer.tokenizers.training import (
    BYTES,
    KINDS,
    MAX_FILE,
    hash_tokenizer,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)

__all__ = ["BYTES", "KINDS", "MAX_FILE", "hash_tokenizer", "load_tokenizer", "save_tokenizer", "train_tokenizer"]
