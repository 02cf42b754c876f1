"""Nodes of real transformer files mean what onnxruntime says: as loaded, after fusion, and in integers and C."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_forms import FORMS, Form
from picoformer.errors import UnsupportedError
from picoformer.frontends.onnx import load_onnx
from picoformer.ir import Graph
from picoformer.ir.operator import Array
from picoformer.passes import optimize
from picoformer.reference import run_float


def run_all(path: Path, samples: dict[str, Array]) -> dict[str, Array]:
    """Every output of onnxruntime, samples along axis 0."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    count = len(next(iter(samples.values())))
    results = [session.run(None, {name: array[i] for name, array in samples.items()}) for i in range(count)]
    return {name: np.stack([result[i] for result in results]) for i, name in enumerate(names)}


def agree(graph: Graph, form: Form, expected: dict[str, Array]) -> None:
    found = run_float(graph, form.samples())
    assert set(graph.outputs) == set(expected)
    for name, wanted in expected.items():
        assert graph.types[name].shape == wanted.shape[1:], name
        np.testing.assert_allclose(found[name], wanted, rtol=2e-5, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("name", FORMS)
def test_a_form_means_what_onnxruntime_says(name: str, tmp_path: Path) -> None:
    form = FORMS[name]
    path = form.save(tmp_path / "form.onnx")
    expected = run_all(path, form.samples())
    graph = load_onnx(path)
    if not form.only_fused:
        agree(graph, form, expected)
    if form.refused:
        with pytest.raises(UnsupportedError, match=form.refused):
            optimize(graph)
    else:
        agree(optimize(graph), form, expected)
