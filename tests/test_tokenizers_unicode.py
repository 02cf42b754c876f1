"""Every character there is through tokenizers in C and the libraries: what a table of classes got wrong would show."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from c_tokenizer import Made, compare
from picoformer.tokenizers.tables import WordPiece
from picoformer.tokenizers.unicode_classes import every_character


def characters_in_rows() -> list[str]:
    """Every character once, 100 to a text."""
    text = every_character()
    return [text[i : i + 100] for i in range(0, len(text), 100)]


@pytest.mark.parametrize("name", ["gpt2", "bloom", "digits", "bert", "bert_accents", "t5"])
def test_every_character(made: Callable[[str], Made], name: str) -> None:
    """The first two planes, and of the others, which are hardly assigned, every tenth text: the sweep has them all."""
    texts = characters_in_rows()
    first = texts[: 0x20000 // 100]
    assert compare(made(name), first) > 5000
    assert compare(made(name), [text[::-1] for text in first[::3]]) > 2000
    assert compare(made(name), texts[len(first) :: 10]) > 500


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "bloom", "digits", "bert", "bert_accents", "t5"])
def test_every_character_of_every_plane(made: Callable[[str], Made], name: str) -> None:
    assert compare(made(name), characters_in_rows()) > 10_000
    assert compare(made(name), [f"a{c}b{c}{c} {c}" for c in every_character()[::7]]) > 10_000


def test_marks_are_sorted_as_the_library_sorts_them(made: Callable[[str], Made]) -> None:
    tokenizer = made("bert")[0]
    model, normalizer = tokenizer.tables().model, tokenizer.library.normalizer  # type: ignore[attr-defined]
    assert isinstance(model, WordPiece)
    order = dict(model.order)
    rank: dict[str, int] = {}
    for start, end in zip(sorted(order), [*sorted(order)[1:], 0], strict=True):
        rank |= {chr(point): order[start] for point in range(start, end) if order[start]}
    rng, moved = random.Random(18), 0
    for _ in range(3000):
        marks = rng.choices(sorted(rank), k=rng.randrange(1, 6))
        made_of_them = "".join(sorted(marks, key=lambda mark: rank[mark]))
        assert normalizer.normalize_str(f"a{''.join(marks)}b") == f"a{made_of_them}b"
        moved += made_of_them != "".join(marks)
    assert moved > 1000
