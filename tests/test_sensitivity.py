"""Measured choices of the quantizer: the simulation they rest on, widening, its limits, and the report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from picoformer.ir import DType, Graph
from picoformer.ops import Activation, Linear, Reshape
from picoformer.ops.fixedpoint import dequantize
from picoformer.quantize import QuantizeSettings, measure, quantize
from picoformer.quantize.cost import constant_bytes, live_peak, wide_macs
from picoformer.quantize.simulate import Simulation, decibels, simulate
from picoformer.reference import lower_graph, run_float, run_integer
from test_quantize import Builder, block, samples, sqnr

NARROW = QuantizeSettings(widen=0)


def spiky(count: int = 48, seed: int = 1) -> dict[str, np.ndarray]:
    """Inputs of which a few elements are far out: int8 has too few steps for the rest."""
    x = samples(count, seed)["x"]
    x[np.random.default_rng(seed).random(x.shape) < 0.01] *= 30
    return {"x": x}


def logits_sqnr(graph: Graph, typed: Graph, data: dict[str, np.ndarray]) -> float:
    quant = typed.types["logits"].quant
    assert quant is not None
    real, found = run_float(graph, data)["logits"], run_integer(lower_graph(typed), data)["logits"]
    return sqnr(real, dequantize(found, quant))


def test_the_simulation_follows_the_integers() -> None:
    graph, data = block(), samples()
    # Weights that make up for the integers' own errors do so a little worse for the simulated ones.
    typed = quantize(graph, data, run_float, replace(NARROW, rounding="nearest"))
    values, integers = run_float(simulate(typed), {"x/real": data["x"]}), run_integer(lower_graph(typed), data)
    for name in ("x", "n1", "q", "att", "act", "r2", "logits"):
        quant = typed.types[name].quant
        assert quant is not None
        steps = np.abs(values[name] - dequantize(integers[name], quant)) / np.max(quant.scale)
        # A value may fall on the other side of a rounding; a wrong grid or a missing one is off by far more.
        assert np.mean(steps) < (0.3 if typed.types[name].dtype is DType.INT8 else 60), name
    noise = Simulation(graph, data, run_float, typed).base_noise
    assert decibels(noise) == pytest.approx(logits_sqnr(graph, typed, data), abs=1.0)


@pytest.mark.parametrize("name", ["x", "n1", "k", "up", "att", "v.w", "pos"])
def test_a_variant_costs_what_running_all_of_it_costs(name: str) -> None:
    graph, data = block(), samples()
    typed = quantize(graph, data, run_float, NARROW)
    noise = Simulation(graph, data, run_float, typed).noise(typed, name)
    whole = simulate(typed, {name: graph.constants.get(name)})
    got = run_float(whole, {whole.inputs[0]: data["x"]})["logits"].astype(float)
    real = run_float(graph, data)["logits"].astype(float)
    assert noise == pytest.approx(np.square(got - real).sum() / np.square(real).sum(), rel=1e-9)
    assert noise != Simulation(graph, data, run_float, typed).base_noise


def test_an_input_that_costs_most_is_widened_and_its_linear_reads_it() -> None:
    graph, data, test = block(), spiky(), spiky(seed=2)
    narrow, wide = (quantize(graph, data, run_float, QuantizeSettings("minmax", widen=share)) for share in (0.0, 0.1))
    assert narrow.types["x"].dtype is DType.INT8 and wide_macs(narrow) == 0
    assert wide.types["x"].dtype is DType.INT16 and wide.producers["embed"].inputs[0] == "x"
    assert 0 < wide_macs(wide) <= 0.1 * graph.macs
    assert logits_sqnr(graph, wide, test) > logits_sqnr(graph, narrow, test) + 3


def test_widening_keeps_to_its_share() -> None:
    graph, data = block(), spiky()
    macs = 8 * 12 * 16
    settings = QuantizeSettings("minmax", widen=0.9 * macs / graph.macs)
    assert quantize(graph, data, run_float, settings).types["x"].dtype is DType.INT8
    narrow = quantize(graph, data, run_float, NARROW)
    for share in (0.01, 0.2, 0.5):
        typed = quantize(graph, data, run_float, QuantizeSettings("minmax", widen=share))
        assert wide_macs(typed) <= share * graph.macs
        assert live_peak(typed) <= (1 + share) * live_peak(narrow)


def test_what_would_only_be_bridged_back_is_not_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query of 16 bits beside keys of 8 goes through a bridge, whatever it seems to gain."""
    monkeypatch.setattr("picoformer.quantize.sensitivity.MIN_GAIN_DB", -100.0)
    typed = quantize(block(), samples(), run_float, replace(NARROW, widen=1.0))
    assert {typed.types[name].dtype for name in "qkv"} == {DType.INT8}
    assert typed.types["n1"].dtype is DType.INT16, "what needs no bridge is widened at this threshold"
    assert not [node for node in typed.nodes if node.op.kind == "Requantize"]


def test_a_moved_input_stays_wide_for_the_linear_behind() -> None:
    rng = np.random.default_rng(0)
    b = Builder(x=(1, 96))
    graph = b.graph(b.linear(b.add(Reshape((1, 8, 12)), "x", name="rows"), 4, "logits", rng))
    data = {"x": samples()["x"].reshape(-1, 1, 96)}
    typed = quantize(graph, data, run_float, QuantizeSettings(inputs=DType.INT16))
    assert typed.producers["logits"].inputs[0] == "rows" and typed.types["rows"].dtype is DType.INT16


def test_live_peak_counts_what_is_alive_together() -> None:
    rng = np.random.default_rng(0)
    b = Builder(x=(1, 8, 12))
    up = b.linear("x", 32, "up", rng)
    act = b.add(Activation("gelu"), up, name="act")
    graph = b.graph(b.linear(b.add(Reshape((1, 4, 64)), act, name="flat"), 3, "y", rng))
    typed = quantize(graph, samples(), run_float, NARROW)
    # x and up; act lies on up; flat is act's bytes; y is int16, an output.
    assert live_peak(typed) == max(8 * 12 + 8 * 32, 8 * 32 + 2 * 4 * 3)


def test_the_report_names_what_costs_most() -> None:
    graph, data = block(), spiky()
    typed = quantize(graph, data, run_float, replace(NARROW, method="minmax"))
    sqnr_db, rows = measure(graph, typed, data, run_float)
    found = {row.name: row for row in rows}
    assert rows[0].name == "x" and rows[0].gain_db > 3 and rows[0].op == "input"
    assert [row.gain_db for row in rows] == sorted((row.gain_db for row in rows), reverse=True)
    assert sqnr_db == pytest.approx(logits_sqnr(graph, typed, data), abs=1.0)
    assert found["up.w"].is_constant and found["up.w"].bytes == 32 * 16 and found["up.w"].op == "Linear"
    assert found["r1"].type == "s16" and not found["r1"].is_constant and found["r1"].bytes == 2 * 8 * 16
    weights = {node.inputs[1] for node in typed.nodes if isinstance(node.op, Linear)}
    assert weights <= set(found), "every weight has its row"
    assert constant_bytes(typed) > sum(row.bytes for row in rows if row.is_constant)
