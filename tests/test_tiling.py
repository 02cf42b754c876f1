"""Row tiling: the best schedule is found, computes the same bytes, and is as small as its lower bound says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from c_host import Objects, object_cache, rows_computed
from c_host import host as build_host
from graphs import CASES, Builder, Case, quantize_by_range
from picoformer.backends.c.emit import emit_c
from picoformer.backends.c.flow import Flow
from picoformer.backends.c.isa import Layout, layout_of
from picoformer.backends.c.orders import orders_of
from picoformer.backends.c.plan import plan_memory, plan_schedule
from picoformer.backends.c.schedule import Schedule, Tiling, steps_of
from picoformer.backends.c.tiling import PRICE, SLACK, Choice, choose_schedule
from picoformer.errors import ConfigError
from picoformer.ir import DType, Graph
from picoformer.ops import Activation, Add, Attention, Embedding, Mul, ReduceMean, Requantize, Reshape, Softmax
from picoformer.quantize import QuantizeSettings, quantize
from picoformer.reference import lower_graph, run_float, run_integer
from test_plan import in_bytes, random_graph, replay

GENERIC, DSP = layout_of(["generic"]), layout_of(["dsp", "generic"])


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    """Firmware objects, compiled once for all tests."""
    return object_cache(tmp_path_factory.mktemp("objects"))


# The search.


def every_cut(flow: Flow, heights: tuple[int, ...], first: int = 0) -> Iterator[tuple[Tiling, ...]]:
    """All ways of cutting the calls from `first` on into whole ones and tilings of these heights."""
    if first == len(flow.calls):
        yield ()
        return
    for rest in every_cut(flow, heights, first + 1):
        yield rest
    rows = flow.rows[first]
    for last, height in itertools.product(range(first, len(flow.calls)), heights):
        tiling = Tiling(first, last, rows.rows if rows else 0, height)
        if rows and height < rows.rows and flow.is_legal(tiling):
            for rest in every_cut(flow, heights, last + 1):
                yield (tiling, *rest)


def least_live(graph: Graph, layout: Layout, heights: tuple[int, ...]) -> int:
    """The fewest bytes alive at once of all schedules, each of them planned."""
    found = []
    for order in orders_of(graph, layout, steps_of(graph, layout)):
        flow = Flow(graph, layout, order.steps, order.calls)
        for cut in every_cut(flow, heights):
            plan = plan_schedule(graph, layout, Schedule(order.steps, order.calls, cut))
            found.append(plan.live(plan.fullest))
    return min(found)


@pytest.mark.parametrize("seed", [0, 3, 5, 9])
def test_the_bound_is_that_of_all_schedules(seed: int) -> None:
    graph = in_bytes(random_graph(seed, 7))
    choice = choose_schedule(graph, GENERIC, steps_of(graph, GENERIC), tile="least")
    assert choice.bound == choice.floor == least_live(graph, GENERIC, (1, 2))


def random_schedule(flow: Flow, order: Schedule, seed: int) -> Schedule:
    """Runs of random length by tiles of random height, wherever that is legal."""
    choose = np.random.default_rng(seed)
    tilings, call = [], 0
    while call < len(flow.calls):
        rows = flow.rows[call]
        last = call + int(choose.integers(6))
        height = int(choose.integers(1, rows.rows)) if rows else 0
        while last >= call:
            if last < len(flow.calls) and rows and flow.is_legal(Tiling(call, last, rows.rows, height)):
                tilings.append(Tiling(call, last, rows.rows, height))
                call = last
                break
            last -= 1
        call += 1
    return Schedule(order.steps, order.calls, tuple(tilings))


@pytest.mark.parametrize("case", CASES)
def test_random_schedules_overwrite_nothing(case: str) -> None:
    made = CASES[case]()
    tilings = 0
    for graph, layout in itertools.product((made.graph, made.quantized()), (GENERIC, DSP)):
        for order in orders_of(graph, layout, steps_of(graph, layout)):
            flow = Flow(graph, layout, order.steps, order.calls)
            for seed in range(4):
                schedule = random_schedule(flow, order, seed)
                tilings += len(schedule.tilings)
                plan = plan_schedule(graph, layout, schedule)
                replay(graph, plan, linear_in_place=layout is DSP)
                assert plan.peak <= 1.02 * plan.lower_bound + 16
    assert tilings > 10 or case == "wide_sums"


# The same bytes.


def causal() -> Case:
    """A decoder over tokens: causal attention with more keys than queries, gated, with its own batch of two."""
    b = Builder("causal", seed=7)
    ids = b.input("ids", 2, 9, dtype=DType.INT32)
    length = b.input("valid_length", dtype=DType.INT32)
    h = b.node(Embedding(), ids, b.constant("tokens", shape=(11, 16)), name="tokens_of")
    h = b.node(Add(), h, b.constant("positions", shape=(9, 16)), name="residual_0")
    n = b.norm(h, "norm")
    q, k, v = (b.linear(n, 16, name) for name in "qkv")
    mixed = b.node(Attention(4, 0.5, True), q, k, v, length, name="mixed")
    h = b.node(Add(), h, b.linear(mixed, 16, "out"), name="residual_1")
    n = b.norm(h, "norm_2", gain=False)
    gate = b.node(Activation("silu"), b.linear(n, 24, "gate"), name="silu")
    h = b.node(
        Add(), b.linear(b.node(Mul(), gate, b.linear(n, 24, "up"), name="gated"), 16, "down"), h, name="residual_2"
    )
    logits = b.node(Softmax(), b.linear(h, 11, "logits"), name="probabilities")
    samples = {
        "ids": b.random.integers(0, 11, (6, 2, 9)).astype(np.int32),
        "valid_length": np.array([9, 5, 1, 0, 8, 2], np.int32),
    }
    return Case(b.graph(logits), samples, lambda name: "residual" in name)


def cached() -> Case:
    """Causal attention of five queries over eight keys, one sample, a scale per row, and a narrow copy of the rows."""
    b = Builder("cached", seed=8)
    x, past = b.input("x", 5, 16), b.input("past", 8, 16)
    column = b.node(ReduceMean(-1, True), x, name="column")
    scaled = b.node(Mul(), x, column, name="residual_scaled")
    narrow = b.node(Requantize(), scaled, name="narrow")
    q, k, v = b.linear(narrow, 16, "q"), b.linear(past, 16, "k"), b.linear(past, 16, "v")
    mixed = b.node(Attention(2, 0.3, True), q, k, v, name="mixed")
    flat = b.node(Reshape((5, 16)), b.node(Reshape((1, 5, 16)), mixed, name="cube"), name="flat")
    y = b.node(Add(), scaled, b.linear(flat, 16, "out"), name="residual_sum")
    samples = {name: b.random.normal(0, 1, (4, *b.types[name].shape)).astype(np.float32) for name in ("x", "past")}
    return Case(b.graph(y, mixed), samples, lambda name: "residual" in name)


MODELS = {**CASES, "causal": causal, "cached": cached}


def check_bytes(made: Case, graph: Graph, folder: Path, objects: Objects, tile: str | int) -> None:
    """Every step and every output of the C on this machine against the reference."""
    built = build_host(graph, folder, objects, tile)
    assert "tilings[] = {" in (folder / "model.c").read_text()
    reference = run_integer(lower_graph(graph), made.samples)
    for index in range(min(6, len(next(iter(made.samples.values()))))):
        inputs = {name: np.ascontiguousarray(reference[name][index]).tobytes() for name in graph.inputs}
        for name, data in built.steps(inputs):
            expected = rows_computed(np.ascontiguousarray(reference[name][index]), data, inputs)
            assert data == expected.tobytes(), f"sample {index}, '{name}'"
        for tensor in built.device.outputs[: built.device.output_count]:
            assert built.read(tensor) == np.ascontiguousarray(reference[tensor.name.decode()][index]).tobytes()


@pytest.mark.parametrize(("case", "tile"), [("causal", 3), ("cached", 2), ("prenorm_encoder_valid_length", 4)])
def test_tiles_give_the_bytes_of_the_reference(case: str, tile: int, tmp_path: Path, objects: Objects) -> None:
    made = MODELS[case]()
    check_bytes(made, made.quantized(), tmp_path, objects, tile)


@pytest.mark.parametrize("case", [case for case in MODELS if case != "wide_sums"])
def test_any_schedule_gives_the_bytes_of_the_reference(
    case: str, tmp_path: Path, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is legal, whether it saves memory or not; the last order that is worth a plan."""
    made = MODELS[case]()
    graph = made.quantized()
    order = orders_of(graph, GENERIC, steps_of(graph, GENERIC))[-1]
    flow = Flow(graph, GENERIC, order.steps, order.calls)
    schedule = random_schedule(flow, order, 5)
    monkeypatch.setattr("picoformer.backends.c.plan.choose_schedule", lambda *_: Choice(schedule, 0, 0))
    check_bytes(made, graph, tmp_path, objects, "auto")


