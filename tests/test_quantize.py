"""Calibration, grids and constants: what post-training quantization decides, and that it is what runs."""

from __future__ import annotations

import numpy as np
import pytest

from picoformer.cli_options import SCHEMES as SCHEME_NAMES
from picoformer.errors import DataError
from picoformer.ir import DType, Graph, Node, TensorType, verify
from picoformer.ir.operator import Operator
from picoformer.ops import (
    Activation,
    Add,
    Attention,
    Concat,
    LayerNorm,
    Linear,
    LoweredAdd,
    Mul,
    ReduceMean,
    Reshape,
    Slice,
    Softmax,
    Transpose,
)
from picoformer.ops.fixedpoint import dequantize, multiplier_of, quantize_multipliers, short_factors
from picoformer.quantize import METHODS, SCHEMES, Observation, QuantizeSettings, quantize
from picoformer.quantize.calibrate import affine_int8, choose_range, symmetric
from picoformer.quantize.observe import BINS, observe
from picoformer.quantize.weights import on_factors, quantize_bias, quantize_rows
from picoformer.reference import lower_graph, run_float, run_integer


class Builder:
    """A float graph written line by line."""

    def __init__(self, **inputs: tuple[int, ...]) -> None:
        self.inputs = tuple(inputs)
        self.types = {name: TensorType(shape) for name, shape in inputs.items()}
        self.constants: dict[str, np.ndarray] = {}
        self.nodes: list[Node] = []

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants[name] = value.astype(np.float32)
        self.types[name] = TensorType(value.shape)
        return name

    def add(self, op: Operator, *inputs: str, name: str) -> str:
        self.types[name] = op.infer([self.types[i] for i in inputs])
        self.nodes.append(Node(name, op, inputs, name))
        return name

    def linear(self, x: str, n: int, name: str, rng: np.random.Generator) -> str:
        k = self.types[x].width
        weight = self.constant(f"{name}.w", rng.normal(0, k**-0.5, (n, k)))
        return self.add(Linear(), x, weight, self.constant(f"{name}.b", rng.normal(0, 0.1, n)), name=name)

    def graph(self, *outputs: str) -> Graph:
        return verify(Graph("test", self.inputs, outputs, tuple(self.nodes), self.types, self.constants))


def block(post: bool = False) -> Graph:
    """One encoder block, mean pooling, classifier."""
    rng = np.random.default_rng(0)
    b = Builder(x=(1, 8, 12))
    r = b.linear("x", 16, "embed", rng)
    r = b.add(Add(), r, b.constant("pos", rng.normal(0, 0.3, (1, 8, 16))), name="r0")
    y = r if post else b.add(LayerNorm(1e-5), r, name="n1")
    q, k, v = (b.linear(y, 16, name, rng) for name in "qkv")
    o = b.linear(b.add(Attention(4, 0.5), q, k, v, name="att"), 16, "o", rng)
    r = b.add(Add(), r, o, name="r1")
    if post:
        r = b.add(LayerNorm(1e-5), r, name="n1")
    y = r if post else b.add(LayerNorm(1e-5), r, name="n2")
    u = b.add(Activation("gelu"), b.linear(y, 32, "up", rng), name="act")
    r = b.add(Add(), r, b.linear(u, 16, "down", rng), name="r2")
    r = b.add(LayerNorm(1e-5), r, name="nf")
    return b.graph(b.linear(b.add(ReduceMean(-2, False), r, name="pool"), 5, "logits", rng))


def samples(count: int = 24, seed: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(0, 1, (count, 1, 8, 12)).astype(np.float32)}


def sqnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("post", [False, True])
def test_a_quantized_block_follows_its_float_values(method: str, post: bool) -> None:
    graph = block(post)
    typed = quantize(graph, samples(), run_float, QuantizeSettings(method=method))  # type: ignore[arg-type]
    test = samples(seed=2)
    real, integers = run_float(graph, test), run_integer(lower_graph(typed), test)
    quant = typed.types["logits"].quant
    assert quant is not None
    # A narrow random block keeps about 30 dB; any grid or rounding that is off costs ten or more.
    assert sqnr(real["logits"], dequantize(integers["logits"], quant)) > 28


