"""Small models built by hand, in float and quantized with made-up but sensible scales: what backends are tested on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from picoformer.ir import DType, Graph, Node, Operator, QuantParams, TensorType, verify
from picoformer.ops import (
    Activation,
    Add,
    Attention,
    AveragePool,
    Concat,
    DepthwiseConv,
    Embedding,
    LayerNorm,
    Linear,
    MaxPool,
    Mul,
    Patches,
    ReduceMean,
    Requantize,
    Reshape,
    Slice,
    Softmax,
    Transpose,
)
from picoformer.reference import run_float

Array = np.ndarray[Any, Any]


@dataclass
class Builder:
    """Writes a float graph node by node; every call gives the name of the value it added."""

    name: str
    seed: int = 0
    inputs: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    types: dict[str, TensorType] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def input(self, name: str, *shape: int, dtype: DType = DType.FLOAT32) -> str:
        self.inputs.append(name)
        self.types[name] = TensorType(shape, dtype)
        return name

    def constant(
        self, name: str, value: Array | None = None, *, shape: tuple[int, ...] = (), spread: float = 0.5
    ) -> str:
        drawn = self.random.normal(0, spread, shape) if value is None else value
        self.constants[name] = np.asarray(drawn, np.float32)
        self.types[name] = TensorType(self.constants[name].shape)
        return name

    def node(self, op: Operator, *inputs: str, name: str) -> str:
        self.types[name] = op.infer([self.types[i] for i in inputs])
        self.nodes.append(Node(f"node_{name}", op, inputs, name))
        return name

    def linear(self, x: str, width: int, name: str, *, bias: bool = True) -> str:
        k = self.types[x].width
        operands = [x, self.constant(f"{name}.weight", shape=(width, k), spread=k**-0.5)]
        if bias:
            operands.append(self.constant(f"{name}.bias", shape=(width,), spread=0.2))
        return self.node(Linear(), *operands, name=name)

    def norm(self, x: str, name: str, *, gain: bool = True) -> str:
        width = self.types[x].width
        if not gain:
            return self.node(LayerNorm(1e-5), x, name=name)
        operands = [
            self.constant(f"{name}.weight", 1 + self.random.normal(0, 0.2, width)),
            self.constant(f"{name}.bias", shape=(width,), spread=0.2),
        ]
        return self.node(LayerNorm(1e-5), x, *operands, name=name)

    def attention(self, x: str, heads: int, name: str, length: str | None = None) -> str:
        width = self.types[x].width
        q, k, v = (self.linear(x, width, f"{name}.{part}") for part in "qkv")
        operands = [q, k, v] + ([length] if length else [])
        mixed = self.node(Attention(heads, (width // heads) ** -0.5), *operands, name=f"{name}.mix")
        return self.linear(mixed, width, f"{name}.out")

    def graph(self, *outputs: str) -> Graph:
        parts = (tuple(self.nodes), self.types, self.constants)
        return verify(Graph(self.name, tuple(self.inputs), outputs, *parts))


@dataclass(frozen=True)
class Case:
    """A model, samples for it (name → (samples, *shape)), and which of its values are 16 bits wide when quantized."""

    graph: Graph
    samples: Mapping[str, Array]
    wide: Callable[[str], bool] = lambda name: False

    def quantized(self) -> Graph:
        """The int8 graph, with the wide values in 16 bits."""
        return quantize_by_range(self.graph, self.samples, self.wide)


MOVES = ("Reshape", "Transpose", "Slice", "Concat", "Patches", "MaxPool")


def rounded(scale: float) -> float:
    """Three digits of a scale, so that it does not hang on how a machine's BLAS rounds."""
    return float(f"{1.01 * scale:.2e}")


