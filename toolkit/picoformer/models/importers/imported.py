"""What an import gives: configuration, weights, where they are from, and the tokens that begin and end a text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from picoformer.errors import ConfigError, ModelError
from picoformer.models.config import MAX_LAYERS, TransformerConfig

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class ImportedModel:
    """A causal language model; `weights` are float32, finite, with the names and shapes of `weight_shapes(config)`."""

    config: TransformerConfig
    weights: Weights
    family: str  # "gpt2", "llama", "mistral", "qwen2", "falcon", "bloom", "mixtral", "llama2.c" or "picoformer"
    source: str  # for people: what was read, and what was left out of it
    sha256: str  # over all files that were read
    tokenizer: Path | None  # tokenizer.json or tokenizer.model beside it
    bos: int | None
    eos: tuple[int, ...]


def language_model(path: Path, **keys: Any) -> TransformerConfig:
    """The configuration of a causal language model over its own vocabulary; `keys` as in TransformerConfig, `heads`,
    `kv_heads` and `d_ff` as single numbers for `layers` layers. Raises ModelError naming `path`."""
    layers = keys.pop("layers")
    if layers > MAX_LAYERS:
        raise ModelError(f"{path}: {layers} layers; {MAX_LAYERS} are the most")
    for key in ("heads", "kv_heads", "d_ff"):
        keys[key] = (keys[key],) * layers
    fixed = {"classes": keys["vocab_size"], "pooling": "none", "causal": True, "head_bias": False}
    try:
        return TransformerConfig(**{**fixed, **keys})
    except ConfigError as error:
        raise ModelError(f"{path}: bad configuration: {error}") from error


def check_finite(path: Path, name: str, values: NDArray[Any]) -> None:
    """Raise ModelError for NaN or infinite values."""
    finite = np.isfinite(values)
    if not finite.all():
        bad = int(finite.size - np.count_nonzero(finite))
        raise ModelError(f"{path}: tensor '{name}' holds {bad} NaN or infinite values; get the checkpoint again")
