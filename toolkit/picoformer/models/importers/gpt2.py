"""GPT-2: learned positions, LayerNorm before each branch, query, key and value in one matrix, tanh GELU."""

from __future__ import annotations

import math

from picoformer.errors import ModelError
from picoformer.models.config import TransformerConfig
from picoformer.models.importers.imported import Weights, language_model
from picoformer.models.importers.keys import Keys
from picoformer.models.importers.tensors import Tensors


def convert(keys: Keys, tensors: Tensors) -> tuple[TransformerConfig, Weights, str]:
    """Ours from theirs. Its matrices are (inputs, outputs); what it scales scores by, beside the square root, goes into
    the queries."""
    d, heads = keys.integer("n_embd", "hidden_size"), keys.integer("n_head", "num_attention_heads")
    if d % heads:
        raise ModelError(f"{keys.path}: 'n_embd' = {d} is not a multiple of 'n_head' = {heads}")
    keys.refuse("add_cross_attention", mend="only decoders are")
    keys.value("n_ctx", default=None)  # n_positions again
    tied = keys.flag("tie_word_embeddings", True)
    config = language_model(
        keys.path,
        layers=keys.integer("n_layer", "num_hidden_layers"),
        d_model=d,
        heads=heads,
        kv_heads=heads,
        head_dim=d // heads,
        d_ff=keys.integer("n_inner", default=4 * d),
        vocab_size=keys.integer("vocab_size"),
        sequence=keys.integer("n_positions", "max_position_embeddings", default=1024),
        activation=keys.activation("activation_function", default="gelu_new"),
        norm_epsilon=keys.number("layer_norm_epsilon", default=1e-5),
        tied_head=tied,
    )
    scaled = keys.flag("scale_attn_weights", True)
    by_layer = keys.flag("scale_attn_by_inverse_layer_idx", False)
    prefix = "transformer." if "transformer.wte.weight" in tensors else ""
    table = tensors.take(f"{prefix}wte.weight", config.vocab_size, d)
    weights = {
        "embedding.token.weight": table,
        "embedding.position": tensors.take(f"{prefix}wpe.weight", config.sequence, d),
    }
    for layer in range(config.layers):
        theirs, ours, width = f"{prefix}h.{layer}", f"layers.{layer}", config.d_ff[layer]
        weights |= tensors.norm(f"{theirs}.ln_1", f"{ours}.attention_norm", d)
        weights |= tensors.norm(f"{theirs}.ln_2", f"{ours}.feed_forward_norm", d)
        fused = tensors.take(f"{theirs}.attn.c_attn.weight", d, 3 * d).T.reshape(3, d, d).copy()
        bias = tensors.take(f"{theirs}.attn.c_attn.bias", 3 * d).reshape(3, d)
        factor = (1.0 if scaled else math.sqrt(config.head_dim)) / (layer + 1 if by_layer else 1)
        fused[0] *= factor
        bias[0] *= factor
        for index, name in enumerate(("query", "key", "value")):
            weights[f"{ours}.attention.{name}.weight"] = fused[index]
            weights[f"{ours}.attention.{name}.bias"] = bias[index]
        for name, place, inputs, outputs in (
            ("attn.c_proj", "attention.out", d, d),
            ("mlp.c_fc", "feed_forward.up", d, width),
            ("mlp.c_proj", "feed_forward.down", width, d),
        ):
            weights[f"{ours}.{place}.weight"] = tensors.take(f"{theirs}.{name}.weight", inputs, outputs).T.copy()
            weights[f"{ours}.{place}.bias"] = tensors.take(f"{theirs}.{name}.bias", outputs)
    weights |= tensors.norm(f"{prefix}ln_f", "final_norm", d)
    return config, weights | tensors.head(table, tied), ""
