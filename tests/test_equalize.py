"""Equalization: equal in float, and better integers where a few channels are far larger than the rest."""

from __future__ import annotations

import numpy as np
import pytest

from picoformer.ir import Graph
from picoformer.ops import Activation, Add, Attention, LayerNorm, ReduceMean
from picoformer.ops.fixedpoint import dequantize
from picoformer.quantize import QuantizeSettings, equalized, quantize
from picoformer.quantize.equalize import find_places, move_scales
from picoformer.reference import lower_graph, run_float, run_integer
from test_quantize import Builder, samples, sqnr

KINDS = ["n1", "q", "att", "n2", "act"]


def outlier_block(strength: float) -> Graph:
    """One block as of a language model: a few channels of each norm, value and hidden layer are `strength` times as
    large, and what reads them is as much smaller."""
    rng = np.random.default_rng(0)
    b = Builder(x=(1, 8, 12))

    def spread(width: int) -> np.ndarray:
        scale = np.ones(width)
        scale[rng.choice(width, 2, replace=False)] = strength
        return scale

    def linear(x: str, n: int, name: str, into: np.ndarray | None = None, out: np.ndarray | None = None) -> str:
        y = b.linear(x, n, name, rng)
        if into is not None:
            b.constants[f"{name}.w"] /= into.astype(np.float32)
        if out is not None:
            b.constants[f"{name}.w"] *= out.astype(np.float32)[:, None]
            b.constants[f"{name}.b"] *= out.astype(np.float32)
        return y

    def norm(x: str, name: str, scale: np.ndarray) -> str:
        gain, bias = b.constant(f"{name}.g", scale), b.constant(f"{name}.b", scale * rng.normal(0, 0.1, len(scale)))
        return b.add(LayerNorm(1e-5), x, gain, bias, name=name)

    r = b.linear("x", 16, "embed", rng)
    s = spread(16)
    y = norm(r, "n1", s)
    keys = spread(16)
    q, k = linear(y, 16, "q", s, keys), linear(y, 16, "k", s, 1 / keys)
    values = spread(16)
    v = linear(y, 16, "v", s, values)
    r = b.add(Add(), r, linear(b.add(Attention(4, 0.5), q, k, v, name="att"), 16, "o", values), name="r1")
    s, hidden = spread(16), spread(32)
    up = b.add(Activation("relu"), linear(norm(r, "n2", s), 32, "up", s, hidden), name="act")
    r = b.add(Add(), r, linear(up, 16, "down", hidden), name="r2")
    r = b.add(LayerNorm(1e-5), r, name="nf")
    return b.graph(b.linear(b.add(ReduceMean(-2, False), r, name="pool"), 5, "logits", rng))


def integer_sqnr(graph: Graph, wanted: Graph, **settings: object) -> float:
    typed = quantize(graph, samples(48), run_float, QuantizeSettings(**settings))  # type: ignore[arg-type]
    quant, test = typed.types["logits"].quant, samples(seed=2)
    assert quant is not None
    return sqnr(run_float(wanted, test)["logits"], dequantize(run_integer(lower_graph(typed), test)["logits"], quant))


def test_every_place_is_found() -> None:
    assert [place.value for place in find_places(outlier_block(1.0))] == KINDS


@pytest.mark.parametrize("value", KINDS)
def test_moving_scales_changes_the_value_and_not_the_outputs(value: str) -> None:
    graph = outlier_block(1.0)
    place = next(place for place in find_places(graph) if place.value == value)
    scale = np.exp(np.random.default_rng(1).normal(0, 1, graph.types[value].width)).astype(np.float32)
    before, after = (run_float(g, samples()) for g in (graph, move_scales(graph, place, scale)))
    np.testing.assert_allclose(after[value] * scale, before[value], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after["logits"], before["logits"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["auto", "on"])
def test_outlier_channels_cost_less_when_equalized(how: str) -> None:
    graph = outlier_block(60.0)
    plain, evened = (integer_sqnr(graph, graph, widen=0.0, equalization=e) for e in ("off", how))
    assert evened > plain + 20, f"{plain:.1f} dB without, {evened:.1f} dB with it"


def test_auto_leaves_a_model_without_outliers_alone() -> None:
    graph = outlier_block(1.0)
    assert equalized(graph, samples(48), run_float, QuantizeSettings(equalization="auto")) is graph


def test_a_gelu_a_shared_weight_and_an_output_stay() -> None:
    rng = np.random.default_rng(0)
    b = Builder(x=(1, 8, 12))
    n = b.add(LayerNorm(1e-5), "x", name="n")
    first = b.linear(n, 12, "first", rng)
    second = b.add(Activation("gelu"), first, name="second")
    from picoformer.ops import Linear

    third = b.add(Linear(), second, "first.w", name="third")
    relu = b.add(Activation("relu"), b.linear(third, 12, "up", rng), name="relu")
    graph = b.graph(b.linear(relu, 4, "down", rng), relu)
    assert list(find_places(graph)) == []
