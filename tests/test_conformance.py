"""ONNX's own node tests on our C: what passed before passes, nothing is wrong, and a backend refuses in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import pytest

from picoformer.errors import DataError, UnsupportedError
from picoformer.onnx_backend import PicoformerBackend, prepare, run_node

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SAMPLE = 16
"""Every so many-th case that ran in C is run in the ordinary tests."""


@pytest.fixture(scope="module")
def conformance() -> Iterator[Any]:
    sys.path.insert(0, str(BENCHMARKS))
    import conformance

    yield conformance
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def all_cases(conformance: Any) -> list[Any]:
    cases: list[Any] = conformance.node_cases()
    return cases


def against_the_list(conformance: Any, cases: list[Any]) -> list[str]:
    """What is wrong, crashed, or not as good as the tracked list has it."""
    before = conformance.passed_cases(conformance.LIST.read_text("utf-8"))
    rank = {"C": 2, "folded": 1}
    return [
        f"{one.case}: {one.came_to}, was {before.get(one.case, 'refused')}: {one.detail}"
        for one in conformance.run(cases)
        if one.came_to in ("wrong", "crashed") or rank.get(one.came_to, 0) < rank.get(before.get(one.case, ""), 0)
    ]


def test_a_sample_of_the_list_still_passes(conformance: Any, all_cases: list[Any]) -> None:
    before = conformance.passed_cases(conformance.LIST.read_text("utf-8"))
    chosen = {*[name for name, way in before.items() if way == "C"][::SAMPLE]}
    chosen |= {*[name for name, way in before.items() if way == "folded"][:: 4 * SAMPLE]}
    cases = [case for case in all_cases if case.name in chosen]
    assert len(cases) == len(chosen) > 20
    assert against_the_list(conformance, cases) == []


@pytest.mark.slow
def test_every_node_test_is_at_least_what_the_list_says(conformance: Any, all_cases: list[Any]) -> None:
    assert {case.name for case in all_cases} >= conformance.passed_cases(conformance.LIST.read_text("utf-8")).keys()
    assert against_the_list(conformance, all_cases) == []


def test_a_wrong_result_is_seen(conformance: Any, all_cases: list[Any]) -> None:
    case = next(one for one in all_cases if one.name == "test_add")
    changed = replace(case, data_sets=[(case.data_sets[0][0], [case.data_sets[0][1][0] * np.float32(1.01)])])
    (found,) = conformance.run([changed])
    assert found.came_to == "wrong"
    (line,) = against_the_list(conformance, [changed])
    assert line.startswith("test_add: wrong, was C: output 0 is off by")


def test_a_backend_that_others_can_call() -> None:
    x = np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4)
    node = onnx.helper.make_node("Softmax", ["x"], ["y"], axis=0)
    (y,) = run_node(node, [x])
    exact = np.exp(x) / np.exp(x).sum(axis=0)
    np.testing.assert_allclose(y, exact, rtol=1e-6)
    (half,) = run_node(node, [x.astype(np.float16)], outputs_info=[(np.float16, x.shape)])
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, exact, atol=1e-3)
    assert PicoformerBackend.supports_device("CPU:0")
    assert not PicoformerBackend.supports_device("CUDA")


def test_a_backend_refuses_in_one_line() -> None:
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, [2])], [value("y", 1, [2])])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    ready = prepare(model)
    np.testing.assert_array_equal(ready.run({"x": np.array([-1, 2], np.float32)})[0], [0, 2])
    with pytest.raises(DataError, match=r"input 'x' is \[2\]; shape \[3\] was given"):
        ready.run([np.zeros(3, np.float32)])
    with pytest.raises(DataError, match="has the inputs x; 2 arrays were given"):
        ready.run([np.zeros(2), np.zeros(2)])
    with pytest.raises(DataError, match="device CUDA is not covered"):
        prepare(model, "CUDA")
    model.graph.node[0].op_type = "Det"
    with pytest.raises(UnsupportedError, match="Det"):
        prepare(model)
