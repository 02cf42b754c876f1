"""The encoder-decoder in torch: the parts of the transformer, cross-attention, and T5's bias of distances."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from picoformer.errors import DataError
from picoformer.models.branches import Attention, FeedForward, norm
from picoformer.models.config import TransformerConfig
from picoformer.models.encoder_decoder_config import EncoderDecoderConfig
from picoformer.models.relative_positions import relative_buckets
from picoformer.models.transformer import InputEmbedding, TransformerLayer


class CrossAttention(Attention):
    """Attention whose keys and values are made from another sequence (Vaswani et al. 2017, section 3.2.3)."""

    def attend(self, x: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, seq, d_model), (batch, source, d_model) -> (batch, seq, d_model)."""
        query = self._split(self.query(x), self.heads)
        key, value = (self._split(project(memory), self.heads) for project in (self.key, self.value))
        scores = torch.matmul(query, key.transpose(-1, -2)) * (1.0 / math.sqrt(self.head_dim))
        if mask is not None:
            scores = scores + mask
        context = torch.matmul(torch.softmax(scores, dim=-1), value)
        joined: Tensor = self.out(context.transpose(1, 2).flatten(2))
        return joined


class DecoderLayer(nn.Module):
    """Causal attention, cross-attention and feed-forward, each in a residual branch, the norm before or after it."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.pre = config.norm_position == "pre"
        self.attention_norm = norm(config)
        self.attention = Attention(config, layer)
        self.cross_norm = norm(config)
        self.cross = CrossAttention(config, layer)
        self.feed_forward_norm = norm(config)
        self.feed_forward = FeedForward(config, layer)

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor, memory_mask: Tensor | None) -> Tensor:
        """(batch, seq, d_model) -> the same."""
        y: Tensor
        if self.pre:
            x = x + self.attention(self.attention_norm(x), mask)
            x = x + self.cross.attend(self.cross_norm(x), memory, memory_mask)
            y = x + self.feed_forward(self.feed_forward_norm(x))
            return y
        x = self.attention_norm(x + self.attention(x, mask))
        x = self.cross_norm(x + self.cross.attend(x, memory, memory_mask))
        y = self.feed_forward_norm(x + self.feed_forward(x))
        return y


class Side(nn.Module):
    """What encoder and decoder have both: embedding, layers, the last norm, the bias of distances."""

    def __init__(self, config: EncoderDecoderConfig, own: TransformerConfig) -> None:
        super().__init__()
        self.config = own
        self.embedding = InputEmbedding(own)
        kind = DecoderLayer if own.causal else TransformerLayer
        self.layers = nn.ModuleList(kind(own, layer) for layer in range(own.layers))
        if own.final_norm:
            self.final_norm = norm(own)
        self.reach, self.has_relative = config.relative_reach, config.relative_buckets > 0
        self.buckets: Tensor
        if config.relative_buckets:
            self.relative_bias = nn.Parameter(torch.zeros(config.relative_buckets, own.heads[0]))
            buckets = relative_buckets(config.relative_buckets, config.relative_reach, not own.causal)
            self.register_buffer("buckets", torch.tensor(buckets), persistent=False)
        if own.causal and not own.tied_head:
            self.head = nn.Linear(own.d_model, own.classes, bias=own.head_bias)

    def bias(self, rows: Tensor) -> Tensor | None:
        """What is added to the scores of every layer: (1, heads or 1, rows, rows); None for nothing."""
        count = rows.shape[1]
        places = torch.arange(count, device=rows.device)
        mask: Tensor | None = None
        if self.config.causal:
            hidden = places[None, :] > places[:, None]
            mask = torch.zeros(count, count, device=rows.device).masked_fill(hidden, float("-inf"))[None, None]
        if self.has_relative:
            distance = (places[None, :] - places[:, None]).clamp(-self.reach, 0 if self.config.causal else self.reach)
            found = self.relative_bias[self.buckets[distance + self.reach]].permute(2, 0, 1)[None]
            mask = found if mask is None else mask + found
        return mask


class EncoderDecoder(nn.Module):
    """The model of an EncoderDecoderConfig; weights come from `seed` alone (None: unset, for loading)."""

    def __init__(self, config: EncoderDecoderConfig, seed: int | None = 0) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Side(config, config.encoder), Side(config, config.decoder)
        if config.shared_embedding:
            self.encoder.embedding.token = self.decoder.embedding.token
        if config.logits_bias:
            self.logits_bias = nn.Parameter(torch.zeros(config.vocab_size))
        if seed is not None:
            self._initialise(torch.Generator().manual_seed(seed))

    def forward(self, source: Tensor, target: Tensor, source_length: Tensor | None = None) -> Tensor:
        """Logits (batch, target, vocabulary) for ids (batch, source) and (batch, target), int64.

        `source_length` (batch,) counts the source ids that are real; those past them are not attended to. Raises
        DataError.
        """
        return self.decode(target, self.encode(source, source_length), source_length)

    def encode(self, source: Tensor, source_length: Tensor | None = None) -> Tensor:
        """Ids (batch, source) -> rows (batch, source, d_model)."""
        rows: Tensor = self.encoder.embedding(source)
        mask, hidden = self.encoder.bias(rows), padding(rows, source_length)
        if hidden is not None:
            mask = hidden if mask is None else mask + hidden
        for layer in self.encoder.layers:
            rows = layer(rows, mask)
        if self.config.encoder.final_norm:
            rows = self.encoder.final_norm(rows)
        return rows

    def decode(self, target: Tensor, memory: Tensor, source_length: Tensor | None = None) -> Tensor:
        """Logits of every row of `target` (batch, target), given the encoder's rows."""
        rows = self.decoder.embedding(target)
        mask, memory_mask = self.decoder.bias(rows), padding(memory, source_length)
        for layer in self.decoder.layers:
            rows = layer(rows, mask, memory, memory_mask)
        if self.config.decoder.final_norm:
            rows = self.decoder.final_norm(rows)
        logits: Tensor
        if self.config.decoder.tied_head:
            logits = nn.functional.linear(rows, self.decoder.embedding.token.weight)
        else:
            logits = self.decoder.head(rows)
        return logits + self.logits_bias if self.config.logits_bias else logits

    def weights(self) -> dict[str, Tensor]:
        """The state by the names of `encoder_decoder_shapes`: a shared table once, under the decoder's name."""
        state = self.state_dict()
        if self.config.shared_embedding:
            del state["encoder.embedding.token.weight"]
        return state

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """The inverse of `weights`."""
        given: dict[str, Any] = dict(weights)
        if self.config.shared_embedding:
            given["encoder.embedding.token.weight"] = given["decoder.embedding.token.weight"]
        self.load_state_dict(given, strict=True)

    def _initialise(self, generator: torch.Generator) -> None:
        """Xavier-uniform matrices, zero biases, embeddings of deviation 0.02 unless scaled anyway."""
        for name, parameter in self.named_parameters():
            side = self.config.encoder if name.startswith("encoder.") else self.config.decoder
            with torch.no_grad():
                if "norm" in name:
                    parameter.fill_(1.0 if name.endswith("weight") else 0.0)
                elif name.endswith("bias"):
                    parameter.zero_()
                elif ".embedding." in name:
                    parameter.normal_(0.0, side.d_model**-0.5 if side.scale_embedding else 0.02, generator=generator)
                else:
                    nn.init.xavier_uniform_(parameter, generator=generator)


def padding(rows: Tensor, length: Tensor | None) -> Tensor | None:
    """-inf for the rows (batch, source, …) past each sample's `length`, (batch, 1, 1, source); None without one."""
    if length is None:
        return None
    count = rows.shape[1]
    if length.shape != (rows.shape[0],) or bool((length < 1).any()) or bool((length > count).any()):
        raise DataError(f"source_length is {length.tolist()}; give 1 to {count} for each of {rows.shape[0]} texts")
    hidden = torch.arange(count, device=rows.device) >= length[:, None]
    return torch.zeros(hidden.shape, device=rows.device).masked_fill(hidden, float("-inf"))[:, None, None]
