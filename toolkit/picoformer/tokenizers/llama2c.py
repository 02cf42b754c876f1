"""llama2.c's tokenizer.bin: the longest piece's bytes (int32), then for each id its score (float32), length (int32) and
bytes, little-endian.

The file does not say how many there are. Id 0 is the unknown token, 1 and 2 begin and end a text, 3 to 258 are the 256
bytes as <0x00> … <0xFF>; a space is a space.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from picoformer.errors import DataError
from picoformer.files import atomic_write_bytes
from picoformer.tokenizers.interface import TextTokenizer
from picoformer.tokenizers.merges import merge, pairs_of_scores
from picoformer.tokenizers.tables import (
    Decode,
    Flag,
    PieceBpe,
    Prefix,
    Spaces,
    TokenizerTables,
    Vocabulary,
    refuse,
)

BOS, EOS, FIRST_BYTE = 1, 2, 3
CONTROLS = 3
"""Ids 0, 1 and 2."""
MAX_FILE = 64 << 20
MAX_PIECE = 1024


def read_tokenizer_bin(path: Path, vocabulary: int | None = None) -> list[tuple[bytes, float]]:
    """(bytes, score) of each id. DataError for a file that is cut off or holds lengths that cannot be."""
    if path.stat().st_size > MAX_FILE:
        raise DataError(f"{path}: {path.stat().st_size} bytes is no tokenizer.bin; give a smaller file")
    data = path.read_bytes()
    if len(data) < 4:
        raise DataError(f"{path}: {len(data)} bytes is no tokenizer.bin; export it again")
    longest, at = struct.unpack_from("<i", data)[0], 4
    if not 0 < longest <= MAX_PIECE:
        raise DataError(f"{path}: no tokenizer.bin, as its longest token would have {longest} bytes; export it again")
    entries: list[tuple[bytes, float]] = []
    while at < len(data) if vocabulary is None else len(entries) < vocabulary:
        if at + 8 > len(data):
            raise DataError(
                f"{path}: cut off in token {len(entries)}"
                + ("" if vocabulary is None else f" of {vocabulary}")
                + "; export it again, or give the vocabulary that it has"
            )
        score, length = struct.unpack_from("<fi", data, at)
        at += 8
        if not 0 <= length <= longest or at + length > len(data):
            raise DataError(
                f"{path}: token {len(entries)} would have {length} bytes, where {min(longest, len(data) - at)} can be; "
                "export it again"
            )
        if not math.isfinite(score):
            raise DataError(f"{path}: token {len(entries)} has the score {score}; export it again")
        entries.append((data[at : at + length], score))
        at += length
    if at != len(data):
        raise DataError(
            f"{path}: {len(data) - at} bytes behind its {vocabulary} tokens; give the vocabulary that it has"
        )
    for byte in range(256):
        expected = b"<0x%02X>" % byte
        found = entries[FIRST_BYTE + byte][0] if len(entries) > FIRST_BYTE + byte else b"no such token"
        if found != expected:
            raise DataError(
                f"{path}: token {FIRST_BYTE + byte} should be {expected.decode()}, found "
                f"{found.decode('ascii', 'backslashreplace')}; give the tokenizer.bin of a SentencePiece BPE with byte "
                "fallback"
            )
    return entries


def write_tokenizer_bin(path: Path, entries: Sequence[tuple[bytes, float]]) -> None:
    """Write a tokenizer.bin, atomically."""
    longest = max((len(piece) for piece, _ in entries), default=1)
    body = b"".join(struct.pack("<fi", score, len(piece)) + piece for piece, score in entries)
    atomic_write_bytes(path, struct.pack("<i", max(longest, 1)) + body)


class BinTokenizer(TextTokenizer):
    """A tokenizer.bin, as llama2.c reads it, but for text that is no UTF-8, which is made readable first."""

    def __init__(self, path: Path, vocabulary: int | None = None) -> None:
        super().__init__(str(path), "sentencepiece_bpe", BOS, EOS, [BOS], [])
        self._entries = read_tokenizer_bin(path, vocabulary)
        self._ids: dict[bytes, int] = {}
        for i, (piece, _) in enumerate(self._entries):
            self._ids.setdefault(piece, i)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        pieces = [piece for piece, _ in self._entries]
        pieces[FIRST_BYTE : FIRST_BYTE + 256] = [bytes([byte]) for byte in range(256)]
        flags = [0] * len(pieces)
        flags[:CONTROLS] = [Flag.CONTROL] * CONTROLS
        flags[FIRST_BYTE : FIRST_BYTE + 256] = [Flag.BYTE] * 256
        return Vocabulary(tuple(pieces), tuple(flags), Decode.STRIP)

    @cached_property
    def _model(self) -> PieceBpe:
        pairs = pairs_of_scores(self._ids, [score for _, score in self._entries])
        characters = {}
        for piece, i in self._ids.items():
            try:
                text = piece.decode()
            except UnicodeDecodeError:
                continue
            if len(text) == 1:
                characters[ord(text)] = i
        bytes_ids = tuple(range(FIRST_BYTE, FIRST_BYTE + 256))
        for left, right, merged, _ in pairs.rows:
            if any(FIRST_BYTE <= half < FIRST_BYTE + 256 for half in (left, right)):
                raise refuse(self.name, f"token {merged}, which continues a byte token by name,")
        # llama2.c reads a space as the piece ' ', so U+2581 is no space to it.
        spaces = Spaces(Prefix.ALWAYS, escaped=False)
        return PieceBpe(spaces, characters, pairs, bytes_ids)

    @cached_property
    def _ranks(self) -> dict[tuple[int, int], tuple[int, int]]:
        return {(left, right): (rank, merged) for left, right, merged, rank in self._model.pairs.rows}

    def _encode(self, text: str) -> list[int]:
        if not text:
            return []
        known, unknown = self._model.characters, 1 << 31
        symbols = [known.get(ord(c), unknown + ord(c)) for c in f" {text}"]
        ids = []
        for symbol in merge(symbols, self._ranks):
            if symbol < unknown:
                ids.append(symbol)
            else:
                ids += [FIRST_BYTE + byte for byte in chr(symbol - unknown).encode()]
        return ids

    def tables(self) -> TokenizerTables:
        return TokenizerTables(self.kind, self.vocabulary, self._model, self.prefix, self.suffix)