def test_the_residual_stream_is_wide_and_shares_one_grid() -> None:
    typed = quantize(block(), samples(), run_float)
    stream = [typed.types[name] for name in ("embed", "r0", "o", "r1", "down", "r2")]
    assert {t.dtype for t in stream} == {DType.INT16}
    assert len({t.quant for t in stream}) == 1
    assert typed.types["logits"].dtype is typed.types["pool"].dtype is DType.INT16
    assert typed.types["act"].dtype is typed.types["n1"].dtype is DType.INT8
    plain = {
        node.output: step.is_plain
        for node, step in zip(typed.nodes, lower_graph(typed).steps, strict=True)
        if isinstance(node.op, Add)
    }
    assert plain["r1"] and plain["r2"], "a residual addition rescales nothing"


@pytest.mark.parametrize("spread", [0.003, 1.0, 30.0])
def test_an_added_constant_counts_in_whole_steps_of_the_stream(spread: float) -> None:
    """The sum is then a whole multiple of an int8 added to the stream, at the cost of no more than one of 128 steps."""
    graph = block()
    positions = graph.constants["pos"] * np.float32(spread)
    graph = graph.replace(constants={**graph.constants, "pos": positions})
    typed = quantize(graph, samples(), run_float)
    add = lower_graph(typed).steps[[node.output for node in typed.nodes].index("r0")]
    assert isinstance(add, LoweredAdd) and add.constant is not None
    multiple, rest = divmod(add.multiplier_b, 1 << add.shift)
    assert add.multiplier_a == 1 << add.shift and add.offset == rest == 0 and 1 <= multiple <= 255
    assert multiple == 1 or np.abs(add.constant).max() >= 127 * (multiple - 1) // multiple
    quant = typed.types["pos"].quant
    assert quant is not None
    np.testing.assert_allclose(dequantize(add.constant, quant), positions, atol=quant.scale[0] / 2 * 1.001)


def test_queries_keys_and_values_have_a_symmetric_scale_per_head() -> None:
    typed = quantize(block(), samples(), run_float)
    for name in "qkv":
        quant = typed.types[name].quant
        assert quant is not None and quant.zero_point == 0 and quant.axis == -1
        heads = np.reshape(quant.scale, (4, 4))
        assert (heads == heads[:, :1]).all() and len(set(heads[:, 0])) == 4


def test_post_norm_reads_the_stream_through_one_shared_bridge() -> None:
    typed = quantize(block(post=True), samples(), run_float)
    bridges = [node for node in typed.nodes if node.op.kind == "Requantize"]
    assert [node.inputs[0] for node in bridges] == ["r0", "n1"]
    for name in "qkv":
        assert typed.producers[name].inputs[0] == bridges[0].output


def test_softmax_and_moved_values_keep_their_grids() -> None:
    rng = np.random.default_rng(0)
    b = Builder(x=(1, 8, 12))
    rows = b.linear("x", 6, "rows", rng)
    joined = b.add(Concat(-2), b.constant("cls", rng.normal(0, 1, (1, 1, 6))), rows, name="joined")
    first = b.add(Slice(-2, 0, 1, 1, False), joined, name="first")
    flat = b.add(Reshape((6,)), first, name="flat")
    graph = b.graph(b.add(Softmax(), flat, name="p"))
    typed = quantize(graph, samples(), run_float)
    assert typed.types["p"].quant is not None and typed.types["p"].quant.scale == (2.0**-15,)
    grids = {(typed.types[n].dtype, typed.types[n].quant) for n in ("rows", "cls", "joined", "first", "flat")}
    assert len(grids) == 1
    real, integers = run_float(graph, samples(seed=3)), run_integer(lower_graph(typed), samples(seed=3))
    assert np.abs(real["p"] - integers["p"] * 2.0**-15).max() < 0.02


def observation(values: np.ndarray) -> Observation:
    b = Builder(x=(1, values.size))
    graph = b.graph(b.add(Activation("relu"), "x", name="y"))
    return observe(graph, {"x": values.reshape(1, 1, -1).astype(np.float32)}, run_float)["x"]


