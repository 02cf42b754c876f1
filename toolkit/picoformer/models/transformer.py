"""The transformer in torch, encoder or decoder, written so that its ONNX export is the plain operators one expects."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from picoformer.errors import DataError
from picoformer.models.config import TransformerConfig

ACTIVATION_MODULES: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class LowRankLinear(nn.Module):
    """A linear layer as a pair of thin ones, y = expand(reduce(x)): rank * (inputs + outputs) weights."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(inputs, rank, bias=False)
        self.expand = nn.Linear(rank, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        y: Tensor = self.expand(self.reduce(x))
        return y


def linear(inputs: int, outputs: int, rank: int) -> nn.Module:
    """One whole matrix for rank 0, else a pair; both with a bias."""
    return LowRankLinear(inputs, outputs, rank) if rank else nn.Linear(inputs, outputs)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017), spelled out: MatMul, Mul, Softmax, MatMul.

    Query head h reads the head h // (heads / kv_heads) of keys and values (Ainslie et al. 2023).
    """

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads[layer], config.key_heads[layer], config.head_dim
        self.query, self.key, self.value, self.out = (
            linear(*config.projection_shape(layer, name), config.rank(layer, name))
            for name in ("query", "key", "value", "out")
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, seq, d_model) -> the same; `mask` (batch or 1, 1, 1 or seq, seq): 0 for keys to see, else -inf."""
        query = self._split(self.query(x), self.heads)
        key, value = (self._repeat(self._split(project(x), self.kv_heads)) for project in (self.key, self.value))
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
    """Linear, activation, linear."""

    def __init__(self, d_model: int, d_ff: int, activation: str, ranks: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        self.up = linear(d_model, d_ff, ranks[0])
        self.activation = nn.GELU(approximate="tanh") if activation == "gelu_tanh" else ACTIVATION_MODULES[activation]()
        self.down = linear(d_ff, d_model, ranks[1])

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) -> the same."""
        y: Tensor = self.down(self.activation(self.up(x)))
        return y


class TransformerLayer(nn.Module):
    """Attention and feed-forward, each in a residual branch, with the norm before or after it."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.pre = config.norm_position == "pre"
        self.attention_norm = nn.LayerNorm(config.d_model, eps=config.norm_epsilon)
        self.attention = Attention(config, layer)
        self.feed_forward_norm = nn.LayerNorm(config.d_model, eps=config.norm_epsilon)
        ranks = config.rank(layer, "up"), config.rank(layer, "down")
        self.feed_forward = FeedForward(config.d_model, config.d_ff[layer], config.activation, ranks)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, seq, d_model) -> the same."""
        if self.pre:
            x = x + self.attention(self.attention_norm(x), mask)
            y: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
            return y
        x = self.attention_norm(x + self.attention(x, mask))
        y = self.feed_forward_norm(x + self.feed_forward(x))
        return y


class InputEmbedding(nn.Module):
    """Ids, frames or image patches to rows of d_model, with the CLS token and the positions."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        if config.image is not None and config.patch is not None:
            self.patches = nn.Conv2d(config.image[0], config.d_model, config.patch, stride=config.patch)
        elif config.vocab_size:
            self.token = nn.Embedding(config.vocab_size, config.embedding_rank or config.d_model)
            if config.embedding_rank:
                self.token_expand = nn.Linear(config.embedding_rank, config.d_model, bias=False)
        else:
            self.frames = linear(config.input_size, config.d_model, config.embedding_rank)
        if config.cls_token:
            self.cls = nn.Parameter(torch.empty(1, 1, config.d_model))
        if config.positions == "learned":
            self.position = nn.Parameter(torch.empty(config.tokens, config.d_model))
        elif config.positions == "sinusoidal":
            self.register_buffer("position", sinusoidal(config.tokens, config.d_model), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """One batch of inputs -> (batch, tokens, d_model). Raises DataError for a wrong shape or type."""
        self.check(x)
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
        if config.positions != "none":
            count = rows.shape[1]
            rows = rows + (self.position if count == config.tokens else self.position[:count])
        return rows

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
        self.layers = nn.ModuleList(TransformerLayer(config, layer) for layer in range(config.layers))
        if config.final_norm:
            self.final_norm = nn.LayerNorm(config.d_model, eps=config.norm_epsilon)
        if config.causal:
            mask = torch.full((config.tokens, config.tokens), float("-inf")).triu(1)
            self.register_buffer("causal_mask", mask, persistent=False)
        if config.classes and not config.tied_head:
            self.head = nn.Linear(config.d_model, config.classes)
        if seed is not None:
            self._initialise(torch.Generator().manual_seed(seed))

    def forward(self, x: Tensor, valid_length: int | Tensor | None = None) -> Tensor:
        """Logits (batch, classes); (batch, tokens, classes) with pooling 'none'; the hidden state without a
        head.

        `valid_length` counts the input rows that are real, the CLS token not among them: an int, or a tensor
        of one int per sample. Rows past it are never attended to nor pooled. Raises DataError.
        """
        return self.forward_with_hidden(x, valid_length)[0]

    def forward_with_hidden(self, x: Tensor, valid_length: int | Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """As `forward`, and the output (batch, tokens, d_model) of every layer."""
        rows = self.embedding(x)
        valid = None if valid_length is None else self._valid(rows, valid_length)
        mask = self._mask(rows, valid)
        hidden = []
        for layer in self.layers:
            rows = layer(rows, mask)
            hidden.append(rows)
        if self.config.final_norm:
            rows = self.final_norm(rows)
        return self._head(self._pool(rows, valid)), hidden

    def _head(self, pooled: Tensor) -> Tensor:
        if self.config.tied_head:
            return nn.functional.linear(pooled, self.embedding.token.weight)
        if not self.config.classes:
            return pooled
        logits: Tensor = self.head(pooled)
        return logits

    def _mask(self, rows: Tensor, valid: Tensor | None) -> Tensor | None:
        """What is added to scores, (batch or 1, 1, 1 or tokens, tokens); None when every row sees all."""
        mask: Tensor | None = None
        if self.config.causal:
            count = rows.shape[1]
            whole = self.get_buffer("causal_mask")
            mask = (whole if count == self.config.tokens else whole[:count, :count])[None, None]
        if valid is not None:
            zero = torch.zeros((), dtype=rows.dtype, device=rows.device)
            padding = torch.where(valid, zero, float("-inf"))[:, None, None, :]
            mask = padding if mask is None else mask + padding
        return mask

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
        if self.config.pooling == "cls":
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
                elif name.endswith("bias"):
                    parameter.zero_()
                elif name.split(".")[1] in ("token", "cls", "position"):
                    parameter.normal_(0.0, deviation, generator=generator)
                else:
                    nn.init.xavier_uniform_(parameter.flatten(1), generator=generator)


def sinusoidal(rows: int, d_model: int) -> Tensor:
    """Sine in even and cosine in odd columns (Vaswani et al. 2017, section 3.5): (rows, d_model) float32."""
    position = torch.arange(rows, dtype=torch.float64)[:, None]
    frequency = torch.exp(torch.arange(0, d_model, 2, dtype=torch.float64) * (-math.log(10000.0) / d_model))
    angle = position * frequency
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1).float()


def build_unset(config: TransformerConfig) -> Transformer:
    """The model on the meta device: names, shapes and counts without a byte of weights."""
    with torch.device("meta"):
        return Transformer(config, seed=None)
