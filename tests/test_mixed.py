"""Mixed precision under a budget: it fits, it lowers what costs least, and a budget nothing meets is refused."""

from __future__ import annotations

import numpy as np
import pytest

from picoformer.config import read_bytes
from picoformer.errors import ConfigError
from picoformer.ir import DType, Graph
from picoformer.quantize import QuantizeSettings, quantize
from picoformer.quantize.cost import constant_bytes
from picoformer.reference import run_float
from test_quantize import Builder, samples
from test_sensitivity import logits_sqnr


def chain() -> Graph:
    """Four linear layers, of which "loud" makes the outputs and "quiet" hardly matters to them."""
    rng = np.random.default_rng(0)
    b = Builder(x=(1, 8, 12))
    loud, quiet = b.linear("x", 64, "loud", rng), b.linear("x", 64, "quiet", rng)
    from picoformer.ops import Add

    b.constants["quiet.w"] *= np.float32(1e-2)
    b.constants["quiet.b"] *= np.float32(1e-2)
    both = b.add(Add(), loud, quiet, name="both")
    return b.graph(b.linear(b.linear(both, 48, "middle", rng), 6, "logits", rng))


def lowered(typed: Graph) -> set[str]:
    return {name for name in typed.constants if typed.types[name].dtype is DType.INT4}


def typed_for(budget: int | None) -> Graph:
    return quantize(chain(), samples(48), run_float, QuantizeSettings(budget=budget))


def test_weights_go_down_until_it_fits_those_that_cost_least_first() -> None:
    whole = typed_for(None)
    full = constant_bytes(whole)
    assert not lowered(whole) and lowered(typed_for(full)) == set()
    assert lowered(typed_for(full - 1)) == {"quiet.w"}
    least = constant_bytes(quantize(chain(), samples(48), run_float, QuantizeSettings(budget=full // 2 + 700)))
    for budget in (full - 1, full - 1000, least):
        typed = typed_for(budget)
        assert constant_bytes(typed) <= budget
    half = typed_for(full - 800)
    assert "loud.w" not in lowered(half)
    before, after, lowest = [logits_sqnr(chain(), typed, samples(seed=2)) for typed in (whole, half, typed_for(least))]
    assert abs(before - after) < 0.5 < 2.0 < after - lowest, "the first ones cost nothing, the last ones do"


def test_a_weight_the_others_make_needless_goes_back() -> None:
    full = constant_bytes(typed_for(None))
    # The quiet one comes first for its low cost and saves 300 bytes; the large one alone saves more than is asked.
    assert lowered(typed_for(full - 1200)) == {"middle.w"}


def test_a_budget_that_nothing_meets_names_the_one_that_can_be_met() -> None:
    with pytest.raises(ConfigError, match=r"a budget of 1,000 bytes cannot be met.*give at least ([\d,]+)") as error:
        typed_for(1000)
    least = int(str(error.value).split("give at least ")[1].split(", or")[0].replace(",", ""))
    assert constant_bytes(typed_for(least)) == least
    assert lowered(typed_for(least)) == {"loud.w", "quiet.w", "middle.w", "logits.w"}


@pytest.mark.parametrize(
    ("text", "count"), [("98304", 98304), ("96KB", 96_000), ("96 kib", 98304), ("0.5MiB", 524_288), (7, 7)]
)
def test_bytes_as_people_write_them(text: str | int, count: int) -> None:
    assert read_bytes(text) == count


@pytest.mark.parametrize("text", ["", "KB", "96 kilo", "-3", "9e3"])
def test_what_is_no_number_of_bytes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write 98304, 96KB or 96KiB"):
        read_bytes(text)


@pytest.mark.parametrize("activations", [DType.INT8, DType.INT16])
def test_equal_biases_that_come_apart_stay_within_the_budget(activations: DType) -> None:
    """Biases of zero are one array before they are corrected, and one for each layer behind it."""
    rng = np.random.default_rng(0)
    b, value = Builder(x=(1, 8, 12)), "x"
    for index in range(6):
        value = b.linear(value, 12, f"layer{index}", rng)
        b.constants[f"layer{index}.b"] *= 0
    graph = b.graph(value)
    rounded = QuantizeSettings(activations=activations, rounding="nearest", bias_correction=False)
    budget = constant_bytes(quantize(graph, samples(48), run_float, rounded)) - 100
    typed = quantize(graph, samples(48), run_float, QuantizeSettings(activations=activations, budget=budget))
    assert constant_bytes(typed) <= budget


def test_a_weight_that_two_layers_share_counts_for_both() -> None:
    """Each Linear gets integers of its own for what it reads."""
    from picoformer.ops import Linear

    rng = np.random.default_rng(0)
    b = Builder(x=(1, 8, 12))
    shared = b.add(Linear(), b.linear("x", 12, "first", rng), "first.w", "first.b", name="second")
    graph = b.graph(b.linear(shared, 6, "logits", rng))
    full = constant_bytes(quantize(graph, samples(48), run_float))
    typed = quantize(graph, samples(48), run_float, QuantizeSettings(budget=full - 60))
    assert constant_bytes(typed) <= full - 60
