"""Text as data: tokenizers that lose nothing, windows that foretell, and decoders that see only what is before."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from command_line import refuses, succeeds
from picoformer.compress.count import count_parameters
from picoformer.compress.settings import DistillSettings, FactorizeSettings, PruneSettings, TrainSettings
from picoformer.compress.train import bits_per_label, evaluate, train
from picoformer.config import ModelSection
from picoformer.datasets import (
    TEXT_BLOCK,
    Dataset,
    load_dataset,
    next_tokens,
    python_documentation,
    save_dataset,
    split_text,
)
from picoformer.errors import ConfigError, DataError
from picoformer.files import file_hash
from picoformer.metrics import IGNORED, judge
from picoformer.models.checkpoint import load_checkpoint, save_checkpoint, trained_tokenizer
from picoformer.models.config import TransformerConfig
from picoformer.models.transformer import Transformer
from picoformer.stages import (
    TextSettings,
    distill_model,
    factorize_model,
    generate_targets,
    judge_model,
    make_dataset,
    model_config,
    prune_model,
    prune_vocabulary_files,
    take_teacher,
    tokenizer_path,
    train_model,
)
from picoformer.tokenizers.training import hash_tokenizer, load_tokenizer, save_tokenizer, train_tokenizer

TEXT = python_documentation()[:20_000]
FOREIGN = "naïve 日本 🙂\n\ttabs\x00 and «quotes»"


def decoder(**keys: object) -> TransformerConfig:
    wanted = {"vocab_size": 50, "classes": 50, "sequence": 12, "causal": True, "pooling": "none", **keys}
    return TransformerConfig.uniform(2, 4, 48, 32, **wanted)


def test_the_documentation_is_there_and_split_without_loss() -> None:
    text = python_documentation()
    assert len(text) > 400_000
    train_part, test_part = split_text(text, seed=3)
    assert sum(map(len, train_part + test_part)) == len(text)
    assert 0.08 < sum(map(len, test_part)) / len(text) < 0.12
    assert split_text(text, seed=3)[1] == test_part and split_text(text, seed=4)[1] != test_part
    with pytest.raises(DataError, match="at least"):
        split_text("a" * TEXT_BLOCK)


def test_a_byte_level_bpe_round_trips_any_text_and_a_file(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXT, "bpe", 400)
    assert tokenizer.get_vocab_size() == 400
    assert tokenizer.decode(tokenizer.encode(FOREIGN).ids) == FOREIGN
    assert len(tokenizer.encode(TEXT).ids) < 0.7 * len(TEXT)
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    assert load_tokenizer(tmp_path / "tokenizer.json").encode(TEXT).ids == tokenizer.encode(TEXT).ids
    assert train_tokenizer(TEXT, "bpe", 400).to_str() == tokenizer.to_str()


def test_a_character_tokenizer_knows_its_text_and_maps_the_rest_to_one_token() -> None:
    tokenizer = train_tokenizer(TEXT, "character")
    assert tokenizer.get_vocab_size() == len(set(TEXT)) + 1
    ids = tokenizer.encode(TEXT).ids
    assert len(ids) == len(TEXT) and tokenizer.decode(ids) == TEXT
    assert tokenizer.encode("a\N{SNOWMAN}b").ids[1] == 0


@pytest.mark.parametrize(("kind", "size", "message"), [("bpe", 255, "at least 256"), ("word", 300, "not known")])
def test_tokenizers_that_cannot_be(kind: str, size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_tokenizer(TEXT, kind, size)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"model": 1}'])
def test_a_file_that_is_no_tokenizer(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(DataError, match="no such file"):
        load_tokenizer(path)
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a tokenizer"):
        load_tokenizer(path)


@pytest.mark.parametrize("content", [b'{"a": 1}', b"[]", b'{"model": 1}'])
def test_json_that_is_no_tokenizer_is_not_called_broken_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"tokenizer\.json: JSON, but not a tokenizer, which has a table 'model'"):
        load_tokenizer(path)


def test_windows_are_labelled_with_what_comes_next() -> None:
    blocks = [np.arange(20), np.arange(100, 109)]
    data = next_tokens(blocks, blocks, 8, 200, 1.5)
    assert data.labels_rows and data.x_train.shape[1] == 8
    np.testing.assert_array_equal(data.y_train, data.x_train + 1)
    np.testing.assert_array_equal(data.x_test[:, 0], [0, 8, 100])
    np.testing.assert_array_equal(data.x_train[:, 0], [0, 4, 8, 100])
    with pytest.raises(DataError, match="lower sequence"):
        next_tokens(blocks, blocks, 20, 200, 1.5)


def test_make_dataset_of_a_text_file(tmp_path: Path) -> None:
    source, out = tmp_path / "book.txt", tmp_path / "data.npz"
    source.write_text(TEXT)
    figures = make_dataset(str(source), out, text=TextSettings("bpe", 300, 16))
    data = load_dataset(out)
    assert data.classes == 300 == figures["classes"] and data.characters_per_label == figures["characters_per_token"]
    tokenizer = load_tokenizer(tokenizer_path(out))
    assert tokenizer.decode(data.x_test[0].tolist()) in TEXT
    again = tmp_path / "again" / "data.npz"
    again.parent.mkdir()
    own = TextSettings(str(tokenizer_path(out)), 0, 16)
    make_dataset(str(source), again, text=own)
    np.testing.assert_array_equal(load_dataset(again).x_train, data.x_train)
    config = model_config(ModelSection(layers=1, d_model=16, heads=2, d_ff=16, kv_heads=1), data)
    assert config.vocab_size == config.classes == 300 and config.causal and config.pooling == "none"
    assert config.kv_heads == (1,)
    source.write_bytes(b"\xff" * 9000)
    with pytest.raises(DataError, match="not UTF-8"):
        make_dataset(str(source), out)
    with pytest.raises(DataError, match="no such file"):
        make_dataset(str(tmp_path / "none.txt"), out)


def test_every_data_set_of_a_folder_has_its_own_tokenizer(tmp_path: Path) -> None:
    for name, kind, size in (("one", "character", 0), ("two", "bpe", 300)):
        source, out = tmp_path / f"{name}.txt", tmp_path / f"{name}.npz"
        source.write_text(TEXT)
        make_dataset(str(source), out, text=TextSettings(kind, size, 16))
    for name in ("one", "two"):
        path = tmp_path / f"{name}.tokenizer.json"
        data, tokenizer = load_dataset(tmp_path / f"{name}.npz"), load_tokenizer(path)
        assert data.classes == tokenizer.get_vocab_size()
        assert data.tokenizer == hash_tokenizer(tokenizer) == file_hash(path)


def test_tokenizers_of_one_size_and_other_content_do_not_go_together(tmp_path: Path) -> None:
    """Everything that takes a model and data says so, and what goes together is still taken."""
    section = ModelSection(layers=1, d_model=8, heads=2, d_ff=8)
    brief = DistillSettings(epochs=1, batch=64)
    for name, text in (
        ("one", TEXT),
        ("two", TEXT.translate(str.maketrans("eat", "\N{SNOWMAN}\N{COMET}\N{STAR OF DAVID}"))),
    ):
        (tmp_path / f"{name}.txt").write_text(text, "utf-8")
        make_dataset(str(tmp_path / f"{name}.txt"), tmp_path / f"{name}.npz", text=TextSettings(sequence=16))
    mine, other = tmp_path / "one.npz", tmp_path / "two.npz"
    assert load_dataset(mine).classes == load_dataset(other).classes
    model, out = tmp_path / "model.safetensors", tmp_path / "out.safetensors"
    train_model(mine, section, TrainSettings(epochs=1, batch=64), model)
    known = load_dataset(mine).tokenizer
    assert trained_tokenizer(load_checkpoint(model)[1]) == known
    pruning, thin = PruneSettings(samples=8), FactorizeSettings(keep=0.9, samples=8)
    stages = (
        lambda data, to: take_teacher(model, data, to),
        lambda data, to: distill_model(model, data, section, brief, to),
        lambda data, to: prune_model(model, data, pruning, to),
        lambda data, to: factorize_model(model, data, thin, to),
        lambda data, to: generate_targets(model, data, dataclasses.replace(brief, sequence_samples=1), to),
    )
    for stage in stages:
        with pytest.raises(
            DataError, match=r"model\.safetensors: trained on the tokens of another tokenizer .*--tokeniz"
        ):
            stage(other, out)
        assert not out.exists()
    unknown = tmp_path / "unknown.npz"
    save_dataset(dataclasses.replace(load_dataset(mine), tokenizer=""), unknown)
    for stage, data in ((stages[1], mine), (stages[2], mine), (stages[3], unknown)):
        stage(data, out)
        assert trained_tokenizer(load_checkpoint(out)[1]) == known
    stranger = tmp_path / "stranger.safetensors"
    save_checkpoint(load_checkpoint(model)[0], stranger, {"tokenizer": load_dataset(other).tokenizer})
    with pytest.raises(DataError, match="stranger"):
        prune_model(model, mine, pruning, out, brief, stranger)

    corpus, smaller, ids = tmp_path / "corpus.txt", tmp_path / "smaller.safetensors", tmp_path / "smaller.json"
    corpus.write_text(TEXT[:5000])
    with pytest.raises(
        DataError, match=r"two\.tokenizer\.json: not the tokenizer that .*model\.safetensors was trained with"
    ):
        prune_vocabulary_files(model, tokenizer_path(other), (corpus,), smaller, ids)
    prune_vocabulary_files(model, tokenizer_path(mine), (corpus,), smaller, ids)
    make_dataset(str(tmp_path / "one.txt"), other, text=TextSettings(str(ids), 0, 16))
    take_teacher(smaller, other, out)
    assert trained_tokenizer(load_checkpoint(smaller)[1]) == load_dataset(other).tokenizer != known


@pytest.mark.parametrize("words", [["--tokenizer", "bpe"], ["--vocabulary", "300"], ["--sequence", "8"]])
def test_options_of_text_with_a_source_that_is_none(tmp_path: Path, words: list[str]) -> None:
    out = tmp_path / "data.npz"
    refuses(["dataset", "digits", "-o", out, *words], f"{words[0][2:]} = ", "is for text, and 'digits' is none")
    assert not out.exists()
    succeeds("dataset", "digits", "-o", out)


@pytest.mark.parametrize("keys", [{}, {"kv_heads": 2}, {"tied_head": True}, {"norm_position": "post"}])
def test_a_decoder_sees_only_what_is_before(keys: dict[str, object], tmp_path: Path) -> None:
    config = decoder(**keys)
    model = Transformer(config, seed=1).eval()
    assert count_parameters(config) == sum(p.numel() for p in model.parameters())
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 50, (3, 12)))
    changed = x.clone()
    changed[:, 7:] = 1
    torch.testing.assert_close(model(x)[:, :7], model(changed)[:, :7])
    assert not torch.allclose(model(x)[:, 7:], model(changed)[:, 7:])
    torch.testing.assert_close(model(x[:, :5]), model(x)[:, :5])
    save_checkpoint(model, tmp_path / "m.safetensors")
    loaded, _ = load_checkpoint(tmp_path / "m.safetensors")
    assert loaded.config == config and torch.equal(loaded(x), model(x))


def test_shared_key_heads_are_whole_heads_repeated() -> None:
    few = Transformer(decoder(kv_heads=2), seed=1).eval()
    many = Transformer(decoder(), seed=1).eval()
    weights = dict(few.state_dict())
    for name in list(weights):
        if ".key." in name or ".value." in name:
            parts = weights[name].reshape(2, 8, *weights[name].shape[1:])
            weights[name] = parts.repeat_interleave(2, dim=0).flatten(0, 1)
    many.load_state_dict(weights)
    x = torch.arange(12)[None]
    torch.testing.assert_close(few(x), many(x))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kv_heads": 3}, "does not divide"),
        ({"kv_heads": (2,)}, "give both the same"),
        ({"tied_head": True, "classes": 49}, "tied_head needs"),
        ({"kv_heads": (2, True)}, "kv_heads"),
        ({"causal": 1}, "write true or false"),
    ],
)
def test_decoders_that_cannot_be(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decoder(**keys)


def test_training_a_language_model_learns_and_leaves_ignored_labels_out() -> None:
    rng = np.random.default_rng(0)
    start = rng.integers(0, 10, (64, 1))
    rows = (start + 3 * np.arange(9)) % 10  # the next token is this one plus three
    x, y = rows[:, :-1].astype(np.int64), rows[:, 1:].astype(np.int64)
    y[:, 2] = IGNORED
    config = decoder(vocab_size=10, classes=10, sequence=8)
    model = Transformer(config, seed=0)
    before = bits_per_label(model, x, y)
    train(model, x, y, TrainSettings(epochs=12, batch=16, learning_rate=5e-3, label_smoothing=0.0))
    assert before > 3.0 and bits_per_label(model, x, y) < 0.3 and evaluate(model, x, y) > 0.98
    data = Dataset(x, y, x, y, "steps", 10, characters_per_label=1.0)
    found = judge_model(model, data)
    assert found["bits_per_character"] == pytest.approx(bits_per_label(model, x, y), rel=1e-5)
    assert found["accuracy"] == evaluate(model, x, y)
    with pytest.raises(DataError, match="label every row"):
        train(model, x, y[:, 0], TrainSettings(epochs=1))
    with pytest.raises(DataError, match="takes one per sample"):
        train(Transformer(decoder(pooling="mean")), x, y, TrainSettings(epochs=1))
    assert judge(np.zeros((64, 8, 10)), y).bits_per_label == pytest.approx(np.log2(10))
