"""T5, mT5 and Flan-T5: RMSNorm, no positions but a bias of distances, scores that are not scaled."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from picoformer.errors import ModelError
from picoformer.models.encoder_decoder_config import EncoderDecoderConfig
from picoformer.models.importers.imported import Weights
from picoformer.models.importers.imported_pair import pair, same_table
from picoformer.models.importers.keys import ACTIVATIONS, Keys
from picoformer.models.importers.tensors import Tensors

GENERATION = ("decoder_start_token_id", "is_encoder_decoder", "initializer_factor", "dropout_rate", "n_positions",
              "output_past", "num_hidden_layers", "hidden_size", "num_attention_heads", "head_dim", "max_length",
              "num_beams", "early_stopping", "length_penalty", "no_repeat_ngram_size", "prefix")  # fmt: skip
SEQUENCE = 512
"""Longest text where 'n_positions' does not say: what T5 was trained on. Its bias of distances has no end."""


def convert_t5(keys: Keys, tensors: Tensors) -> tuple[EncoderDecoderConfig, Weights]:
    """Ours from theirs. Our attention scales scores by 1/√head_dim, so queries take its inverse along; a head that is
    the token table reads rows over √d_model, which the last norm's gain takes along."""
    tied = keys.flag("tie_word_embeddings", True)
    scaled = keys.flag("scale_decoder_outputs", tied)
    return _convert(keys, tensors, scaled)


def convert_mt5(keys: Keys, tensors: Tensors) -> tuple[EncoderDecoderConfig, Weights]:
    """As `convert_t5`; what its head reads is never scaled."""
    keys.flag("tie_word_embeddings", False)
    return _convert(keys, tensors, scaled=False)


def _convert(keys: Keys, tensors: Tensors, scaled: bool) -> tuple[EncoderDecoderConfig, Weights]:
    sequence = keys.integer("n_positions", default=SEQUENCE)
    for name in GENERATION:
        keys.value(name, default=None)
    keys.refuse("is_decoder", mend="only encoder-decoders are")
    vocabulary, d, size, width, heads = (
        keys.integer(name) for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads")
    )
    layers = keys.integer("num_layers")
    gated, activation = _feed_forward(keys)
    both: dict[str, Any] = {
        "d_model": d, "head_dim": size, "heads": heads, "d_ff": width, "vocab_size": vocabulary, "sequence": sequence,
        "positions": "none", "norm": "rms", "norm_epsilon": keys.number("layer_norm_epsilon", default=1e-6),
        "activation": activation, "gated": gated, "attention_bias": False, "out_bias": False,
        "feed_forward_bias": False,
    }  # fmt: skip
    counts = {"encoder": layers, "decoder": keys.integer("num_decoder_layers", default=layers)}
    table = tensors.take("shared.weight", vocabulary, d)
    same_table(tensors, table, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    head = tensors.take("lm_head.weight", vocabulary, d) if "lm_head.weight" in tensors else table
    config = pair(
        keys.path,
        {side: {**both, "layers": count} for side, count in counts.items()},
        tied_head=np.array_equal(head, table),
        shared_embedding=True,
        relative_buckets=keys.integer("relative_attention_num_buckets", default=32),
        relative_reach=keys.integer("relative_attention_max_distance", default=128),
    )
    weights: Weights = {"decoder.embedding.token.weight": table}
    if not config.decoder.tied_head:
        weights["decoder.head.weight"] = head
    for side, count in counts.items():
        bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        weights[f"{side}.relative_bias"] = tensors.take(bias, config.relative_buckets, heads)
        for layer in range(count):
            weights |= _layer(tensors, f"{side}.block.{layer}.layer", f"{side}.layers.{layer}", config, side)
        weights |= tensors.norm(f"{side}.final_layer_norm", f"{side}.final_norm", d, bias=False)
    if scaled:
        weights["decoder.final_norm.weight"] = (weights["decoder.final_norm.weight"] / math.sqrt(d)).astype(np.float32)
    return config, weights


def _layer(tensors: Tensors, theirs: str, ours: str, config: EncoderDecoderConfig, side: str) -> Weights:
    own = config.decoder
    d, inner, width = own.d_model, own.heads[0] * own.head_dim, own.d_ff[0]
    parts = [("SelfAttention", "attention"), ("EncDecAttention", "cross")][: 2 if side == "decoder" else 1]
    weights: Weights = {}
    for index, (name, place) in enumerate(parts):
        weights |= tensors.norm(f"{theirs}.{index}.layer_norm", f"{ours}.{place}_norm", d, bias=False)
        at = f"{theirs}.{index}.{name}"
        for part, projection in (("q", "query"), ("k", "key"), ("v", "value")):
            weights |= tensors.linear(f"{at}.{part}", f"{ours}.{place}.{projection}", inner, d, False)
        weights |= tensors.linear(f"{at}.o", f"{ours}.{place}.out", d, inner, False)
        query = f"{ours}.{place}.query.weight"
        weights[query] = (weights[query] * math.sqrt(own.head_dim)).astype(np.float32)
    last = f"{theirs}.{len(parts)}"
    weights |= tensors.norm(f"{last}.layer_norm", f"{ours}.feed_forward_norm", d, bias=False)
    names = {"wi_0": "gate", "wi_1": "up"} if own.gated else {"wi": "up"}
    for name, place in names.items():
        weights |= tensors.linear(f"{last}.DenseReluDense.{name}", f"{ours}.feed_forward.{place}", width, d, False)
    weights |= tensors.linear(f"{last}.DenseReluDense.wo", f"{ours}.feed_forward.down", d, width, False)
    return weights


def _feed_forward(keys: Keys) -> tuple[bool, str]:
    """Whether it is gated, and its activation; the two keys that newer files say it with may not disagree."""
    spelled = keys.value("feed_forward_proj", default="relu")
    first, _, rest = spelled.partition("-") if isinstance(spelled, str) else ("", "", "")
    gated, name = (True, rest) if first == "gated" else (False, spelled)
    name = "gelu_new" if spelled == "gated-gelu" else name
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise keys.error("feed_forward_proj", spelled, f"'gated-' or nothing, then one of {', '.join(ACTIVATIONS)}")
    if keys.value("dense_act_fn", default=name) != name or keys.flag("is_gated_act", gated) != gated:
        raise ModelError(
            f"{keys.path}: 'dense_act_fn' or 'is_gated_act' disagree with 'feed_forward_proj' = {spelled!r}; "
            "remove the two"
        )
    return gated, ACTIVATIONS[name]
