"""Tokenizers in C against the libraries: equal ids on any text, bounded, and nothing written outside the buffers."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from c_tokenizer import (
    BYTES,
    IDS,
    LANGUAGES,
    NO_ID,
    SCRATCH,
    Made,
    compare,
    documentation,
    edge_texts,
    random_bytes,
    random_texts,
)
from tokenizer_cases import CASES


@pytest.mark.parametrize("name", CASES)
def test_ids_are_those_of_the_library(made: Callable[[str], Made], name: str) -> None:
    assert compare(made(name), edge_texts()) > 3000
    assert compare(made(name), random_texts(800, seed=1)) > 3000
    assert compare(made(name), [b"\xff" * 50, b"\xf0\x9f\x98" * 50, *random_bytes(600, seed=2)]) > 1000


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_ids_are_those_of_the_library_on_much_text(made: Callable[[str], Made], name: str) -> None:
    assert compare(made(name), random_texts(10_000, seed=3)) > 33_000
    assert compare(made(name), random_bytes(7_000, seed=4)) > 14_000
    assert compare(made(name), documentation()[150_000:].splitlines()) > 30_000


@pytest.mark.parametrize("name", CASES)
def test_buffers_that_are_full_and_too_small(made: Callable[[str], Made], name: str) -> None:
    tokenizer, c = made(name)
    for text in (LANGUAGES[1], LANGUAGES[4], "ab"):
        data, expected = text.encode(), tokenizer.encode(text)
        assert c.encode(data, max_ids=len(expected)) == expected
        for room in range(len(expected)):
            assert c.encode(data, max_ids=room) == IDS
        whole = c.scratch_bytes(len(data))
        answers = [c.encode(data, scratch_bytes=size) for size in (*range(0, whole, 7), whole)]
        assert answers[0] == SCRATCH and all(answer in (SCRATCH, expected) for answer in answers)
        shortest = next(i for i, answer in enumerate(answers) if answer == expected)
        assert all(answer == expected for answer in answers[shortest:])
    longest = max(range(tokenizer.vocab_size), key=lambda i: len(tokenizer.vocabulary.pieces[i]))
    assert c.decode([longest], room=1) == [BYTES]
    assert c.decode([-1, tokenizer.vocab_size, 2**31 - 1]) == [NO_ID] * 3


@pytest.mark.parametrize("name", ["gpt2", "bytes_unsplit", "llama", "llama2c", "bert", "t5", "unigram_bytes"])
def test_one_word_of_100_kilobytes_takes_no_square_of_time(made: Callable[[str], Made], name: str) -> None:
    """A merge that looked at all pairs each time would take minutes."""
    tokenizer, c = made(name)
    for word in ("a", "the", "abcdefghij"):
        text = (word * 100_000)[:100_000]
        expected = tokenizer.encode(text)
        start = time.process_time()
        assert c.encode(text.encode()) == expected
        assert time.process_time() - start < 2


def test_ids_around_a_text(made: Callable[[str], Made]) -> None:
    tokenizer, c = made("llama2c")
    expected = tokenizer.encode_sequence("Hello")
    assert expected == [1, *tokenizer.encode("Hello")]
    assert c.encode(b"Hello", name="encode_sequence") == expected
    assert c.encode(b"Hello", name="encode_sequence", max_ids=len(expected)) == expected
    for room in range(len(expected)):
        assert c.encode(b"Hello", name="encode_sequence", max_ids=room) == IDS
