"""What TFLite cannot say, inputs that do not fit and files that are damaged: one line each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphs
from picoformer.backends.tflite.compare import compare_tflite
from picoformer.backends.tflite.export import export_tflite, tflite_program
from picoformer.backends.tflite.file import read_program
from picoformer.backends.tflite.runtime import run_tflite
from picoformer.errors import ConfigError, DataError, ModelError, UnsupportedError
from picoformer.ir import DType, Graph, Node, TensorType
from picoformer.ops import Linear
from test_backend_tflite import runs, written


def test_models_that_tflite_cannot_say(tmp_path: Path) -> None:
    case = graphs.prenorm_encoder()
    with pytest.raises(UnsupportedError, match="'frames' is int8 and 'embed' int16: TFLite takes one type for all"):
        tflite_program(case.quantized(), runs(case.graph, case.samples))
    typed = written("linear", "int8")[1]
    with pytest.raises(DataError, match="calibration samples"):
        tflite_program(written("layer_norm", "int8")[1])
    weight = typed.types["y.weight"]
    narrow = typed.replace(types={**typed.types, "y.weight": replace(weight, dtype=DType.INT4)})
    with pytest.raises(UnsupportedError, match=r"node 'node_y' \(Linear\).*'y.weight' is int4"):
        tflite_program(narrow)
    computed = Graph("c", ("x", "w"), ("y",), (Node("node_y", Linear(), ("x", "w"), "y"),),
                     {"x": TensorType((2, 3)), "w": TensorType((4, 3)), "y": TensorType((2, 4))})  # fmt: skip
    with pytest.raises(UnsupportedError, match=r"node 'node_y' \(Linear\).*computed"):
        tflite_program(computed)
    same = Graph("s", ("x",), ("x",), (), {"x": TensorType((2,))})
    with pytest.raises(UnsupportedError, match="output 'x' is computed by no node"):
        export_tflite(same, tmp_path / "s.tflite", {})
    assert list(tmp_path.iterdir()) == []


def test_inputs_that_do_not_fit() -> None:
    data = written("add", "int8")[3]
    x = np.zeros((2, 5, 12), np.float32)
    for inputs, said in (
        ({"x": x}, "'z' is missing"),
        ({"x": x, "z": x[:1]}, "samples"),
        ({"x": x, "z": x[:, :4]}, "'z' has samples of shape"),
    ):
        with pytest.raises(DataError, match=said):
            run_tflite(data, inputs)
    with pytest.raises(DataError, match="'nothing' is not one"):
        run_tflite(data, {"x": x, "z": x}, ["nothing"])
    with pytest.raises(ConfigError, match="unknown runtime"):
        run_tflite(data, {"x": x, "z": x}, runtime="other")  # type: ignore[arg-type]


def test_a_file_of_another_graph_is_not_compared() -> None:
    _, _, samples, data, _ = written("add", "int8")
    with pytest.raises(ModelError, match="written of another"):
        compare_tflite(data, written("add", "int16")[1], samples)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 255), st.booleans())
def test_damaged_files_are_refused_in_one_line(place: int, value: int, cut: bool) -> None:
    data = bytearray(written("tiny_classifier", "int8")[3])
    place %= len(data)
    damaged = bytes(data[:place]) if cut else bytes(data[:place]) + bytes([value]) + bytes(data[place + 1 :])
    try:
        read_program(damaged)
    except ModelError as error:
        assert "\n" not in str(error)
