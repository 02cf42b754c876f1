"""The decode step of a language model as a float graph: a block of tokens in, keys and values in caches, logits out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from picoformer.errors import ConfigError
from picoformer.ir import DType, Graph, Node, TensorType, verify
from picoformer.ir.operator import Array, Operator
from picoformer.models.config import TransformerConfig
from picoformer.models.positions import rotary_tables, sinusoidal
from picoformer.ops import (
    Activation,
    Add,
    CachedAttention,
    Embedding,
    ExpertLinear,
    ExpertWeights,
    KvAppend,
    LayerNorm,
    Linear,
    Mul,
    PositionIds,
    RmsNorm,
    Rope,
    ScaleRows,
    TakeRow,
    TopExperts,
)
from picoformer.ops.functions import Function

TOKENS, POSITION, COUNT, LOGITS = "tokens", "position", "count", "logits"
KEY_BITS = 13
"""Bits of a cached key of 16 bits, so that a query of 16 bits keeps nearly all of its own in a sum of 32."""
TABLE = "embedding.token.weight"


def decoder_graph(
    config: TransformerConfig,
    weights: Mapping[str, Array],
    block: int = 1,
    context: int = 0,
    caches: int = 0,
    every: bool = False,
    name: str = "decoder",
) -> Graph:
    """The float graph of a causal language model that reads `block` tokens a run and keeps `context` positions.

    Inputs: `tokens` int32 (block,), `position` int32 () of the first of them, `count` int32 () of those that are there,
    and for each layer keys (context, kv width) and values (kv width, context), the states. Output: `logits`
    (1, vocabulary) of the last token that is there; with `every` (block, vocabulary) of all. `weights`: the names of
    models/transformer.py → float32. `context` 0 is what the model was trained for; `caches` (0: as `context`) is how
    long keys and values are kept, where only the tables of positions are to reach further. Gains of norms go into what
    reads them. Raises ConfigError for a model that is none of a language's, or a context that it does not know.
    """
    context = context or config.sequence
    _check(config, block, context, caches or context)
    return DecoderBuilder(config, weights, block, context, caches or context, every, name).build()


def _check(config: TransformerConfig, block: int, context: int, caches: int) -> None:
    if not (config.causal and config.vocab_size and config.pooling == "none" and config.classes == config.vocab_size):
        raise ConfigError(
            "only a causal language model can be decoded: token ids in, a logit for each token out (causal = true, "
            "pooling = 'none', classes = vocab_size)"
        )
    if config.cls_token:
        raise ConfigError("cls_token = true stands before the text; a decoder has none")
    if context < 1:
        raise ConfigError(f"a context of {context} positions holds no token; give 1 or more")
    if not 1 <= block <= caches:
        raise ConfigError(f"a block of {block} tokens does not go with a context of {caches}; use 1 to {caches}")
    if context > config.sequence and config.positions in ("learned", "sinusoidal"):
        raise ConfigError(f"a context of {context} is more than the {config.sequence} positions of the model; lower it")


@dataclass
class DecoderBuilder:
    """Collects the nodes of a decode step; `config` is what the layers at hand are made of."""

    config: TransformerConfig
    weights: Mapping[str, Array]
    block: int
    context: int
    caches: int
    every: bool
    name: str
    nodes: list[Node] = field(default_factory=list)
    types: dict[str, TensorType] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    states: list[tuple[str, str]] = field(default_factory=list)
    _folded: dict[str, tuple[Array, Array | None]] = field(default_factory=dict)
    """Linear layer → gain and bias of the norm before it, which its weights take along."""

    def build(self) -> Graph:
        config = self.config
        self.types[TOKENS] = TensorType((self.block,), DType.INT32)
        self.types[POSITION] = self.types[COUNT] = TensorType((), DType.INT32)
        x = self._embedded()
        for layer in range(config.layers):
            x = self._layer(x, f"layers.{layer}", layer)
        if config.final_norm:
            x = self._norm(x, "final_norm", [] if config.tied_head else ["head"])
        if not self.every:
            x = self._add_node("last_row", TakeRow(), x, COUNT)
        if config.tied_head:
            self._add_node(LOGITS, Linear(), x, TABLE)
        else:
            self._linear(x, "head", LOGITS)
        inputs = (TOKENS, POSITION, COUNT, *(before for before, _ in self.states))
        outputs = (LOGITS, *(after for _, after in self.states))
        parts = tuple(self.nodes), self.types, self.constants, tuple(self.states)
        return verify(Graph(self.name, inputs, outputs, *parts, COUNT))

    def _embedded(self) -> str:
        config = self.config
        self._constant(TABLE, self.weights[TABLE])
        x = self._add_node("embedding.tokens", Embedding(), TOKENS, TABLE)
        if config.embedding_rank:
            x = self._linear(x, "embedding.token_expand", "embedding.expanded")
        if config.scale_embedding:
            scale = self._constant("embedding.scale", np.full(config.d_model, math.sqrt(config.d_model), np.float32))
            x = self._add_node("embedding.scaled", Mul(), x, scale)
        if config.positions in ("learned", "sinusoidal"):
            learned = config.positions == "learned"
            table = self.weights["embedding.position"] if learned else sinusoidal(config.sequence, config.d_model)
            table = table[: self.context]
            ids = self._add_node("embedding.places", PositionIds(self.block), POSITION)
            rows = self._add_node("embedding.positions", Embedding(), ids, self._constant("embedding.position", table))
            x = self._add_node("embedding.sum", Add(), x, rows)
        if config.embedding_norm:
            x = self._norm(x, "embedding.norm", [])
        return x

    def _layer(self, x: str, at: str, layer: int) -> str:
        config = self.config
        attention, feed_forward = f"{at}.attention", f"{at}.feed_forward"
        reads_attention = [f"{attention}.{part}" for part in ("query", "key", "value")]
        reads_feed_forward = self._first_linears(layer, feed_forward)
        if config.norm_position == "post":
            x = self._add_node(f"{at}.attended", Add(), x, self._attention(x, attention, layer))
            x = self._norm(x, f"{at}.attention_norm", [])
            x = self._add_node(f"{at}.sum", Add(), x, self._feed_forward(x, feed_forward, layer))
            return self._norm(x, f"{at}.feed_forward_norm", [])
        together = [*reads_attention, *(reads_feed_forward if config.parallel == 1 else [])]
        normed = self._norm(x, f"{at}.attention_norm", together)
        attended = self._attention(normed, attention, layer)
        if config.parallel:
            other = normed if config.parallel == 1 else self._norm(x, f"{at}.feed_forward_norm", reads_feed_forward)
            x = self._add_node(f"{at}.attended", Add(), x, attended)
            return self._add_node(f"{at}.sum", Add(), x, self._feed_forward(other, feed_forward, layer))
        x = self._add_node(f"{at}.attended", Add(), x, attended)
        normed = self._norm(x, f"{at}.feed_forward_norm", reads_feed_forward)
        return self._add_node(f"{at}.sum", Add(), x, self._feed_forward(normed, feed_forward, layer))

    def _first_linears(self, layer: int, at: str) -> list[str]:
        """The linear layers that read what goes into a feed-forward, by their names up to `.weight`."""
        config = self.config
        parts = ["gate", "up"] if config.gated else ["up"]
        if config.experts:
            return [f"{at}.router", *(f"{at}.experts.{e}.{part}" for e in range(config.experts) for part in parts)]
        return [f"{at}.{part}" for part in parts]

    def _attention(self, x: str, at: str, layer: int) -> str:
        config = self.config
        heads, kv_heads, size = config.heads[layer], config.key_heads[layer], config.head_dim
        query, key, value = (self._linear(x, f"{at}.{part}", f"{at}.{part}") for part in ("query", "key", "value"))
        if config.positions == "rotary":
            query, key = self._turned(query, heads), self._turned(key, kv_heads)
        width = kv_heads * size
        keys = self._append(f"{at}.keys", key, (self.caches, width), KvAppend(transposed=False, bits=KEY_BITS))
        values = self._append(f"{at}.values", value, (width, self.caches), KvAppend(transposed=True, bits=16))
        slopes = tuple(config.alibi_slopes) if config.positions == "alibi" else ()
        attend = CachedAttention(heads, kv_heads, 1.0 / math.sqrt(size), KEY_BITS, slopes, config.alibi_bfloat16)
        context = self._add_node(f"{at}.context", attend, query, keys, values, POSITION)
        return self._linear(context, f"{at}.out", f"{at}.out")

    def _turned(self, x: str, heads: int) -> str:
        config = self.config
        pairs = np.stack(rotary_tables(config, self.context), axis=-1)  # (positions, pairs, cosine and sine)
        rotations = self._constant("rotations", pairs.reshape(self.context, -1))
        op = Rope(heads, config.rotary_dim or config.head_dim, config.rotary_interleaved)
        return self._add_node(f"{x}.turned", op, x, rotations, POSITION)

    def _append(self, name: str, rows: str, shape: tuple[int, int], op: Operator) -> str:
        before, after = f"{name}.before", name
        self.types[before] = TensorType(shape)
        self.states.append((before, after))
        return self._add_node(after, op, before, rows, POSITION, COUNT)

    def _feed_forward(self, x: str, at: str, layer: int) -> str:
        if self.config.experts:
            return self._mixture(x, at)
        up = self._linear(x, f"{at}.up", f"{at}.up")
        if self.config.gated:
            gate = self._activated(self._linear(x, f"{at}.gate", f"{at}.gate"), at)
            return self._linear(self._add_node(f"{at}.gated", Mul(), gate, up), f"{at}.down", f"{at}.down")
        return self._linear(self._activated(up, at), f"{at}.down", f"{at}.down")

    def _activated(self, x: str, at: str) -> str:
        return self._add_node(f"{at}.activated", Activation(cast(Function, self.config.activation)), x)

    def _mixture(self, x: str, at: str) -> str:
        """The chosen experts of each token, weighed; only these are computed (Shazeer et al. 2017)."""
        config = self.config
        router = self._linear(x, f"{at}.router", f"{at}.router")
        chosen = self._add_node(f"{at}.chosen", TopExperts(config.experts_per_token), router)
        shares = self._add_node(f"{at}.shares", ExpertWeights(), router, chosen)
        total = ""
        for slot in range(config.experts_per_token):
            here = f"{at}.slot.{slot}"
            up = self._expert(x, chosen, at, "up", slot)
            hidden = self._activated(self._expert(x, chosen, at, "gate", slot) if config.gated else up, here)
            if config.gated:
                hidden = self._add_node(f"{here}.gated", Mul(), hidden, up)
            down = self._expert(hidden, chosen, at, "down", slot)
            scaled = self._add_node(f"{here}.scaled", ScaleRows(slot), down, shares)
            total = self._add_node(f"{here}.sum", Add(), total, scaled) if total else scaled
        return total

    def _expert(self, x: str, chosen: str, at: str, part: str, slot: int) -> str:
        count = self.config.experts
        names = [f"{at}.experts.{expert}.{part}" for expert in range(count)]
        weight = np.concatenate([self._weight(name) for name in names])
        operands = [x, chosen, self._constant(f"{at}.experts.{part}.weight", weight)]
        biases = [self._bias(name) for name in names]
        if any(bias is not None for bias in biases):
            rows = [np.zeros(len(weight) // count, np.float32) if bias is None else bias for bias in biases]
            operands.append(self._constant(f"{at}.experts.{part}.bias", np.stack(rows)))
        return self._add_node(f"{at}.slot.{slot}.{part}", ExpertLinear(slot, count), *operands)

    def _norm(self, x: str, at: str, readers: Sequence[str]) -> str:
        """The norm of x. Its gain and bias go into the weights of `readers`; without any it keeps them."""
        config = self.config
        gain, bias = self.weights[f"{at}.weight"], self.weights.get(f"{at}.bias")
        constants = []
        if readers:
            for reader in readers:
                self._folded[reader] = (gain, bias)
        else:
            constants = [self._constant(f"{at}.weight", gain)]
            if bias is not None:
                constants.append(self._constant(f"{at}.bias", bias))
            elif config.norm == "layer":
                constants.append(self._constant(f"{at}.bias", np.zeros_like(gain)))
        op: Operator = RmsNorm(config.norm_epsilon) if config.norm == "rms" else LayerNorm(config.norm_epsilon)
        return self._add_node(at, op, x, *constants)

    def _weight(self, at: str) -> Array:
        weight = self.weights[f"{at}.weight"].astype(np.float64)
        if at in self._folded:
            weight = weight * self._folded[at][0].astype(np.float64)
        return weight.astype(np.float32)

    def _bias(self, at: str) -> Array | None:
        """The bias of a linear layer, with that of the norm before it."""
        own = self.weights.get(f"{at}.bias")
        shift = self._folded[at][1] if at in self._folded else None
        if shift is None or not np.any(shift):
            return own
        moved = self.weights[f"{at}.weight"].astype(np.float64) @ shift.astype(np.float64)
        return (moved + (0 if own is None else own)).astype(np.float32)

    def _linear(self, x: str, at: str, output: str) -> str:
        """A whole matrix, or the two of a low-rank pair."""
        if f"{at}.reduce.weight" in self.weights:
            if at in self._folded:
                self._folded[f"{at}.reduce"] = self._folded[at]
            x = self._linear(x, f"{at}.reduce", f"{output}.reduced")
            return self._linear(x, f"{at}.expand", output)
        operands = [x, self._constant(f"{at}.weight", self._weight(at))]
        bias = self._bias(at)
        if bias is not None:
            operands.append(self._constant(f"{at}.bias", bias))
        return self._add_node(output, Linear(), *operands)

    def _constant(self, name: str, value: Array) -> str:
        if name not in self.constants:
            self.constants[name] = np.ascontiguousarray(value, np.float32)
            self.types[name] = TensorType(value.shape)
        return name

    def _add_node(self, output: str, op: Operator, *inputs: str) -> str:
        self.types[output] = op.infer([self.types[name] for name in inputs])
        self.nodes.append(Node(output, op, inputs, output))
        return output


def macs_per_token(graph: Graph) -> int:
    """Multiply-accumulates of one more token over full caches."""
    return token_macs(graph, graph.nodes)


def token_macs(graph: Graph, nodes: Iterable[Node]) -> int:
    """The part that some of its nodes have in `macs_per_token`. What stands behind the block, the head, has one row."""
    rows = graph.types[TOKENS].shape[0]
    total = 0
    for node in nodes:
        macs = node.op.macs([graph.types[name] for name in node.inputs], graph.types[node.output])
        total += macs // rows if node.output in graph.block else macs
    return total
