"""The C of a tokenizer: its tables as constants, and which files of firmware/text/ go with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.backends.c.literals import C_TYPES, array_body
from picoformer.backends.c.names import comment
from picoformer.errors import UnsupportedError
from picoformer.files import atomic_write_text
from picoformer.tokenizers.tables import (
    ByteBpe,
    Model,
    Pairs,
    PieceBpe,
    Runs,
    Spaces,
    TokenizerTables,
    Unigram,
    WordPiece,
)

TYPES = C_TYPES | {np.dtype(np.uint32): "uint32_t", np.dtype(np.uint64): "uint64_t"}
COMMON = ("text/tokenizer.c", "text/utf8.c")
SYMBOL_BYTES = 20
"""Scratch for one symbol of a BPE (PF_SYMBOL_BYTES)."""
POSITION_BYTES = 13
"""Scratch for a byte of normalized text of Unigram: cost, piece, the byte."""
NARROW = 0x10000
"""Ids and ranks below this are kept in 16 bits."""


@dataclass(frozen=True)
class CTokenizer:
    """A generated tokenizer: `sources` in `folder`, `firmware` to compile with them (paths in firmware/), the prefix of
    its names, and the bytes of each table."""

    folder: Path
    prefix: str
    sources: tuple[str, ...]
    headers: tuple[str, ...]
    firmware: tuple[str, ...]
    tables: dict[str, int]
    scratch_fixed: int
    scratch_per_byte: int

    @property
    def table_bytes(self) -> int:
        """Flash that the tables take."""
        return sum(self.tables.values())

    def scratch_bytes(self, text_bytes: int) -> int:
        """Scratch that is enough for every text of so many bytes, of any content."""
        return self.scratch_fixed + self.scratch_per_byte * text_bytes


def in_order(tables: TokenizerTables, ids: Sequence[int]) -> list[int]:
    """Ids in the order of their bytes; of equal ones the first, and none without bytes."""
    pieces = tables.vocabulary.pieces
    first: dict[bytes, int] = {}
    for i in ids:
        first.setdefault(pieces[i], i)
    return [first[piece] for piece in sorted(first) if piece]


class _Writer:
    """Collects constant arrays; every name begins with the tokenizer's prefix."""

    def __init__(self, prefix: str, wide: bool) -> None:
        self.prefix, self.wide = prefix, wide
        self.parts: list[str] = []
        self.sizes: dict[str, int] = {}

    def array(self, name: str, values: Any, dtype: Any) -> str:
        """Its name in C, or 0, the null pointer, for no values."""
        array = np.asarray(values, dtype)
        if array.size == 0:
            return "0"
        self.sizes[name] = array.nbytes
        body = array_body(array)
        kind = TYPES[array.dtype]
        if suffix := {"uint32_t": "u", "uint64_t": "uLL"}.get(kind):
            body = body.replace(",", f"{suffix},")
        self.parts.append(f"static const {kind} {self.prefix}_{name}[{array.size}] = {{\n{body}\n}};\n")
        return f"{self.prefix}_{name}"

    def words(self, name: str, values: Any, wide: bool | None = None) -> str:
        """A table of ids: 16 bits each, or 32 if there are many."""
        return self.array(name, values, np.uint32 if (self.wide if wide is None else wide) else np.uint16)

    def index(self, name: str, starts: Sequence[int]) -> str:
        """A pf_index: ascending positions, 32 bits for a block of entries and 16 for each in it."""
        for shift in range(8, -1, -1):
            bases = list(starts[:: 1 << shift])
            low = [start - bases[i >> shift] for i, start in enumerate(starts)]
            if max(low) < NARROW:
                break
        base = self.array(f"{name}_base", bases, np.uint32)
        return f"{{{base}, {self.array(f'{name}_low', low, np.uint16)}, {shift}u}}"

    def pairs(self, pairs: Pairs, size: int) -> str:
        """A pf_pairs."""
        if not pairs.rows:
            return "{{0, 0, 0}, 0, 0, 0, 0, 0}"
        left, right, merged, rank = (np.array(column, np.int64) for column in zip(*pairs.rows, strict=True))
        counts = np.bincount(left, minlength=size)
        first = self.index("merge_first", [0, *np.cumsum(counts).tolist()])
        wide = bool(max(right.max(), merged.max(), rank.max()) >= NARROW)
        rights, results = self.words("merge_right", right, wide), self.words("merge_result", merged, wide)
        ranks = "0" if pairs.merged_is_rank else self.words("merge_rank", rank, wide)
        return f"{{{first}, {rights}, {results}, {ranks}, {size}u, {int(wide)}u}}"

    def classes(self, name: str, runs: Runs) -> str:
        """A pf_classes."""
        starts = [first | kind << 24 for first, kind in runs]
        return f"{{{self.array(name, starts, np.uint32)}, {len(starts)}u}}"

    def sorted(self, name: str, tables: TokenizerTables, ids: Sequence[int]) -> str:
        """A pf_sorted: ids in the order of their bytes, the first of each."""
        return f"{{{self.words(name, in_order(tables, ids))}, {len(in_order(tables, ids))}u}}"

    def spaces(self, spaces: Spaces) -> str:
        """A pf_spaces."""
        trie = self.array("normalization", spaces.map.trie, np.uint32)
        replacements = self.array("replacements", list(spaces.map.replacements), np.uint8)
        rules = (spaces.prefix, spaces.remove_extra, spaces.escaped, spaces.split)
        numbers = ", ".join(f"{int(rule)}u" for rule in rules)
        return f"{{{numbers}, {trie}, {len(spaces.map.trie)}u, {replacements}, {len(spaces.map.replacements)}u}}"


