"""Falcon: one or few heads of keys and values, both branches side by side, rotary positions or ALiBi."""

from __future__ import annotations

import math
from typing import Any

from picoformer.errors import ModelError
from picoformer.models.config import TransformerConfig
from picoformer.models.importers.alibi import alibi_slopes
from picoformer.models.importers.imported import Weights, language_model
from picoformer.models.importers.keys import Keys
from picoformer.models.importers.rotary import read_rotary
from picoformer.models.importers.tensors import Array, Tensors
from picoformer.models.positions import round_bfloat16


def convert(keys: Keys, tensors: Tensors) -> tuple[TransformerConfig, Weights, str]:
    """Ours from theirs."""
    d, heads = keys.integer("hidden_size", "n_embed"), keys.integer("num_attention_heads", "n_head")
    if d % heads:
        raise ModelError(f"{keys.path}: 'hidden_size' = {d} is not a multiple of 'num_attention_heads' = {heads}")
    keys.refuse("apply_residual_connection_post_layernorm", mend="Falcon does not read it; remove it")
    new, several = keys.flag("new_decoder_architecture", False), keys.flag("multi_query", True)
    kv_heads = keys.integer("num_kv_heads", "n_head_kv", default=heads)
    if not new:
        if not several and kv_heads != heads:
            raise ModelError(
                f"{keys.path}: 'num_kv_heads' = {kv_heads} needs new_decoder_architecture or "
                f"multi_query; set it to {heads}"
            )
        kv_heads = 1 if several else heads
    positions, note = _positions(keys, d // heads, heads)
    bias, tied = keys.flag("bias", False), keys.flag("tie_word_embeddings", True)
    config = language_model(
        keys.path,
        **positions,
        layers=keys.integer("num_hidden_layers", "n_layer"),
        d_model=d,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=d // heads,
        d_ff=keys.integer("ffn_hidden_size", default=4 * d),
        vocab_size=keys.integer("vocab_size"),
        activation=keys.activation("activation", default="gelu"),
        norm_epsilon=keys.number("layer_norm_epsilon", default=1e-5),
        parallel=_parallel(keys, new),
        attention_bias=bias,
        out_bias=bias,
        feed_forward_bias=bias,
        tied_head=tied,
    )
    table = tensors.take("transformer.word_embeddings.weight", config.vocab_size, d)
    weights: Weights = {"embedding.token.weight": table}
    names = {
        0: {"input_layernorm": "attention_norm", "post_attention_layernorm": "feed_forward_norm"},
        1: {"input_layernorm": "attention_norm"},
        2: {"ln_attn": "attention_norm", "ln_mlp": "feed_forward_norm"},
    }[config.parallel]
    for layer in range(config.layers):
        theirs, ours, width = f"transformer.h.{layer}", f"layers.{layer}", config.d_ff[layer]
        for name, place in names.items():
            weights |= tensors.norm(f"{theirs}.{name}", f"{ours}.{place}", d)
        fused = f"{theirs}.self_attention.query_key_value"
        size = (heads + 2 * kv_heads) * config.head_dim
        parts = {"weight": tensors.take(f"{fused}.weight", size, d)}
        if bias:
            parts["bias"] = tensors.take(f"{fused}.bias", size)
        for part, values in parts.items():
            for name, split in split_fused(values, heads, kv_heads, config.head_dim).items():
                weights[f"{ours}.attention.{name}.{part}"] = split
        weights |= tensors.linear(f"{theirs}.self_attention.dense", f"{ours}.attention.out", d, d, bias)
        weights |= tensors.linear(f"{theirs}.mlp.dense_h_to_4h", f"{ours}.feed_forward.up", width, d, bias)
        weights |= tensors.linear(f"{theirs}.mlp.dense_4h_to_h", f"{ours}.feed_forward.down", d, width, bias)
    weights |= tensors.norm("transformer.ln_f", "final_norm", d)
    return config, weights | tensors.head(table, tied), note


def split_fused(values: Array, heads: int, kv_heads: int, head_dim: int) -> dict[str, Array]:
    """Query, key and value out of one matrix or bias: for each head of keys its queries, the key, the value. With one
    head of keys these are all queries, key, value; with as many as queries, the three of each head."""
    groups = values.reshape(kv_heads, heads // kv_heads + 2, head_dim, *values.shape[1:])
    parts = {"query": groups[:, :-2], "key": groups[:, -2], "value": groups[:, -1]}
    return {name: part.reshape(-1, *values.shape[1:]).copy() for name, part in parts.items()}


def _parallel(keys: Keys, new: bool) -> int:
    """The key `parallel` of a TransformerConfig."""
    parallel = keys.flag("parallel_attn", True)
    norms = keys.integer("num_ln_in_parallel_attn", default=2 if new else 1)
    if norms > 2 or (norms == 2 and not new) or (new and not parallel):
        raise ModelError(
            f"{keys.path}: 'num_ln_in_parallel_attn' = {norms} with parallel_attn = {str(parallel).lower()} and "
            f"new_decoder_architecture = {str(new).lower()} is no Falcon that exists; check the three keys"
        )
    return norms if parallel else 0


def _positions(keys: Keys, head_dim: int, heads: int) -> tuple[dict[str, Any], str]:
    sequence = keys.integer("max_position_embeddings", default=2048)
    if not keys.flag("alibi", False):
        rotary = read_rotary(keys, head_dim, sequence)
        return rotary.config_keys(), rotary.note
    for name in ("rope_parameters", "rope_scaling", "rope_theta"):
        keys.value(name, default=None)  # written, and not read with ALiBi
    slopes = round_bfloat16(alibi_slopes(heads)).astype(float) / math.sqrt(head_dim)
    return {
        "positions": "alibi",
        "alibi_slopes": tuple(map(float, slopes)),
        "alibi_bfloat16": True,
        "sequence": sequence,
    }, ""
