"""A file or folder to its tokenizer."""

from __future__ import annotations

from pathlib import Path

from picoformer.errors import DataError
from picoformer.tokenizers.interface import TextTokenizer

FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tokenizer.bin")
"""What a folder's tokenizer may be called, the first that is there."""


def load_text_tokenizer(path: Path, vocabulary: int | None = None) -> TextTokenizer:
    """The tokenizer of a tokenizer.json, a SentencePiece .model, llama2.c's tokenizer.bin, or a folder with one.

    `vocabulary`: how many tokens a tokenizer.bin has, which it does not say itself; without it, as many as it holds.
    DataError for what is none of these.
    """
    if path.is_dir():
        found = [path / name for name in FILES if (path / name).is_file()]
        if not found:
            raise DataError(
                f"{path}: no tokenizer in this folder; it should hold {', '.join(FILES[:-1])} or {FILES[-1]}"
            )
        path = found[0]
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a tokenizer.json, a SentencePiece .model or a tokenizer.bin")
    match path.suffix:
        case ".json":
            from picoformer.tokenizers.huggingface import JsonTokenizer

            return JsonTokenizer(path)
        case ".model":
            from picoformer.tokenizers.sentencepiece_file import SentencePieceTokenizer

            return SentencePieceTokenizer(path)
        case ".bin":
            from picoformer.tokenizers.llama2c import BinTokenizer

            return BinTokenizer(path, vocabulary)
        case suffix:
            raise DataError(
                f"{path}: '{suffix}' is no tokenizer; give a tokenizer.json, a SentencePiece .model or a tokenizer.bin"
            )
