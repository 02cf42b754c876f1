"""ALBERT: tables of a smaller width with their norm, widened once, and layers that share their weights in groups."""

from __future__ import annotations

from picoformer.errors import ModelError
from picoformer.models.config import MAX_LAYERS
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
    ("attention.query", "attention.query", "d", "d"),
    ("attention.key", "attention.key", "d", "d"),
    ("attention.value", "attention.value", "d", "d"),
    ("attention.dense", "attention.out", "d", "d"),
    ("ffn", "feed_forward.up", "f", "d"),
    ("ffn_output", "feed_forward.down", "d", "f"),
)
NORMS = (("attention.LayerNorm", "attention_norm"), ("full_layer_layer_norm", "feed_forward_norm"))
MASKED = ("predictions.dense", "predictions.LayerNorm", "predictions.decoder", "predictions.bias")


def convert(keys: Keys, tensors: Tensors, task: Task, pairs: bool) -> Encoder:
    """Ours from theirs. Layer i runs all layers of group i * groups / layers, rounded down."""
    layers, groups = keys.integer("num_hidden_layers"), keys.integer("num_hidden_groups", default=1)
    inner = keys.integer("inner_group_num", default=1)
    if groups > layers:
        raise keys.error("num_hidden_groups", groups, f"at most num_hidden_layers = {layers}")
    if layers * inner > MAX_LAYERS:
        raise ModelError(f"{keys.path}: {layers} layers of {inner} each; {MAX_LAYERS} are the most")
    d, width = keys.integer("hidden_size"), keys.integer("embedding_size", default=128)
    is_masked, vocabulary = task.name == "masked-lm", keys.integer("vocab_size")
    tied = keys.flag("tie_word_embeddings", True)
    if is_masked and not tied:
        raise ModelError(f"{keys.path}: 'tie_word_embeddings' = false is not covered for a masked language model")
    kinds = keys.integer("type_vocab_size", default=2)
    activation = keys.activation("hidden_act", default="gelu_new")
    # Sets of weights in the order in which they first run: a group may have no layer of its own.
    runs = [(int(layer / (layers / groups)), one) for layer in range(layers) for one in range(inner)]
    sets = list(dict.fromkeys(runs))
    if width == d:
        raise ModelError(
            f"{keys.path}: embedding_size = hidden_size = {d} is not covered: give the tables another width"
        )
    config = encoder_config(
        keys,
        task,
        layers=len(runs),
        d_model=d,
        heads=keys.integer("num_attention_heads"),
        d_ff=keys.integer("intermediate_size"),
        vocab_size=vocabulary,
        sequence=keys.integer("max_position_embeddings", default=512),
        segments=kinds if kinds > 1 and pairs else 0,
        embedding_width=width,
        shared_layers=tuple(sets.index(run) for run in runs),
        activation=activation,
        norm_epsilon=keys.number("layer_norm_eps", default=1e-12),
        classes=head_classes(task, labels_of(keys), vocabulary),
        pooler="tanh" if task.pooler else "",
        head_dense=activation if is_masked else "",
        tied_head=is_masked,
        tied_head_bias=is_masked,
    )
    prefix = prefix_of(tensors, "albert")
    weights = take_embedding(tensors, f"{prefix}embeddings", config, segments=kinds)
    mapping = f"{prefix}encoder.embedding_hidden_mapping_in"
    weights |= tensors.linear(mapping, "embedding.project", d, width, True)
    sizes = {"d": d, "f": config.d_ff[0]}
    for number, (group, one) in enumerate(sets):
        theirs = f"{prefix}encoder.albert_layer_groups.{group}.albert_layers.{one}"
        for there, here, outputs, inputs in LAYER:
            name = f"layers.{number}.{here}"
            weights |= tensors.linear(f"{theirs}.{there}", name, sizes[outputs], sizes[inputs], True)
        for there, here in NORMS:
            weights |= tensors.norm(f"{theirs}.{there}", f"layers.{number}.{here}", d)
    if task.pooler:
        weights |= tensors.linear(f"{prefix}pooler", "pooler.dense", d, d, True)
    if is_masked:
        weights |= take_masked_head(tensors, config, weights["embedding.token.weight"], MASKED)
    elif config.classes:
        names = {"span": "qa_outputs", "next-sentence": "sop_classifier.classifier"}
        weights |= tensors.linear(names.get(task.name, "classifier"), "head", config.classes, d, True)
    return Encoder(config, weights, f"{len(sets)} sets of weights for {len(runs)} layers" if sets != runs else "")
