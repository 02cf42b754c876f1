"""Rounding weights and biases with calibration data: less error at the output, on the grid, and never a crash."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from picoformer.ir import DType, Graph
from picoformer.ops import Linear
from picoformer.ops.fixedpoint import dequantize
from picoformer.quantize import QuantizeSettings, quantize
from picoformer.quantize.rounding import InputMoments, compensated, gptq
from picoformer.quantize.weights import quantize_rows
from picoformer.reference import lower_graph, run_float, run_integer
from test_quantize import Builder, block, samples

NEAREST = QuantizeSettings(rounding="nearest", bias_correction=False)


def correlated(rows: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (rows, width)) @ rng.normal(0, 1, (width, width)) + rng.normal(0, 1, width)


def hessian(x: np.ndarray) -> np.ndarray:
    moments = InputMoments(x.shape[1])
    for part in np.array_split(x, 3):
        moments.add(part)
    return moments.hessian(centred=False)


def matrix(n: int = 12, k: int = 24) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(weight, its scales, its nearest steps)."""
    weight = np.random.default_rng(5).normal(0, 0.3, (n, k)).astype(np.float32)
    steps, quant = quantize_rows(weight)
    return weight, np.asarray(quant.scale), steps


def test_moments_are_those_of_all_rows_together() -> None:
    x = correlated(50, 6)
    moments = InputMoments(6)
    moments.add(x[:20])
    moments.add(x[20:].reshape(2, 15, 6))
    assert moments.rows == 50
    np.testing.assert_allclose(moments.mean, x.mean(axis=0))
    np.testing.assert_allclose(moments.hessian(centred=False), x.T @ x / 50)
    np.testing.assert_allclose(moments.hessian(centred=True), np.cov(x.T, bias=True), atol=1e-9)


def test_gptq_loses_less_than_nearest_on_correlated_inputs() -> None:
    weight, scale, nearest = matrix()
    x = correlated(400, weight.shape[1])
    chosen = gptq(weight, scale, hessian(x))
    errors = [np.square(x @ (weight - steps * scale[:, None]).T).sum(axis=0) for steps in (chosen, nearest)]
    # An update with its sign flipped, or along the wrong rows, makes this larger than 1.
    assert errors[0].sum() < 0.7 * errors[1].sum()
    assert (np.abs(weight - chosen * scale[:, None]) < 12 * scale[:, None]).all()


def test_gptq_is_nearest_where_inputs_are_not_correlated() -> None:
    weight, scale, nearest = matrix()
    variance = np.random.default_rng(1).uniform(0.1, 5, weight.shape[1])
    assert np.array_equal(gptq(weight, scale, np.diag(variance)), nearest)


def test_gptq_stays_on_the_grid_and_says_the_same_twice() -> None:
    weight, scale, _ = matrix()
    h = hessian(correlated(100, weight.shape[1]))
    steps = gptq(weight, scale / 3, h)  # a third of the range: many weights are cut
    assert steps.dtype == np.int8 and steps.min() == -127 and steps.max() == 127
    assert np.array_equal(steps, gptq(weight, scale / 3, h))


@pytest.mark.parametrize("case", ["dead", "all dead", "few", "constant"])
def test_degenerate_inputs_are_no_obstacle(case: str) -> None:
    weight, scale, nearest = matrix()
    x = correlated(100, weight.shape[1])
    if case == "dead":
        x[:, [2, 7]] = 0
    elif case == "all dead":
        x[:] = 0
    elif case == "few":
        x = x[:3]
    else:
        x[:] = x[0]
    steps = gptq(weight, scale, hessian(x))
    losses = [np.square(x @ (weight - s * scale[:, None]).T).sum() for s in (steps, nearest)]
    assert losses[0] <= losses[1]
    if case == "dead":
        assert np.array_equal(steps[:, [2, 7]], nearest[:, [2, 7]]), "what no input reaches is rounded to nearest"


def two_layers() -> Graph:
    rng = np.random.default_rng(3)
    b = Builder(x=(1, 8, 12))
    return b.graph(b.linear(b.linear("x", 24, "first", rng), 10, "second", rng))