def _byte_bpe(write: _Writer, tables: TokenizerTables, model: ByteBpe) -> tuple[str, str]:
    body = [
        write.array("byte_ids", model.byte_ids, np.int32),
        write.pairs(model.pairs, len(tables.vocabulary)),
        write.classes("classes", model.classes),
        write.classes("digits", model.digits),
        write.sorted("words", tables, model.words),
        f"{int(model.split)}u",
        f"{model.longest_number}u",
        f"{int(model.prefix_space)}u",
    ]
    return "pf_byte_bpe", ",\n    ".join(body)


def _piece_bpe(write: _Writer, tables: TokenizerTables, model: PieceBpe) -> tuple[str, str]:
    known = sorted(model.characters)
    body = [
        write.spaces(model.spaces),
        write.array("characters", known, np.uint32),
        write.words("character_ids", [model.characters[c] for c in known]),
        f"{len(known)}u",
        write.pairs(model.pairs, len(tables.vocabulary)),
        write.array("byte_ids", [] if model.byte_ids is None else model.byte_ids, np.int32),
        str(model.unknown),
        f"{int(model.fuse_unknown)}u",
    ]
    return "pf_piece_bpe", ",\n    ".join(body)


def _wordpiece(write: _Writer, tables: TokenizerTables, model: WordPiece) -> tuple[str, str]:
    ends = np.cumsum([len(sequence) for sequence in model.sequences], dtype=np.int64).tolist()
    body = [
        write.sorted("starts", tables, model.starts),
        write.sorted("continuations", tables, model.continuations),
        write.classes("characters", model.characters),
        write.classes("map", model.map),
        write.array("map_values", model.map_values, np.int32),
        write.array("sequence_characters", [ord(c) for sequence in model.sequences for c in sequence], np.uint32),
        write.index("sequences", [0, *ends]),
        write.classes("order", model.order),
        str(model.unknown),
        f"{model.longest_word}u",
    ]
    return "pf_wordpiece", ",\n    ".join(body)


def _unigram(write: _Writer, tables: TokenizerTables, model: Unigram) -> tuple[str, str]:
    cost = dict(zip(model.pieces, model.costs, strict=True))
    order = in_order(tables, model.pieces)
    body = [
        write.spaces(model.spaces),
        write.sorted("pieces", tables, model.pieces),
        write.array("costs", [cost[i] for i in order], np.uint64 if model.twice else np.uint32),
        f"{model.unknown_cost}uLL",
        write.array("byte_ids", [] if model.byte_ids is None else model.byte_ids, np.int32),
        str(model.unknown),
        f"{int(model.twice)}u",
        f"{int(model.fuse_unknown)}u",
    ]
    return "pf_unigram", ",\n    ".join(body)


