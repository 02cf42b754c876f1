"""`picoformer fix`: an ONNX file with a mask as stored numbers means what it meant with that mask, or is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from command_line import picoformer, refuses, succeeds
from onnx_form import Form, contrib, numbers
from onnx_models import run_all
from picoformer.frontends.onnx import load_onnx
from picoformer.passes import optimize
from picoformer.reference import run_float


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    """Attention whose mask of keys is an input, dynamic in its second axis."""
    node = contrib("Attention", ["x", "w", "b", "m"], ["y"], num_heads=2)
    form = Form([node], {"x": (1, 4, 6), "m": (1, 4)}, {"w": numbers(6, 24), "b": numbers(24)}, {"y": 3}, 21,
                {"m": (0, 2)}, onnx.TensorProto.INT32)  # fmt: skip
    path = form.save(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.input[1].type.tensor_type.shape.dim[1].dim_param = "keys"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(("said", "mask"), [("1", [1, 1, 1, 1]), ("1,1,0,0", [1, 1, 0, 0]), ("0,1,0,1", [0, 1, 0, 1])])
def test_a_fixed_mask_means_what_it_meant(said: str, mask: list[int], masked: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, 1, 4, 6)).astype(np.float32)
    expected = run_all(masked, {"x": x, "m": np.array([[mask]] * 3, np.int32)})["y"]
    out = tmp_path / "fixed.onnx"
    record = succeeds("fix", masked, f"m={said}", "--shape", "m=1,4", "-o", out, "--json").record
    assert record == {"model": str(out), "fixed": {"m": [1, 4]}, "bytes": out.stat().st_size}
    np.testing.assert_array_equal(run_all(out, {"x": x})["y"], expected)
    found = run_float(optimize(load_onnx(out)), {"x": x})["y"]
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_what_cannot_be_fixed(masked: Path, tmp_path: Path) -> None:
    out = tmp_path / "fixed.onnx"
    shape = ("--shape", "m=1,4", "-o", out)
    refuses(["inspect", masked, "--shape", "m=1,4"], "has a mask of keys 'm' that is computed", "picoformer fix")
    refuses(["fix", masked, "m=1", "-o", out], "input 'm' is dynamic", "--shape m=1,64")
    refuses(["fix", masked, "n=1", *shape], "no input 'n' to fix", "its inputs are x, m")
    refuses(["fix", masked, "m=1,0", *shape], "has 4 elements and 2 numbers were given")
    refuses(["fix", masked, "m=0.5", *shape], "input 'm' is int32", "numbers of that type")
    refuses(["fix", masked, "m=one", *shape], "m=one: write NAME=1")
    refuses(["fix", masked, "m=nan", *shape], "m=nan: write NAME=1")
    refuses(["fix", masked, "m=1", "m=0", *shape], "'m' is given twice")
    refuses(["fix", masked, "m=99999999999", *shape], "input 'm' is int32", "numbers of that type")
    refuses(
        ["fix", masked, "m=1", "--shape", "m=2,4", "-o", out], "--shape m=2,4 contradicts the file, which says 1,keys"
    )
    refuses(["fix", masked, "m=1", *shape, "--shape", "x=1,4,6"], "--shape x speaks of an input that is not fixed here")
    assert not out.exists()


def test_an_input_without_a_shape_takes_the_one_that_is_said(masked: Path, tmp_path: Path) -> None:
    model = onnx.load(masked)
    model.graph.input[1].type.tensor_type.ClearField("shape")
    onnx.save(model, masked)
    out = tmp_path / "fixed.onnx"
    refuses(["fix", masked, "m=1", "-o", out], "input 'm' is dynamic", "--shape m=1,64")
    assert succeeds("fix", masked, "m=1", "--shape", "m=1,4", "-o", out, "--json").record["fixed"] == {"m": [1, 4]}
    load_onnx(out)


def test_an_input_of_one_number_and_no_axes_is_fixed(masked: Path, tmp_path: Path) -> None:
    model = onnx.load(masked)
    model.graph.input.append(onnx.helper.make_tensor_value_info("beside", onnx.TensorProto.FLOAT, ()))
    onnx.save(model, masked)
    out = tmp_path / "fixed.onnx"
    assert succeeds("fix", masked, "beside=2.5", "-o", out, "--json").record["fixed"] == {"beside": []}
    (stored,) = [tensor for tensor in onnx.load(out).graph.initializer if tensor.name == "beside"]
    assert onnx.numpy_helper.to_array(stored) == 2.5


def test_numbers_that_an_input_has_by_default_give_way(masked: Path, tmp_path: Path) -> None:
    model = onnx.load(masked)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1, 4), np.int32), "m"))
    onnx.save(model, masked)
    out = tmp_path / "fixed.onnx"
    succeeds("fix", masked, "m=1,0,0,0", "--shape", "m=1,4", "-o", out)
    (stored,) = [tensor for tensor in onnx.load(out).graph.initializer if tensor.name == "m"]
    assert onnx.numpy_helper.to_array(stored).tolist() == [[1, 0, 0, 0]]
    load_onnx(out)


def test_the_file_that_is_read_is_not_written_over(masked: Path) -> None:
    before = masked.read_bytes()
    refuses(["fix", masked, "m=1", "--shape", "m=1,4", "-o", masked], "m.onnx: is read", "give another name")
    folder = picoformer("fix", masked, "m=1", "--shape", "m=1,4", "-o", masked.parent)
    assert folder.code == 2 and "is a directory" in folder.err
    assert masked.read_bytes() == before and list(masked.parent.iterdir()) == [masked]
