"""An encoder-decoder as one float graph: the encoder is its prologue, computed once a source; the rest decodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from picoformer.decoder.graph import COUNT, KEY_BITS, LOGITS, POSITION, TOKENS, DecoderBuilder
from picoformer.errors import ConfigError
from picoformer.ir import DType, Graph, TensorType, verify
from picoformer.ir.operator import Array
from picoformer.models.config import TransformerConfig
from picoformer.models.encoder_decoder_config import EncoderDecoderConfig
from picoformer.models.positions import sinusoidal
from picoformer.models.relative_positions import relative_buckets
from picoformer.ops import (
    Add,
    Attention,
    CachedAttention,
    Embedding,
    KvAppend,
    Linear,
    Mul,
    PositionIds,
    RelativeAttention,
    TakeRow,
)

SOURCE, SOURCE_LENGTH = "source", "source_length"
TABLE = "decoder.embedding.token.weight"


@dataclass(frozen=True)
class Sizes:
    """Rows of the source at most; tokens of a run; positions of a written text, and of its caches (0: as many)."""

    source: int
    context: int
    block: int = 1
    caches: int = 0


def pair_graph(
    config: EncoderDecoderConfig,
    weights: Mapping[str, Array],
    sizes: Sizes,
    every: bool = False,
    name: str = "encoder_decoder",
) -> Graph:
    """The float graph of an encoder-decoder; weights as in models/encoder_decoder_weights.py.

    Inputs: `source` int32 (source,) and `source_length` int32 () of the tokens that are there, the graph's source; and
    those of a decode step, `tokens`, `position`, `count`, see decoder/graph.py. States: keys and values of the
    decoder's caches; and for each of its layers those of cross-attention, (source, width), which the prologue makes.
    Output: `logits` of the last token that is there, (1, vocabulary); with `every` (block, vocabulary) of all.

    Raises ConfigError for sizes that the model does not know.
    """
    caches = sizes.caches or sizes.context
    for what, size, side in (("source", sizes.source, config.encoder), ("context", sizes.context, config.decoder)):
        if size < 1:
            raise ConfigError(f"a {what} of {size} tokens holds none; give 1 or more")
        if size > side.sequence and side.positions != "none":
            raise ConfigError(f"a {what} of {size} is more than the {side.sequence} positions of the model; lower it")
    if not 1 <= sizes.block <= caches:
        raise ConfigError(f"a block of {sizes.block} tokens does not go with a context of {caches}; use 1 to {caches}")
    builder = PairBuilder(config.decoder, weights, sizes.block, sizes.context, caches, every, name)
    builder.pair, builder.rows = config, sizes.source
    return builder.build()


@dataclass
class PairBuilder(DecoderBuilder):
    """The builder of a decode step, with an encoder before it and cross-attention in its layers."""

    pair: EncoderDecoderConfig = None  # type: ignore[assignment]  # set by pair_graph
    rows: int = 0

    def build(self) -> Graph:
        self.types[SOURCE] = TensorType((self.rows,), DType.INT32)
        self.types[TOKENS] = TensorType((self.block,), DType.INT32)
        self.types[SOURCE_LENGTH] = self.types[POSITION] = self.types[COUNT] = TensorType((), DType.INT32)
        self.config = self.pair.encoder
        self._cross_keys(self._encoded())
        self.config = self.pair.decoder
        x = self._rows_of("decoder", TOKENS)
        for layer in range(self.config.layers):
            x = self._decoder_layer(x, f"decoder.layers.{layer}", layer)
        tied = self.config.tied_head
        if self.config.final_norm:
            x = self._norm(x, "decoder.final_norm", [] if tied else ["decoder.head"])
        if not self.every:
            x = self._add_node("last_row", TakeRow(), x, COUNT)
        self._head(x)
        ports = (SOURCE, SOURCE_LENGTH, TOKENS, POSITION, COUNT)
        inputs = (*ports, *(before for before, _ in self.states))
        outputs = (LOGITS, *(after for _, after in self.states))
        parts = tuple(self.nodes), self.types, self.constants, tuple(self.states)
        return verify(Graph(self.name, inputs, outputs, *parts, COUNT, (SOURCE, SOURCE_LENGTH)))

    # --- the encoder -----------------------------------------------------------------------------------------

    def _encoded(self) -> str:
        """The encoder's rows, before its last norm has gone into what reads them."""
        config = self.config
        x = self._rows_of("encoder", SOURCE)
        for layer in range(config.layers):
            at = f"encoder.layers.{layer}"
            if config.norm_position == "post":
                x = self._add_node(f"{at}.attended", Add(), x, self._self_attention(x, f"{at}.attention", layer))
                x = self._norm(x, f"{at}.attention_norm", [])
                x = self._add_node(f"{at}.sum", Add(), x, self._feed_forward(x, f"{at}.feed_forward", layer))
                x = self._norm(x, f"{at}.feed_forward_norm", [])
                continue
            reads = [f"{at}.attention.{part}" for part in ("query", "key", "value")]
            normed = self._norm(x, f"{at}.attention_norm", reads)
            x = self._add_node(f"{at}.attended", Add(), x, self._self_attention(normed, f"{at}.attention", layer))
            normed = self._norm(x, f"{at}.feed_forward_norm", self._first_linears(layer, f"{at}.feed_forward"))
            x = self._add_node(f"{at}.sum", Add(), x, self._feed_forward(normed, f"{at}.feed_forward", layer))
        return x

    def _self_attention(self, x: str, at: str, layer: int) -> str:
        """Attention of the encoder's rows to those that are there."""
        heads, scale = self.config.heads[layer], 1.0 / math.sqrt(self.config.head_dim)
        operands = [self._linear(x, f"{at}.{part}", f"{at}.{part}") for part in ("query", "key", "value")]
        op: Attention | RelativeAttention = Attention(heads, scale)
        if self.pair.relative_buckets:
            op = RelativeAttention(heads, scale, False, self._buckets(both_ways=True))
            operands.append(self._constant("encoder.relative_bias", self.weights["encoder.relative_bias"]))
        context = self._add_node(f"{at}.context", op, *operands, SOURCE_LENGTH)
        return self._linear(context, f"{at}.out", f"{at}.out")

    def _cross_keys(self, x: str) -> None:
        """Keys and values of every layer's cross-attention, kept as states."""
        layers = range(self.pair.decoder.layers)
        names = [f"decoder.layers.{layer}.cross.{part}" for layer in layers for part in ("key", "value")]
        if self.config.final_norm:
            x = self._norm(x, "encoder.final_norm", names)
        for name in names:
            rows = self._linear(x, name, f"{name}s")
            self.types[f"{rows}.before"] = self.types[rows]
            self.states.append((f"{rows}.before", rows))

    # --- the decoder -----------------------------------------------------------------------------------------

    def _decoder_layer(self, x: str, at: str, layer: int) -> str:
        config = self.config
        attention, cross, feed_forward = (f"{at}.{part}" for part in ("attention", "cross", "feed_forward"))
        if config.norm_position == "post":
            x = self._add_node(f"{at}.attended", Add(), x, self._cached_attention(x, attention, layer))
            x = self._norm(x, f"{attention}_norm", [])
            x = self._add_node(f"{at}.crossed", Add(), x, self._cross_attention(x, cross, layer))
            x = self._norm(x, f"{cross}_norm", [])
            x = self._add_node(f"{at}.sum", Add(), x, self._feed_forward(x, feed_forward, layer))
            return self._norm(x, f"{feed_forward}_norm", [])
        normed = self._norm(x, f"{attention}_norm", [f"{attention}.{part}" for part in ("query", "key", "value")])
        x = self._add_node(f"{at}.attended", Add(), x, self._cached_attention(normed, attention, layer))
        normed = self._norm(x, f"{cross}_norm", [f"{cross}.query"])
        x = self._add_node(f"{at}.crossed", Add(), x, self._cross_attention(normed, cross, layer))
        normed = self._norm(x, f"{feed_forward}_norm", self._first_linears(layer, feed_forward))
        return self._add_node(f"{at}.sum", Add(), x, self._feed_forward(normed, feed_forward, layer))

    def _cached_attention(self, x: str, at: str, layer: int) -> str:
        """Attention to what was written so far."""
        config, relative = self.config, bool(self.pair.relative_buckets)
        heads, scale = config.heads[layer], 1.0 / math.sqrt(config.head_dim)
        query, key, value = (self._linear(x, f"{at}.{part}", f"{at}.{part}") for part in ("query", "key", "value"))
        by_row = (self.caches, heads * config.head_dim)
        keys = self._append(f"{at}.keys", key, by_row, KvAppend(bits=16 if relative else KEY_BITS))
        if relative:
            values = self._append(f"{at}.values", value, by_row, KvAppend(bits=16))
            op = RelativeAttention(heads, scale, True, self._buckets(both_ways=False))
            bias = self._constant("decoder.relative_bias", self.weights["decoder.relative_bias"])
            context = self._add_node(f"{at}.context", op, query, keys, values, bias, POSITION)
        else:
            values = self._append(f"{at}.values", value, by_row[::-1], KvAppend(transposed=True, bits=16))
            attend = CachedAttention(heads, heads, scale, KEY_BITS)
            context = self._add_node(f"{at}.context", attend, query, keys, values, POSITION)
        return self._linear(context, f"{at}.out", f"{at}.out")

    def _cross_attention(self, x: str, at: str, layer: int) -> str:
        """Attention to the source's rows that are there."""
        query = self._linear(x, f"{at}.query", f"{at}.query")
        op = Attention(self.config.heads[layer], 1.0 / math.sqrt(self.config.head_dim))
        context = self._add_node(f"{at}.context", op, query, f"{at}.keys", f"{at}.values", SOURCE_LENGTH)
        return self._linear(context, f"{at}.out", f"{at}.out")

    def _head(self, x: str) -> None:
        tied, bias = self.config.tied_head, self.weights.get("logits_bias")
        operands = [x, TABLE if tied else self._constant("decoder.head.weight", self._weight("decoder.head"))]
        own = None if tied else self._bias("decoder.head")
        if own is not None:
            bias = own if bias is None else (own.astype(np.float64) + bias).astype(np.float32)
        if bias is not None:
            operands.append(self._constant("logits_bias", bias))
        self._add_node(LOGITS, Linear(), *operands)

    # --- both ------------------------------------------------------------------------------------------------

    def _rows_of(self, side: str, ids: str) -> str:
        """Token ids to rows, with their positions; those of a source begin at 0."""
        config = self.config
        own = f"{side}.embedding.token.weight"
        table = TABLE if self.pair.shared_embedding else own
        self._constant(table, self.weights[table])
        x = self._add_node(f"{side}.embedding.tokens", Embedding(), ids, table)
        if config.scale_embedding:
            scale = self._constant("embedding.scale", np.full(config.d_model, math.sqrt(config.d_model), np.float32))
            x = self._add_node(f"{side}.embedding.scaled", Mul(), x, scale)
        if config.positions != "none":
            x = self._add_node(f"{side}.embedding.sum", Add(), x, self._places(config, side))
        if config.embedding_norm:
            x = self._norm(x, f"{side}.embedding.norm", [])
        return x

    def _places(self, config: TransformerConfig, side: str) -> str:
        name = f"{side}.embedding.position"
        learned = config.positions == "learned"
        table = self.weights[name] if learned else sinusoidal(config.sequence, config.d_model)
        if side == "encoder":
            return self._constant(name, table[: self.rows])
        ids = self._add_node("decoder.embedding.places", PositionIds(self.block), POSITION)
        return self._add_node(
            "decoder.embedding.positions", Embedding(), ids, self._constant(name, table[: self.context])
        )

    def _buckets(self, both_ways: bool) -> tuple[int, ...]:
        return relative_buckets(self.pair.relative_buckets, self.pair.relative_reach, both_ways)
