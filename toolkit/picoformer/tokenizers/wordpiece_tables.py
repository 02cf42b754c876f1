"""The tables of a WordPiece tokenizer: what BERT's normalizer makes of each character, asked of the library itself."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from picoformer.tokenizers.tables import Map, Runs, Word, WordPiece, refuse
from picoformer.tokenizers.unicode_classes import every_character, parts_of, position_of, runs_of

if TYPE_CHECKING:
    from picoformer.tokenizers.huggingface import JsonTokenizer

BLOCK = 4096
BETWEEN = "0"
"""Stands between characters that are normalized together: nothing becomes it, and no mark joins with it."""
HANGUL = range(0xAC00, 0xD7A4)
HIGH_MARK, LOW_MARK = "\u302e", "\u1b44"
"""Spacing marks of combining classes 224 and 9: beside one of them, any other that is sorted changes its place."""


def normalized_characters(normalizer: Any) -> list[str]:
    """What becomes of each character of `every_character` on its own."""
    text = every_character()
    made: list[str] = []
    for block in range(0, len(text), BLOCK):
        part = text[block : block + BLOCK]
        together = normalizer.normalize_str(part)
        if together in ("", part):  # nothing stays of any of them, or all of it
            made += [""] * len(part) if together == "" else part
            continue
        part = part.replace(BETWEEN, "1")
        made += normalizer.normalize_str(BETWEEN.join(part)).split(BETWEEN)
    made[ord(BETWEEN)] = BETWEEN
    return made


def combining_order(normalizer: Any, made: list[str]) -> Runs:
    """Combining classes, as ranks, of the characters that the normalizer sorts and keeps."""

    def swaps(first: str, second: str) -> bool:
        made = normalizer.normalize_str(f"a{first}{second}")
        return first != second and bool(made == f"a{second}{first}")

    text = every_character()
    kept = [c for c, result in zip(text, made, strict=True) if result == c != BETWEEN]
    found: set[str] = set()
    for block in range(0, len(kept), BLOCK):
        part = kept[block : block + BLOCK]
        if all(normalizer.normalize_str(joined := mark.join(part)) == joined for mark in (HIGH_MARK, LOW_MARK)):
            continue
        for pairs in ([HIGH_MARK + c for c in part], [c + LOW_MARK for c in part]):
            results = normalizer.normalize_str(BETWEEN.join(pairs)).split(BETWEEN)
            for c, pair, result in zip(part, pairs, results, strict=True):
                if result != pair:
                    found.add(c)
    if swaps(HIGH_MARK, LOW_MARK):
        found |= {HIGH_MARK, LOW_MARK}
    rank = {ord(c): 1 + sum(swaps(c, other) for other in found) for c in found}
    runs: list[tuple[int, int]] = []
    for point in sorted(rank):
        if runs and runs[-1] == (point, 0):
            runs.pop()
        if not runs or runs[-1][1] != rank[point]:
            runs.append((point, rank[point]))
        runs.append((point + 1, 0))
    return tuple(runs)


@cache
def _asked(normalizer: str) -> tuple[list[str], Runs]:
    """What a normalizer does, by its JSON: it takes a second to ask."""
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.WordPiece())
    described = json.loads(tokenizer.to_str()) | {"normalizer": json.loads(normalizer)}
    library = Tokenizer.from_str(json.dumps(described)).normalizer
    made = normalized_characters(library)
    return made, combining_order(library, made)


def _classes(pre_tokenizer: Any) -> bytearray:
    """The class of each position of `every_character`: of neighbours of one class, the pre-tokenizer joins letters,
    leaves out spaces, and keeps punctuation one by one."""
    text = every_character()
    classes = bytearray([Word.SPACE]) * len(text)
    for start, end in parts_of(pre_tokenizer):
        classes[start:end] = bytes([Word.LETTER]) * (end - start)
        if end - start == 1 and len(pre_tokenizer.pre_tokenize_str(f"a{text[start]}")) == 2:
            classes[start] = Word.PUNCTUATION
    return classes


def wordpiece(tokenizer: JsonTokenizer) -> WordPiece:
    """The tables of a WordPiece tokenizer with BERT's normalizer, or none, and BERT's pre-tokenizer."""
    parsed, name, library = tokenizer.parsed, tokenizer.name, tokenizer.library
    model = parsed["model"]
    normalizer, before = parsed["normalizer"], parsed["pre_tokenizer"]
    if normalizer is not None and normalizer["type"] != "BertNormalizer":
        raise refuse(name, f"the normalizer {normalizer['type']}")
    if before is None or before["type"] != "BertPreTokenizer":
        raise refuse(name, f"the pre-tokenizer {None if before is None else before['type']}")
    prefix = model["continuing_subword_prefix"]
    vocabulary = model["vocab"]
    if model["unk_token"] not in vocabulary:
        raise refuse(name, f"a vocabulary without its unknown token '{model['unk_token']}'")
    if prefix != "##":
        raise refuse(name, f"continuing_subword_prefix = '{prefix}'")

    made, order = (list(every_character()), ()) if normalizer is None else _asked(json.dumps(normalizer))
    classes = _classes(library.pre_tokenizer)
    alphabet = {c for token in vocabulary for c in token.removeprefix(prefix)}
    actions, mapped = _actions(made, classes, alphabet)
    runs, values, sequences = _map_runs(mapped)
    return WordPiece(
        starts=tuple(i for token, i in vocabulary.items() if not token.startswith(prefix)),
        continuations=tuple(i for token, i in vocabulary.items() if token.startswith(prefix)),
        characters=runs_of(np.frombuffer(actions, np.uint8)),
        map=runs,
        map_values=values,
        sequences=sequences,
        order=order,
        unknown=vocabulary[model["unk_token"]],
        longest_word=model["max_input_chars_per_word"],
    )


def _actions(made: list[str], classes: bytearray, alphabet: set[str]) -> tuple[bytearray, dict[int, str]]:
    """(class and action of each position of `every_character`, code point → what it becomes).

    A character without a token makes its word unknown, whatever it becomes, if that has none either: then it stays.
    """
    text = every_character()
    letter, deleted, spaced, is_mapped = map(int, (Word.LETTER, Word.DELETED, Word.SPACED, Word.MAPPED))
    actions = bytearray(classes)
    mapped: dict[int, str] = {}
    for i, (c, result) in enumerate(zip(text, made, strict=True)):
        if result == c:
            continue
        if not result:
            actions[i] |= deleted
            continue
        inner = result
        if len(result) > 2 and result[0] == result[-1] == " ":
            inner = result[1:-1]
            actions[i] |= spaced
        if inner == c:
            continue
        letters = classes[i] == letter and all(classes[position_of(ord(r))] == letter for r in inner)
        if not letters or c in alphabet or alphabet.issuperset(inner):
            mapped[ord(c)] = inner
            actions[i] |= is_mapped
    return actions, mapped


def _map_runs(mapped: dict[int, str]) -> tuple[Runs, tuple[int, ...], tuple[str, ...]]:
    """(runs, the number of each, sequences): runs of one distance, and of sequences of neighbours. Between mapped
    characters runs may go on, as nobody asks there."""
    runs: list[tuple[int, int]] = []
    values: list[int] = []
    sequences: list[str] = []
    before: tuple[int, int] | None = None
    for point in sorted(mapped):
        result = mapped[point]
        if point in HANGUL and len(result) in (2, 3):
            kind, value = Map.HANGUL, 0
        elif len(result) == 1:
            kind, value = Map.DELTA, ord(result) - point
        else:
            kind, value = Map.SEQUENCE, len(sequences) - point
            sequences.append(result)
        if (kind, value) != before:
            runs.append((point, int(kind)))
            values.append(value + point if kind is Map.SEQUENCE else value)
            before = (kind, value)
    return tuple(runs), tuple(values), tuple(sequences)