def quantize_by_range(graph: Graph, samples: Mapping[str, Array], wide: Callable[[str], bool]) -> Graph:
    """Every value on the grid that its range over `samples` asks for; values that moves join share one grid."""
    seen: dict[str, Array] = {**graph.constants, **run_float(graph, samples)}
    group: dict[str, str] = {}

    def top(name: str) -> str:
        while name in group:
            name = group[name]
        return name

    def join(names: Iterable[str]) -> None:
        first, *rest = [top(name) for name in names]
        for name in dict.fromkeys(rest):
            if name != first:
                group[name] = first

    for node in graph.nodes:
        if node.op.kind in MOVES:
            join((node.output, *node.inputs))
    attending = [node for node in graph.nodes if node.op.kind == "Attention"]
    narrow = {top(name) for node in attending for name in node.inputs[:3]}
    symmetric = narrow | {top(node.output) for node in attending}
    ranges: dict[str, tuple[float, float]] = {}
    for name, value in seen.items():
        if value.dtype.kind == "f":
            low, high = ranges.get(top(name), (0.0, 0.0))
            ranges[top(name)] = (min(low, float(value.min())), max(high, float(value.max())))

    def grid(name: str) -> TensorType:
        root = top(name)
        low, high = ranges[root]
        largest = max(-low, high, 1e-3)
        shape = graph.types[name].shape
        if root not in narrow and wide(root):
            return TensorType(shape, DType.INT16, QuantParams((rounded(largest / 32767),)))
        if root in symmetric:
            return TensorType(shape, DType.INT8, QuantParams((rounded(largest / 127),)))
        scale = rounded(max(high - low, 1e-3) / 255)
        return TensorType(shape, DType.INT8, QuantParams((scale,), round(-128 - low / scale)))

    types: dict[str, TensorType] = {}
    constants: dict[str, Array] = {}
    for name in (*graph.inputs, *(node.output for node in graph.nodes)):
        types[name] = graph.types[name] if graph.types[name].dtype is DType.INT32 else grid(name)
    for node in graph.nodes:
        for index, name in enumerate(node.inputs):
            value = graph.constants.get(name)
            if value is None:
                continue
            if node.op.kind in ("Linear", "Embedding") and index == 1:
                scales = np.maximum(np.abs(value).max(axis=1), 1e-3) / 127
                types[name] = TensorType(value.shape, DType.INT8, QuantParams(tuple(map(float, scales)), axis=-2))
                constants[name] = np.clip(np.rint(value / scales[:, None]), -127, 127).astype(np.int8)
            elif node.op.kind == "DepthwiseConv" and index == 1:
                scales = np.maximum(np.abs(value).max(axis=0), 1e-3) / 127
                types[name] = TensorType(value.shape, DType.INT8, QuantParams(tuple(map(float, scales)), axis=-1))
                constants[name] = np.clip(np.rint(value / scales), -127, 127).astype(np.int8)
            elif node.op.kind in ("Linear", "DepthwiseConv"):
                weight, x = types[node.inputs[1]].quant, types[node.inputs[0]].quant
                assert weight is not None and x is not None
                types[name] = TensorType(value.shape, DType.INT32)
                constants[name] = np.rint(value / (np.asarray(weight.scale) * x.scale[0])).astype(np.int32)
            elif node.op.kind == "LayerNorm":
                types[name], constants[name] = graph.types[name], value
            else:
                types[name] = grid(name)
                quant, dtype = types[name].quant, types[name].dtype
                assert quant is not None
                steps = np.rint(value / quant.scale[0]) + quant.zero_point
                constants[name] = np.asarray(np.clip(steps, dtype.minimum, dtype.maximum), dtype.numpy)
    return verify(graph.replace(types=types, constants=constants))


def _samples(builder: Builder, count: int, **integers: tuple[int, int]) -> dict[str, Array]:
    """Random samples; `integers` gives the range of each int32 input."""
    found: dict[str, Array] = {}
    for name in builder.inputs:
        type_ = builder.types[name]
        if type_.dtype is DType.INT32:
            low, high = integers[name]
            found[name] = builder.random.integers(low, high + 1, (count, *type_.shape)).astype(np.int32)
        else:
            found[name] = builder.random.normal(0, 1, (count, *type_.shape)).astype(np.float32)
    return found


def tiny_classifier() -> Case:
    """Two linear layers and a softmax: small enough to read what is generated from it."""
    b = Builder("tiny classifier")
    x = b.input("pixels", 2, 6)
    h = b.linear(x, 8, "/layers.0/linear1/MatMul_output_0")
    h = b.node(Activation("gelu"), h, name="/layers.0/gelu/Mul_output_0")
    h = b.node(ReduceMean(-2, False), h, name="pooled")
    h = b.linear(h, 3, "logits")
    y = b.node(Softmax(), h, name="probabilities")
    return Case(b.graph(y), _samples(b, 8), lambda name: name == "logits")


