"""SentencePiece's .model: the protobuf message ModelProto, read as far as tokenizing needs it.

Field numbers are those of sentencepiece_model.proto.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.errors import DataError
from picoformer.tokenizers.charsmap import read_charsmap
from picoformer.tokenizers.interface import TextTokenizer
from picoformer.tokenizers.merges import pairs_of_scores
from picoformer.tokenizers.tables import (
    SPACE_SYMBOL,
    Decode,
    Flag,
    PieceBpe,
    Prefix,
    Spaces,
    TokenizerTables,
    Unigram,
    Vocabulary,
    refuse,
)

MAX_FILE = 64 << 20
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""SentencePiece.Type."""
KINDS = {1: "unigram", 2: "sentencepiece_bpe", 3: "word", 4: "character"}
"""TrainerSpec.ModelType."""


@dataclass(frozen=True)
class ModelFile:
    """What a .model says."""

    pieces: tuple[tuple[str, float, int], ...]
    """(piece, score, type) of each id."""
    kind: str
    byte_fallback: bool
    space_at_end: bool
    unknown_surface: str
    charsmap: bytes
    dummy_prefix: bool
    remove_extra: bool
    escaped: bool


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number is cut off")
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a message: integers, and bytes of everything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        match key & 7:
            case 0:
                value, at = _varint(data, at)
                yield key >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, at = _varint(data, at)
            case 5:
                size = 4
            case wire:
                raise ValueError(f"a field of wire type {wire}")
        if at + size > len(data):
            raise ValueError("a field is cut off")
        yield key >> 3, data[at : at + size]
        at += size


def _message(value: int | bytes) -> dict[int, Any]:
    """The fields of a message inside another, the last of each number."""
    if not isinstance(value, bytes):
        raise ValueError("a number where a message should be")
    return dict(_fields(value))


def read_model(path: Path) -> ModelFile:
    """A .model. DataError for a file that is none."""
    if path.stat().st_size > MAX_FILE:
        raise DataError(f"{path}: {path.stat().st_size} bytes is no SentencePiece model; give a smaller file")
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    try:
        for number, value in _fields(path.read_bytes()):
            if number == 1:
                entry = _message(value)
                score = struct.unpack("<f", entry.get(2, bytes(4)))[0]
                if not math.isfinite(score):
                    raise ValueError(f"piece {len(pieces)} has the score {score}")
                pieces.append((entry[1].decode(), score, entry.get(3, NORMAL)))
            elif number == 2:
                trainer |= _message(value)
            elif number == 3:
                normalizer |= _message(value)
        if not pieces:
            raise ValueError("it has no pieces")
        kind = KINDS.get(trainer.get(3, 1))
        if kind is None:
            raise ValueError(f"model type {trainer[3]}")
        return ModelFile(
            tuple(pieces),
            kind,
            byte_fallback=bool(trainer.get(35, 0)),
            space_at_end=bool(trainer.get(24, 0)),
            unknown_surface=bytes(trainer.get(44, " \N{DOUBLE QUESTION MARK} ".encode())).decode(),
            charsmap=bytes(normalizer.get(2, b"")),
            dummy_prefix=bool(normalizer.get(3, 1)),
            remove_extra=bool(normalizer.get(4, 1)),
            escaped=bool(normalizer.get(5, 1)),
        )
    except (ValueError, KeyError, AttributeError, TypeError, struct.error) as error:
        raise DataError(f"{path}: not a SentencePiece model ({error}); save it again") from error


