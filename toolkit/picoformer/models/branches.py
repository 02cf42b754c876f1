"""The two branches of a transformer's layer, attention and feed-forward, and the parts they are made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from picoformer.models.config import TransformerConfig

ACTIVATION_MODULES: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}

Rotation = tuple[Tensor, Tensor]
"""Cosine and sine of every position and pair, each (seq, pairs)."""


class LowRankLinear(nn.Module):
    """A linear layer as a pair of thin ones, y = expand(reduce(x)): rank * (inputs + outputs) weights."""

    def __init__(self, inputs: int, outputs: int, rank: int, bias: bool = True) -> None:
        super().__init__()
        self.reduce = nn.Linear(inputs, rank, bias=False)
        self.expand = nn.Linear(rank, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        y: Tensor = self.expand(self.reduce(x))
        return y


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * weight over the last axis (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> the same."""
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.eps) * self.weight


def linear(inputs: int, outputs: int, rank: int, bias: bool = True) -> nn.Module:
    """One whole matrix for rank 0, else a pair."""
    return LowRankLinear(inputs, outputs, rank, bias) if rank else nn.Linear(inputs, outputs, bias=bias)


def activation(name: str) -> nn.Module:
    """The activation that a configuration calls `name`."""
    return nn.GELU(approximate="tanh") if name == "gelu_tanh" else ACTIVATION_MODULES[name]()


def norm(config: TransformerConfig) -> nn.Module:
    """The norm of rows that `config` names."""
    kind = RMSNorm if config.norm == "rms" else nn.LayerNorm
    return kind(config.d_model, eps=config.norm_epsilon)


def rotate(x: Tensor, rotation: Rotation, interleaved: bool) -> Tensor:
    """Turn the pairs of every head by its row's angle (Su et al. 2021): (batch, heads, seq, head_dim) -> the same.

    `rotation` is cosine and sine, each (seq, pairs); elements of a head beyond its pairs stay.
    """
    cosine, sine = rotation
    pairs = cosine.shape[-1]
    turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    if interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = turned[..., :pairs], turned[..., pairs:]
    parts = (first * cosine - second * sine, second * cosine + first * sine)
    turned = torch.stack(parts, dim=-1).flatten(-2) if interleaved else torch.cat(parts, dim=-1)
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017), spelled out: MatMul, Mul, Softmax, MatMul.

    Query head h reads the head h // (heads / kv_heads) of keys and values (Ainslie et al. 2023).
    """

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads[layer], config.key_heads[layer], config.head_dim
        self.interleaved = config.rotary_interleaved
        self.query, self.key, self.value, self.out = (
            _projection(config, layer, name) for name in ("query", "key", "value", "out")
        )

    def forward(self, x: Tensor, mask: Tensor | None, rotation: Rotation | None = None) -> Tensor:
        """(batch, seq, d_model) -> the same; `mask` (batch or 1, heads or 1, 1 or seq, seq) is added to the scores,
        -inf for keys that are not seen. Queries and keys are turned by `rotation`."""
        query = self._split(self.query(x), self.heads)
        key, value = (self._split(project(x), self.kv_heads) for project in (self.key, self.value))
        if rotation is not None:
            query, key = (rotate(part, rotation, self.interleaved) for part in (query, key))
        key, value = self._repeat(key), self._repeat(value)
        scores = torch.matmul(query, key.transpose(-1, -2)) * (1.0 / math.sqrt(self.head_dim))
        if mask is not None:
            scores = scores + mask
        context = torch.matmul(torch.softmax(scores, dim=-1), value)
        joined: Tensor = self.out(context.transpose(1, 2).flatten(2))
        return joined

    def _split(self, x: Tensor, heads: int) -> Tensor:
        """(batch, seq, heads * head_dim) -> (batch, heads, seq, head_dim)."""
        return x.reshape(*x.shape[:2], heads, self.head_dim).transpose(1, 2)

    def _repeat(self, x: Tensor) -> Tensor:
        """(batch, kv_heads, seq, head_dim) -> (batch, heads, seq, head_dim), each as often as queries read it."""
        return x if self.kv_heads == self.heads else x.repeat_interleave(self.heads // self.kv_heads, dim=1)


class FeedForward(nn.Module):
    """Linear, activation, linear; or, gated, the product of an activated and a plain linear layer before the last."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        name = config.activation
        if config.gated:
            self.gate = _projection(config, layer, "gate")
        self.up = _projection(config, layer, "up")
        self.activation = activation(name)
        self.down = _projection(config, layer, "down")
        self.gated = config.gated

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_model) -> the same."""
        inner = self.activation(self.gate(x)) * self.up(x) if self.gated else self.activation(self.up(x))
        y: Tensor = self.down(inner)
        return y


class DenseHead(nn.Module):
    """A dense layer with its activation behind the layers, and a LayerNorm behind that where `epsilon` is given."""

    def __init__(self, inputs: int, outputs: int, name: str, epsilon: float | None = None) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)
        self.activation = activation(name)
        self.norm = None if epsilon is None else nn.LayerNorm(outputs, eps=epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        y: Tensor = self.activation(self.dense(x))
        return y if self.norm is None else self.norm(y)


class MixtureOfExperts(nn.Module):
    """Feed-forwards of which every row runs a few: those of its largest router logits, of equals the first, weighted by
    the softmax over these logits (Jiang et al. 2024)."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.chosen = config.experts_per_token
        self.router = nn.Linear(config.d_model, config.experts, bias=False)
        self.experts = nn.ModuleList(FeedForward(config, layer) for _ in range(config.experts))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) -> the same; an expert runs on the rows that chose it alone."""
        rows = x.flatten(0, -2)
        ordered = torch.sort(self.router(rows), dim=-1, descending=True, stable=True)
        chosen, weights = ordered.indices[:, : self.chosen], torch.softmax(ordered.values[:, : self.chosen], dim=-1)
        result = torch.zeros_like(rows)
        for index, expert in enumerate(self.experts):
            row, place = torch.where(chosen == index)
            if len(row):
                result = result.index_add(0, row, expert(rows[row]) * weights[row, place, None])
        return result.reshape(x.shape)


def _projection(config: TransformerConfig, layer: int, name: str) -> nn.Module:
    return linear(*config.projection_shape(layer, name), config.rank(layer, name), config.has_bias(name))