def prenorm_encoder(*, valid_length: bool = False) -> Case:
    """Pre-norm block over sensor frames, learned positions, mean pool; 16-bit residual stream and logits."""
    b = Builder("pre-norm encoder" + (" with padding" if valid_length else ""), seed=1)
    x = b.input("frames", 10, 6)
    length = b.input("valid_length", dtype=DType.INT32) if valid_length else None
    residual = b.linear(x, 16, "embed")
    residual = b.node(Add(), residual, b.constant("positions", shape=(10, 16)), name="residual_0")
    h = b.norm(residual, "norm1")
    h = b.attention(h, 4, "attention", length)
    residual = b.node(Add(), residual, h, name="residual_1")
    h = b.norm(residual, "norm2", gain=False)
    h = b.node(Activation("gelu"), b.linear(h, 32, "up"), name="gelu")
    residual = b.node(Add(), b.linear(h, 16, "down"), residual, name="residual_2")
    h = b.norm(residual, "norm3")
    pooled = b.node(ReduceMean(-2, False), *([h, length] if length else [h]), name="pooled")
    logits = b.linear(pooled, 5, "logits")
    samples = _samples(b, 12, valid_length=(0, 10))
    return Case(b.graph(logits), samples, lambda name: "residual" in name or name in ("logits", "embed", "down"))


def postnorm_tokens() -> Case:
    """Post-norm block over tokens: embeddings, a class token in front, tied output layer."""
    b = Builder("post-norm tokens", seed=2)
    ids = b.input("input_ids", 7, dtype=DType.INT32)
    length = b.input("valid_length", dtype=DType.INT32)
    table = b.constant("tokens.weight", shape=(20, 16))
    h = b.node(Embedding(), ids, table, name="tokens")
    h = b.node(Concat(-2), b.constant("class_token", shape=(1, 16)), h, name="with_class")
    h = b.node(Add(), h, b.constant("positions", shape=(8, 16)), name="embedded")
    h = b.norm(h, "embedded_norm")
    mixed = b.attention(h, 2, "attention", length)
    h = b.norm(b.node(Add(), h, mixed, name="sum_1"), "norm1")
    f = b.node(Activation("silu"), b.linear(h, 24, "up"), name="silu")
    h = b.norm(b.node(Add(), h, b.linear(f, 16, "down"), name="sum_2"), "norm2")
    first = b.node(Slice(-2, 0, 1, 1, False), h, name="first")
    pooled = b.node(Activation("tanh"), b.linear(first, 16, "pooler"), name="tanh")
    logits = b.node(Linear(), pooled, table, name="token_logits")
    return Case(b.graph(logits), _samples(b, 12, input_ids=(0, 19), valid_length=(1, 8)), lambda name: "sum" in name)


def movement() -> Case:
    """Moves of every kind, both broadcasts, Mul, Requantize, and attention over a batch."""
    b = Builder("movement", seed=3)
    x = b.input("x", 6, 8)
    stretched = b.node(Mul(), x, b.constant("gate", shape=(6, 1)), name="x_times_gate")
    gates = b.node(Activation("sigmoid"), b.node(Slice(-1, 0, 8, 2), x, name="even"), name="gates")
    halves = b.node(Slice(-1, 4, 8), stretched, name="halves")
    gated = b.node(Mul(), gates, halves, name="gated")
    turned = b.node(Transpose((-1, -2)), gated, name="turned")
    column = b.node(ReduceMean(-1, True), turned, name="column")
    weighed = b.node(Mul(), column, turned, name="weighed")
    shifted = b.node(Add(), column, weighed, name="shifted")
    narrow = b.node(Requantize(), shifted, name="shifted_narrow")
    back = b.node(Transpose((-1, -2)), narrow, name="back")
    cube = b.node(Reshape((2, 3, 4)), back, name="cube")
    three = b.node(Concat(-1), cube, b.constant("tail", shape=(2, 3, 2)), cube, name="three")
    q, k, v = (b.linear(three, 8, name) for name in "qkv")
    mixed = b.node(Attention(2, 0.5), q, k, v, name="mixed")
    order = b.node(Transpose((-2, -3, -1)), mixed, name="order")
    squared = b.node(Mul(), order, order, name="squared")
    doubled = b.node(Add(), squared, b.constant("two", np.array(2.0)), name="doubled")
    ends = b.node(Slice(-3, 0, 3, 2), doubled, name="ends")
    chosen = b.node(Slice(-2, 1, 2, 1, False), ends, name="chosen")
    flat = b.node(Reshape((16,)), chosen, name="flat")
    y = b.node(Softmax(), flat, name="y")
    wide = ("x_times_gate", "gates", "shifted", "squared")
    return Case(b.graph(y, squared), _samples(b, 8), lambda name: name in wide)


