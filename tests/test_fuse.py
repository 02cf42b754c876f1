"""Which steps are made of two nodes, and that they give the bytes of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from c_host import Objects, host, object_cache
from graphs import Builder, Case
from picoformer.backends.c import plan_memory, steps_of
from picoformer.backends.c.isa import Layout, LinearLayout, layout_of
from picoformer.ir import DType, Graph, QuantParams
from picoformer.ops import Activation, Add, Mul
from picoformer.reference import lower_graph, run_integer

GENERIC = layout_of(["generic"])


def feed_forward(*, outputs: tuple[str, ...] = ("down",), wide: bool = False) -> Case:
    """An activation that stands away from its linear layer, one whose linear layer is read twice, one behind a sum."""
    b = Builder("feed forward", seed=3)
    x = b.input("x", 3, 6)
    gate, up = b.linear(x, 8, "gate"), b.linear(x, 8, "up")
    curved = b.node(Activation("silu"), gate, name="curved")
    gated = b.node(Mul(), curved, up, name="gated")
    twice = b.linear(gated, 5, "twice")
    bent = b.node(Activation("gelu"), twice, name="bent")
    both = b.node(Add(), twice, bent, name="both")
    b.linear(b.node(Activation("tanh"), both, name="flat"), 4, "down")
    samples = {"x": b.random.normal(0, 1, (4, 3, 6)).astype(np.float32)}
    return Case(b.graph(*outputs), samples, lambda name: wide)


def kinds(graph: Graph, isa: str = "generic") -> dict[str, str]:
    return {step.output: step.kind for step in steps_of(graph, layout_of([isa, "generic"]))}


@pytest.mark.parametrize("isa", ["generic", "dsp", "mve"])
@pytest.mark.parametrize("wide", [False, True])
def test_an_activation_goes_along_with_the_linear_layer_that_only_it_reads(wide: bool, isa: str) -> None:
    found = kinds(feed_forward(wide=wide).quantized(), isa)
    assert found == {
        "up": "Linear",
        "curved": "Linear+Activation",
        "gated": "Mul",
        "twice": "Linear",
        "bent": "Activation",
        "both": "Add",
        "flat": "Activation",
        "down": "Linear",
    }


def test_an_output_of_the_model_stays() -> None:
    assert kinds(feed_forward(outputs=("down", "gate")).quantized())["gate"] == "Linear"


def test_float_steps_stay_apart() -> None:
    assert "Linear+Activation" not in kinds(feed_forward().graph).values()


def residuals(*, outputs: tuple[str, ...] = ("down",)) -> Case:
    """A stream that two linear layers are added to, from either side, one that is read twice, a sum of two layers."""
    b = Builder("residuals", seed=4)
    x = b.linear(b.input("x", 5, 6), 8, "stem")
    first = b.node(Add(), x, b.linear(b.norm(x, "n1"), 8, "a"), name="first")
    second = b.node(Add(), b.linear(b.norm(first, "n2"), 8, "b"), first, name="second")
    shared = b.linear(b.norm(second, "n3"), 8, "shared")
    third = b.node(Add(), second, shared, name="third")
    both = b.node(Add(), third, shared, name="both")
    sides = b.node(Add(), b.linear(both, 8, "left"), b.linear(both, 8, "right"), name="sides")
    out = b.node(Add(), sides, both, name="out")
    b.linear(out, 4, "down")
    stream = {"stem", "a", "first", "b", "second", "shared", "third", "both", "left", "right", "sides", "out"}
    return Case(b.graph(*outputs), {"x": b.random.normal(0, 1, (4, 5, 6)).astype(np.float32)}, stream.__contains__)


def on_one_stream(case: Case) -> Graph:
    """The quantized graph, all its 16-bit values on one grid, a narrow one, so that sums are limited."""
    graph = case.quantized()
    grid = QuantParams((max(t.quant.scale[0] for t in graph.types.values() if t.quant and t.dtype is DType.INT16) / 2,))
    types = {n: replace(t, quant=grid) if t.dtype is DType.INT16 else t for n, t in graph.types.items()}
    return replace(graph, types=types)


@pytest.mark.parametrize("isa", ["generic", "dsp", "mve", "word"])
def test_a_linear_layer_goes_along_with_the_sum_that_only_it_feeds(isa: str) -> None:
    graph = on_one_stream(residuals())
    found = {step.output: (step.kind, step.residual) for step in steps_of(graph, layout_of([isa, "generic"]))}
    assert found["first"] == ("Linear+Add", "stem") and found["second"] == ("Linear+Add", "first")
    assert found["third"] == ("Add", None) and found["shared"] == ("Linear", None), "two sums read it"
    assert found["sides"] == ("Linear+Add", "left"), "of two linear layers the later"
    assert "a" not in found and "right" not in found
    assert {kind for kind, _ in found.values()} >= {"LayerNorm"}


def test_float_sums_and_sums_that_rescale_stay_apart() -> None:
    case = residuals()
    assert "Linear+Add" not in kinds(case.graph).values()
    graph = on_one_stream(case)
    types = dict(graph.types)
    stem = types["stem"]
    assert stem.quant is not None
    types["stem"] = replace(stem, quant=replace(stem.quant, scale=(stem.quant.scale[0] / 2,)))
    found = kinds(replace(graph, types=types))
    assert found["first"] == "Add" and found["second"] == "Linear+Add"


def test_the_stream_is_written_over_and_copied_where_it_is_still_read() -> None:
    graph = on_one_stream(residuals())
    plan = plan_memory(graph, GENERIC)
    on = {value.name: value.on for value in plan.values}
    assert on["first"] == "stem" and on["second"] == "first"
    kept = on_one_stream(residuals(outputs=("down", "first")))
    assert {value.name: value.on for value in plan_memory(kept, GENERIC).values}["second"] != "first"


class Deaf(LinearLayout):
    takes_more = False


def test_kernels_that_take_no_table_get_none() -> None:
    steps = steps_of(feed_forward().quantized(), Layout(linear_s8=Deaf()))
    assert "Linear+Activation" not in {step.kind for step in steps}


def test_the_value_in_between_has_no_place() -> None:
    plan = plan_memory(feed_forward().quantized(), GENERIC)
    assert "gate" not in {value.name for value in plan.values}


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return object_cache(tmp_path_factory.mktemp("objects"))


@pytest.mark.parametrize(
    "made",
    [feed_forward(), feed_forward(wide=True), residuals(), residuals(outputs=("down", "first", "both"))],
    ids=["activations", "wide activations", "residuals", "residuals that are copied"],
)
def test_every_step_gives_the_bytes_of_the_reference(made: Case, tmp_path: Path, objects: Objects) -> None:
    graph = on_one_stream(made) if made.graph.name == "residuals" else made.quantized()
    built = host(graph, tmp_path, objects)
    reference = run_integer(lower_graph(graph), made.samples)
    for index in range(4):
        inputs = {name: np.ascontiguousarray(reference[name][index]).tobytes() for name in graph.inputs}
        for name, data in built.steps(inputs):
            assert data == np.ascontiguousarray(reference[name][index]).tobytes(), name