def test_observation_counts_every_element() -> None:
    values = np.random.default_rng(0).normal(0, 2, 5000)
    seen = observation(values)
    assert seen.histogram.sum() == 5000 and len(seen.histogram) == BINS
    assert seen.minimum == pytest.approx(values.min()) and seen.maximum == pytest.approx(values.max())
    np.testing.assert_allclose(seen.channel_maximum, np.abs(values), rtol=1e-6)


def test_ranges_of_the_three_methods() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 100_000), [60.0]])
    seen = observation(values)
    assert choose_range(seen, "minmax", 99.99)[1] == pytest.approx(60.0)
    low, high = choose_range(seen, "percentile", 99.99)
    assert 3 < high < 6 and -6 < low < -3

    # Least squared error, found by brute force on the values themselves.
    def error(cut: float) -> float:
        quant = affine_int8(values.min(), cut)
        steps = np.clip(np.rint(values / quant.scale[0]) + quant.zero_point, -128, 127)
        return float((((steps - quant.zero_point) * quant.scale[0] - values) ** 2).sum())

    chosen = choose_range(seen, "mse", 99.99)
    assert error(chosen[1]) <= min(error(60.0 * share) for share in np.linspace(0.3, 1.0, 71)) * 1.05


def test_grids_hold_zero_and_the_range() -> None:
    quant = affine_int8(-1.0, 3.0)
    assert dequantize(np.array([quant.zero_point]), quant)[0] == 0.0
    assert dequantize(np.array([-128, 127]), quant) == pytest.approx([-1.0, 3.0], abs=quant.scale[0])
    assert symmetric(2.0, DType.INT16).scale[0] * 32767 == pytest.approx(2.0)
    assert affine_int8(0.0, 0.0).scale[0] > 0, "a value that never moves still has a scale"


def test_weights_round_to_nearest_and_dead_channels_are_harmless() -> None:
    weight = np.array([[1.0, -0.5, 0.25], [0.0, 0.0, 0.0], [1e-9, -2e-9, 0.0]], np.float32)
    steps, quant = quantize_rows(weight)
    assert steps[0].tolist() == [127, -64, 32] or steps[0].tolist() == [127, -63, 32]
    assert not steps[1].any()
    assert min(quant.scale) >= max(quant.scale) * 2.0**-12 * 0.999
    real = steps * np.asarray(quant.scale)[:, None]
    assert np.abs(real - weight).max() <= max(quant.scale) / 2 * 1.0001


def test_weights_are_rounded_on_the_grid_of_their_short_multipliers() -> None:
    """What 16 bits hold of a multiplier is all of it, but for the rounding of a scale to float32."""
    rng = np.random.default_rng(3)
    _, plain = quantize_rows(rng.normal(0, rng.uniform(0.01, 1.0, (50, 1)), (50, 9)))
    ratio = rng.uniform(0.5, 2.0, 50)
    quant = on_factors(plain, ratio)
    exact, _ = quantize_multipliers(np.asarray(quant.scale) * ratio)
    kept = multiplier_of(short_factors(exact))
    np.testing.assert_allclose(kept, exact, rtol=2.0**-22)
    np.testing.assert_allclose(quant.scale, plain.scale, rtol=1.01 * 17 / 65536)
    assert (kept != quantize_multipliers(np.asarray(plain.scale) * ratio)[0]).any()
    tiny = on_factors(plain, 1e-12)
    assert (multiplier_of(short_factors(quantize_multipliers(np.asarray(tiny.scale) * 1e-12)[0])) == 16).all()


def test_a_huge_bias_raises_the_scale_of_its_channel() -> None:
    b = Builder(x=(1, 2, 4))
    weight = b.constant("w", np.full((2, 4), 1e-6))
    bias = b.constant("b", np.array([5.0, -5.0]))
    graph = b.graph(b.add(Linear(), "x", weight, bias, name="y"))
    data = {"x": np.ones((4, 1, 2, 4), np.float32) * 1e-3}
    typed = quantize(graph, data, run_float)
    assert np.abs(typed.constants["b"]).max() <= 1 << 30
    got = run_integer(lower_graph(typed), data)["y"]
    quant = typed.types["y"].quant
    assert quant is not None
    np.testing.assert_allclose(dequantize(got, quant)[..., 0], 5.0, rtol=1e-2)


