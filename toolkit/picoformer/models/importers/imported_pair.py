"""What an import of an encoder-decoder gives: configuration, weights, and the tokens that begin and end a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.errors import ConfigError, ModelError
from picoformer.models.config import MAX_LAYERS, TransformerConfig
from picoformer.models.encoder_decoder_config import EncoderDecoderConfig
from picoformer.models.importers.imported import Weights
from picoformer.models.importers.tensors import Array, Tensors


@dataclass(frozen=True)
class ImportedPair:
    """An encoder-decoder; `weights` are float32, finite, as `encoder_decoder_shapes(config)` says."""

    config: EncoderDecoderConfig
    weights: Weights
    family: str  # "bart", "marian", "t5", "mt5" or "picoformer"
    source: str  # for people: what was read
    sha256: str  # over all files that were read
    tokenizer: Path | None
    begin: tuple[int, ...]
    """What the decoder is given first: its start token, and one that has to follow, where there is such a one."""
    eos: tuple[int, ...]
    pad: int
    """What fills up a source; it is never attended to."""


def pair(path: Path, sides: Mapping[str, Mapping[str, Any]], tied_head: bool, **keys: Any) -> EncoderDecoderConfig:
    """A configuration out of the keys of both sides, `heads` and `d_ff` as single numbers for `layers` layers. Raises
    ModelError naming `path`."""
    configs = {}
    try:
        for side, given in sides.items():
            own = dict(given)
            layers = own.pop("layers")
            if layers > MAX_LAYERS:
                raise ModelError(f"{path}: {layers} layers in the {side}; {MAX_LAYERS} are the most")
            for key in ("heads", "d_ff"):
                own[key] = (own[key],) * layers
            if side == "decoder":
                own |= {"causal": True, "classes": own["vocab_size"], "tied_head": tied_head, "head_bias": False}
            configs[side] = TransformerConfig(pooling="none", **own)
        return EncoderDecoderConfig(configs["encoder"], configs["decoder"], **keys)
    except ConfigError as error:
        raise ModelError(f"{path}: bad configuration: {error}") from error


def same_table(tensors: Tensors, table: Array, *names: str) -> None:
    """Take the copies of the token table that older files hold; ModelError for one that differs."""
    for name in names:
        if name in tensors and not np.array_equal(tensors.take(name, *table.shape), table):
            raise ModelError(
                f"{tensors.path}: tensor '{name}' differs from the shared token table; only one is covered"
            )
