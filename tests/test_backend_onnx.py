"""ONNX out: float files compute the graph's float meaning, quantized ones its integers to within a step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from operator_case import ACTIVATIONS
from picoformer.backends.onnx import emitters
from picoformer.backends.onnx.emitters import EMITTERS, Unsupported
from picoformer.backends.onnx.export import export_onnx, onnx_bytes
from picoformer.backends.onnx.runtime import run_onnx
from picoformer.errors import DataError, ModelError, UnsupportedError
from picoformer.ir import DType, Graph, Node, QuantParams, TensorType, verify
from picoformer.ir.operator import Array, Operator
from picoformer.ops import (
    OPERATORS,
    Activation,
    Add,
    Attention,
    AveragePool,
    Binary,
    CachedAttention,
    Concat,
    Conv,
    DepthwiseConv,
    Embedding,
    ExpertLinear,
    ExpertWeights,
    KvAppend,
    LayerNorm,
    Linear,
    MatMul,
    MaxPool,
    Mul,
    Patches,
    PositionIds,
    ReduceMean,
    RelativeAttention,
    Requantize,
    Reshape,
    RmsNorm,
    Rope,
    ScaleRows,
    Slice,
    Softmax,
    TakeRow,
    TopExperts,
    Transpose,
    Unary,
    Where,
)  # fmt: skip
from picoformer.ops.fixedpoint import dequantize, quantize_real
from picoformer.quantize.weights import on_factors
from picoformer.reference import lower_graph, run_float, run_integer

SAMPLES = 6


class Builder:
    """A float graph written line by line; each line gives back the name of its value."""

    def __init__(self, **inputs: TensorType) -> None:
        self.types = dict(inputs)
        self.inputs = tuple(inputs)
        self.nodes: list[Node] = []
        self.constants: dict[str, Array] = {}

    def constant(self, name: str, value: Array) -> str:
        self.constants[name] = value
        dtype = {"f": DType.FLOAT32, "i": DType.INT32, "b": DType.BOOL}[value.dtype.kind]
        self.types[name] = TensorType(value.shape, dtype)
        return name

    def node(self, op: Operator, inputs: Sequence[str], name: str) -> str:
        self.nodes.append(Node(f"node/{name}", op, tuple(inputs), name))
        self.types[name] = op.infer([self.types[i] for i in inputs])
        return name

    def graph(self, *outputs: str) -> Graph:
        return verify(Graph("test", self.inputs, outputs, tuple(self.nodes), self.types, self.constants))


def normal(seed: int, *shape: int, scale: float = 1.0) -> Array:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def f32(*shape: int) -> TensorType:
    return TensorType(shape)


def linear(b: Builder, x: str, n: int, name: str, seed: int, bias: bool = True) -> str:
    k = b.types[x].shape[-1]
    inputs = [x, b.constant(f"{name}.weight", normal(seed, n, k, scale=k**-0.5))]
    if bias:
        inputs.append(b.constant(f"{name}.bias", normal(seed + 100, n, scale=0.2)))
    return b.node(Linear(), inputs, name)


def encoder(lengths: bool = True, leading: tuple[int, ...] = ()) -> Graph:
    """Token and frame inputs, one layer of attention and GELU, mean pool over the valid rows."""
    inputs = {"x": f32(*leading, 6, 5), "ids": TensorType((*leading, 6), DType.INT32)}
    if lengths:
        inputs["valid_length"] = TensorType((), DType.INT32)
    b = Builder(**inputs)
    extra = ["valid_length"] if lengths else []
    tokens = b.node(Embedding(), ["ids", b.constant("table", normal(1, 11, 8))], "tokens")
    h = b.node(Add(), [linear(b, "x", 8, "embed", 2), tokens], "sum")
    h = b.node(Add(), [h, b.constant("positions", normal(3, 6, 8, scale=0.5))], "embedded")
    gain, bias = b.constant("gain", 1 + normal(4, 8, scale=0.3)), b.constant("shift", normal(5, 8, scale=0.3))
    n = b.node(LayerNorm(1e-5), [h, gain, bias], "norm")
    q, k, v = (linear(b, n, 8, name, 10 + i) for i, name in enumerate(("query", "key", "value")))
    mixed = b.node(Attention(2, 0.5), [q, k, v, *extra], "mixed")
    h = b.node(Add(), [h, linear(b, mixed, 8, "project", 14)], "residual")
    n = b.node(LayerNorm(1e-5), [h], "norm2")
    up = b.node(Activation("gelu"), [linear(b, n, 12, "up", 15)], "gelu")
    h = b.node(Add(), [h, linear(b, up, 8, "down", 16, bias=False)], "residual2")
    pooled = b.node(ReduceMean(-2, keep=False), [h, *extra], "pooled")
    return b.graph(linear(b, pooled, 3, "logits", 17))


def encoder_inputs(graph: Graph, seed: int = 0) -> dict[str, Array]:
    generator = np.random.default_rng(seed)
    given: dict[str, Array] = {
        "x": normal(seed + 50, SAMPLES, *graph.types["x"].shape),
        "ids": generator.integers(0, 11, (SAMPLES, *graph.types["ids"].shape)),
    }
    if "valid_length" in graph.inputs:
        given["valid_length"] = np.array([6, 3, 1, 0, 5, 6])
    return given


def grid(value: Array, dtype: DType, symmetric: bool) -> QuantParams:
    low, high = min(float(value.min()), 0.0), max(float(value.max()), 0.0)
    if symmetric or dtype is DType.INT16:
        margin = 1.05 if dtype is DType.INT16 else 1.0  # keeps the last segment of a table clear of the clamp
        return QuantParams((margin * max(-low, high, 1e-3) / dtype.maximum,))
    scale = max(high - low, 1e-3) / 255
    return QuantParams((scale,), int(np.clip(round(-128 - low / scale), -128, 127)))


def quantized(graph: Graph, inputs: dict[str, Array], wide: Sequence[str] = ()) -> Graph:
    """`graph` typed from the ranges its values take: int8, `wide` ones int16; q, k, v per head."""
    values = run_float(graph, inputs)
    types, constants = dict(graph.types), dict(graph.constants)
    attended = {
        name: node.op.kv_heads if position else node.op.heads
        for node in graph.nodes
        if isinstance(node.op, Attention)
        for position, name in enumerate(node.inputs[:3])
    }
    for name, value in values.items():
        type_ = graph.types[name]
        if type_.dtype is not DType.FLOAT32:
            continue
        dtype = DType.INT16 if name in wide else DType.INT8
        mixed = name in graph.producers and isinstance(graph.producers[name].op, Attention)
        quant = grid(value, dtype, symmetric=mixed)
        if name in attended:
            heads = np.abs(value).reshape(-1, attended[name], type_.width // attended[name])
            scale = np.repeat(heads.max(axis=(0, 2)) / 127, heads.shape[2])
            quant = QuantParams(tuple(scale.tolist()), 0, -1)
        types[name] = TensorType(type_.shape, dtype, quant)
    for node in graph.nodes:
        if isinstance(node.op, (Reshape, Transpose, Slice, Concat)):  # movers keep the grid of their input
            source = types[next(iter(graph.activations(node)))]
            types[node.output] = TensorType(types[node.output].shape, source.dtype, source.quant)
        for position, name in enumerate(node.inputs):
            value = graph.constants.get(name)
            if value is None or isinstance(node.op, LayerNorm):
                continue
            if isinstance(node.op, (Linear, Embedding)) and position == 1:
                channel = np.maximum(np.abs(value).max(axis=1), 1e-3) / 127
                quant, dtype = QuantParams(tuple(channel.tolist()), 0, -2), DType.INT8
                x, out = types[node.inputs[0]].quant, types[node.output].quant
                if isinstance(node.op, Linear) and x and out:  # as the quantizer has it: multipliers that 16 bits hold
                    quant = on_factors(quant, x.per_tensor_scale / np.asarray(out.scale, np.float64))
            elif isinstance(node.op, Linear):
                weight, x = types[node.inputs[1]].quant, types[node.inputs[0]].quant
                assert weight and x
                steps = np.rint(value / (np.asarray(weight.scale) * x.per_tensor_scale)).astype(np.int32)
                types[name], constants[name] = TensorType(value.shape, DType.INT32), steps
                continue
            else:
                dtype = DType.INT16 if node.output in wide else DType.INT8
                quant = grid(value, dtype, symmetric=False)
                if isinstance(node.op, Concat):
                    assert types[node.output].quant
                    dtype, quant = types[node.output].dtype, types[node.output].quant or quant
            types[name] = TensorType(value.shape, dtype, quant)
            constants[name] = quantize_real(value, quant, dtype)
    return verify(graph.replace(types=types, constants=constants))


def real(graph: Graph, name: str, value: Array) -> Array:
    quant = graph.types[name].quant
    return value if quant is None else dequantize(value, quant)


def steps_apart(graph: Graph, name: str, found: Array, integers: Array) -> float:
    """Largest distance of real numbers `found` from `integers`, in steps of the value's grid."""
    type_ = graph.types[name]
    assert type_.quant is not None
    steps = np.abs(found.reshape(integers.shape) - dequantize(integers, type_.quant))
    return float((steps / type_.quant.scale_array(integers.ndim)).max())


