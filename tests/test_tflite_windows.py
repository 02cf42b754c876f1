"""Convolutional networks and functions of one number as TFLite: which operators, what they compute, how good it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from convolutional_models import MODELS, digits, exported, trained
from graphs import Array, Builder
from picoformer.backends.tflite.activations import FLOATS, GELUS, SAME_IN_EVERY_TYPE
from picoformer.backends.tflite.compare import compare_tflite
from picoformer.backends.tflite.export import tflite_program
from picoformer.backends.tflite.file import program_bytes
from picoformer.backends.tflite.program import evaluate
from picoformer.backends.tflite.runtime import run_tflite
from picoformer.errors import UnsupportedError
from picoformer.exporting_tflite import TfliteOptions, export_tflite_files
from picoformer.ir import DType, Graph
from picoformer.ops import Activation, AveragePool, Mul
from picoformer.ops.fixedpoint import dequantize, quantize_real
from picoformer.ops.functions import FUNCTIONS
from picoformer.reference import lower_graph, run_integer
from test_backend_tflite import TYPES, quantized, runs, written
from tflite_window_cases import WINDOW_CASES

STEPS = {
    "conv_same": ["CONV_2D"],
    "conv_strided": ["PAD", "CONV_2D"],
    "conv_valid": ["RESHAPE", "CONV_2D", "RESHAPE"],
    "conv_apart": ["RESHAPE", "PAD", "CONV_2D", "RESHAPE"],
    "conv_wide": ["CONV_2D"],
    "depthwise_same": ["DEPTHWISE_CONV_2D"],
    "depthwise_pads": ["RESHAPE", "PAD", "DEPTHWISE_CONV_2D", "RESHAPE"],
    "depthwise_apart": ["DEPTHWISE_CONV_2D"],
    "max_same": ["MAX_POOL_2D"],
    "max_pads": ["PADV2", "MAX_POOL_2D"],
    "max_apart": ["RESHAPE", "PADV2", *["STRIDED_SLICE"] * 6, *["MAXIMUM"] * 5, "RESHAPE"],
    "mean_same": ["AVERAGE_POOL_2D"],
    "mean_valid": ["AVERAGE_POOL_2D"],
    "mean_counted": ["PAD", "AVERAGE_POOL_2D"],
    "mean_apart": ["PAD", "DEPTHWISE_CONV_2D"],
    "patches": ["RESHAPE", "PAD", *["STRIDED_SLICE"] * 12, *["CONCATENATION"] * 3, "RESHAPE"],
}
"""Case → the builtin operators that it is, in every type."""


@pytest.mark.parametrize("base", TYPES)
@pytest.mark.parametrize("name", STEPS)
def test_operators_on_windows_are_these(name: str, base: str) -> None:
    assert [step.operator for step in written(name, base)[4].steps] == STEPS[name]


@pytest.mark.parametrize("base", ["int8", "int16"])
@pytest.mark.parametrize("name", WINDOW_CASES)
def test_what_only_moves_keeps_its_grid(name: str, base: str) -> None:
    """TFLite's kernels of these copy integers, whatever the grids say."""
    program = written(name, base)[4]
    for step in program.steps:
        x, y = (program.tensors[n] for n in (step.inputs[0], step.output))
        if step.operator in ("PAD", "PADV2", "MAXIMUM", "MAX_POOL_2D", "AVERAGE_POOL_2D", "STRIDED_SLICE", "RESHAPE"):
            assert x.grid is not None and x.grid == y.grid
        if step.operator in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            weight, bias = (program.tensors[n] for n in step.inputs[1:])
            assert x.grid is not None and weight.grid is not None and bias.grid is not None
            assert bias.dtype == {"int8": "int32", "int16": "int64"}[base] and weight.dtype == "int8"
            assert np.allclose(bias.grid.scale, x.grid.per_tensor_scale * np.asarray(weight.grid.scale), rtol=1e-12)
            assert len(weight.grid.scale) in (1, weight.shape[-1 if step.operator == "DEPTHWISE_CONV_2D" else 0])