def test_bias_lies_on_the_accumulator_grid() -> None:
    _, quant = quantize_rows(np.array([[0.5, -1.0]], np.float32))
    steps, bias_quant = quantize_bias(np.array([0.3], np.float32), 0.02, quant)
    assert steps[0] == round(0.3 / (0.02 * quant.scale[0]))
    assert bias_quant.scale[0] == pytest.approx(0.02 * quant.scale[0])


def test_a_shared_constant_is_quantized_for_each_reader() -> None:
    """Exporters share equal tensors: one bias read under two input scales must not take the grid of the first."""
    rng = np.random.default_rng(0)
    b = Builder(x=(1, 8, 12))
    bias = b.constant("shared", np.full(12, 0.7))
    y = b.add(Linear(), "x", b.constant("w1", rng.normal(0, 1, (12, 12))), bias, name="y")
    z = b.add(
        Linear(), b.add(Activation("relu"), y, name="a"), b.constant("w2", rng.normal(0, 1, (12, 12))), bias, name="z"
    )
    graph = b.graph(z)
    typed = quantize(graph, samples(), run_float)
    real, integers = run_float(graph, samples(seed=4)), run_integer(lower_graph(typed), samples(seed=4))
    quant = typed.types["z"].quant
    assert quant is not None and sqnr(real["z"], dequantize(integers["z"], quant)) > 30


def test_calibration_data_that_cannot_be_used_is_refused() -> None:
    graph = block()
    with pytest.raises(DataError, match="no samples"):
        quantize(graph, {"x": np.zeros((0, 1, 8, 12), np.float32)}, run_float)
    broken = samples()
    broken["x"][3, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        quantize(graph, broken, run_float)


def test_one_sample_gives_what_it_gives_among_many() -> None:
    rng = np.random.default_rng(0)
    b = Builder(x=(1, 8, 12))
    rows = b.linear("x", 6, "rows", rng)
    joined = b.add(Concat(-2), b.constant("cls", rng.normal(0, 1, (1, 1, 6))), rows, name="joined")
    more = b.add(Reshape((1, 9, 2, 3)), joined, name="more")
    graph = b.graph(b.add(Transpose((-4, -2, -3, -1)), more, name="turned"))
    many = samples(3)
    typed = lower_graph(quantize(graph, many, run_float))
    for index in range(3):
        one = {"x": many["x"][index : index + 1]}
        for run in (lambda v: run_float(graph, v), lambda v: run_integer(typed, v)):
            whole, single = run(many), run(one)
            for name in graph.types.keys() - graph.constants.keys():
                np.testing.assert_allclose(single[name], whole[name][index : index + 1], atol=1e-6)


def test_scalar_constants_are_quantized() -> None:
    b = Builder(x=(1, 8, 12))
    half = b.add(Mul(), "x", b.constant("half", np.array(0.5)), name="half_x")
    graph = b.graph(b.add(Add(), half, b.constant("shift", np.array(0.25)), name="y"))
    typed = quantize(graph, samples(), run_float)
    real, integers = run_float(graph, samples(seed=5)), run_integer(lower_graph(typed), samples(seed=5))
    quant = typed.types["y"].quant
    assert quant is not None and sqnr(real["y"], dequantize(integers["y"], quant)) > 30


def test_a_narrow_range_far_from_zero_is_observed() -> None:
    b = Builder(x=(1, 8, 12))
    graph = b.graph(b.add(Activation("relu"), "x", name="y"))
    data = {"x": (20.0 + samples()["x"] * 1e-4).astype(np.float32)}
    seen = observe(graph, data, run_float)
    assert seen["y"].histogram.sum() == data["x"].size
    assert quantize(graph, data, run_float).types["y"].quant is not None


def test_commands_offer_every_scheme() -> None:
    """The command line lists the schemes in a table of its own, so that --help stays quick."""
    assert set(SCHEME_NAMES.choices) == {"float32", *SCHEMES}
