"""Vocabulary pruning: the corpus keeps its tokens under new ids, every text comes back, logits do not change."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from command_line import refuses, succeeds
from picoformer.compress.vocabulary import SmallerVocabulary, prune_vocabulary
from picoformer.errors import ConfigError, DataError
from picoformer.metrics import IGNORED
from picoformer.models.checkpoint import load_checkpoint, save_checkpoint
from picoformer.models.config import TransformerConfig
from picoformer.models.transformer import Transformer
from picoformer.tokenizers.training import load_tokenizer, save_tokenizer, train_tokenizer

torch.set_num_threads(1)

TRAINED_ON = "the theory of the weather there: other mothers gather; naïve façades, " * 3 + "0123456789 für Größe. " * 4
CORPUS = ["the other mother gathers the weather there", "façades"]


def config(vocabulary: int, **keys: Any) -> TransformerConfig:
    sizes = {"vocab_size": vocabulary, "classes": vocabulary, "sequence": 64, "pooling": "none", "causal": True}
    return TransformerConfig.uniform(layers=1, heads=2, d_ff=8, d_model=8, **{**sizes, **keys})


def build(of: TransformerConfig) -> Transformer:
    model = Transformer(of, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TRAINED_ON, "bpe", 320)


@pytest.fixture(scope="module")
def smaller(tokenizer: Tokenizer) -> SmallerVocabulary:
    return prune_vocabulary(build(config(tokenizer.get_vocab_size(), tied_head=True)), tokenizer, CORPUS)


def test_the_corpus_keeps_its_tokens(tokenizer: Tokenizer, smaller: SmallerVocabulary) -> None:
    report = smaller.report
    assert report.tokens_before == tokenizer.get_vocab_size() > report.tokens_after > 256
    assert smaller.tokenizer.get_vocab_size() == smaller.model.config.vocab_size == report.tokens_after
    assert report.corpus_tokens_before == report.corpus_tokens_after
    assert report.parameters_before - report.parameters_after == 8 * (report.tokens_before - report.tokens_after)
    assert report.bytes_after < report.bytes_before
    for text in CORPUS:
        before, after = tokenizer.encode(text), smaller.tokenizer.encode(text)
        assert before.tokens == after.tokens
        assert smaller.remap(np.array(before.ids)).tolist() == after.ids
    kept = {id_: name for name, id_ in smaller.tokenizer.get_vocab().items()}
    assert sorted(kept) == list(range(len(kept)))
    assert set(map(len, pre_tokenizers.ByteLevel.alphabet())) == {1}
    assert set(pre_tokenizers.ByteLevel.alphabet()) <= set(kept.values())


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_every_text_comes_back(smaller: SmallerVocabulary, text: str) -> None:
    assert smaller.tokenizer.decode(smaller.tokenizer.encode(text).ids) == text


def test_every_byte_comes_back(smaller: SmallerVocabulary) -> None:
    for text in ("".join(map(chr, range(256))), "\x00\t\r\n", "日本語 🙂 \U0010ffff é", " ".join(CORPUS)):
        assert smaller.tokenizer.decode(smaller.tokenizer.encode(text).ids) == text
        assert max(smaller.tokenizer.encode(text).ids) < smaller.model.config.vocab_size


@pytest.mark.parametrize("keys", [{"tied_head": True}, {}, {"embedding_rank": 4}])
def test_logits_of_kept_tokens_do_not_change(tokenizer: Tokenizer, keys: dict[str, Any]) -> None:
    model = build(config(tokenizer.get_vocab_size(), **keys))
    found = prune_vocabulary(model, tokenizer, CORPUS)
    ids = np.array([tokenizer.encode(CORPUS[0]).ids])
    with torch.no_grad():
        expected = model(torch.from_numpy(ids))[..., torch.from_numpy(np.flatnonzero(found.new_ids >= 0))]
        torch.testing.assert_close(found.model(torch.from_numpy(found.remap(ids))), expected)


def test_a_classifier_keeps_its_classes(tokenizer: Tokenizer) -> None:
    model = build(config(tokenizer.get_vocab_size(), classes=3, pooling="mean", causal=False))
    found = prune_vocabulary(model, tokenizer, CORPUS)
    assert found.model.config.classes == 3
    ids = np.array([tokenizer.encode(CORPUS[0]).ids])
    with torch.no_grad():
        torch.testing.assert_close(found.model(torch.from_numpy(found.remap(ids))), model(torch.from_numpy(ids)))


def test_tokens_that_went_are_named(tokenizer: Tokenizer, smaller: SmallerVocabulary) -> None:
    gone = int(np.flatnonzero(smaller.new_ids < 0)[0])
    assert smaller.remap(np.array([IGNORED, 0])).tolist() == [IGNORED, int(smaller.new_ids[0])]
    with pytest.raises(DataError, match=f"token {gone} is gone"):
        smaller.remap(np.array([0, gone]))
    with pytest.raises(DataError, match="outside the vocabulary"):
        smaller.remap(np.array([10_000]))


def test_rare_tokens_go_too_and_texts_still_come_back(tokenizer: Tokenizer) -> None:
    model = build(config(tokenizer.get_vocab_size()))
    found = prune_vocabulary(model, tokenizer, CORPUS, min_count=2)
    assert found.report.tokens_after < prune_vocabulary(model, tokenizer, CORPUS).report.tokens_after
    assert found.report.corpus_tokens_after > found.report.corpus_tokens_before
    for text in CORPUS:
        assert found.tokenizer.decode(found.tokenizer.encode(text).ids) == text


def test_special_tokens_stay_wherever_they_are_named() -> None:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        [TRAINED_ON], trainers.BpeTrainer(vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    made.add_special_tokens([AddedToken("<s>", special=True), AddedToken("<pad>", special=True)])
    start, padding = made.token_to_id("<s>"), made.token_to_id("<pad>")
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", start)])
    made.enable_padding(pad_id=padding, pad_token="<pad>", length=40)
    found = prune_vocabulary(build(config(made.get_vocab_size())), made, CORPUS)
    new_start, new_padding = found.tokenizer.token_to_id("<s>"), found.tokenizer.token_to_id("<pad>")
    assert new_start == found.new_ids[start] < start and new_padding == found.new_ids[padding]
    ids = found.tokenizer.encode(CORPUS[1]).ids
    assert ids[0] == new_start and ids[-1] == new_padding and len(ids) == 40
    assert ids == found.remap(np.array(made.encode(CORPUS[1]).ids)).tolist()


def test_characters_become_the_unknown_token() -> None:
    made = train_tokenizer(TRAINED_ON, "character")
    found = prune_vocabulary(build(config(made.get_vocab_size())), made, ["the other"])
    assert found.report.tokens_after == len(set("the other")) + 1
    assert found.tokenizer.decode(found.tokenizer.encode("the other").ids) == "the other"
    assert found.tokenizer.decode(found.tokenizer.encode("the 9").ids) == "the \N{REPLACEMENT CHARACTER}"


def test_merges_as_older_files_write_them(tokenizer: Tokenizer, smaller: SmallerVocabulary) -> None:
    """One text per merge, a space between; and a merge that two pairs make."""
    data = json.loads(tokenizer.to_str())
    data["model"]["merges"] = [" ".join(merge) for merge in data["model"]["merges"]]
    old = Tokenizer.from_str(json.dumps(data))
    found = prune_vocabulary(build(config(old.get_vocab_size())), old, CORPUS)
    assert found.tokenizer.get_vocab() == smaller.tokenizer.get_vocab()


def test_what_cannot_be_pruned(tokenizer: Tokenizer) -> None:
    size = tokenizer.get_vocab_size()
    frames = Transformer(TransformerConfig.uniform(1, 1, 4, 4, sequence=4, input_size=2, classes=2))
    for model, made, corpus, error, message in (
        (build(config(size)), tokenizer, [""], DataError, "holds no token"),
        (build(config(size - 1)), tokenizer, [TRAINED_ON], DataError, r"token 31\d"),
        (frames, tokenizer, CORPUS, DataError, "takes no tokens"),
        (build(config(size)), Tokenizer(models.Unigram([("t", -1.0), ("h", -2.0)], 0)), CORPUS, ConfigError, "Unigram"),
        (build(config(size)), Tokenizer(models.BPE({"t": 0, "h": 1}, [])), CORPUS, ConfigError, "BPE without bytes"),
    ):
        with pytest.raises(error, match=message):
            prune_vocabulary(model, made, corpus)


def test_the_command(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_checkpoint(build(config(tokenizer.get_vocab_size())), tmp_path / "model.safetensors")
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    for index, text in enumerate(CORPUS):
        (tmp_path / f"{index}.txt").write_text(text, "utf-8")
    words = ["prune-vocabulary", tmp_path / "model.safetensors", tmp_path / "tokenizer.json"]
    outputs = ["-o", tmp_path / "small.safetensors", "--tokenizer-output", tmp_path / "small.json", "--json"]
    record = succeeds(*words, tmp_path / "0.txt", tmp_path / "1.txt", *outputs).record
    model, _ = load_checkpoint(tmp_path / "small.safetensors")
    small = load_tokenizer(tmp_path / "small.json")
    assert model.config.vocab_size == small.get_vocab_size() == record["tokens_after"] < record["tokens_before"]
    assert small.decode(small.encode(CORPUS[1]).ids) == CORPUS[1]
    refuses([*words, tmp_path / "absent.txt", *outputs], "absent.txt: no such file")
    other = dataclasses.replace(model.config, vocab_size=99, classes=99)
    save_checkpoint(build(other), tmp_path / "model.safetensors")
    refuses([*words, tmp_path / "0.txt", *outputs], "vocab_size = 99; give the tokenizer")