def test_float_tiles_give_the_bytes_of_the_whole(tmp_path: Path, objects: Objects) -> None:
    made = causal()
    built = [build_host(made.graph, tmp_path / str(tile), objects, tile) for tile in ("none", 2)]
    values = run_float(made.graph, made.samples)
    for index in range(3):
        inputs = {name: np.ascontiguousarray(values[name][index]).tobytes() for name in made.graph.inputs}
        assert len({tuple(one.steps(inputs)) for one in built}) == 1


# How small.


def encoder(name: str, rows: int, inputs: int, width: int, heads: int, wide: int, layers: int) -> Builder:
    """A pre-norm encoder over frames; positions are learned, the mean goes to six classes."""
    b = Builder(name, seed=1)
    h = b.node(
        Add(), b.linear(b.input("x", rows, inputs), width, "embed"), b.constant("at", shape=(rows, width)), name="h"
    )
    for layer in range(layers):
        h = block(b, h, layer, heads, wide, False)
    b.linear(b.node(ReduceMean(-2, False), b.norm(h, "last", gain=False), name="mean"), 6, "logits")
    return b


def block(b: Builder, h: str, layer: int, heads: int, wide: int, causal: bool) -> str:
    """A pre-norm transformer block on the stream `h`."""
    width, n = b.types[h].width, b.norm(h, f"{layer}.norm", gain=False)
    q, k, v = (b.linear(n, width, f"{layer}.{part}") for part in "qkv")
    mixed = b.node(Attention(heads, (width // heads) ** -0.5, causal), q, k, v, name=f"{layer}.mix")
    h = b.node(Add(), h, b.linear(mixed, width, f"{layer}.out"), name=f"{layer}.sum")
    n = b.norm(h, f"{layer}.norm2", gain=False)
    up = b.node(Activation("gelu"), b.linear(n, wide, f"{layer}.up"), name=f"{layer}.gelu")
    return b.node(Add(), h, b.linear(up, width, f"{layer}.down"), name=f"{layer}.sum2")


def language_model() -> Builder:
    """The example's student: a causal model of characters, its output layer tied to the embedding."""
    b = Builder("language model", seed=2)
    table = b.constant("tokens", shape=(96, 64))
    h = b.node(Embedding(), b.input("ids", 64, dtype=DType.INT32), table, name="of")
    h = b.node(Add(), h, b.constant("at", shape=(64, 64)), name="h")
    for layer in range(2):
        h = block(b, h, layer, 4, 192, True)
    b.linear(b.norm(h, "last", gain=False), 96, "logits")
    return b


EXAMPLES = {
    "reference encoder": lambda: encoder("reference encoder", 64, 16, 64, 4, 256, 2),
    "digits": lambda: encoder("digits", 8, 8, 32, 4, 128, 2),
    "language model": language_model,
}


@pytest.fixture(scope="module", params=EXAMPLES)
def example(request: pytest.FixtureRequest) -> Graph:
    """An example's model, quantized as its pipeline does."""
    b = EXAMPLES[request.param]()
    graph = b.graph("logits")
    integers = b.types[b.inputs[0]].dtype is DType.INT32
    shape = (4, *b.types[b.inputs[0]].shape)
    x = (
        b.random.integers(0, 96, shape).astype(np.int32)
        if integers
        else b.random.normal(0, 1, shape).astype(np.float32)
    )
    settings = QuantizeSettings(rounding="nearest", bias_correction=False, widen=0.0)
    return quantize(graph, {b.inputs[0]: x}, run_float, settings)


@pytest.mark.parametrize(
    ("isa", "part"),
    # "word" keeps six rows of a linear layer's input in scratch, which tiles do not make smaller.
    [(("generic",), 0.7), (("dsp", "generic"), 0.7), (("word", "generic"), 0.81)],
    ids=["generic", "dsp", "word"],
)
def test_examples_are_within_two_percent_of_the_bound(example: Graph, isa: tuple[str, ...], part: float) -> None:
    layout = layout_of(isa)
    whole = plan_memory(example, layout, tile="none")
    for tile in ("auto", "least"):
        plan = plan_memory(example, layout, tile=tile)
        replay(example, plan, linear_in_place="dsp" in isa)
        assert plan.peak <= 1.02 * plan.lower_bound
        assert plan.floor <= plan.lower_bound <= whole.lower_bound
        assert plan.lower_bound == plan.floor or tile == "auto"
    assert plan.peak < part * whole.peak


def test_the_price_is_kept(example: Graph) -> None:
    from picoformer.backends.c.effort import effort, effort_by_tiles

    steps = steps_of(example, DSP)
    choice = choose_schedule(example, DSP, steps)
    flow = Flow(example, DSP, choice.schedule.steps, choice.schedule.calls)
    whole = sum(effort(flow, call) for call, made in enumerate(choice.schedule.calls) if not made.again)
    more = sum(effort(flow, call) for call, made in enumerate(choice.schedule.calls) if made.again)
    for tiling in choice.schedule.tilings:
        calls = range(tiling.first, tiling.last + 1)
        more += sum(effort_by_tiles(flow, call, tiling.rows, tiling.height) for call in calls)
    assert 0 <= more <= PRICE * whole
    dear = choose_schedule(example, DSP, steps, tile="50%")
    assert choice.floor <= dear.bound <= choice.bound
    plan = plan_schedule(example, DSP, choice.schedule)
    assert plan.live(plan.fullest) <= (1 + SLACK) * choice.bound


def test_a_tile_that_says_nothing_is_refused(tmp_path: Path) -> None:
    graph = quantize_by_range(causal().graph, causal().samples, lambda name: False)
    for tile in ("tall", "0", -3, "%"):
        with pytest.raises(ConfigError, match=f"tile '{tile}' is neither auto, least, none, nor a percentage, nor a"):
            emit_c(graph, ["generic"], "model", tmp_path, tile=tile)