# One float graph per line: every operator, every branch of its emitter.
A, C, D = f32(4, 6), f32(2, 3, 4, 6), f32(6, 4)
IMAGE = f32(2, 6, 7, 4)
LENGTH = TensorType((), DType.INT32)
IDS = TensorType((4, 2), DType.INT32)
ROTATIONS = normal(1, 9, 4)
ALONE: list[tuple[str, Operator, list[TensorType | Array]]] = [
    *((op.function, op, [A]) for op in ACTIVATIONS),
    ("add", Add(), [A, A]),
    ("add constant", Add(), [C, normal(1, 4, 1)]),
    ("mul", Mul(), [A, A]),
    ("mul constant", Mul(), [A, normal(1, 6)]),
    ("attention", Attention(2, 0.7), [A, A, A]),
    ("attention cross", Attention(3, 0.7), [A, f32(5, 6), f32(5, 9)]),
    ("attention batched", Attention(2, 0.7), [C, C, C]),
    ("attention padded", Attention(2, 0.7), [A, A, A, LENGTH]),
    ("attention batched padded", Attention(2, 0.7), [C, C, C, LENGTH]),
    ("attention causal", Attention(2, 0.7, True), [A, A, A]),
    ("attention causal cross", Attention(3, 0.7, True), [A, f32(5, 6), f32(5, 9)]),
    ("attention causal, a row without a key", Attention(3, 0.7, True), [A, f32(3, 6), f32(3, 9)]),
    ("attention causal padded", Attention(2, 0.7, True), [C, C, C, LENGTH]),
    ("attention shared", Attention(6, 0.7, False, 2), [A, f32(5, 2), f32(5, 4)]),
    ("attention shared causal padded", Attention(6, 0.7, True, 3), [C, f32(2, 3, 5, 3), f32(2, 3, 5, 6), LENGTH]),
    *((f, Binary(f), [A, 2 + normal(1, 6, scale=0.1)]) for f in ("sub", "div", "less")),
    ("pow", Binary("pow"), [A, np.full((), 2, np.float32)]),
    ("cached attention", CachedAttention(3, 1, 0.7), [A, f32(9, 2), f32(5, 9), LENGTH]),
    ("cached attention, slopes", CachedAttention(6, 3, 0.7, 16, (0.5, 0.25, 0.1, 1.0, 2.0, 0.7)),
     [A, f32(9, 3), f32(6, 9), LENGTH]),
    ("cached attention, rounded slopes", CachedAttention(3, 3, 0.7, 16, (0.51, 0.27, 0.1), True),
     [A, f32(9, 6), f32(6, 9), LENGTH]),
    ("relative attention", RelativeAttention(3, 0.7, False, (1, 0, 3, 2, 4)),
     [A, f32(9, 6), f32(9, 12), normal(3, 5, 3), LENGTH]),
    ("relative attention, causal", RelativeAttention(3, 0.7, True, (2, 1, 0)),
     [A, f32(9, 6), f32(9, 3), normal(3, 4, 3), LENGTH]),
    ("concat", Concat(-2), [A, f32(3, 6)]),
    ("concat constant", Concat(-2), [normal(1, 1, 6), A]),
    ("average pool", AveragePool((3, 2), (2, 1), (1, 2), (1, 0, 1, 1)), [IMAGE]),
    ("average pool, pads counted", AveragePool((3, 2), (2, 1), (1, 1), (1, 0, 1, 1), True), [f32(6, 7, 4)]),
    ("depthwise", DepthwiseConv((3, 2), (2, 1), (1, 2), (1, 0, 1, 1)), [IMAGE, normal(1, 6, 4), normal(2, 4)]),
    ("depthwise without bias", DepthwiseConv((1, 3)), [f32(6, 7, 4), normal(1, 3, 4)]),
    ("max pool", MaxPool((3, 2), (2, 1), (1, 2), (1, 0, 1, 1)), [IMAGE]),
    ("patches", Patches((3, 2), (2, 1), (1, 2), (1, 0, 1, 1)), [IMAGE]),
    ("patches of one image", Patches((2, 2), (2, 2)), [f32(6, 7, 4)]),
    ("conv of groups", Conv((2, 1), (1, 2), (1, 0, 2, 0), 2), [f32(2, 4, 6, 7), normal(1, 6, 2, 3, 2), normal(2, 6)]),
    ("conv", Conv(), [f32(1, 3, 4, 6), normal(1, 5, 3, 2, 3)]),
    ("conv bias", Conv(), [f32(1, 3, 4, 6), normal(1, 5, 3, 2, 3), normal(2, 5)]),
    ("embedding", Embedding(), [TensorType((7,), DType.INT32), normal(1, 5, 3)]),
    ("expert linear", ExpertLinear(1, 4), [A, IDS, normal(1, 20, 6)]),
    ("expert linear bias", ExpertLinear(0, 4), [A, IDS, normal(1, 20, 6), normal(2, 20)]),
    ("expert weights", ExpertWeights(), [A, IDS]),
    ("cache", KvAppend(), [f32(9, 6), A, LENGTH, LENGTH]),
    ("cache transposed", KvAppend(True), [f32(6, 9), A, LENGTH, LENGTH]),
    ("norm", LayerNorm(1e-5), [A]),
    ("norm affine", LayerNorm(1e-2), [C, normal(1, 6), normal(2, 6)]),
    ("linear", Linear(), [A, normal(1, 3, 6), normal(2, 3)]),
    ("linear vector", Linear(), [f32(6), normal(1, 3, 6)]),
    ("linear batched", Linear(), [C, normal(1, 3, 6), normal(2, 3)]),
    ("matmul", MatMul(), [A, D]),
    ("mean", ReduceMean(-1, keep=True), [C]),
    ("mean dropped", ReduceMean(-3, keep=False), [C]),
    ("mean padded", ReduceMean(-2, keep=False), [A, LENGTH]),
    ("mean padded kept", ReduceMean(-2, keep=True), [C, LENGTH]),
    ("positions", PositionIds(4), [LENGTH]),
    ("rms norm", RmsNorm(1e-5), [C]),
    ("rms norm gain", RmsNorm(1e-2), [A, normal(1, 6)]),
    ("rope", Rope(1, 4), [A, ROTATIONS, LENGTH]),
    ("rope interleaved", Rope(1, 4, True), [A, ROTATIONS, LENGTH]),
    ("rope of all", Rope(2, 4), [f32(4, 8), ROTATIONS, LENGTH]),
    ("scale rows", ScaleRows(1), [A, f32(4, 3)]),
    ("requantize", Requantize(), [A]),
    ("reshape", Reshape((3, 8)), [A]),
    ("slice", Slice(-1, 1, 6, 2), [A]),
    ("slice dropped", Slice(-2, 2, 3, keep=False), [A]),
    ("softmax", Softmax(), [C]),
    ("take row", TakeRow(), [A, LENGTH]),
    ("top experts", TopExperts(2), [A]),
    ("transpose", Transpose((-2, -4, -1, -3)), [C]),
    *((f, Unary(f), [A]) for f in ("erf", "exp", "neg", "reciprocal")),
]  # fmt: skip