def mean_error(graph: Graph, settings: QuantizeSettings, data: dict[str, np.ndarray]) -> np.ndarray:
    typed = quantize(graph, data, run_float, settings)
    quant = typed.types["second"].quant
    assert quant is not None
    found = dequantize(run_integer(lower_graph(typed), data)["second"], quant)
    return (found - run_float(graph, data)["second"]).reshape(-1, 10).mean(axis=0)


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_bias_correction_takes_away_the_mean_error(rounding: str) -> None:
    data = {"x": samples(64)["x"] ** 2}  # a mean far from zero, and a tail that is clipped
    wrong, right = (
        mean_error(two_layers(), QuantizeSettings(rounding=rounding, bias_correction=on), data)  # type: ignore[arg-type]
        for on in (False, True)
    )
    assert np.abs(right).max() < 0.1 * np.abs(wrong).max()


def test_every_grid_stays_and_only_integers_of_linears_change() -> None:
    settings = QuantizeSettings(widen=0)  # what is widened is measured with the biases' correction in mind
    plain, chosen = (quantize(block(), samples(), run_float, s) for s in (replace(NEAREST, widen=0), settings))
    assert dict(plain.types) == dict(chosen.types) and plain.nodes == chosen.nodes
    linear = {name for node in plain.nodes if isinstance(node.op, Linear) for name in node.inputs[1:]}
    changed = {n for n in plain.constants if not np.array_equal(plain.constants[n], chosen.constants[n])}
    assert changed and changed <= linear
    again = quantize(block(), samples(), run_float, settings)
    assert all(np.array_equal(again.constants[name], value) for name, value in chosen.constants.items())


def test_a_weight_that_two_layers_share_is_kept_once_and_corrected_by_a_bias_for_each() -> None:
    rng = np.random.default_rng(0)
    b = Builder(x=(1, 8, 12))
    first = b.linear("x", 12, "first", rng)
    second = b.add(Linear(), first, "first.w", "first.b", name="second")
    typed = quantize(b.graph(second), samples(), run_float)
    (one, one_bias), (two, two_bias) = (typed.producers[name].inputs[1:] for name in ("first", "second"))
    assert one == two and one_bias != two_bias
    quant = typed.types[one].quant
    assert quant is not None
    steps = np.asarray(quant.scale, np.float64).reshape(-1, 1)
    np.testing.assert_array_equal(typed.constants[one], np.rint(b.constants["first.w"] / steps))
    assert set(typed.constants) == {name for node in typed.nodes for name in node.inputs[1:]}


def test_a_linear_without_bias_keeps_none() -> None:
    b = Builder(x=(1, 8, 12))
    weight = b.constant("w", np.random.default_rng(0).normal(0, 0.3, (6, 12)))
    typed = quantize(b.graph(b.add(Linear(), "x", weight, name="y")), samples(), run_float)
    assert len(typed.producers["y"].inputs) == 2


def test_a_compensated_weight_makes_up_for_what_its_inputs_lost() -> None:
    rng = np.random.default_rng(7)
    real = correlated(500, 8)
    rounded = np.round(real @ (np.eye(8) + rng.normal(0, 0.1, (8, 8))), 0)
    weight = rng.normal(0, 0.3, (5, 8))
    moments = InputMoments(8)
    for rows in np.array_split(np.arange(500), 4):
        moments.add(rounded[rows], real[rows])
    np.testing.assert_allclose(moments.real_mean, real.mean(axis=0))
    np.testing.assert_allclose(moments.cross(False), real.T @ rounded / 500)
    for centred in (False, True):
        x, y = (part - part.mean(axis=0) if centred else part for part in (rounded, real))
        found = compensated(weight, moments, centred)
        errors = [np.square(y @ weight.T - x @ w.T).sum() for w in (weight, found)]
        best, *_ = np.linalg.lstsq(x, y @ weight.T, rcond=None)
        least = np.square(y @ weight.T - x @ best).sum()
        assert errors[1] < 0.9 * errors[0] and errors[1] < 1.5 * least
    same = InputMoments(8)
    same.add(real)
    np.testing.assert_allclose(compensated(weight, same, True), weight, atol=1e-12)


def test_compensation_brings_outputs_of_4_bit_weights_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    b, name = Builder(x=(1, 8, 12)), "x"
    for layer in ("first", "second", "third", "last"):
        name = b.linear(name, 12, layer, rng)
    graph, data = b.graph(name), samples(64)
    settings = QuantizeSettings(weights=DType.INT4, block=0)

    def loss() -> float:
        typed = quantize(graph, data, run_float, settings)
        quant = typed.types["last"].quant
        assert quant is not None
        found = dequantize(run_integer(lower_graph(typed), data)["last"], quant)
        return float(np.square(found - run_float(graph, data)["last"]).mean())

    ours = loss()
    monkeypatch.setattr("picoformer.quantize.rounding.compensated", lambda weight, _moments, centred: weight)
    assert ours < 0.8 * loss()
