"""The transformer in torch, encoder or decoder, written so that its ONNX export is the plain operators one expects."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from picoformer.errors import DataError
from picoformer.models.branches import (
    Attention,
    DenseHead,
    FeedForward,
    LowRankLinear,
    MixtureOfExperts,
    Rotation,
    linear,
    norm,
)
from picoformer.models.config import TransformerConfig
from picoformer.models.positions import alibi_bias, rotary_tables, sinusoidal

__all__ = [
    "Attention",
    "FeedForward",
    "InputEmbedding",
    "LowRankLinear",
    "MixtureOfExperts",
    "Transformer",
    "TransformerLayer",
    "build_unset",
    "sinusoidal",
]

TINY = 1e-24
"""Least square of a length that an output is divided by."""
TABLE_ROWS = 2048
"""Longest tables of masks and positions that a model keeps; longer inputs compute theirs."""


class TransformerLayer(nn.Module):
    """Attention and feed-forward, each in a residual branch, with the norm before or after it, or both in one."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.pre, self.parallel = config.norm_position == "pre", config.parallel
        self.attention_norm = norm(config)
        self.attention = Attention(config, layer)
        if config.parallel != 1:
            self.feed_forward_norm = norm(config)
        self.feed_forward = (MixtureOfExperts if config.experts else FeedForward)(config, layer)

    def forward(self, x: Tensor, mask: Tensor | None, rotation: Rotation | None = None) -> Tensor:
        """(batch, seq, d_model) -> the same."""
        y: Tensor
        if self.parallel:
            normed = self.attention_norm(x)
            other = self.feed_forward_norm(x) if self.parallel == 2 else normed
            y = x + self.attention(normed, mask, rotation) + self.feed_forward(other)
            return y
        if self.pre:
            x = x + self.attention(self.attention_norm(x), mask, rotation)
            y = x + self.feed_forward(self.feed_forward_norm(x))
            return y
        x = self.attention_norm(x + self.attention(x, mask, rotation))
        y = self.feed_forward_norm(x + self.feed_forward(x))
        return y


class InputEmbedding(nn.Module):
    """Ids, frames or image patches to rows of d_model, with the CLS token and the positions."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        width = config.table_width
        if config.image is not None and config.patch is not None:
            self.patches = nn.Conv2d(config.image[0], config.d_model, config.patch, stride=config.patch)
        elif config.vocab_size:
            self.token = nn.Embedding(config.vocab_size, config.embedding_rank or width)
            if config.embedding_rank:
                self.token_expand = nn.Linear(config.embedding_rank, config.d_model, bias=False)
        else:
            self.frames = linear(config.input_size, config.d_model, config.embedding_rank)
        if config.cls_token:
            self.cls = nn.Parameter(torch.empty(1, 1, config.d_model))
        if config.positions == "learned":
            self.position = nn.Parameter(torch.empty(config.tokens, width))
        elif config.positions == "sinusoidal":
            table = torch.from_numpy(sinusoidal(config.tokens, config.d_model))
            self.register_buffer("position", table, persistent=False)
        if config.segments:
            self.segment = nn.Embedding(config.segments, width)
        if config.embedding_norm:
            self.norm = nn.LayerNorm(width, eps=config.norm_epsilon)
        if config.embedding_width:
            self.project = nn.Linear(width, config.d_model)

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        """One batch of inputs -> (batch, tokens, d_model); without `segments` (batch, seq) all are of kind 0.

        Raises DataError for a wrong shape or type.
        """
        self.check(x)
        self._check_segments(x, segments)
        config = self.config
        if config.image is not None:
            rows: Tensor = self.patches(x).flatten(2).transpose(1, 2)
        else:
            rows = self.token(x) if config.vocab_size else self.frames(x)
            if config.vocab_size and config.embedding_rank:
                rows = self.token_expand(rows)
        if config.scale_embedding:
            rows = rows * self.scale
        if config.cls_token:
            rows = torch.cat((self.cls.expand(rows.shape[0], 1, config.d_model), rows), dim=1)
        if config.positions in ("learned", "sinusoidal"):
            count = rows.shape[1]
            rows = rows + (self.position if count == config.tokens else self.position[:count])
        if config.segments:
            rows = rows + (self.segment.weight[0] if segments is None else self.segment(segments))
        if config.embedding_norm:
            rows = self.norm(rows)
        return self.project(rows) if config.embedding_width else rows

    def _check_segments(self, x: Tensor, segments: Tensor | None) -> None:
        if segments is None:
            return
        if not self.config.segments:
            raise DataError("segments are given, but the model has none (segments = 0); leave them out")
        if segments.shape != x.shape or segments.is_floating_point():
            raise DataError(
                f"segments are {str(segments.dtype).removeprefix('torch.')}{list(segments.shape)}; give int64 of the "
                f"ids' shape {list(x.shape)}"
            )

    def check(self, x: Tensor) -> None:
        """Raise DataError unless `x` is a batch of the model's inputs, by shape and type."""
        expected = self.config.input_shape
        found = tuple(x.shape[1:])
        if self.config.image is not None:
            fits = found == expected
        else:
            fits = len(found) == len(expected) and 1 <= found[0] <= expected[0] and found[1:] == expected[1:]
        if not fits:
            raise DataError(
                f"input has shape {tuple(x.shape)}; the model takes (batch, {', '.join(map(str, expected))})"
            )
        if x.is_floating_point() == bool(self.config.vocab_size):
            kind = "int64 token ids" if self.config.vocab_size else "float values"
            raise DataError(f"input is {str(x.dtype).removeprefix('torch.')}; the model takes {kind}")


