"""What an encoder-decoder is made of: two TransformerConfigs and what joins them; plain frozen data, no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from picoformer.errors import ConfigError
from picoformer.models.config import TransformerConfig, check_int

POSITIONS = ("learned", "sinusoidal", "none")
MAX_BUCKETS, MAX_REACH = 256, 1 << 14


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """An encoder that reads a text once, and a decoder each of whose layers attends to it (Vaswani et al. 2017).

    `encoder` has no head (classes 0), `decoder` is a causal language model; both have pooling "none" and one d_model.
    A layer of the decoder has cross-attention between its two branches, with the decoder's heads and biases, keys and
    values made from the encoder's rows.

    Raises ConfigError naming the key and the mend.
    """

    encoder: TransformerConfig
    decoder: TransformerConfig
    shared_embedding: bool = False  # the encoder reads the decoder's token table
    logits_bias: bool = False  # a number for each token is added to the logits, beside what the head has
    # T5's bias of self-attention (Raffel et al. 2020): a number for each head and bucket of distances, learned, the
    # same in all layers; distances of `relative_reach` and more share the last bucket. 0 buckets: none.
    relative_buckets: int = 0
    relative_reach: int = 128

    def __post_init__(self) -> None:
        for name in ("encoder", "decoder"):
            if not isinstance(getattr(self, name), TransformerConfig):
                raise ConfigError(f"{name} is no configuration of a transformer; give one")
        for key in ("shared_embedding", "logits_bias"):
            if not isinstance(getattr(self, key), bool):
                raise ConfigError(f"{key} = {getattr(self, key)!r}; write true or false")
        check_int("relative_buckets", self.relative_buckets, 0, MAX_BUCKETS)
        check_int("relative_reach", self.relative_reach, 2, MAX_REACH)
        self._check_sides()
        self._check_together()
        if self.relative_buckets:
            self._check_relative()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EncoderDecoderConfig:
        """The inverse of `to_dict`. Raises ConfigError."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in data:
            if key not in fields:
                raise ConfigError(f"model has an unknown key '{key}'; known are {', '.join(fields)}")
        values = dict(data)
        for side in ("encoder", "decoder"):
            if not isinstance(values.get(side), Mapping):
                raise ConfigError(f"model lacks the keys of its {side}; add '{side}'")
            values[side] = TransformerConfig.from_dict(values[side])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**plain, "encoder": self.encoder.to_dict(), "decoder": self.decoder.to_dict()}

    @property
    def vocab_size(self) -> int:
        """Tokens that the decoder writes."""
        return self.decoder.vocab_size

    def _check_sides(self) -> None:
        for name, side in (("encoder", self.encoder), ("decoder", self.decoder)):
            if not side.vocab_size or side.pooling != "none" or side.cls_token:
                raise ConfigError(
                    f"the {name} reads token ids and keeps its rows: set vocab_size, pooling = 'none' and no cls_token"
                )
            if side.positions not in POSITIONS:
                raise ConfigError(
                    f"the {name} has positions = '{side.positions}'; an encoder-decoder has one of "
                    f"{', '.join(POSITIONS)}"
                )
            for key in ("kv_heads", "ranks", "experts", "parallel", "embedding_rank"):
                if getattr(side, key):
                    raise ConfigError(f"the {name} has {key}; an encoder-decoder goes without, leave it out")
        if self.encoder.causal or self.encoder.classes:
            raise ConfigError("the encoder sees all rows and has no head; set causal = false and classes = 0")
        if not self.decoder.causal or self.decoder.classes != self.decoder.vocab_size:
            raise ConfigError("the decoder is a language model; set causal = true and classes = vocab_size")

    def _check_together(self) -> None:
        if self.encoder.d_model != self.decoder.d_model:
            raise ConfigError(
                f"d_model is {self.encoder.d_model} in the encoder, {self.decoder.d_model} in the decoder; give both "
                "the same"
            )
        if self.shared_embedding and self.encoder.vocab_size != self.decoder.vocab_size:
            raise ConfigError(
                f"shared_embedding: vocab_size is {self.encoder.vocab_size} in the encoder and "
                f"{self.decoder.vocab_size} in the decoder; give both the same"
            )

    def _check_relative(self) -> None:
        buckets, reach = self.relative_buckets, self.relative_reach
        if buckets % 4 or reach <= buckets // 2:
            raise ConfigError(
                f"relative_buckets = {buckets}; write a multiple of 4, less than twice relative_reach = {reach}"
            )
        for name, side in (("encoder", self.encoder), ("decoder", self.decoder)):
            if len(set(side.heads)) != 1:
                raise ConfigError(f"the {name}'s layers share a relative bias; give them all as many heads")