class SentencePieceTokenizer(TextTokenizer):
    """A .model, by the library sentencepiece."""

    def __init__(self, path: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        self._file = read_model(path)
        try:
            self._library = SentencePieceProcessor(model_proto=path.read_bytes())
        except Exception as error:  # the library raises RuntimeError and others
            message = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(f"{path}: not a SentencePiece model ({message}); save it again") from error
        bos, eos = self._library.bos_id(), self._library.eos_id()
        # The file does not say what its model was trained with: a beginning for what writes on, an end for T5.
        around: tuple[list[int], list[int]] = ([], [])
        if self._file.kind == "sentencepiece_bpe" and bos >= 0:
            around = ([bos], [])
        elif self._file.kind == "unigram" and eos >= 0:
            around = ([], [eos])
        super().__init__(
            str(path), self._file.kind, bos if bos >= 0 else None, eos if eos >= 0 else None, around[0], around[1]
        )

    def _encode(self, text: str) -> list[int]:
        return list(self._library.encode(text))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        file = self._file
        pieces: list[bytes] = []
        flags: list[int] = []
        for i, (piece, _, kind) in enumerate(file.pieces):
            if kind == CONTROL:
                pieces.append(piece.encode())
                flags.append(int(Flag.CONTROL))
            elif kind == UNKNOWN:
                pieces.append(file.unknown_surface.encode())
                flags.append(int(Flag.BYTE))
            elif kind == BYTE:
                pieces.append(_byte_of(self.name, i, piece))
                flags.append(int(Flag.BYTE))
            else:
                pieces.append(piece.replace(SPACE_SYMBOL, " ").encode())
                flags.append(0)
        rule = Decode.STRIP_RUN if file.remove_extra else Decode.STRIP if file.dummy_prefix else Decode.PLAIN
        return Vocabulary(tuple(pieces), tuple(flags), rule)

    def spaces(self) -> Spaces:
        """What happens to a text first."""
        file = self._file
        if file.space_at_end:
            raise refuse(self.name, "treat_whitespace_as_suffix")
        prefix = Prefix.ALWAYS if file.dummy_prefix else Prefix.NONE
        return Spaces(prefix, file.remove_extra, file.escaped, False, read_charsmap(self.name, file.charsmap))

    def tables(self) -> TokenizerTables:
        file = self._file
        for i, (piece, _, kind) in enumerate(file.pieces):
            if kind == USER_DEFINED:
                raise refuse(self.name, f"piece {i} '{piece}', a user-defined symbol,")
            if kind == UNUSED:
                raise refuse(self.name, f"piece {i} '{piece}', which is marked unused,")
            if file.escaped and " " in piece and kind == NORMAL:
                raise refuse(self.name, f"piece {i} '{piece}' with a space in it")
        normal = {
            piece.replace(SPACE_SYMBOL, " ").encode() if file.escaped else piece.encode(): i
            for i, (piece, _, kind) in enumerate(file.pieces)
            if kind == NORMAL
        }
        unknown = next((i for i, (_, _, kind) in enumerate(file.pieces) if kind == UNKNOWN), -1)
        byte_ids = self._byte_ids() if file.byte_fallback else None
        if file.kind == "unigram":
            unigram = self._unigram(list(normal.values()), unknown, byte_ids)
            return TokenizerTables(file.kind, self.vocabulary, unigram, self.prefix, self.suffix)
        if file.kind not in ("sentencepiece_bpe", "character"):
            raise refuse(self.name, f"SentencePiece's model type '{file.kind}'")
        characters = {ord(piece.decode()): i for piece, i in normal.items() if len(piece.decode()) == 1}
        pairs = pairs_of_scores({} if file.kind == "character" else normal, [score for _, score, _ in file.pieces])
        for text in map(bytes.decode, normal):
            if missing := [c for c in text if ord(c) not in characters]:
                raise refuse(self.name, f"piece '{text}', whose character '{missing[0]}' is no piece itself,")
        model = PieceBpe(self.spaces(), characters, pairs, byte_ids, unknown, fuse_unknown=True)
        return TokenizerTables(file.kind, self.vocabulary, model, self.prefix, self.suffix)

    def _unigram(self, pieces: list[int], unknown: int, byte_ids: tuple[int, ...] | None) -> Unigram:
        """The library counts in float32; a character that is no piece costs 10 more than the rarest piece."""
        scores = np.array([self._file.pieces[i][1] for i in pieces], np.float32)
        tiny = np.finfo(np.float32).tiny
        if bad := [i for i, score in zip(pieces, scores.tolist(), strict=True) if score > 0 or 0 < -score < tiny]:
            raise refuse(self.name, f"piece {bad[0]} with the score {self._file.pieces[bad[0]][1]:g}")
        unknown_cost = np.float64(np.float32(10) - scores.min(initial=0))
        return Unigram(
            self.spaces(),
            tuple(pieces),
            tuple(np.abs(scores).view(np.uint32).tolist()),
            int(unknown_cost.view(np.uint64)),
            unknown,
            twice=False,
            byte_ids=byte_ids,
        )

    def _byte_ids(self) -> tuple[int, ...]:
        found = {_byte_of(self.name, i, p)[0]: i for i, (p, _, kind) in enumerate(self._file.pieces) if kind == BYTE}
        if len(found) != 256:
            raise refuse(self.name, f"byte fallback with {len(found)} bytes")
        return tuple(found[byte] for byte in range(256))


def _byte_of(name: str, i: int, piece: str) -> bytes:
    try:
        if len(piece) != 6 or not piece.startswith("<0x") or not piece.endswith(">"):
            raise ValueError
        return bytes([int(piece[3:5], 16)])
    except ValueError:
        raise DataError(
            f"{name}: piece {i} is marked as a byte and is called '{piece}'; save the model again"
        ) from None