def alone(op: Operator, operands: list[TensorType | Array]) -> tuple[Graph, dict[str, Array]]:
    """A graph of one node, and inputs for it."""
    given = {f"i{n}": t for n, t in enumerate(operands) if isinstance(t, TensorType)}
    b = Builder(**given)
    names = [f"i{n}" if isinstance(t, TensorType) else b.constant(f"c{n}", t) for n, t in enumerate(operands)]
    inputs: dict[str, Array] = {}
    for n, (name, type_) in enumerate(given.items()):
        inputs[name] = normal(n + 7, SAMPLES, *type_.shape)
        if isinstance(op, Activation) and op.function in ("logarithm", "square_root"):
            inputs[name] = np.abs(inputs[name])
        if type_.dtype is DType.INT32:
            least = 1 if isinstance(op, TakeRow) else 0
            inputs[name] = np.random.default_rng(n).integers(least, 4, (SAMPLES, *type_.shape))
    return b.graph(b.node(op, names, "y")), inputs


@pytest.mark.parametrize(("op", "operands"), [c[1:] for c in ALONE], ids=[c[0] for c in ALONE])
def test_each_operator_alone_keeps_its_float_meaning(op: Operator, operands: list[TensorType | Array]) -> None:
    graph, inputs = alone(op, operands)
    expected = run_float(graph, inputs)["y"]
    found = run_onnx(onnx_bytes(graph), inputs)["y"]
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_the_spelled_out_operators_on_the_inputs_they_need() -> None:
    b = Builder(a=A, b=A)
    less = b.node(Binary("less"), ["a", "b"], "less")
    root = b.node(Unary("sqrt"), [b.node(Activation("relu"), ["b"], "relu")], "root")
    graph = b.graph(b.node(Where(), [less, "a", root], "y"))
    inputs = {"a": normal(1, 3, 4, 6), "b": normal(2, 3, 4, 6)}
    np.testing.assert_allclose(run_onnx(onnx_bytes(graph), inputs)["y"], run_float(graph, inputs)["y"], atol=1e-6)


