"""A small sentence encoder, trained on sentences of Python's documentation topics, as a sentence-transformers folder;
with `outliers` a few of its channels are many times the rest, as in large pretrained encoders."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

ROWS, WIDTH, HELD, CALIBRATION = 32, 64, 400, 256
STRENGTHS = {5: 40.0, 23: 30.0, 41: 20.0}
"""Channel → how many times as large as it was."""

Texts = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Trained:
    """The folder, and texts as tokenizers write them: to calibrate, held back, and a corpus to search."""

    folder: Path
    calibration: Texts
    held: Texts
    corpus: Texts


def sentences() -> tuple[list[tuple[str, str]], list[str]]:
    """(neighbouring sentences, all sentences)."""
    pairs: list[tuple[str, str]] = []
    every: list[str] = []
    for key in sorted(topics):
        text = re.sub(r"\s+", " ", topics[key])
        found = [part.strip() for part in re.split(r"(?<=[.:;])\s+(?=[A-Z`*])", text)]
        found = [part for part in found if 25 <= len(part) <= 200]
        pairs += list(itertools.pairwise(found))
        every += found
    return pairs, list(dict.fromkeys(every))


def make_tokenizer(every: list[str]) -> Tokenizer:
    """WordPiece of 2,000 tokens; texts padded to ROWS."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=2000, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(every, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(ROWS)
    tokenizer.enable_padding(length=ROWS)
    return tokenizer


def train_sentence_encoder(folder: Path, steps: int = 300, outlier_steps: int = 0) -> Trained:
    """Contrastive on neighbouring sentences. With `outlier_steps`: then channels are made large (STRENGTHS), what reads
    them as much smaller, and training goes on for as long."""
    pairs, every = sentences()
    tokenizer = make_tokenizer(every)
    rng = np.random.default_rng(0)
    order = [every[i] for i in rng.permutation(len(every))]
    held, rest = order[:HELD], order[HELD:]
    hidden = set(held)
    kept = [pair for pair in pairs if not hidden.intersection(pair)]

    def encoded(texts: list[str]) -> Texts:
        found = tokenizer.encode_batch(texts)
        return {"input_ids": np.array([one.ids for one in found]),
                "attention_mask": np.array([one.attention_mask for one in found])}  # fmt: skip

    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=4 * WIDTH, max_position_embeddings=2 * ROWS, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BertModel(config, add_pooling_layer=False)
    sides = tuple(encoded([pair[side] for pair in kept]) for side in (0, 1))
    _train(model, sides, rng, steps, 1e-3)
    if outlier_steps:
        _grow_channels(model)
        _train(model, sides, rng, outlier_steps, 3e-4)
    model.eval().save_pretrained(folder)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    texts = encoded(rest[:CALIBRATION]), encoded(held), encoded(rest[CALIBRATION:])
    return Trained(folder, *texts)


def _train(model: Any, sides: tuple[Texts, Texts], rng: np.random.Generator, steps: int, rate: float) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01)
    model.train()
    for step in range(steps):
        chosen = rng.integers(0, len(sides[0]["input_ids"]), 48)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, step / 20) * (1 - step / steps)
        first, second = (_vectors(model, {name: value[chosen] for name, value in side.items()}) for side in sides)
        likeness, right = first @ second.T / 0.07, torch.arange(len(chosen))
        loss = torch.nn.functional.cross_entropy(likeness, right) + torch.nn.functional.cross_entropy(likeness.T, right)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def _vectors(model: Any, texts: Texts) -> torch.Tensor:
    mask = torch.from_numpy(texts["attention_mask"])
    rows = model(torch.from_numpy(texts["input_ids"]), attention_mask=mask).last_hidden_state
    weight = mask[:, :, None].float()
    return torch.nn.functional.normalize((rows * weight).sum(1) / weight.sum(1), dim=-1)


def _grow_channels(model: Any) -> None:
    """All that writes to a channel of STRENGTHS grows, all that reads it shrinks; the last norm gives what it gave. The
    norms' statistics are others then, on average by the factor `spread`, and training makes up for the rest."""
    strengths = torch.ones(WIDTH)
    for channel, strength in STRENGTHS.items():
        strengths[channel] = strength
    spread = float(strengths.square().mean().sqrt())
    embedding = model.embeddings
    norms = [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    with torch.no_grad():
        for table in (embedding.word_embeddings, embedding.position_embeddings, embedding.token_type_embeddings):
            table.weight.mul_(strengths)
        for norm in norms[:-1]:
            norm.weight.mul_(spread)
            norm.bias.mul_(strengths)
        norms[-1].weight.mul_(spread / strengths)
        for layer in model.encoder.layer:
            own = layer.attention.self
            for reader in (own.query, own.key, own.value, layer.intermediate.dense):
                reader.weight.div_(strengths)
            for writer in (layer.attention.output.dense, layer.output.dense):
                writer.weight.mul_(strengths[:, None])
                writer.bias.mul_(strengths)
