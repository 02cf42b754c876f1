"""An imported encoder as a float graph: ids, kinds and a length in; logits, rows or a vector out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from picoformer.errors import ConfigError
from picoformer.ir import DType, Graph, Node, TensorType, verify
from picoformer.ir.operator import Array, Operator
from picoformer.models.config import TransformerConfig
from picoformer.ops import Activation, Add, Attention, Embedding, LayerNorm, Linear, ReduceMean, RmsNorm, Slice
from picoformer.ops.functions import Function

IDS, SEGMENTS, LENGTH = "input_ids", "token_type_ids", "valid_length"
"""Inputs: tokens and kinds int32 (1, rows), as transformers calls them, and how many rows are there, int32 ()."""
LOGITS, VECTOR, ROWS = "logits", "embedding", "rows"
"""The output's name: of a head, of what was pooled, of all rows."""
TABLE = "embedding.token.weight"
LEAST_SQUARE = 1e-12
"""Of a vector that is brought to length 1."""


def encoder_graph(
    config: TransformerConfig, weights: Mapping[str, Array], rows: int = 0, length: bool = True, name: str = "encoder"
) -> Graph:
    """The float graph of an encoder over texts of `rows` tokens (0: the longest that it knows).

    Inputs: IDS, SEGMENTS where the model has some, with `length` LENGTH: rows past it are seen by nobody. Where only
    the first row is asked for, the last layer computes no other. `weights`: the names of models/weights.py → float32;
    layers that share theirs read the same constants. Raises ConfigError for a model that is none of these.
    """
    rows = rows or config.sequence
    _check(config, rows)
    return _Builder(config, weights, rows, length, name).build()


def _check(config: TransformerConfig, rows: int) -> None:
    plain = (
        config.vocab_size and config.norm_position == "post" and config.norm == "layer" and not config.final_norm
        and config.positions == "learned" and not config.causal and not config.cls_token and not config.ranks
        and not config.embedding_rank and not config.kv_heads and not config.gated and not config.scale_embedding
    )  # fmt: skip
    if not plain or not (config.attention_bias and config.out_bias and config.feed_forward_bias):
        raise ConfigError(
            "only an encoder of tokens with learned positions and LayerNorms behind its branches has this graph; "
            "export other models to ONNX"
        )
    if not 1 <= rows <= config.sequence:
        raise ConfigError(f"a length of {rows} rows: the model knows 1 to {config.sequence}; give one of these")