def activations() -> Case:
    """Every activation from 8 and 16 bits to 8 and 16 bits, layer norms in between."""
    b = Builder("activations", seed=4)
    x = b.input("x", 3, 16)
    last = x
    for index, function in enumerate(("relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid")):
        low = b.node(Activation(function), last, name=f"low_{function}")  # type: ignore[arg-type]
        high = b.node(Activation(function), b.norm(low, f"wide_norm_{index}"), name=f"wide_{function}")  # type: ignore[arg-type]
        last = b.norm(high, f"{'wide_' if index % 2 else ''}norm_again_{index}", gain=index % 3 == 0)
    return Case(b.graph(last), _samples(b, 8), lambda name: name.startswith("wide"))


def windows() -> Case:
    """Two images through everything on windows, from 8 and 16 bits to 8 and 16 bits; functions with parameters."""
    b = Builder("windows", seed=6)
    x = b.input("x", 2, 7, 6, 3)
    patches = b.node(Patches((3, 2), (1, 1), (1, 2), (1, 2, 1, 0)), x, name="patches")
    stem = b.node(Activation("clip", (-0.5, 0.8)), b.linear(patches, 8, "stem"), name="clipped")

    def depthwise(value: str, name: str, *geometry: tuple[int, ...], bias: bool = True) -> str:
        op = DepthwiseConv(*geometry)  # type: ignore[arg-type]
        width = b.types[value].width
        operands = [value, b.constant(f"{name}.weight", shape=(op.taps, width))]
        operands += [b.constant(f"{name}.bias", shape=(width,))] if bias else []
        return b.node(op, *operands, name=name)

    deep = depthwise(stem, "deep", (3, 3), (1, 1), (1, 1), (1, 1, 1, 1))
    wide = depthwise(deep, "wide_deep", (1, 3), (1, 2), (1, 1), (0, 1, 0, 1), bias=False)
    bent = b.node(Activation("leaky_relu", (0.1,)), wide, name="wide_bent")
    mean = b.node(AveragePool((2, 2), (2, 1), (1, 1), (0, 1, 0, 0)), bent, name="mean")
    counted = b.node(AveragePool((3, 3), (1, 1), (1, 1), (1, 1, 1, 1), True), mean, name="wide_counted")
    largest = b.node(MaxPool((2, 3), (1, 2), (1, 1), (1, 0, 0, 1)), counted, name="wide_largest")
    soft = b.node(Activation("hard_swish"), largest, name="soft")
    few = b.node(MaxPool((2, 1)), soft, name="few")
    flat = b.node(Reshape((2, b.types[few].elements // 2)), few, name="flat")
    return Case(b.graph(b.linear(flat, 4, "y"), deep), _samples(b, 8), lambda name: name.startswith("wide"))


def wide_sums() -> Case:
    """Linear layers on 16 bits whose sums pass 32 bits, to 8 and to 16 bits."""
    b = Builder("wide sums", seed=5)
    x = b.input("x", 2, 600)
    signs = np.sign(b.random.normal(0, 1, (3, 600)))
    low = b.node(Linear(), x, b.constant("low.weight", signs), name="low")
    high = b.node(Linear(), x, b.constant("high.weight", -signs), name="wide_high")
    samples = {"x": (4 * np.sign(b.random.normal(0, 1, (4, 2, 600)))).astype(np.float32)}
    samples["x"][0, 0] = 4 * signs[0]
    return Case(b.graph(low, high), samples, lambda name: name in ("x", "wide_high"))


CASES: dict[str, Callable[[], Case]] = {
    "tiny_classifier": tiny_classifier,
    "prenorm_encoder": prenorm_encoder,
    "prenorm_encoder_valid_length": lambda: prenorm_encoder(valid_length=True),
    "postnorm_tokens": postnorm_tokens,
    "movement": movement,
    "activations": activations,
    "windows": windows,
    "wide_sums": wide_sums,
}
"""Name → model."""
