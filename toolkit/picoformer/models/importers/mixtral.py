"""Mixtral: Llama's attention, and a router that chooses a few of the gated feed-forwards for each row."""

from __future__ import annotations

from picoformer.models.config import TransformerConfig
from picoformer.models.importers.imported import Weights, language_model
from picoformer.models.importers.keys import Keys
from picoformer.models.importers.llama import attention_weights, check_window, common_keys, outer_weights, rotary_of
from picoformer.models.importers.tensors import Tensors

THETA = 1_000_000.0
PARTS = (("gate", "w1"), ("up", "w3"), ("down", "w2"))


def convert(keys: Keys, tensors: Tensors) -> tuple[TransformerConfig, Weights, str]:
    """Ours from theirs, with a matrix for each expert (w1, w2, w3) or all experts in one tensor (gate_up_proj)."""
    rotary = rotary_of(keys, THETA)
    common = common_keys(keys, rotary)
    config = language_model(
        keys.path,
        **{**common, "norm_epsilon": keys.number("rms_norm_eps", default=1e-5)},
        experts=keys.integer("num_local_experts", "num_experts", default=8),
        experts_per_token=keys.integer("num_experts_per_tok", default=2),
        attention_bias=False,
        out_bias=False,
        feed_forward_bias=False,
    )
    check_window(keys, config.sequence)
    weights = outer_weights(config, tensors)
    for layer in range(config.layers):
        weights |= attention_weights(config, tensors, layer)
        weights |= _expert_weights(config, tensors, layer)
    return config, weights, rotary.note


def _expert_weights(config: TransformerConfig, tensors: Tensors, layer: int) -> Weights:
    d, width, ours = config.d_model, config.d_ff[layer], f"layers.{layer}.feed_forward"
    theirs = f"model.layers.{layer}.block_sparse_moe"
    if f"{theirs}.gate.weight" not in tensors:
        theirs = f"model.layers.{layer}.mlp"
    weights = {f"{ours}.router.weight": tensors.take(f"{theirs}.gate.weight", config.experts, d)}
    fused = f"{theirs}.experts.gate_up_proj"
    if fused in tensors:
        both = tensors.take(fused, config.experts, 2 * width, d)
        down = tensors.take(f"{theirs}.experts.down_proj", config.experts, d, width)
        for expert in range(config.experts):
            parts = (both[expert, :width], both[expert, width:], down[expert])
            for name, part in zip(("gate", "up", "down"), parts, strict=True):
                weights[f"{ours}.experts.{expert}.{name}.weight"] = part.copy()
        return weights
    for expert in range(config.experts):
        for name, short in PARTS:
            inputs, outputs = config.projection_shape(layer, name)
            place = f"{ours}.experts.{expert}.{name}"
            weights |= tensors.linear(f"{theirs}.experts.{expert}.{short}", place, outputs, inputs, False)
    return weights