def _scratch(model: Model) -> tuple[int, int]:
    """(fixed, per byte of text): a space in front; broken bytes, which become U+FFFD each."""
    match model:
        case ByteBpe():
            return SYMBOL_BYTES, 3 * SYMBOL_BYTES
        case PieceBpe():
            return SYMBOL_BYTES, model.spaces.map.characters_per_byte * SYMBOL_BYTES
        case WordPiece():
            return 4 * (model.longest_word + 1), 0
        case Unigram():
            # A position more, the space in front, and up to 12 bytes lost to whole positions.
            return 12 + 2 * POSITION_BYTES, model.spaces.map.bytes_per_byte * POSITION_BYTES


KINDS: dict[type, tuple[Callable[[_Writer, TokenizerTables, Any], tuple[str, str]], str, tuple[str, ...]]] = {
    ByteBpe: (_byte_bpe, "pf_encode_byte_bpe", ("text/byte_bpe.c", "text/match.c", "text/merge.c")),
    PieceBpe: (_piece_bpe, "pf_encode_piece_bpe", ("text/piece_bpe.c", "text/merge.c", "text/spaces.c")),
    WordPiece: (_wordpiece, "pf_encode_wordpiece", ("text/match.c", "text/wordpiece.c")),
    Unigram: (_unigram, "pf_encode_unigram", ("text/match.c", "text/spaces.c", "text/unigram.c")),
}
"""Kind of model → its tables, its function, its files."""


def write_tokenizer_c(tables: TokenizerTables, folder: Path, prefix: str) -> CTokenizer:
    """Write <prefix>_tokenizer.c and .h, which define the constant <prefix>_tokenizer, into `folder`.

    UnsupportedError for a vocabulary that 32-bit positions cannot hold.
    """
    vocabulary = tables.vocabulary
    size = len(vocabulary)
    if size >= 1 << 24 or sum(map(len, vocabulary.pieces)) >= 1 << 31:
        raise UnsupportedError(f"a vocabulary of {size} tokens is too large for a device; train a smaller tokenizer")
    wide = size > NARROW
    write = _Writer(prefix, wide)
    emit, function, files = KINDS[type(tables.model)]
    struct, body = emit(write, tables, tables.model)

    starts = np.concatenate([[0], np.cumsum([len(piece) for piece in vocabulary.pieces])]).tolist()
    pieces = write.array("bytes", list(b"".join(vocabulary.pieces)) or [0], np.uint8)
    index = write.index("starts", starts)
    flags = write.array("flags", vocabulary.flags, np.uint8)
    before, after = write.array("prefix", tables.prefix, np.int32), write.array("suffix", tables.suffix, np.int32)
    fixed, per_byte = _scratch(tables.model)

    name = f"{prefix}_tokenizer"
    guard = f"{name.upper()}_H"
    title = f"A tokenizer: {tables.kind}, {size} tokens, {sum(write.sizes.values()):,} bytes of tables."
    arrays = "\n".join(write.parts)
    source = f"""/* {comment(title)} */
#include "{name}.h"

{arrays}
static const {struct} {prefix}_tables = {{
    {body},
}};

const pf_tokenizer {name} = {{
    {function},
    &{prefix}_tables,
    {size}u, /* tokens */
    {int(wide)}u,
    {pieces},
    {index},
    {flags},
    {int(vocabulary.decode)}u, /* decode */
    {before},
    {after},
    {len(tables.prefix)}u,
    {len(tables.suffix)}u,
    {fixed}u,
    {per_byte}u,
}};
"""
    header = f"""/* {comment(title)} */
#ifndef {guard}
#define {guard}

#include "picoformer/tokenizer.h"

#ifdef __cplusplus
extern "C" {{
#endif

extern const pf_tokenizer {name};

#ifdef __cplusplus
}}
#endif

#define {prefix.upper()}_TOKENS {size}

/* Scratch that is enough for every text of n bytes, of any content; text that is not broken takes less. */
#define {prefix.upper()}_SCRATCH_BYTES(n) ({fixed}u + {per_byte}u * (uint32_t)(n))

#endif
"""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / f"{name}.c", source)
    atomic_write_text(folder / f"{name}.h", header)
    return CTokenizer(
        folder, prefix, (f"{name}.c",), (f"{name}.h",), (*COMMON, *files), dict(write.sizes), fixed, per_byte
    )
