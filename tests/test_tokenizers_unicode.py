"""Every character there is through tokenizers in C and the libraries: what a table of classes got wrong would show."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from c_tokenizer import Made, compare
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
    assert compare(made(name), [text[::-1] for text in first[::3]]) > 3000
    assert compare(made(name), texts[len(first) :: 10]) > 500


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "bloom", "digits", "bert", "bert_accents", "t5"])
def test_every_character_of_every_plane(made: Callable[[str], Made], name: str) -> None:
    assert compare(made(name), characters_in_rows()) > 10_000
    assert compare(made(name), [f"a{c}b{c}{c} {c}" for c in every_character()[::7]]) > 10_000
