"""Stop strings, in numpy's room and in C, against a search of the whole text."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from generation_library import TAKE, TextLibrary, ToyModel
from picoformer.errors import ConfigError
from picoformer.generation import SamplerSettings, Stopping, StopStrings, generate


def cut(text: bytes, strings: list[bytes]) -> tuple[bytes, bool]:
    """What is left of the text: the first end of any string counts, then the longest string that ends there."""
    for end in range(1, len(text) + 1):
        ending = [string for string in strings if text[:end].endswith(string)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


def random_case(rng: np.random.Generator) -> tuple[list[bytes], list[bytes]]:
    """Strings and tokens of few letters, so that beginnings overlap; tokens cut them anywhere, some are empty, some are
    beginnings of a string."""
    letters = list(b"ab" if rng.random() < 0.6 else b"abc\xc3\xa9")
    longest = 9 if rng.random() < 0.5 else 16
    strings = [bytes(rng.choice(letters, int(rng.integers(1, longest))).tolist()) for _ in range(rng.integers(0, 4))]
    pieces = [bytes(rng.choice(letters, int(rng.integers(0, 6))).tolist()) for _ in range(rng.integers(0, 12))]
    for i in range(len(pieces)):
        if strings and rng.random() < 0.5:
            string = strings[int(rng.integers(len(strings)))]
            pieces[i] = string[: int(rng.integers(len(string)))]
    return strings, pieces


def test_text_is_given_out_up_to_the_first_stop_string() -> None:
    rng = np.random.default_rng(1)
    met = 0
    for _ in range(3000):
        strings, pieces = random_case(rng)
        stops = StopStrings(strings)
        out = b""
        for piece in pieces:
            out += stops.feed(piece)
        text, is_complete = cut(b"".join(pieces), strings)
        assert stops.is_complete == is_complete
        assert out + stops.finish() == text
        met += is_complete
    assert 500 < met < 2500


def test_no_more_is_held_back_than_may_begin_a_stop_string() -> None:
    stops = StopStrings([b"aab", b"\n\n"])
    assert stops.feed(b"xa") == b"x"
    assert stops.feed(b"a") == b""
    assert stops.feed(b"a") == b"a"
    assert stops.feed(b"c\n") == b"aac"
    assert stops.feed(b"\nrest") == b"" and stops.is_complete
    assert stops.feed(b"more") == b"" == stops.finish()


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_c_gives_out_the_same(tmp_path: Path, compiler: str) -> None:
    library = TextLibrary(tmp_path, compiler)
    rng = np.random.default_rng(2)
    out = bytearray()

    def take(_: object, data: object, count: int) -> int:
        assert count > 0
        out.extend(data[:count])  # type: ignore[index]
        return 0

    callback = TAKE(take)
    for _ in range(1500):
        strings, pieces = random_case(rng)
        stops, alive = library.stops(strings)
        python, answer = StopStrings(strings), ctypes.c_int(0)
        for piece in pieces:
            out.clear()
            buffer = (ctypes.c_uint8 * max(1, len(piece)))(*piece)
            status = library.c.pf_stops_feed(
                ctypes.byref(stops), buffer, len(piece), callback, None, ctypes.byref(answer)
            )
            assert bytes(out) == python.feed(piece)
            assert bool(status) == python.is_complete
        out.clear()
        library.c.pf_stops_finish(ctypes.byref(stops), callback, None)
        assert bytes(out) == python.finish()
        assert alive[-1].value is not None


def test_a_text_that_ends_otherwise_is_given_out_whole() -> None:
    """Held back bytes belong to the text when max_tokens ends it."""

    def always_b(tokens: tuple[int, ...]) -> np.ndarray:
        return np.array([0, 5], np.int16)

    words = [b"x", b"ab"]
    greedy = SamplerSettings(greedy=True)
    whole = generate(ToyModel(always_b, 2), [0], greedy, 1.0, Stopping(2, (), (b"bababz",)), bytes_of=words.__getitem__)
    assert whole.text == b"abab" and whole.tokens == (1, 1)
    short = generate(ToyModel(always_b, 2), [0], greedy, 1.0, Stopping(9, (), (b"baba",)), bytes_of=words.__getitem__)
    assert short.text == b"a" and short.tokens == (1, 1, 1)


@pytest.mark.parametrize("strings", [(b"",), ("text",), (b"x" * 40000, b"y" * 40000)])
def test_bad_strings_are_refused(strings: tuple[bytes, ...]) -> None:
    with pytest.raises(ConfigError, match="stop string"):
        Stopping(strings=strings)


def test_stop_strings_want_bytes() -> None:
    model = ToyModel(lambda tokens: np.zeros(2, np.int16), 2)
    with pytest.raises(ConfigError, match="tokenizer"):
        generate(model, [0], SamplerSettings(), 1.0, Stopping(strings=(b"x",)))