@dataclass
class _Builder:
    config: TransformerConfig
    weights: Mapping[str, Array]
    rows: int
    length: bool
    name: str
    nodes: list[Node] = field(default_factory=list)
    types: dict[str, TensorType] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)

    def build(self) -> Graph:
        config = self.config
        inputs = [IDS, *([SEGMENTS] if config.segments else [])]
        for name in inputs:
            self.types[name] = TensorType((1, self.rows), DType.INT32)
        if self.length:
            self.types[LENGTH] = TensorType((), DType.INT32)
            inputs.append(LENGTH)
        x = self._embedded()
        for layer in range(config.layers):
            x = self._layer(x, layer, first_row=config.pooling == "first" and layer + 1 == config.layers)
        if config.pooling == "mean":
            x = self._add_node("pooled", ReduceMean(-2, False), x, *self._masked())
        elif config.pooling == "first":
            x = self._add_node("pooled", Slice(-2, 0, 1, keep=False), x)
        if config.pooler:
            x = self._dense(x, "pooler", config.pooler)
        if config.head_dense:
            x = self._norm(self._dense(x, "head_dense", config.head_dense), "head_dense.norm")
        if config.tied_head:
            bias = [self._constant("head_bias")] if config.tied_head_bias else []
            x = self._add_node("head", Linear(), x, self._constant(TABLE), *bias)
        elif config.classes:
            x = self._linear(x, "head", "head")
        if config.normalize:
            width = self.types[x].width
            gain = self._constant("unit", np.full(width, 1.0 / math.sqrt(width), np.float32))
            x = self._add_node("unit_length", RmsNorm(LEAST_SQUARE / width), x, gain)
        return self._finished(x, tuple(inputs))

    def _finished(self, x: str, inputs: tuple[str, ...]) -> Graph:
        """The graph with the last value under the output's name."""
        config = self.config
        output = LOGITS if config.classes else ROWS if config.pooling == "none" else VECTOR
        self.types[output] = self.types.pop(x)
        self.nodes[-1] = Node(output, self.nodes[-1].op, self.nodes[-1].inputs, output)
        return verify(Graph(self.name, inputs, (output,), tuple(self.nodes), self.types, self.constants))

    def _embedded(self) -> str:
        config = self.config
        x = self._add_node("embedding.tokens", Embedding(), IDS, self._constant(TABLE))
        positions = self._constant("embedding.position", self.weights["embedding.position"][: self.rows])
        x = self._add_node("embedding.placed", Add(), x, positions)
        if config.segments:
            kinds = self._add_node("embedding.kinds", Embedding(), SEGMENTS, self._constant("embedding.segment.weight"))
            x = self._add_node("embedding.sum", Add(), x, kinds)
        if config.embedding_norm:
            x = self._norm(x, "embedding.norm")
        return self._linear(x, "embedding.project", "embedding.project") if config.embedding_width else x

    def _layer(self, x: str, layer: int, first_row: bool) -> str:
        config = self.config
        at, own = f"layers.{layer}", f"layers.{config.weight_sets[layer]}"
        own_rows = x
        if first_row and self.rows > 1:
            own_rows = self._add_node(f"{at}.first", Slice(-2, 0, 1), x)
        parts = {"query": own_rows, "key": x, "value": x}
        read = [self._linear(rows, f"{own}.attention.{part}", f"{at}.attention.{part}") for part, rows in parts.items()]
        attend = Attention(config.heads[layer], 1.0 / math.sqrt(config.head_dim))
        context = self._add_node(f"{at}.attention.context", attend, *read, *self._masked())
        out = self._linear(context, f"{own}.attention.out", f"{at}.attention.out")
        x = self._add_node(f"{at}.attended", Add(), own_rows, out)
        x = self._norm(x, f"{own}.attention_norm", f"{at}.attention_norm")
        up = self._linear(x, f"{own}.feed_forward.up", f"{at}.feed_forward.up")
        hidden = self._activated(up, f"{at}.feed_forward.activated", config.activation)
        down = self._linear(hidden, f"{own}.feed_forward.down", f"{at}.feed_forward.down")
        x = self._add_node(f"{at}.sum", Add(), x, down)
        return self._norm(x, f"{own}.feed_forward_norm", f"{at}.feed_forward_norm")

    def _masked(self) -> list[str]:
        return [LENGTH] if self.length else []

    def _dense(self, x: str, at: str, activation: str) -> str:
        return self._activated(self._linear(x, f"{at}.dense", f"{at}.dense"), f"{at}.activated", activation)

    def _activated(self, x: str, output: str, activation: str) -> str:
        return self._add_node(output, Activation(cast(Function, activation)), x)

    def _norm(self, x: str, at: str, output: str = "") -> str:
        """The norm of x, its weights `at`; `output`: what it is called, where other layers run the same."""
        parts = [self._constant(f"{at}.{part}") for part in ("weight", "bias")]
        return self._add_node(output or at, LayerNorm(self.config.norm_epsilon), x, *parts)

    def _linear(self, x: str, at: str, output: str) -> str:
        operands = [self._constant(f"{at}.{part}") for part in ("weight", "bias") if f"{at}.{part}" in self.weights]
        return self._add_node(output, Linear(), x, *operands)

    def _constant(self, name: str, value: Array | None = None) -> str:
        if name not in self.constants:
            found = self.weights[name] if value is None else value
            self.constants[name] = np.ascontiguousarray(found, np.float32)
            self.types[name] = TensorType(found.shape)
        return name

    def _add_node(self, output: str, op: Operator, *inputs: str) -> str:
        self.types[output] = op.infer([self.types[name] for name in inputs])
        self.nodes.append(Node(output, op, inputs, output))
        return output
