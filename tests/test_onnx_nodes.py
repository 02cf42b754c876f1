"""Nodes of real transformer files mean what onnxruntime says: as loaded, after fusion, and in integers and C."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest
from onnx.helper import make_node

from onnx_form import Form
from onnx_forms import FORMS
from onnx_models import run_all
from picoformer.build_folder import quantize_model
from picoformer.errors import UnsupportedError
from picoformer.frontends.onnx import load_onnx
from picoformer.host_library import build_library
from picoformer.ir import Graph
from picoformer.ir.operator import Array
from picoformer.ops.fixedpoint import dequantize, quantize_real
from picoformer.passes import optimize
from picoformer.reference import lower_graph, run_float, run_integer


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


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("spelled: rms", {"RmsNorm"}),
        ("spelled: rms by division", {"RmsNorm"}),
        ("spelled: rope", {"Rope", "Reshape", "Transpose"}),
        ("spelled: rope of rows before heads", {"Rope", "Reshape"}),
        ("rotary: four axes", {"Rope", "Reshape", "Transpose"}),
        ("attention: grouped heads, four axes", {"Attention", "Reshape", "Transpose"}),
        ("attention: grouped, turned inside", {"Attention", "Rope", "Reshape", "Transpose"}),
        ("einsum: an attention", {"Attention", "Reshape", "Transpose"}),
        ("einsum: a linear layer", {"Linear"}),
    ],
)
def test_a_form_becomes_one_operator_and_moves(name: str, kinds: set[str], tmp_path: Path) -> None:
    graph = optimize(load_onnx(FORMS[name].save(tmp_path / "form.onnx")))
    assert {node.op.kind for node in graph.nodes} == kinds


def across_opsets(opset: int) -> Form:
    """Operators whose axes and sizes were attributes once and are inputs now, as that opset has them."""
    constants: dict[str, Array] = {"w": np.linspace(-1, 1, 40, dtype=np.float32).reshape(8, 5)}

    def node(kind: str, x: str, y: list[str], since: int, name: str, value: list[int], **more: int) -> onnx.NodeProto:
        if opset < since:
            return make_node(kind, [x], y, **{name: value}, **more)
        constants[f"{y[0]}_{name}"] = np.array(value, np.int64)
        return make_node(kind, [x, f"{y[0]}_{name}"], y, **more)

    nodes = [
        node("Unsqueeze", "x", ["a"], 13, "axes", [0, 3]),
        node("Squeeze", "a", ["b"], 13, "axes", [-2]),
        node("ReduceSum", "b", ["c"], 13, "axes", [0], keepdims=0),
        node("ReduceMean", "c", ["d"], 18, "axes", [1], keepdims=1),
        make_node("Add", ["c", "d"], ["e"]),
        node("Split", "e", ["f", "g"], 13, "split", [3, 5], axis=2),
        make_node("Concat", ["g", "f"], ["h"], axis=2),
        make_node("Softmax", ["h"], ["i"], axis=2),
        make_node("MatMul", ["i", "w"], ["y"]),
    ]
    return Form(nodes, {"x": (1, 4, 8)}, constants, {"y": 3}, opset)


@pytest.mark.parametrize("opset", range(11, 25))
def test_every_opset_that_is_read(opset: int, tmp_path: Path) -> None:
    form = across_opsets(opset)
    path = form.save(tmp_path / "form.onnx")
    expected = run_all(path, form.samples())
    agree(load_onnx(path), form, expected)
    agree(optimize(load_onnx(path)), form, expected)


FLOATS = {"float16": 1e-2, "bfloat16": 1e-1, "double": 1e-5}
"""Type of the stored weight → how far its rounding may move an output of this size."""


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("outside", [False, True])
def test_weights_of_another_type_in_the_file_or_beside_it(kind: str, outside: bool, tmp_path: Path) -> None:
    """The model says float32; its weight is stored otherwise and cast, as exporters of half precision write it."""
    weight = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    narrow = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.DataType.Value(kind.upper()))
    stored = onnx.numpy_helper.from_array(weight.astype(narrow), "w")
    nodes = [make_node("Cast", ["w"], ["v"], to=onnx.TensorProto.FLOAT), make_node("MatMul", ["x", "v"], ["y"])]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "g", [value("x", 1, ["batch", 3, 64])], [value("y", 1, ["batch", 3, 32])], [stored]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=outside, location="w.bin", size_threshold=0)
    assert (tmp_path / "w.bin").exists() == outside
    loaded = optimize(load_onnx(path, {"x": (1, 3, 64)}))
    x = np.random.default_rng(1).normal(size=(2, 1, 3, 64)).astype(np.float32)
    found = run_float(loaded, {"x": x})["y"]
    np.testing.assert_allclose(found, x @ weight, atol=FLOATS[kind] * 10)
    exact = x @ np.asarray(onnx.numpy_helper.to_array(stored), np.float32)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)


IN_INTEGERS = [
    name
    for name, form in FORMS.items()
    if name.startswith(("attention", "rotary", "norm", "spelled")) and not form.refused
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