class Transformer(nn.Module):
    """The model of a TransformerConfig; weights come from `seed` alone (None: unset, for loading)."""

    def __init__(self, config: TransformerConfig, seed: int | None = 0) -> None:
        super().__init__()
        self.config = config
        self.embedding = InputEmbedding(config)
        first = [config.weight_sets.index(number) for number in range(max(config.weight_sets) + 1)]
        self.layers = nn.ModuleList(TransformerLayer(config, layer) for layer in first)
        if config.final_norm:
            self.final_norm = norm(config)
        if config.pooler:
            self.pooler = DenseHead(config.d_model, config.d_model, config.pooler)
        if config.head_dense:
            self.head_dense = DenseHead(config.d_model, config.head_width, config.head_dense, config.norm_epsilon)
        for name, table in _tables(config, min(config.tokens, TABLE_ROWS)).items():
            self.register_buffer(name, table, persistent=False)
        if config.classes and not config.tied_head:
            self.head = nn.Linear(config.d_model, config.classes, bias=config.head_bias)
        if config.tied_head_bias:
            self.head_bias = nn.Parameter(torch.empty(config.classes))
        if seed is not None:
            self._initialise(torch.Generator().manual_seed(seed))

    def forward(self, x: Tensor, valid_length: int | Tensor | None = None, segments: Tensor | None = None) -> Tensor:
        """Logits (batch, classes); (batch, tokens, classes) with pooling 'none'; the hidden state without a
        head.

        `valid_length` counts the input rows that are real, the CLS token not among them: an int, or a tensor
        of one int per sample. Rows past it are never attended to nor pooled. `segments`: which kind each token is of,
        int64 (batch, seq); None: all of kind 0. Raises DataError.
        """
        return self.forward_with_hidden(x, valid_length, segments)[0]

    def forward_with_hidden(
        self, x: Tensor, valid_length: int | Tensor | None = None, segments: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """As `forward`, and the output (batch, tokens, d_model) of every layer."""
        rows = self.embedding(x, segments)
        valid = None if valid_length is None else self._valid(rows, valid_length)
        mask, rotation = self._mask(rows, valid), self._rotation(rows)
        hidden = []
        for number in self.config.weight_sets:
            rows = self.layers[number](rows, mask, rotation)
            hidden.append(rows)
        if self.config.final_norm:
            rows = self.final_norm(rows)
        return self._head(self._pool(rows, valid)), hidden

    def _head(self, pooled: Tensor) -> Tensor:
        config = self.config
        if config.pooler:
            pooled = self.pooler(pooled)
        if config.head_dense:
            pooled = self.head_dense(pooled)
        if config.tied_head:
            bias = self.head_bias if config.tied_head_bias else None
            pooled = nn.functional.linear(pooled, self.embedding.token.weight, bias)
        elif config.classes:
            pooled = self.head(pooled)
        if config.normalize:
            pooled = pooled / pooled.square().sum(dim=-1, keepdim=True).clamp_min(TINY).sqrt()
        return pooled

    def _mask(self, rows: Tensor, valid: Tensor | None) -> Tensor | None:
        """What is added to scores, (batch or 1, heads or 1, 1 or tokens, tokens); None when all rows see all alike."""
        mask: Tensor | None = None
        if self.config.causal:
            mask = self._table("causal_mask", rows)[None, None]
        if self.config.positions == "alibi":
            bias = self._table("alibi", rows)[None, :, None]
            mask = bias if mask is None else mask + bias
        if valid is not None:
            zero = torch.zeros((), dtype=rows.dtype, device=rows.device)
            padding = torch.where(valid, zero, float("-inf"))[:, None, None, :]
            mask = padding if mask is None else mask + padding
        return mask

    def _rotation(self, rows: Tensor) -> Rotation | None:
        """Cosine and sine of the positions, each (tokens, rotary_dim / 2)."""
        if self.config.positions != "rotary":
            return None
        return self._table("cosine", rows), self._table("sine", rows)

    def _table(self, name: str, rows: Tensor) -> Tensor:
        """One of `_tables`, as long as `rows` (batch, tokens, d_model)."""
        count = rows.shape[1]
        if count > TABLE_ROWS:
            return _tables(self.config, count)[name].to(rows)
        kept = self.get_buffer(name)
        if count == min(self.config.tokens, TABLE_ROWS):
            return kept
        return kept[:count, :count] if name == "causal_mask" else kept[..., :count] if name == "alibi" else kept[:count]

    def _valid(self, rows: Tensor, valid_length: int | Tensor) -> Tensor:
        """True for rows that are real: (batch or 1, tokens)."""
        cls = int(self.config.cls_token)
        count = rows.shape[1]
        if isinstance(valid_length, int):
            if not 1 <= valid_length <= count - cls:
                raise DataError(f"valid_length is {valid_length}; give 1 to {count - cls}")
            valid_length = torch.tensor(valid_length, device=rows.device)
        return torch.arange(count, device=rows.device) < valid_length.reshape(-1, 1) + cls

    def _pool(self, rows: Tensor, valid: Tensor | None) -> Tensor:
        if self.config.pooling in ("cls", "first"):
            return rows[:, 0]
        if self.config.pooling == "none":
            return rows
        if valid is None:
            return rows.mean(dim=1)
        weight = valid.to(rows.dtype)
        return (rows * weight[:, :, None]).sum(dim=1) / weight.sum(dim=1, keepdim=True)

    def _initialise(self, generator: torch.Generator) -> None:
        """Xavier-uniform matrices, zero biases, embeddings of deviation 0.02 unless scaled anyway."""
        deviation = 1.0 / self.embedding.scale if self.config.scale_embedding else 0.02
        for name, parameter in self.named_parameters():
            with torch.no_grad():
                if "norm" in name:
                    parameter.fill_(1.0 if name.endswith("weight") else 0.0)
                elif name.endswith("bias"):  # those of norms and linear layers, and `head_bias`
                    parameter.zero_()
                elif name.split(".")[1] in ("token", "cls", "position", "segment"):
                    parameter.normal_(0.0, deviation, generator=generator)
                else:
                    nn.init.xavier_uniform_(parameter.flatten(1), generator=generator)


def _tables(config: TransformerConfig, rows: int) -> dict[str, Tensor]:
    """What attention needs: causal_mask (rows, rows), alibi (heads, rows), cosine and sine (rows, pairs)."""
    tables = {}
    if config.causal:
        tables["causal_mask"] = torch.full((rows, rows), float("-inf")).triu(1)
    if config.positions == "alibi":
        tables["alibi"] = torch.from_numpy(alibi_bias(config, rows))
    if config.positions == "rotary":
        tables["cosine"], tables["sine"] = map(torch.from_numpy, rotary_tables(config, rows))
    return tables


def build_unset(config: TransformerConfig) -> Transformer:
    """The model on the meta device: names, shapes and counts without a byte of weights."""
    with torch.device("meta"):
        return Transformer(config, seed=None)
