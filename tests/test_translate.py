"""Encoder-decoders from a folder to a device: `build`, `translate`, `verify`, and what is refused in one line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from command_line import refuses, succeeds
from hugging_face import CASES as DECODERS
from hugging_face import save
from hugging_face_pairs import CASES, own_pair, save_pair
from picoformer.decoder.build import open_decoder
from picoformer.errors import ModelError
from picoformer.models.encoder_decoder import EncoderDecoder
from picoformer.models.encoder_decoder_config import EncoderDecoderConfig
from picoformer.models.importers.load_pair import load_pair
from picoformer.models.pair_folder import save_pair as save_own
from picoformer.tokenizers.training import save_tokenizer, train_tokenizer

torch.set_num_threads(1)

LETTERS = "abcdefgh <>"
"""Characters that the small model reads and writes; token 0 is for all others."""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of our own with a tokenizer of characters, both sides with its vocabulary."""
    folder = tmp_path_factory.mktemp("own")
    config = own_pair()[0].config
    encoder = dataclasses.replace(config.encoder, vocab_size=12)
    decoder = dataclasses.replace(config.decoder, vocab_size=12, classes=12)
    module = EncoderDecoder(EncoderDecoderConfig(encoder, decoder), seed=1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(6.0 if ".cross." in name or "head" in name else 2.0)
    tokenizer = train_tokenizer(LETTERS, "character")
    ids = tokenizer.get_vocab()
    save_own(module, folder, ids["<"], [ids[">"]], 0)
    save_tokenizer(tokenizer, folder / "tokenizer.json")
    (folder / "pairs.tsv").write_text("abc\tcab\nhe had\tbad\nface\tdad\nd\te\n", "utf-8")
    return folder


@pytest.fixture(scope="module")
def built(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its build for an emulated board, calibrated on the pairs."""
    out = tmp_path_factory.mktemp("built") / "out"
    words = ("build", own, "--calibration", own / "pairs.tsv", "--target", "mps2-an386", "--source", 9, "--context", 14)
    succeeds(*map(str, words), "--block", "2", "--beams", "2", "-o", out)
    return out


def test_a_folder_of_our_own_is_what_was_saved(own: Path) -> None:
    model = load_pair(own)
    assert model.family == "picoformer_encoder_decoder" and model.tokenizer == own / "tokenizer.json"
    ids = json.loads((own / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    assert (model.begin, model.eos, model.pad) == ((ids["<"],), (ids[">"],), 0)
    again = EncoderDecoder(model.config, seed=None)
    again.load_weights({name: torch.from_numpy(value) for name, value in model.weights.items()})


def test_a_device_translates_as_the_reference(built: Path, arm_tools: None) -> None:
    """Firmware on this machine and in an emulator: the same tokens for the same text."""
    record = open_decoder(built).record
    assert (record.source_tokens, record.context, record.block) == (9, 14, 2) and record.begin
    told = [
        succeeds("translate", built, "abc", "he had", "--tokens", "9", "--target", place, "--json").record
        for place in ("reference", "host", "mps2-an386")
    ]
    texts = [[(one["source"], one["tokens"], one["text"]) for one in record["texts"]] for record in told]
    assert texts[0] == texts[1] == texts[2]
    assert texts[0][0][1] != texts[0][1][1] and texts[0][0][0] == "abc"
    assert [one["target"] for one in told] == ["reference", "host", "mps2-an386"]


def test_a_device_searches_as_the_reference(built: Path, arm_tools: None) -> None:
    """Each beam has what the source came to, the copies too."""
    words = ("translate", built, "abc", "he had", "face", "--tokens", "8", "--beams", "2", "--json")
    told = [
        [one["tokens"] for one in succeeds(*words, "--target", place).record["texts"]]
        for place in ("reference", "host", "mps2-an386")
    ]
    assert told[0] == told[1] == told[2] and told[0][0] != told[0][1]


def test_a_build_verifies(built: Path, tmp_path: Path, arm_tools: None) -> None:
    """Every step of the source's run and of those behind it: reference, this machine, emulator; ONNX in front."""
    chance = np.random.default_rng(0)
    arrays = {"source": chance.integers(1, 12, (2, 9)), "tokens": chance.integers(1, 12, (2, 8))}
    np.savez(tmp_path / "texts.npz", source_length=np.array([9, 4]), **arrays)
    answer = succeeds("verify", built, "--inputs", tmp_path / "texts.npz", "--min-sqnr", "20", "--json").record
    links = {(link["from"], link["to"]): link["equal"] for link in answer["links"]}
    assert links[("reference", "host")] and links[("host", "mps2-an386")]
    float_link = answer["links"][0]
    assert (float_link["from"], float_link["to"]) == ("float onnx", "float graph") and float_link["max_abs"] < 1e-4
    np.savez(tmp_path / "none.npz", tokens=arrays["tokens"])
    refuses(("verify", built, "--inputs", tmp_path / "none.npz"), "has no array 'source'")
    np.savez(tmp_path / "long.npz", **{**arrays, "source": np.ones((2, 10), np.int64)})
    refuses(("verify", built, "--inputs", tmp_path / "long.npz"), "a source of 10 tokens: this model takes 1 to 9")


def test_pairs_are_counted(own: Path, tmp_path: Path) -> None:
    words = ("translate", own, "--scheme", "float32", "--tokens", "9")
    found = succeeds(*words, "abc", "face", "--json").record["texts"]
    (tmp_path / "pairs.tsv").write_text(f"abc\t{found[0]['text']}\nface\tno\n", "utf-8")
    answer = succeeds(*words, "--pairs", tmp_path / "pairs.tsv", "--json").record
    assert (answer["pairs"], answer["exact"], answer["exact_share"]) == (2, 1, 0.5)
    assert succeeds(*words, "--pairs", tmp_path / "pairs.tsv").out == "1 of 2 exact, 50.0%\n"


def test_without_pairs_the_model_writes_its_own(own: Path) -> None:
    words = ("translate", own, "--source", "6", "--context", "8", "--tokens", "5", "--json")
    answer = succeeds(*words, "face").record
    assert answer["scheme"] == "int8x16" and len(answer["texts"][0]["tokens"]) <= 5


def test_beams_find_texts_of_no_less_probability(own: Path) -> None:
    words = ("translate", own, "--scheme", "float32", "--tokens", "6", "--json")
    greedy, beams = (succeeds(*words, "--beams", n, "he had").record["texts"][0]["tokens"] for n in ("1", "4"))
    assert len(greedy) <= 6 and len(beams) <= 6


def test_what_is_refused(own: Path, built: Path, tmp_path: Path) -> None:
    refuses(("translate", own), "give what to translate")
    refuses(("translate", own, "abc", "--source-ids", "1"), "one of these alone")
    refuses(("translate", own, "abc", "--target", "host"), "is a checkpoint; `picoformer build` it first")
    refuses(("translate", built, "abcdefghab"), "a source of 10 tokens: this model takes 1 to 9")
    refuses(("translate", built, "--source-ids", "12"), "token 12 of the source is outside the vocabulary of 12")
    refuses(("translate", built, "abc", "--target", "mps2-an385"), "was built for mps2-an386")
    refuses(("translate", built, "abc", "--target", "host", "--beams", "3"), "built with --beams 3", "room for 2")
    refuses(("translate", built, "abc", "--calibration", own / "pairs.tsv"), "is built already")
    refuses(("generate", built, "--prompt-ids", "1"), "is an encoder-decoder", "picoformer translate")
    (tmp_path / "bad.tsv").write_text("abc\tcab\nabc cab\n", "utf-8")
    refuses(("translate", own, "--pairs", tmp_path / "bad.tsv"), "line 2 is not a source, a tab and a text")
    (tmp_path / "empty.tsv").write_text("", "utf-8")
    refuses(("translate", own, "abc", "--calibration", tmp_path / "empty.tsv"), "holds no pair")
    refuses(("build", own, "--target", "host", "--source", "99", "-o", tmp_path / "out"), "more than the 40 positions")
    assert not (tmp_path / "out").exists()


def test_a_language_model_reads_no_source(tmp_path: Path) -> None:
    save(DECODERS["gpt2"], tmp_path / "gpt2")
    refuses(("translate", tmp_path / "gpt2", "--source-ids", "1"), "model_type = 'gpt2' is not covered")
    refuses(("build", tmp_path / "gpt2", "--target", "host", "--source", "4", "-o", tmp_path / "out"), "--source")
    save_pair(CASES["bart"], tmp_path / "bart")
    refuses(("generate", tmp_path / "bart", "--prompt-ids", "1"), "model_type = 'bart' is not covered")


def test_a_record_that_is_broken_is_refused(built: Path, tmp_path: Path) -> None:
    path = built / "decoder.json"
    before = path.read_text("utf-8")
    try:
        for change in ({"source_tokens": -1}, {"begin": []}, {"begin": [99]}, {"pad": 12}):
            path.write_text(json.dumps({**json.loads(before), **change}), "utf-8")
            with pytest.raises(ModelError, match="is broken"):
                open_decoder(built)
    finally:
        path.write_text(before, "utf-8")


def test_weights_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    module = own_pair()[0]
    with torch.no_grad():
        module.decoder.head.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"'decoder.head.weight' holds 1 NaN"):
        save_own(module, tmp_path / "out", 1, [2], 0)
    with pytest.raises(ModelError, match="begin = 53 is outside the vocabulary"):
        save_own(module, tmp_path / "out", 53, [2], 0)
    assert not (tmp_path / "out").exists()
