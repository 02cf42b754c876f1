"""Tokenizers on the host: one interface for all files, decoding as it comes, and files that are none."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from c_tokenizer import LANGUAGES, Made, edge_texts, random_bytes, random_texts
from picoformer.errors import DataError, UnsupportedError
from picoformer.tokenizers import TextTokenizer, load_text_tokenizer
from picoformer.tokenizers.llama2c import read_tokenizer_bin, write_tokenizer_bin
from picoformer.tokenizers.sentencepiece_file import read_model
from tokenizer_cases import CASES, LLAMA, train_sentencepiece

Make = Callable[[str], Made]


def fails(path: Path, message: str, action: Callable[[Path], Any] = load_text_tokenizer) -> None:
    """Loading is refused in one line that names the file."""
    with pytest.raises(DataError, match=message) as error:
        action(path)
    assert str(path.parent) in str(error.value) and "\n" not in str(error.value)


def library_decode(tokenizer: TextTokenizer, ids: list[int]) -> str:
    library: Any = tokenizer.library if hasattr(tokenizer, "library") else tokenizer._library
    return str(library.decode(ids))


@pytest.mark.parametrize("name", [name for name in CASES if name != "llama2c"])
def test_texts_decode_as_by_the_library(made: Make, name: str) -> None:
    tokenizer, _ = made(name)
    differing = 0
    for text in [*edge_texts(), *random_texts(300, seed=11)]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == library_decode(tokenizer, ids), text
        differing += tokenizer.decode(ids) != (text.replace("▁", " ") if "llama_" in f"{name}_" else text)
    lossless = name in ("gpt2", "gpt2_pattern", "qwen", "llama3", "bloom", "bytes_unsplit", "llama", "llama_json")
    assert (differing == 0) == lossless


@pytest.mark.parametrize("name", ["gpt2", "llama", "llama2c", "bert", "t5", "metaspace_always", "character"])
def test_a_stream_gives_what_whole_decoding_gives(made: Make, name: str) -> None:
    tokenizer, c = made(name)
    rng = random.Random(12)
    streams = [tokenizer.encode(text) for text in random_texts(60, seed=13)]
    streams += [[rng.randrange(tokenizer.vocab_size) for _ in range(rng.randrange(30))] for _ in range(60)]
    for ids in streams:
        stream = tokenizer.stream()
        parts = [stream.feed(token) for token in ids]
        assert "".join([*parts, stream.end()]) == tokenizer.decode(ids)
        assert b"".join(part for part in c.decode(ids) if isinstance(part, bytes)) == tokenizer.decode_bytes(ids)


def test_a_character_comes_when_its_last_byte_does(made: Make) -> None:
    tokenizer, _ = made("llama2c")
    ids = [3 + byte for byte in "é😀".encode()]
    stream = tokenizer.stream()
    assert [stream.feed(token) for token in ids] == ["", "é", "", "", "", "😀"]
    assert stream.feed(ids[0]) == "" and stream.end() == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("name", ["gpt2", "llama", "llama2c", "bert", "t5", "character"])
def test_bytes_are_read_as_python_replaces_what_is_broken(made: Make, name: str) -> None:
    tokenizer, _ = made(name)
    for data in random_bytes(200, seed=14):
        assert tokenizer.encode(data) == tokenizer.encode(data.decode("utf-8", "replace"))
    assert tokenizer.encode("a\ud83db") == tokenizer.encode("a\ufffd\ufffd\ufffdb")


def test_names_of_special_tokens_are_text(made: Make) -> None:
    for name, special in (("gpt2", "<|endoftext|>"), ("llama_json", "<s>"), ("bert", "[SEP]"), ("llama", "</s>")):
        tokenizer, _ = made(name)
        assert len(tokenizer.encode(f"a {special} b")) >= 5


def test_llama2c_gives_the_ids_of_the_model_that_was_exported(tmp_path: Path) -> None:
    """sentencepiece is the oracle, where U+2581 does not occur: it is a space there and a character in llama2.c."""
    model = load_text_tokenizer(train_sentencepiece(tmp_path, **LLAMA))
    exported = load_text_tokenizer(CASES["llama2c"](tmp_path))
    count = 0
    for text in [*edge_texts(), *random_texts(1500, seed=15)]:
        text = text.replace("▁", "_")
        expected = model.encode(text)
        assert exported.encode(text) == expected
        assert exported.decode(expected) == model.decode(expected)
        count += len(expected)
    assert count > 20_000 and exported.vocab_size == model.vocab_size


def test_what_a_tokenizer_says_of_itself(made: Make) -> None:
    said = {
        name: (made(name)[0].kind, made(name)[0].bos, made(name)[0].eos, made(name)[0].prefix, made(name)[0].suffix)
        for name in ("gpt2", "llama", "llama2c", "bert", "t5", "character")
    }
    assert said == {
        "gpt2": ("byte_bpe", 0, 0, (), ()),
        "llama": ("sentencepiece_bpe", 1, 2, (1,), ()),
        "llama2c": ("sentencepiece_bpe", 1, 2, (1,), ()),
        "bert": ("wordpiece", 2, 3, (2,), (3,)),
        "t5": ("unigram", 1, 2, (), (2,)),
        "character": ("character", None, None, (), ()),
    }
    bert = made("bert")[0]
    assert bert.encode_sequence("a") == [2, *bert.encode("a"), 3]


def test_a_folder_and_the_names_in_its_settings(tmp_path: Path) -> None:
    CASES["gpt2"](tmp_path)
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps({"bos_token": None, "eos_token": {"content": "<|endoftext|>"}}))
    tokenizer = load_text_tokenizer(tmp_path)
    assert (tokenizer.bos, tokenizer.eos) == (None, 0)
    settings.write_text("[")
    fails(tmp_path, "not a tokenizer's settings")
    (tmp_path / "tokenizer.json").unlink()
    fails(tmp_path, "no tokenizer in this folder")
    fails(tmp_path / "nowhere.json", "no such file")
    (tmp_path / "tokenizer.txt").write_text("a")
    fails(tmp_path / "tokenizer.txt", "'.txt' is no tokenizer")


def test_a_tokenizer_that_does_not_match_the_model(made: Make) -> None:
    tokenizer, _ = made("llama2c")
    tokenizer.check_vocabulary(1000)
    tokenizer.check_vocabulary(1024)
    with pytest.raises(DataError, match="has 1000 tokens, the model's vocabulary 999") as error:
        tokenizer.check_vocabulary(999)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="id 1000 is outside the vocabulary of 1000"):
        tokenizer.decode([5, 1000])


def test_a_tokenizer_bin_that_is_cut_off_or_lies(tmp_path: Path) -> None:
    path = CASES["llama2c"](tmp_path)
    whole = path.read_bytes()
    entries = read_tokenizer_bin(path)
    assert len(entries) == 1000 and read_tokenizer_bin(path, 1000) == entries
    fails(path, "behind its 999 tokens", lambda p: load_text_tokenizer(p, 999))
    fails(path, "cut off in token 1000 of 1001", lambda p: load_text_tokenizer(p, 1001))
    ends = {0, 4}
    at = 4
    for piece, _ in entries:
        at += 8 + len(piece)
        ends.add(at)
    broken = tmp_path / "broken.bin"
    for size in [*range(40), *random.Random(16).sample(range(40, len(whole)), 100)]:
        if size not in ends:
            broken.write_bytes(whole[:size])
            fails(broken, "cut off|would have|no tokenizer.bin")
    for message, data in {
        "longest token would have -1": struct.pack("<i", -1) + whole[4:],
        "longest token would have 2147483647": struct.pack("<i", 2**31 - 1) + whole[4:],
        "token 0 would have -5 bytes": whole[:8] + struct.pack("<i", -5) + whole[12:],
        "token 0 would have 1073741824 bytes": whole[:8] + struct.pack("<i", 1 << 30) + whole[12:],
        "token 0 has the score nan": whole[:4] + struct.pack("<f", float("nan")) + whole[8:],
        "0 bytes is no tokenizer.bin": b"",
    }.items():
        broken.write_bytes(data)
        fails(broken, message)
    write_tokenizer_bin(broken, [(b"a", 0.0)] * 300)
    fails(broken, "token 3 should be <0x00>, found a")
    write_tokenizer_bin(broken, [])
    fails(broken, "token 3 should be <0x00>")


def test_a_model_that_is_cut_off_or_changed(tmp_path: Path) -> None:
    path = train_sentencepiece(tmp_path, model_type="unigram", vocab_size=500, normalization_rule_name="nmt_nfkc")
    whole = path.read_bytes()
    broken = tmp_path / "broken.model"
    for size in (0, 1, 2, 5, 100, 1000, len(whole) - 1):
        broken.write_bytes(whole[:size])
        fails(broken, "not a SentencePiece model")
    broken.write_bytes(b"\x00" * 1000)
    fails(broken, "not a SentencePiece model")
    broken.write_bytes(b"\xff" * 1000)
    fails(broken, "not a SentencePiece model")
    start = whole.index(read_model(path).charsmap)
    rng = random.Random(17)
    for _ in range(6):
        changed = bytearray(whole)
        for _ in range(50):
            changed[start + rng.randrange(180_000)] = rng.randrange(256)
        broken.write_bytes(bytes(changed))
        try:
            tables = load_text_tokenizer(broken).tables()
        except DataError as error:
            assert "\n" not in str(error)
        else:
            assert tables.kind == "unigram"


def test_a_tokenizer_json_that_lies(tmp_path: Path) -> None:
    path = CASES["gpt2"](tmp_path)
    original = json.loads(path.read_text())
    model = original["model"]
    for message, changed in {
        "not a tokenizer.json": {"model": model | {"merges": [["missing", "tokens"]]}},
        "a tokenizer.json|model": {"model": model | {"type": "None"}},
        "table 'model'": {"model": 3},
        "not a tokenizer.json ": {"pre_tokenizer": {"type": "Nothing"}},
    }.items():
        path.write_text(json.dumps(original | changed))
        fails(path, message)
    for wrong in (2**31 - 1, -1, "one"):
        path.write_text(json.dumps(original | {"model": model | {"vocab": model["vocab"] | {"far": wrong}}}))
        fails(path, f"a token has the id {wrong}")


def test_what_a_device_does_not_do_is_refused_by_name(tmp_path: Path) -> None:
    path = CASES["gpt2"](tmp_path)
    original = json.loads(path.read_text())
    split = {"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Isolated", "invert": False}
    added = original["added_tokens"] + [original["added_tokens"][0] | {"id": 1500, "content": "hm", "special": False}]
    changes: dict[str, dict[str, Any]] = {
        "the normalizer NFC": {"normalizer": {"type": "NFC"}},
        "Split x": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, original["pre_tokenizer"]]}},
        "the added token 'hm'": {"added_tokens": added},
        "dropout = 0.5": {"model": original["model"] | {"dropout": 0.5}},
    }
    for message, change in changes.items():
        path.write_text(json.dumps(original | change))
        tokenizer = load_text_tokenizer(path)
        with pytest.raises(UnsupportedError, match=message) as error:
            tokenizer.tables()
        assert "\n" not in str(error.value)
        assert tokenizer.decode(tokenizer.encode(LANGUAGES[0])) == LANGUAGES[0] or "dropout" in message


def test_user_defined_symbols_are_refused_on_a_device(tmp_path: Path) -> None:
    path = train_sentencepiece(tmp_path, model_type="bpe", vocab_size=600, user_defined_symbols=["<x>"])
    tokenizer = load_text_tokenizer(path)
    assert tokenizer.decode(tokenizer.encode("a<x>b")) == "a<x>b"
    with pytest.raises(UnsupportedError, match="'<x>', a user-defined symbol"):
        tokenizer.tables()
