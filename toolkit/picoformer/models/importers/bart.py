"""BART and Marian: post-norm encoder-decoders, positions learned from row 2 on or sinusoids, a bias of the logits."""

from __future__ import annotations

from typing import Any

import numpy as np

from picoformer.errors import ModelError
from picoformer.models.encoder_decoder_config import EncoderDecoderConfig
from picoformer.models.importers.imported import Weights
from picoformer.models.importers.imported_pair import pair, same_table
from picoformer.models.importers.keys import Keys
from picoformer.models.importers.tensors import Array, Tensors

OFFSET = 2
"""Rows of BART's table of positions that no position reads."""
GENERATION = ("forced_bos_token_id", "forced_eos_token_id", "no_repeat_ngram_size", "num_beams", "length_penalty",
              "early_stopping", "max_length", "min_length", "do_sample", "bad_words_ids", "prefix",
              "num_labels", "num_hidden_layers", "hidden_size", "num_attention_heads", "decoder_start_token_id",
              "is_encoder_decoder", "init_std", "encoder_layerdrop", "decoder_layerdrop")  # fmt: skip
"""Keys that say how text is chosen, or say a size again: no logit hangs on them."""


def convert_bart(keys: Keys, tensors: Tensors) -> tuple[EncoderDecoderConfig, Weights]:
    """Ours from theirs."""
    _refuse_old(keys)
    return _convert(keys, tensors, marian=False)


def convert_marian(keys: Keys, tensors: Tensors) -> tuple[EncoderDecoderConfig, Weights]:
    """Ours from theirs. Its sinusoids, sines before cosines, are kept as a table."""
    keys.refuse("normalize_embedding", mend="Marian's embeddings have no norm")
    keys.refuse("static_position_embeddings", True, mend="only sinusoids are")
    for name in ("add_final_layer_norm", "normalize_before", "add_bias_logits", "extra_pos_embeddings"):
        keys.refuse(name, *((2,) if name == "extra_pos_embeddings" else ()), mend="no Marian has it; remove it")
    vocabulary = keys.integer("vocab_size")
    if keys.integer("decoder_vocab_size", default=vocabulary) != vocabulary:
        raise ModelError(f"{keys.path}: 'decoder_vocab_size' is not 'vocab_size'; only one table for both is covered")
    keys.refuse("share_encoder_decoder_embeddings", True, None, mend="only one table for both is")
    if not keys.flag("share_encoder_decoder_embeddings", True):
        raise ModelError(f"{keys.path}: 'share_encoder_decoder_embeddings' = False is not covered; only one table is")
    return _convert(keys, tensors, marian=True)


def _refuse_old(keys: Keys) -> None:
    """What BART's code once read: another value than the one that stayed is another model."""
    for name, stayed in (
        ("normalize_before", False), ("add_bias_logits", False), ("add_final_layer_norm", False),
        ("normalize_embedding", True), ("static_position_embeddings", False), ("extra_pos_embeddings", 2),
    ):  # fmt: skip
        if keys.value(name, default=stayed) not in (stayed, None):
            raise ModelError(f"{keys.path}: '{name}' is not {stayed!r}; only BART as it is in transformers is covered")


def _convert(keys: Keys, tensors: Tensors, marian: bool) -> tuple[EncoderDecoderConfig, Weights]:
    for name in GENERATION:
        keys.value(name, default=None)
    keys.refuse("is_decoder", mend="only encoder-decoders are")
    if not keys.flag("tie_word_embeddings", True):
        raise ModelError(f"{keys.path}: 'tie_word_embeddings' = False is not covered; only a head that is the table is")
    vocabulary, d, length = (keys.integer(name) for name in ("vocab_size", "d_model", "max_position_embeddings"))
    both: dict[str, Any] = {
        "vocab_size": vocabulary,
        "sequence": length,
        "positions": "learned",
        "scale_embedding": keys.flag("scale_embedding", False),
        "norm_position": "post",
        "final_norm": False,
        "embedding_norm": not marian,
        "activation": keys.activation("activation_function", default="gelu"),
    }
    sides = {}
    for side in ("encoder", "decoder"):
        heads = keys.integer(f"{side}_attention_heads")
        if d % heads:
            raise ModelError(f"{keys.path}: 'd_model' = {d} is not a multiple of '{side}_attention_heads' = {heads}")
        layers, width = keys.integer(f"{side}_layers"), keys.integer(f"{side}_ffn_dim")
        sides[side] = {**both, "layers": layers, "heads": heads, "d_ff": width, "d_model": d, "head_dim": d // heads}
    config = pair(keys.path, sides, tied_head=True, shared_embedding=True, logits_bias=True)
    table = tensors.take("model.shared.weight", vocabulary, d)
    weights: Weights = {"decoder.embedding.token.weight": table}
    same_table(tensors, table, "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight",
               "lm_head.weight")  # fmt: skip
    weights["logits_bias"] = tensors.take("final_logits_bias", 1, vocabulary)[0]
    for side, own in (("encoder", config.encoder), ("decoder", config.decoder)):
        weights[f"{side}.embedding.position"] = _positions(tensors, side, length, d, marian)
        if not marian:
            weights |= tensors.norm(f"model.{side}.layernorm_embedding", f"{side}.embedding.norm", d)
        for layer in range(own.layers):
            theirs, ours = f"model.{side}.layers.{layer}", f"{side}.layers.{layer}"
            parts = {"self_attn": "attention", **({"encoder_attn": "cross"} if side == "decoder" else {})}
            for name, place in parts.items():
                weights |= tensors.norm(f"{theirs}.{name}_layer_norm", f"{ours}.{place}_norm", d)
                for part, projection in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out")):
                    weights |= tensors.linear(
                        f"{theirs}.{name}.{part}_proj", f"{ours}.{place}.{projection}", d, d, True
                    )
            weights |= tensors.norm(f"{theirs}.final_layer_norm", f"{ours}.feed_forward_norm", d)
            width = own.d_ff[layer]
            weights |= tensors.linear(f"{theirs}.fc1", f"{ours}.feed_forward.up", width, d, True)
            weights |= tensors.linear(f"{theirs}.fc2", f"{ours}.feed_forward.down", d, width, True)
    return config, weights


def _positions(tensors: Tensors, side: str, length: int, d: int, marian: bool) -> Array:
    name = f"model.{side}.embed_positions.weight"
    if not marian:
        return tensors.take(name, length + OFFSET, d)[OFFSET:].copy()
    if name in tensors:
        return tensors.take(name, length, d)
    # np.power as transformers has it: sines of all angles, then cosines
    pairs = np.arange((d + 1) // 2) * 2
    angles = np.arange(length)[:, None] / np.power(10000, pairs / d)
    table: Array = np.concatenate((np.sin(angles), np.cos(angles)[:, : d // 2]), axis=1).astype(np.float32)
    return table
