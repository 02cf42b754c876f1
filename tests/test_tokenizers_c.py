"""Tokenizers in C against the libraries: equal ids on any text, bounded, and nothing written outside the buffers."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from c_host import FIRMWARE, STRICT, run
from c_tokenizer import (
    BYTES,
    IDS,
    LANGUAGES,
    NO_ID,
    SCRATCH,
    HostTokenizer,
    documentation,
    edge_texts,
    random_bytes,
    random_texts,
)
from picoformer.backends.c.tokenizer import write_tokenizer_c
from picoformer.tokenizers import TextTokenizer, load_text_tokenizer
from picoformer.tokenizers.unicode_classes import every_character
from tokenizer_cases import CASES

Made = tuple[TextTokenizer, HostTokenizer]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """Case → (the library's tokenizer, the C)."""

    @cache
    def make(name: str) -> Made:
        folder = tmp_path_factory.mktemp(name)
        tokenizer = load_text_tokenizer(CASES[name](folder))
        return tokenizer, HostTokenizer(tokenizer.tables(), folder)

    return make


def compare(pair: Made, texts: list[str] | list[bytes]) -> int:
    """Ids and bytes of the C are the library's; how many ids there were."""
    tokenizer, c = pair
    count = 0
    for text in texts:
        data = text.encode() if isinstance(text, str) else text
        expected = tokenizer.encode(text)
        assert c.encode(data) == expected, text
        assert c.decode(expected) == [*map(tokenizer.stream().feed_bytes, expected)], text
        count += len(expected)
    return count


@pytest.mark.parametrize("name", CASES)
def test_ids_are_those_of_the_library(made: Callable[[str], Made], name: str) -> None:
    assert compare(made(name), edge_texts()) > 3000
    assert compare(made(name), random_texts(800, seed=1)) > 3000
    assert compare(made(name), random_bytes(600, seed=2)) > 1000


def characters_in_rows() -> list[str]:
    """Every character once, 100 to a text: what a class table got wrong would show."""
    text = every_character()
    return [text[i : i + 100] for i in range(0, len(text), 100)]


@pytest.mark.parametrize("name", ["gpt2", "bloom", "digits", "bert", "bert_accents", "t5"])
def test_every_character(made: Callable[[str], Made], name: str) -> None:
    """The first planes whole; of the others, which are hardly assigned, every tenth text here, all of them in the sweep."""
    texts = characters_in_rows()
    first = texts[: 0x20000 // 100]
    assert compare(made(name), first) > 10_000
    assert compare(made(name), [text[::-1] for text in first[::3]]) > 3000
    assert compare(made(name), texts[len(first) :: 10]) > 500


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "bloom", "digits", "bert", "bert_accents", "t5"])
def test_every_character_of_every_plane(made: Callable[[str], Made], name: str) -> None:
    assert compare(made(name), characters_in_rows()) > 10_000
    assert compare(made(name), [f"a{c}b{c}{c} {c}" for c in every_character()[::7]]) > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_ids_are_those_of_the_library_on_much_text(made: Callable[[str], Made], name: str) -> None:
    assert compare(made(name), random_texts(30_000, seed=3)) > 100_000
    assert compare(made(name), random_bytes(20_000, seed=4)) > 100_000
    assert compare(made(name), documentation()[150_000:].splitlines()) > 50_000


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


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "t5"])
def test_it_compiles_for_devices(made: Callable[[str], Made], name: str, tmp_path: Path) -> None:
    written = write_tokenizer_c(made(name)[0].tables(), tmp_path, "device")
    sources = [tmp_path / source for source in written.sources] + [FIRMWARE / source for source in written.firmware]
    for flags in (["arm-none-eabi-gcc", "-mcpu=cortex-m0", "-mthumb"], ["clang"]):
        for source in sources:
            options = ["-Wshadow", "-ffreestanding", f"-I{FIRMWARE / 'include'}", "-O2", "-c"]
            run(*flags, *STRICT, *options, source, "-o", tmp_path / "object.o")


_SANITIZED = r"""
#include "tested_tokenizer.h"
#include <stdio.h>
#include <stdlib.h>
int main(void) {
    uint32_t head[3];
    while (fread(head, 4, 3, stdin) == 3) {
        uint8_t *text = malloc(head[0] ? head[0] : 1);
        int32_t *ids = malloc(head[1] ? 4 * head[1] : 1);
        void *scratch = malloc(head[2] ? head[2] : 1);
        if (head[0] && fread(text, 1, head[0], stdin) != head[0]) return 2;
        int32_t count = pf_tokenizer_encode(&tested_tokenizer, text, head[0], ids, head[1], scratch, head[2]);
        printf("%d", (int)count);
        uint32_t state = 0;
        for (int32_t i = 0; i < count; i++) {
            uint8_t out[8];
            printf(" %d", (int)ids[i]);
            (void)pf_tokenizer_decode(&tested_tokenizer, ids[i], &state, out, sizeof out);
        }
        printf("\n");
        free(text), free(ids), free(scratch);
    }
    return 0;
}
"""


@pytest.mark.parametrize(
    "name", ["llama3", "bloom", "digits", "llama", "metaspace_always", "bert", "t5", "unigram_json"]
)
def test_sanitizers_find_nothing(made: Callable[[str], Made], name: str, tmp_path: Path) -> None:
    """Random bytes through address and undefined-behaviour sanitizers, with buffers of any size, on the heap."""
    tokenizer, c = made(name)
    written = write_tokenizer_c(tokenizer.tables(), tmp_path, "tested")
    main = tmp_path / "main.c"
    main.write_text(_SANITIZED)
    sources = [tmp_path / source for source in written.sources] + [FIRMWARE / source for source in written.firmware]
    program = tmp_path / "program"
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1", "-std=c99"]
    probe = tmp_path / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    if subprocess.run(["gcc", *flags, probe, "-o", program], capture_output=True, check=False).returncode:
        pytest.skip("THE SANITIZERS' RUN-TIME LIBRARY IS MISSING: the C was not run under them")
    run("gcc", *flags, f"-I{FIRMWARE / 'include'}", f"-I{tmp_path}", main, *sources, "-o", program)
    texts = [*random_bytes(400, seed=5), *[text.encode() for text in (*edge_texts()[:20], *random_texts(100, seed=6))]]
    requests, sizes = bytearray(), []
    for i, text in enumerate(texts):
        room = 4 * len(text) + 16 if i % 3 else len(text) // 2
        scratch = c.scratch_bytes(len(text)) // (1 if i % 5 else 4)
        sizes.append((room, scratch))
        requests += b"".join(n.to_bytes(4, "little") for n in (len(text), room, scratch)) + text
    done = subprocess.run([program], input=bytes(requests), capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    for text, (room, scratch), line in zip(texts, sizes, done.stdout.splitlines(), strict=True):
        count, *ids = map(int, line.split())
        expected = c.encode(text, room, scratch)
        assert (ids if count >= 0 else count) == expected


def test_what_a_device_does_not_do_is_refused_by_name(tmp_path: Path) -> None:
    from picoformer.errors import UnsupportedError

    path = CASES["gpt2"](tmp_path)
    original = json.loads(path.read_text())
    split = {"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Isolated", "invert": False}
    changes = {
        "NFC": {"normalizer": {"type": "NFC"}},
        "Split x": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, original["pre_tokenizer"]]}},
    }
    for message, change in changes.items():
        path.write_text(json.dumps(original | change))
        with pytest.raises(UnsupportedError, match=message) as error:
            load_text_tokenizer(path).tables()
        assert "\n" not in str(error.value)
    shutil.rmtree(tmp_path)
