"""Which steps are made of two nodes, and that they give the bytes of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from c_host import Objects, host, object_cache
from graphs import Builder, Case
from picoformer.backends.c import plan_memory, steps_of
from picoformer.backends.c.isa import Layout, LinearLayout, layout_of
from picoformer.ir import Graph
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


@pytest.mark.parametrize("wide", [False, True])
def test_every_step_gives_the_bytes_of_the_reference(wide: bool, tmp_path: Path, objects: Objects) -> None:
    made = feed_forward(wide=wide)
    graph = made.quantized()
    built = host(graph, tmp_path, objects)
    reference = run_integer(lower_graph(graph), made.samples)
    for index in range(4):
        inputs = {name: np.ascontiguousarray(reference[name][index]).tobytes() for name in graph.inputs}
        for name, data in built.steps(inputs):
            assert data == np.ascontiguousarray(reference[name][index]).tobytes(), name