def test_every_operator_stands_in_the_table_and_in_the_cases() -> None:
    assert set(EMITTERS) == set(OPERATORS.values())
    assert {type(case[1]) for case in ALONE} | {Where} == set(OPERATORS.values())


def test_an_unsupported_operator_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(emitters.EMITTERS, Softmax, Unsupported("use the C backend"))
    graph, _ = alone(Softmax(), [A])
    with pytest.raises(UnsupportedError, match=r"node 'node/y' \(Softmax\).*use the C backend"):
        export_onnx(graph, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("leading", [(), (1,)])
@pytest.mark.parametrize("lengths", [False, True])
def test_float_encoder_matches_in_every_value(lengths: bool, leading: tuple[int, ...]) -> None:
    graph = encoder(lengths, leading)
    inputs = encoder_inputs(graph)
    values = run_float(graph, inputs)
    found = run_onnx(onnx_bytes(graph, extra_outputs=True), inputs)
    assert set(found) == {node.output for node in graph.nodes}
    for name, value in found.items():
        np.testing.assert_allclose(value, values[name], atol=1e-5 * max(1, np.abs(values[name]).max()), err_msg=name)


RESIDUALS = (
    "x",
    "tokens",
    "embed",
    "sum",
    "embedded",
    "project",
    "down",
    "residual",
    "residual2",
    "pooled",
    "logits",
)


def test_quantized_encoder_follows_the_integers() -> None:
    graph = encoder()
    inputs = encoder_inputs(graph)
    typed = quantized(graph, inputs, wide=RESIDUALS)
    integers = run_integer(lower_graph(typed), inputs)
    found = run_onnx(onnx_bytes(typed), inputs)["logits"]
    expected = real(typed, "logits", integers["logits"])
    noise = 10 * np.log10((expected**2).sum() / ((found - expected) ** 2).sum())
    assert noise > 45  # what rounding norms and attention differently leaves; int8 itself is near 35
    floats = run_float(graph, inputs)["logits"]
    assert 10 * np.log10((floats**2).sum() / ((floats - expected) ** 2).sum()) > 25


QUANTIZED: list[tuple[str, Operator, list[TensorType | Array], tuple[str, ...], float]] = [
    # name, operator, operands, 16-bit values, largest distance in steps
    ("linear", Linear(), [A, normal(1, 3, 6), normal(2, 3)], (), 1),
    ("linear 8 to 16", Linear(), [A, normal(1, 3, 6), normal(2, 3)], ("y",), 1),
    ("linear 16 to 16", Linear(), [A, normal(1, 3, 6)], ("i0", "y"), 1),
    ("add", Add(), [A, A], (), 1),
    ("add 16", Add(), [A, A], ("i1", "y"), 1),
    ("add constant", Add(), [C, normal(1, 4, 1)], ("y",), 1),
    ("mul", Mul(), [A, A], (), 1),
    ("embedding", Embedding(), [TensorType((7,), DType.INT32), normal(1, 5, 3)], (), 1),
    ("embedding 16", Embedding(), [TensorType((7,), DType.INT32), normal(1, 5, 3)], ("y",), 1),
    ("gelu", Activation("gelu"), [A], (), 1),
    ("silu 16", Activation("silu"), [A], ("i0", "y"), 1),
    ("requantize", Requantize(), [A], ("i0",), 1),
    ("norm", LayerNorm(1e-5), [A], ("i0",), 1),
    ("norm affine", LayerNorm(1e-5), [A, normal(1, 6), normal(2, 6)], (), 1),
    ("attention", Attention(2, 0.7), [A, A, A], (), 1),
    ("attention batched", Attention(2, 0.7), [C, C, C], (), 1),
    ("attention padded", Attention(2, 0.7), [A, A, A, LENGTH], (), 1),
    ("attention shared causal", Attention(6, 0.7, True, 3), [A, f32(4, 3), f32(4, 6)], (), 1),
    ("softmax", Softmax(), [A], (), 1),
    ("mean padded", ReduceMean(-2, keep=False), [A, LENGTH], ("i0",), 1),
    ("transpose", Transpose((-1, -2)), [A], (), 0),
    ("slice dropped 16", Slice(-2, 2, 3, keep=False), [A], ("i0",), 0),
    ("concat constant", Concat(-2), [normal(1, 1, 6), A], (), 0),
    ("reshape", Reshape((3, 8)), [A], (), 0),
]  # fmt: skip


@pytest.mark.parametrize("case", QUANTIZED, ids=[c[0] for c in QUANTIZED])
def test_each_quantized_operator_is_within_a_step_of_its_integers(
    case: tuple[str, Operator, list[TensorType | Array], tuple[str, ...], float],
) -> None:
    _, op, operands, wide, steps = case
    graph, inputs = alone(op, operands)
    typed = quantized(graph, inputs, wide)
    integers = run_integer(lower_graph(typed), inputs)["y"]
    assert len(np.unique(integers)) > 4
    found = run_onnx(onnx_bytes(typed), inputs)["y"]
    assert steps_apart(typed, "y", found, integers) <= steps + 1e-3


def test_weights_are_stored_as_int8_per_channel_and_once() -> None:
    b = Builder(ids=TensorType((4,), DType.INT32))
    table = b.constant("table", normal(1, 30, 8))
    hidden = b.node(Embedding(), ["ids", table], "hidden")
    graph = b.graph(b.node(Linear(), [linear(b, hidden, 8, "dense", 3), table], "logits"))
    inputs = {"ids": np.random.default_rng(0).integers(0, 30, (SAMPLES, 4))}
    typed = quantized(graph, inputs)
    data = onnx_bytes(typed)
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load_from_string(data).graph.initializer}
    assert stored["table_quantized"].dtype == np.int8 and stored["table_quantized"].shape == (30, 8)
    np.testing.assert_array_equal(stored["dense.weight_quantized"], typed.constants["dense.weight"].T)
    assert stored["dense.weight_scale"].shape == (8,) and stored["dense.bias_quantized"].dtype == np.int32
    assert not any(v.dtype == np.float32 and v.size > 30 for v in stored.values())
    found = run_onnx(data, inputs)["logits"]
    assert steps_apart(typed, "logits", found, run_integer(lower_graph(typed), inputs)["logits"]) <= 1.001


