"""Character classes as a library sees them, asked of it for every code point: versions of Unicode cannot differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from picoformer.tokenizers.tables import Runs

POINTS = 0x110000
BLOCK = 8192
SURROGATES = range(0xD800, 0xE000)


@cache
def every_character() -> str:
    """All code points that text can hold, in order."""
    return "".join(chr(point) for point in range(POINTS) if point not in SURROGATES)


def position_of(point: int) -> int:
    """The position of a code point in `every_character`."""
    return point if point < SURROGATES.start else point - len(SURROGATES)


def runs_of(classes: NDArray[np.uint8]) -> Runs:
    """Runs of equal class, of the classes at the positions of `every_character`."""
    below, above = classes[: SURROGATES.start], classes[SURROGATES.start :]
    points = np.concatenate([[0], below, np.zeros(len(SURROGATES), np.uint8), above])
    starts = np.flatnonzero(points[1:] != points[:-1])
    return tuple((int(start), int(points[start + 1])) for start in starts)


def _mark(classes: NDArray[np.uint8], spans: Iterable[tuple[int, int]], kind: int) -> None:
    for start, end in spans:
        classes[start:end] = kind


@cache
def classes_of_patterns(patterns: Sequence[tuple[int, str]]) -> Runs:
    """Runs of (class, pattern of one character); a later pattern wins, class 0 is all the rest."""
    from tokenizers import Regex, pre_tokenizers

    text = every_character()
    classes = np.zeros(len(text), np.uint8)
    for kind, pattern in patterns:
        rest = parts_of(pre_tokenizers.Split(Regex(f"(?:{pattern})+"), "removed"))
        gaps, at = [], 0
        for start, end in rest:
            gaps.append((at, start))
            at = end
        _mark(classes, [*gaps, (at, len(text))], kind)
    return runs_of(classes)


def parts_of(pre_tokenizer: Any) -> Iterator[tuple[int, int]]:
    """The spans that a pre-tokenizer cuts `every_character` into, a block of it at a time."""
    text = every_character()
    for block in range(0, len(text), BLOCK):
        for _, (start, end) in pre_tokenizer.pre_tokenize_str(text[block : block + BLOCK]):
            yield block + start, block + end


@cache
def digits() -> Runs:
    """Class 1: what the pre-tokenizer Digits takes for one."""
    from tokenizers import pre_tokenizers

    text, splitter = every_character(), pre_tokenizers.Digits(individual_digits=False)
    classes = np.zeros(len(text), np.uint8)
    # A part is all digits or has none, and behind an 'a' its first character is the second part's, if it is a digit.
    spans = [span for span in parts_of(splitter) if len(splitter.pre_tokenize_str("a" + text[span[0]])) == 2]
    _mark(classes, spans, 1)
    return runs_of(classes)
