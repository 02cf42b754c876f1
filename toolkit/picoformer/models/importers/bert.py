"""BERT and RoBERTa: one body under two prefixes; RoBERTa's positions begin behind its padding token's."""

from __future__ import annotations

from picoformer.models.importers.encoder_parts import (
    Encoder,
    Task,
    encoder_config,
    head_classes,
    labels_of,
    prefix_of,
    take_embedding,
    take_masked_head,
)
from picoformer.models.importers.imported import Weights
from picoformer.models.importers.keys import Keys
from picoformer.models.importers.tensors import Tensors

LAYER = (
    ("attention.self.query", "attention.query", "d", "d"),
    ("attention.self.key", "attention.key", "d", "d"),
    ("attention.self.value", "attention.value", "d", "d"),
    ("attention.output.dense", "attention.out", "d", "d"),
    ("intermediate.dense", "feed_forward.up", "f", "d"),
    ("output.dense", "feed_forward.down", "d", "f"),
)
"""Linear layer there → here, with its outputs and inputs: d_model or d_ff."""
NORMS = (("attention.output.LayerNorm", "attention_norm"), ("output.LayerNorm", "feed_forward_norm"))


def convert_bert(keys: Keys, tensors: Tensors, task: Task, pairs: bool) -> Encoder:
    """Ours from theirs."""
    return _convert(keys, tensors, task, pairs, "bert", 0)


def convert_roberta(keys: Keys, tensors: Tensors, task: Task, pairs: bool) -> Encoder:
    """Ours from theirs. Positions count from the padding token's id + 1; text is padded behind, never in front."""
    padding = keys.value("pad_token_id", default=1)
    if isinstance(padding, bool) or not isinstance(padding, int) or not 0 <= padding < 1 << 16:
        raise keys.error("pad_token_id", padding, "the id of the padding token: positions begin behind it")
    return _convert(keys, tensors, task, pairs, "roberta", padding + 1)


def _convert(keys: Keys, tensors: Tensors, task: Task, pairs: bool, name: str, offset: int) -> Encoder:
    kinds = keys.integer("type_vocab_size", default=2)
    labels, rows = labels_of(keys), keys.integer("max_position_embeddings", default=512)
    if rows <= offset:
        raise keys.error("max_position_embeddings", rows, f"more than {offset}: so many rows come before a text's")
    activation, tied = keys.activation("hidden_act", default="gelu"), keys.flag("tie_word_embeddings", True)
    vocabulary, is_masked = keys.integer("vocab_size"), task.name == "masked-lm"
    config = encoder_config(
        keys,
        task,
        layers=keys.integer("num_hidden_layers"),
        d_model=keys.integer("hidden_size"),
        heads=keys.integer("num_attention_heads"),
        d_ff=keys.integer("intermediate_size"),
        vocab_size=vocabulary,
        sequence=rows - offset,
        segments=kinds if kinds > 1 and pairs else 0,
        activation=activation,
        norm_epsilon=keys.number("layer_norm_eps", default=1e-12),
        classes=head_classes(task, labels, vocabulary),
        pooler="tanh" if task.pooler else "",
        head_dense=("gelu" if name == "roberta" else activation) if is_masked else "",
        tied_head=is_masked and tied,
        tied_head_bias=is_masked and tied,
    )
    prefix = prefix_of(tensors, name)
    weights = take_embedding(tensors, f"{prefix}embeddings", config, offset, kinds)
    sizes = {"d": config.d_model, "f": config.d_ff[0]}
    for layer in range(config.layers):
        theirs, ours = f"{prefix}encoder.layer.{layer}", f"layers.{layer}"
        for there, here, outputs, inputs in LAYER:
            weights |= tensors.linear(f"{theirs}.{there}", f"{ours}.{here}", sizes[outputs], sizes[inputs], True)
        for there, here in NORMS:
            weights |= tensors.norm(f"{theirs}.{there}", f"{ours}.{here}", config.d_model)
    head = _roberta_head if name == "roberta" else _bert_head
    return Encoder(config, weights | head(tensors, config.d_model, config.classes, task, prefix) | (
        take_masked_head(tensors, config, weights["embedding.token.weight"], MASKED[name]) if is_masked else {}
    ))  # fmt: skip


MASKED = {
    "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder",
             "cls.predictions.bias"),
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"),
}  # fmt: skip
"""Dense layer, norm, decoder and bias of a masked language model's head."""


def _bert_head(tensors: Tensors, d: int, classes: int, task: Task, prefix: str) -> Weights:
    weights: Weights = {}
    if task.pooler:
        weights |= tensors.linear(f"{prefix}pooler.dense", "pooler.dense", d, d, True)
    names = {"span": "qa_outputs", "next-sentence": "cls.seq_relationship"}
    if classes and task.name != "masked-lm":
        weights |= tensors.linear(names.get(task.name, "classifier"), "head", classes, d, True)
    return weights


def _roberta_head(tensors: Tensors, d: int, classes: int, task: Task, prefix: str) -> Weights:
    if task.name != "classify":
        return _bert_head(tensors, d, classes, task, prefix)
    weights = tensors.linear("classifier.dense", "pooler.dense", d, d, True)
    return weights | tensors.linear("classifier.out_proj", "head", classes, d, True)
