"""What pretrained encoders may combine: the checks of a TransformerConfig's keys for segments, layers and heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from picoformer.errors import ConfigError

if TYPE_CHECKING:
    from picoformer.models.config import TransformerConfig


def check_encoders(config: TransformerConfig) -> None:
    """Raise ConfigError for keys that do not go together; types have been checked, but those of `shared_layers`."""
    _check_embedding(config)
    _check_shared(config)
    _check_head(config)


def _check_embedding(config: TransformerConfig) -> None:
    if config.segments and not config.vocab_size:
        raise ConfigError(f"segments = {config.segments} needs token ids (vocab_size); set it or segments = 0")
    if config.segments and (config.causal or config.cls_token):
        key = "causal" if config.causal else "cls_token"
        raise ConfigError(f"segments = {config.segments} does not go with {key} = true; set one of the two")
    if not config.embedding_width:
        return
    for key, unset in (("embedding_rank", 0), ("scale_embedding", False), ("cls_token", False), ("causal", False)):
        if getattr(config, key) != unset:
            raise ConfigError(f"embedding_width does not go with {key} = {getattr(config, key)}; leave one out")
    if not config.vocab_size:
        raise ConfigError(f"embedding_width = {config.embedding_width} needs token ids (vocab_size); leave it out")
    if config.positions == "sinusoidal":
        raise ConfigError("embedding_width needs positions 'learned' or 'none': sinusoids are d_model wide; set one")


def _check_shared(config: TransformerConfig) -> None:
    if not config.shared_layers:
        return
    shared, known = config.shared_layers, 0
    shown = "shared_layers must hold the number of a set of weights for each layer, new ones in order: [0, 0, 1]"
    if not isinstance(shared, tuple) or len(shared) != config.layers:
        raise ConfigError(f"{shown}; it has {shared!r} for {config.layers} layers")
    for layer, number in enumerate(shared):
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= known:
            raise ConfigError(f"{shown}; shared_layers[{layer}] = {number!r} does not follow {known - 1}")
        known = max(known, number + 1)
        first = shared.index(number)
        for key in ("heads", "key_heads", "d_ff", "ranks"):
            values = getattr(config, key)
            if values and values[layer] != values[first]:
                raise ConfigError(f"layers {first} and {layer} share weights, but {key} differs; give both the same")


def _check_head(config: TransformerConfig) -> None:
    if config.pooling == "first" and config.cls_token:
        raise ConfigError("pooling = 'first' is the row of a token, and cls_token = true puts another first; use 'cls'")
    if config.pooler and config.pooling == "none":
        raise ConfigError(f"pooler = '{config.pooler}' needs a pooling; choose pooling = 'first', or leave it out")
    if config.head_dense and not config.classes:
        raise ConfigError(f"head_dense = '{config.head_dense}' needs a head; set classes, or leave it out")
    if config.tied_head_bias and not config.tied_head:
        raise ConfigError("tied_head_bias needs tied_head = true; for a head of its own set head_bias")
    if config.tied_head and config.embedding_width and not config.head_dense:
        raise ConfigError(
            f"tied_head reads rows of embedding_width = {config.embedding_width}, not of d_model = {config.d_model}; "
            "set head_dense, the layer between them"
        )
    if config.causal and (config.pooler or config.head_dense or config.tied_head_bias or config.normalize):
        raise ConfigError(
            "pooler, head_dense, tied_head_bias and normalize are an encoder's; leave them out with causal"
        )
