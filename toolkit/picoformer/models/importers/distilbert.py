"""DistilBERT: BERT's layers under other names, no segments and no pooler, a classifier with a dense layer and ReLU."""

from __future__ import annotations

from picoformer.errors import ModelError
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
from picoformer.models.importers.keys import Keys
from picoformer.models.importers.tensors import Tensors

LAYER = (
    ("attention.q_lin", "attention.query", "d", "d"),
    ("attention.k_lin", "attention.key", "d", "d"),
    ("attention.v_lin", "attention.value", "d", "d"),
    ("attention.out_lin", "attention.out", "d", "d"),
    ("ffn.lin1", "feed_forward.up", "f", "d"),
    ("ffn.lin2", "feed_forward.down", "d", "f"),
)
NORMS = (("sa_layer_norm", "attention_norm"), ("output_layer_norm", "feed_forward_norm"))
MASKED = ("vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias")
EPSILON = 1e-12
"""Of every norm; no key says it."""


def convert(keys: Keys, tensors: Tensors, task: Task, pairs: bool) -> Encoder:
    """Ours from theirs. Sinusoidal positions are a table in the file, like learned ones."""
    if task.name in ("next-sentence", "pooled"):
        raise ModelError(f"{keys.path}: DistilBERT has no pooler, so no --task {task.name}; choose another")
    keys.flag("sinusoidal_pos_embds", False)
    activation, vocabulary = keys.activation("activation", default="gelu"), keys.integer("vocab_size")
    tied, is_masked = keys.flag("tie_word_embeddings", True), task.name == "masked-lm"
    config = encoder_config(
        keys,
        task,
        layers=keys.integer("n_layers", "num_hidden_layers"),
        d_model=keys.integer("dim", "hidden_size"),
        heads=keys.integer("n_heads", "num_attention_heads"),
        d_ff=keys.integer("hidden_dim"),
        vocab_size=vocabulary,
        sequence=keys.integer("max_position_embeddings", default=512),
        activation=activation,
        norm_epsilon=EPSILON,
        classes=head_classes(task, labels_of(keys), vocabulary),
        pooler="relu" if task.pooler else "",
        head_dense=activation if is_masked else "",
        tied_head=is_masked and tied,
        tied_head_bias=is_masked and tied,
    )
    prefix, d = prefix_of(tensors, "distilbert"), config.d_model
    weights = take_embedding(tensors, f"{prefix}embeddings", config)
    sizes = {"d": d, "f": config.d_ff[0]}
    for layer in range(config.layers):
        theirs, ours = f"{prefix}transformer.layer.{layer}", f"layers.{layer}"
        for there, here, outputs, inputs in LAYER:
            weights |= tensors.linear(f"{theirs}.{there}", f"{ours}.{here}", sizes[outputs], sizes[inputs], True)
        for there, here in NORMS:
            weights |= tensors.norm(f"{theirs}.{there}", f"{ours}.{here}", d)
    if is_masked:
        weights |= take_masked_head(tensors, config, weights["embedding.token.weight"], MASKED)
    elif config.classes:
        if task.pooler:
            weights |= tensors.linear("pre_classifier", "pooler.dense", d, d, True)
        weights |= tensors.linear(
            "qa_outputs" if task.name == "span" else "classifier", "head", config.classes, d, True
        )
    return Encoder(config, weights)
