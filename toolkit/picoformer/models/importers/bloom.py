"""BLOOM: ALiBi, a norm right after the embedding, query, key and value of each head beside each other, tanh GELU."""

from __future__ import annotations

from picoformer.errors import ModelError
from picoformer.models.config import TransformerConfig
from picoformer.models.importers.alibi import alibi_slopes
from picoformer.models.importers.falcon import split_fused
from picoformer.models.importers.imported import Weights, language_model
from picoformer.models.importers.keys import Keys
from picoformer.models.importers.tensors import Tensors


def convert(keys: Keys, tensors: Tensors) -> tuple[TransformerConfig, Weights, str]:
    """Ours from theirs. ALiBi has no longest text: without `seq_length` it is 2048, as in training."""
    d, heads = keys.integer("hidden_size", "n_embed"), keys.integer("n_head", "num_attention_heads")
    if d % heads:
        raise ModelError(f"{keys.path}: 'hidden_size' = {d} is not a multiple of 'n_head' = {heads}")
    keys.refuse("apply_residual_connection_post_layernorm", mend="only residuals from before the norm are")
    tied = keys.flag("tie_word_embeddings", True)
    config = language_model(
        keys.path,
        layers=keys.integer("n_layer", "num_hidden_layers"),
        d_model=d,
        heads=heads,
        kv_heads=heads,
        head_dim=d // heads,
        d_ff=4 * d,
        vocab_size=keys.integer("vocab_size"),
        sequence=keys.integer("seq_length", default=2048),
        activation="gelu_tanh",
        norm_epsilon=keys.number("layer_norm_epsilon", default=1e-5),
        positions="alibi",
        alibi_slopes=tuple(map(float, alibi_slopes(heads))),
        embedding_norm=True,
        tied_head=tied,
    )
    prefix = "transformer." if "transformer.word_embeddings.weight" in tensors else ""
    table = tensors.take(f"{prefix}word_embeddings.weight", config.vocab_size, d)
    weights: Weights = {"embedding.token.weight": table}
    weights |= tensors.norm(f"{prefix}word_embeddings_layernorm", "embedding.norm", d)
    for layer in range(config.layers):
        theirs, ours, width = f"{prefix}h.{layer}", f"layers.{layer}", config.d_ff[layer]
        weights |= tensors.norm(f"{theirs}.input_layernorm", f"{ours}.attention_norm", d)
        weights |= tensors.norm(f"{theirs}.post_attention_layernorm", f"{ours}.feed_forward_norm", d)
        fused = f"{theirs}.self_attention.query_key_value"
        for part, shape in (("weight", (3 * d, d)), ("bias", (3 * d,))):
            values = tensors.take(f"{fused}.{part}", *shape)
            for name, split in split_fused(values, heads, heads, config.head_dim).items():
                weights[f"{ours}.attention.{name}.{part}"] = split
        weights |= tensors.linear(f"{theirs}.self_attention.dense", f"{ours}.attention.out", d, d, True)
        weights |= tensors.linear(f"{theirs}.mlp.dense_h_to_4h", f"{ours}.feed_forward.up", width, d, True)
        weights |= tensors.linear(f"{theirs}.mlp.dense_4h_to_h", f"{ours}.feed_forward.down", d, width, True)
    weights |= tensors.norm(f"{prefix}ln_f", "final_norm", d)
    return config, weights | tensors.head(table, tied), ""