def test_a_mean_on_another_grid_is_a_product_with_equal_weights() -> None:
    _, typed, samples, _, _ = written("mean_valid", "int8")
    quant = typed.types["x"].quant
    assert quant is not None
    finer = replace(quant, scale=(quant.per_tensor_scale / 1.7,), zero_point=quant.zero_point // 2)
    other = typed.replace(types={**typed.types, "y": replace(typed.types["y"], quant=finer)})
    program = tflite_program(other)
    assert [step.operator for step in program.steps] == ["DEPTHWISE_CONV_2D"]
    for runtime in ("litert", "micro"):
        (row,) = compare_tflite(program_bytes(program, {}), other, samples, runtime)  # type: ignore[arg-type]
        assert row.worst <= 1 and row.equal > 0.95
    apart = written("mean_same", "int8")[1]
    types = {**apart.types, "y": replace(apart.types["y"], quant=finer)}
    with pytest.raises(
        UnsupportedError, match=r"\(AveragePool\).*beyond the image.*grids of their own; count the pads"
    ):
        tflite_program(apart.replace(types=types))


def test_what_cannot_be_said() -> None:
    b = Builder("apart")
    op = AveragePool((2, 2), (1, 1), (2, 2), (1, 1, 1, 1))
    graph = b.graph(b.node(op, b.input("x", 1, 6, 6, 2), name="y"))
    with pytest.raises(UnsupportedError, match=r"'node_y' \(AveragePool\).*taps lie apart; count the pads"):
        tflite_program(graph)
    b = Builder("flat")
    graph = b.graph(b.node(Activation("celu", (0.0,)), b.input("x", 4), name="y"))
    with pytest.raises(UnsupportedError, match=r"'node_y' \(Activation\).*alpha of celu is 0"):
        tflite_program(graph)


# -- Functions of one number -------------------------------------------------------------------------------------------

TORCH = {
    ("absolute",): torch.abs,
    ("celu", 0.7): lambda x: functional.celu(x, 0.7),
    ("clip", 0.0, 6.0): functional.relu6,
    ("clip", -1.3, 2.1): lambda x: functional.hardtanh(x, -1.3, 2.1),
    ("elu", 1.0): functional.elu,
    ("elu", 0.6): lambda x: functional.elu(x, 0.6),
    ("error_function",): torch.erf,
    ("exponential",): torch.exp,
    ("hard_sigmoid", 1 / 6, 0.5): functional.hardsigmoid,
    ("hard_swish",): functional.hardswish,
    ("leaky_relu", 0.1): lambda x: functional.leaky_relu(x, 0.1),
    ("logarithm",): torch.log,
    ("mish",): functional.mish,
    ("reciprocal",): torch.reciprocal,
    ("selu", 1.6732632423543772, 1.0507009873554805): functional.selu,
    ("softplus",): functional.softplus,
    ("softsign",): functional.softsign,
    ("square_root",): torch.sqrt,
    ("swish", 1.4): lambda x: x * torch.sigmoid(1.4 * x),
}
"""Function and its parameters → the same by torch."""
POSITIVE = ("logarithm", "reciprocal", "square_root")


def _one(function: tuple[str | float, ...], base: str) -> tuple[Graph, dict[str, Array], bytes]:
    """(graph written, samples, file) of one function over −7 … 7, or 0.2 … 7."""
    name, *parameters = function
    b = Builder("function")
    op = Activation(name, tuple(parameters))  # type: ignore[arg-type]
    graph = b.graph(b.node(op, b.input("x", 701), name="y"))
    samples = {"x": np.linspace(0.2 if name in POSITIVE else -7, 7, 701, dtype=np.float32)[None]}
    typed = graph if base == "float32" else quantized(graph, samples, base)
    return typed, samples, program_bytes(tflite_program(typed, runs(graph, samples)), {})


@pytest.mark.parametrize("runtime", ["litert", "micro"])
@pytest.mark.parametrize("function", TORCH, ids=lambda f: "-".join(map(str, f)))
def test_functions_are_those_of_torch(function: tuple[str | float, ...], runtime: str) -> None:
    """float32 to its own precision; clip, leaky and absolute int16 to a step, other int16 the device's to the bit."""
    _, samples, data = _one(function, "float32")
    truth = TORCH[function](torch.tensor(samples["x"], dtype=torch.float64)).numpy()
    found = run_tflite(data, samples, runtime=runtime)["y"]  # type: ignore[arg-type]
    assert np.abs(found - truth).max() <= 3e-7 * max(np.abs(truth).max(), 1)
    typed, samples, data = _one(function, "int16")
    found = run_tflite(data, samples, runtime=runtime)["y"]  # type: ignore[arg-type]
    x, y = (typed.types[name].quant for name in "xy")
    assert x is not None and y is not None
    if function[0] in ("absolute", "clip", "leaky_relu"):
        given = torch.tensor(dequantize(quantize_real(samples["x"], x, DType.INT16), x), dtype=torch.float64)
        assert np.abs(found - TORCH[function](given).numpy()).max() <= 1.01 * y.per_tensor_scale
    else:
        ours = dequantize(run_integer(lower_graph(typed), samples)["y"], y)
        assert np.array_equal(found, ours)


def test_every_function_is_written_and_tried() -> None:
    assert {*FLOATS, *SAME_IN_EVERY_TYPE, *GELUS} == set(FUNCTIONS)
    assert {name for name, *_ in TORCH} == set(FLOATS)


def test_functions_of_int8_are_the_table() -> None:
    for function in TORCH:
        typed, samples, data = _one(function, "int8")
        y = typed.types["y"].quant
        assert y is not None
        ours = dequantize(run_integer(lower_graph(typed), samples)["y"], y)
        for runtime in ("litert", "micro"):
            assert np.array_equal(run_tflite(data, samples, runtime=runtime)["y"], ours)  # type: ignore[arg-type]


def test_a_table_of_int16_means_the_function() -> None:
    """Its steps on real numbers pick by the integers of a grid, and the last entry beyond the last."""
    b = Builder("function")
    graph = b.graph(b.node(Activation("softplus"), b.input("x", 701), name="y"))
    samples = {"x": np.linspace(-7, 7, 701, dtype=np.float32)[None]}
    program = tflite_program(quantized(graph, samples, "int16"), runs(graph, samples))
    known = {name: tensor.real for name, tensor in program.tensors.items() if tensor.data is not None}
    x = np.linspace(-7, 30, 701)
    found, truth = evaluate(program, {"x": x}, known)["y"], np.logaddexp(0, x)
    assert np.abs(found - truth)[x < 7].max() < 1e-3 and found.max() < 20


def test_made_up_values_may_lie_anywhere() -> None:
    """Shapes are found with inputs of 0.5, whose place in a table may be outside."""
    b = Builder("function")
    x = b.node(Mul(), b.input("x", 5), b.constant("much", np.array(1e6)), name="large")
    graph = b.graph(b.node(Activation("softsign"), x, name="y"))
    samples = {"x": np.linspace(-1e-5, 1e-5, 40, dtype=np.float32).reshape(8, 5)}
    typed = quantized(graph, samples, "int16")
    data = program_bytes(tflite_program(typed, runs(graph, samples)), {})
    found, large = run_tflite(data, samples, runtime="micro")["y"], 1e6 * samples["x"]
    assert np.abs(found - large / (1 + np.abs(large))).max() < 1e-3


# -- Trained networks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n if n == "sequence" else pytest.param(n, marks=pytest.mark.slow) for n in MODELS])
def test_trained_networks_keep_their_labels(name: str, tmp_path: Path) -> None:
    """From torch.onnx.export to LiteRT and TFLite Micro in three types, on digits that were not trained on."""
    training, test = digits()
    model = trained(name, training)
    source = exported(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "calibration.npz", x=training["x"][:300])
    np.savez(tmp_path / "test.npz", **test)
    with torch.no_grad():
        given: Tensor = torch.tensor(test["x"][:, 0])
        labels = model(given).argmax(-1).numpy()
    for scheme in ("float32", "int8", "int8x16"):
        out = tmp_path / f"{scheme}.tflite"
        calibration = None if scheme == "float32" else tmp_path / "calibration.npz"
        for runtime in ("litert", "micro"):
            options = TfliteOptions(check=tmp_path / "test.npz", runtime=runtime)  # type: ignore[arg-type]
            record = export_tflite_files(source, calibration, scheme, out, options)
            assert record["runs_on_tflite_micro"] and record["same_label"] >= 0.99
            found = run_tflite(out, {"x": test["x"]}, runtime=runtime)["y"]  # type: ignore[arg-type]
            assert (found.reshape(len(labels), -1).argmax(-1) == labels).mean() >= 0.99
            assert record["sqnr_db"] >= {"float32": 100, "int8": 30, "int8x16": 44}[scheme]
            for row in record["checked"]["rows"]:
                if row["operator"] in ("Linear", "DepthwiseConv", "AveragePool", "Add", "ReduceMean"):
                    assert row["worst"] <= (1e-5 if scheme == "float32" else 1), row
                if row["operator"] in ("MaxPool", "Reshape", "Transpose", "PAD", "MAX_POOL_2D", "MAXIMUM", "MINIMUM"):
                    assert row["worst"] == 0, row
