"""Nodes of real transformer files mean what onnxruntime says: as loaded, after fusion, and in integers and C."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_forms import FORMS, Form
from picoformer.build_folder import quantize_model
from picoformer.errors import UnsupportedError
from picoformer.frontends.onnx import load_onnx
from picoformer.host_library import build_library
from picoformer.ir import Graph
from picoformer.ir.operator import Array
from picoformer.ops.fixedpoint import dequantize, quantize_real
from picoformer.passes import optimize
from picoformer.reference import lower_graph, run_float, run_integer


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


IN_INTEGERS = [
    name for name, form in FORMS.items() if name.startswith(("attention", "rotary", "norm")) and not form.refused
]


def in_c(graph: Graph, folder: Path, samples: dict[str, Array]) -> dict[str, Array]:
    """The C of a graph on this machine, samples along axis 0."""
    library = build_library(graph, folder)
    results = [library.run({name: array[i] for name, array in samples.items()}) for i in range(2)]
    return {name: np.stack([result[name] for result in results]) for name in graph.outputs}


@pytest.mark.parametrize("name", IN_INTEGERS[::4])
def test_integers_and_c_agree_with_onnxruntime(name: str, tmp_path: Path) -> None:
    check_in_integers(FORMS[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_INTEGERS)
def test_every_form_in_integers_and_c(name: str, tmp_path: Path) -> None:
    check_in_integers(FORMS[name], tmp_path)


def check_in_integers(form: Form, folder: Path) -> None:
    """float32 C is what onnxruntime says, int8 C is the reference byte for byte, and that is near."""
    path = form.save(folder / "form.onnx")
    samples = form.samples()
    expected = run_all(path, samples)
    graph = optimize(load_onnx(path))
    for name, found in in_c(graph, folder / "float", samples).items():
        np.testing.assert_allclose(found, expected[name], rtol=2e-5, atol=2e-5, err_msg=name)
    quantized = quantize_model(graph, form.samples(8))
    steps = quantized_inputs(quantized, samples)
    reference = run_integer(lower_graph(quantized), steps)
    for name, found in in_c(quantized, folder / "int8", steps).items():
        np.testing.assert_array_equal(found, reference[name], err_msg=name)
        type_ = quantized.types[name]
        assert type_.quant is not None
        real = dequantize(found, type_.quant)
        error = np.sqrt(((real - expected[name]) ** 2).mean() / (expected[name] ** 2).mean())
        assert error < 0.05, f"{name} is off by {error:.3f} of its size"


def quantized_inputs(graph: Graph, samples: dict[str, Array]) -> dict[str, Array]:
    """What a device is given."""
    found = {}
    for name in graph.inputs:
        type_ = graph.types[name]
        found[name] = samples[name] if type_.quant is None else quantize_real(samples[name], type_.quant, type_.dtype)
    return found