def test_the_file_says_what_it_is_and_is_always_the_same(tmp_path: Path) -> None:
    graph = encoder()
    inputs = encoder_inputs(graph)
    typed = quantized(graph, inputs)
    for g in (graph, typed):
        export_onnx(g, tmp_path / "a.onnx", {"scheme": "int8", "calibration": "min-max"})
        export_onnx(g, tmp_path / "b.onnx", {"calibration": "min-max", "scheme": "int8"})
        assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
        model = onnx.load(tmp_path / "a.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert {p.key: p.value for p in model.metadata_props} == {"scheme": "int8", "calibration": "min-max"}
        kinds = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
        assert kinds == {
            "x": onnx.TensorProto.FLOAT,
            "ids": onnx.TensorProto.INT64,
            "valid_length": onnx.TensorProto.INT64,
        }
        assert [o.name for o in model.graph.output] == ["logits"]
    names = {name for node in model.graph.node for name in node.output}
    assert {n.output for n in typed.nodes} <= names
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_run_onnx_adds_a_batch_axis_and_names_what_does_not_fit(tmp_path: Path) -> None:
    graph = encoder(lengths=False, leading=(1,))
    inputs = encoder_inputs(graph)
    data = onnx_bytes(graph)
    bare = {name: value[:, 0] for name, value in inputs.items()}
    np.testing.assert_array_equal(run_onnx(data, bare)["logits"], run_onnx(data, inputs)["logits"])
    with pytest.raises(DataError, match="input 'ids' is missing"):
        run_onnx(data, {"x": inputs["x"]})
    with pytest.raises(DataError, match=r"input 'x' has samples of shape \[1, 5, 6\]"):
        run_onnx(data, inputs | {"x": np.zeros((6, 1, 5, 6), np.float32)})
    with pytest.raises(DataError, match="output 'nothing'"):
        run_onnx(data, inputs, ["nothing"])
    with pytest.raises(DataError, match=r"\[5, 6\] samples"):
        run_onnx(data, inputs | {"x": inputs["x"][:5]})
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"bad\.onnx: onnxruntime cannot load it"):
        run_onnx(tmp_path / "bad.onnx", inputs)
