"""Llama, and what is built like it: Mistral and Qwen2. RMSNorm, rotary positions, gated feed-forward, grouped heads."""

from __future__ import annotations

from typing import Any

from picoformer.errors import ModelError
from picoformer.models.config import TransformerConfig
from picoformer.models.importers.imported import Weights, language_model
from picoformer.models.importers.keys import Keys
from picoformer.models.importers.rotary import Rotary, read_rotary
from picoformer.models.importers.tensors import Tensors

WINDOWS = {"mistral": 4096}
"""model_type → keys that a row attends to where config.json does not say; others attend to all."""


def convert(keys: Keys, tensors: Tensors) -> tuple[TransformerConfig, Weights, str]:
    """Ours from theirs."""
    biases = {"attention_bias": False, "out_bias": False, "feed_forward_bias": False}
    if keys.value("model_type") == "llama":
        both = keys.flag("attention_bias", False)
        biases = {"attention_bias": both, "out_bias": both, "feed_forward_bias": keys.flag("mlp_bias", False)}
    elif keys.value("model_type") == "qwen2":
        biases["attention_bias"] = True
    rotary = rotary_of(keys, 10000.0)
    config = language_model(keys.path, **common_keys(keys, rotary), **biases)
    check_window(keys, config.sequence)
    weights = outer_weights(config, tensors)
    for layer in range(config.layers):
        theirs, ours = f"model.layers.{layer}", f"layers.{layer}"
        weights |= attention_weights(config, tensors, layer)
        for name in ("gate", "up", "down"):
            inputs, outputs = config.projection_shape(layer, name)
            place = f"{ours}.feed_forward.{name}"
            weights |= tensors.linear(f"{theirs}.mlp.{name}_proj", place, outputs, inputs, config.feed_forward_bias)
    return config, weights, rotary.note


def rotary_of(keys: Keys, theta: float) -> Rotary:
    """The positions of a model whose base is `theta` by default."""
    return read_rotary(keys, _head_dim(keys), keys.integer("max_position_embeddings", default=2048), theta)


def common_keys(keys: Keys, rotary: Rotary) -> dict[str, Any]:
    """What all of these have, for `language_model`."""
    heads = keys.integer("num_attention_heads")
    return {
        **rotary.config_keys(),
        "layers": keys.integer("num_hidden_layers"),
        "d_model": keys.integer("hidden_size"),
        "heads": heads,
        "kv_heads": keys.integer("num_key_value_heads", default=heads),
        "head_dim": _head_dim(keys),
        "d_ff": keys.integer("intermediate_size"),
        "vocab_size": keys.integer("vocab_size"),
        "activation": keys.activation("hidden_act", default="silu"),
        "gated": True,
        "norm": "rms",
        "norm_epsilon": keys.number("rms_norm_eps", default=1e-6),
        "tied_head": keys.flag("tie_word_embeddings", False),
    }


def check_window(keys: Keys, sequence: int) -> None:
    """Raise ModelError where a row does not attend to all rows before it within `sequence`."""
    window = keys.value("sliding_window", default=WINDOWS.get(keys.value("model_type")))
    for name in ("use_sliding_window", "max_window_layers"):
        keys.value(name, default=None)
    if keys.value("model_type") == "qwen2" and not keys.flag("use_sliding_window", False):
        window = None
    if window is not None and keys.integer("sliding_window", default=window) < sequence:
        raise ModelError(
            f"{keys.path}: 'sliding_window' = {window} is shorter than the context of {sequence}, not covered; "
            f"set max_position_embeddings to {window} to use the model for texts of that length"
        )
    kinds = keys.value("layer_types", default=None)
    if kinds is not None and (not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)):
        raise ModelError(f"{keys.path}: 'layer_types' holds something else than 'full_attention', which is not covered")


def outer_weights(config: TransformerConfig, tensors: Tensors) -> Weights:
    """Token table, last norm, head."""
    table = tensors.take("model.embed_tokens.weight", config.vocab_size, config.d_model)
    weights = {"embedding.token.weight": table}
    weights |= tensors.norm("model.norm", "final_norm", config.d_model, bias=False)
    return weights | tensors.head(table, config.tied_head)


def attention_weights(config: TransformerConfig, tensors: Tensors, layer: int) -> Weights:
    """Attention and both norms of a layer."""
    theirs, ours, weights = f"model.layers.{layer}", f"layers.{layer}", Weights()
    weights |= tensors.norm(f"{theirs}.input_layernorm", f"{ours}.attention_norm", config.d_model, bias=False)
    weights |= tensors.norm(
        f"{theirs}.post_attention_layernorm", f"{ours}.feed_forward_norm", config.d_model, bias=False
    )
    for name, short in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o")):
        inputs, outputs = config.projection_shape(layer, name)
        place = f"{ours}.attention.{name}"
        weights |= tensors.linear(f"{theirs}.self_attn.{short}_proj", place, outputs, inputs, config.has_bias(name))
    return weights


def _head_dim(keys: Keys) -> int:
    d, heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
    if keys.value("head_dim", default=None) is None and d % heads:
        raise ModelError(
            f"{keys.path}: 'hidden_size' = {d} is not a multiple of 'num_attention_heads' = {heads}; set 'head_dim'"
        )
    return keys.integer("head_dim", default=d // heads)
