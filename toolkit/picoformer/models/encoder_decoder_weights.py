"""Names and shapes of an encoder-decoder's weights: those of its two sides, and what joins them."""

from __future__ import annotations

from picoformer.models.encoder_decoder_config import EncoderDecoderConfig
from picoformer.models.weights import Shapes, weight_shapes

TABLE = "embedding.token.weight"
CROSS = ("query", "key", "value", "out")
"""The projections of cross-attention, under `decoder.layers.N.cross`."""


def encoder_decoder_shapes(config: EncoderDecoderConfig) -> Shapes:
    """Every tensor of the model's state by name; linear layers are (outputs, inputs)."""
    shapes: Shapes = {}
    for side in ("encoder", "decoder"):
        own = getattr(config, side)
        shapes |= {f"{side}.{name}": shape for name, shape in weight_shapes(own).items()}
        if config.relative_buckets:
            shapes[f"{side}.relative_bias"] = (config.relative_buckets, own.heads[0])
    if config.shared_embedding:
        del shapes[f"encoder.{TABLE}"]
    for layer in range(config.decoder.layers):
        at = f"decoder.layers.{layer}"
        for part in ("weight",) if config.decoder.norm == "rms" else ("weight", "bias"):
            shapes[f"{at}.cross_norm.{part}"] = (config.decoder.d_model,)
        for name in CROSS:
            inputs, outputs = config.decoder.projection_shape(layer, name)
            shapes[f"{at}.cross.{name}.weight"] = (outputs, inputs)
            if config.decoder.has_bias(name):
                shapes[f"{at}.cross.{name}.bias"] = (outputs,)
    if config.logits_bias:
        shapes["logits_bias"] = (config.vocab_size,)
    return shapes
