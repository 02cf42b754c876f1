"""A valid length added to a graph: padded rows never reach the result, and what would mix them in is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx.helper import make_node

from onnx_models import EncoderOptions as Options
from onnx_models import exported, save_model
from picoformer.errors import UnsupportedError
from picoformer.frontends.onnx import load_onnx
from picoformer.ir import DType, Graph, Node, Operator, TensorType, verify
from picoformer.ops import Add, Attention, Linear, ReduceMean, Transpose
from picoformer.passes import add_valid_length, optimize
from picoformer.reference import run_float
from test_passes import NUMBERS, hand, samples_of


def test_valid_length_added_equals_the_shorter_input() -> None:
    """Garbage in the padded rows changes nothing, and at full length all is as before."""
    plain = optimize(load_onnx(exported(Options(), 20)))
    masked = add_valid_length(plain)
    assert masked.inputs == ("x", "valid_length")
    assert masked.types["valid_length"].shape == () and masked.types["valid_length"].dtype is DType.INT32
    samples = samples_of(plain)
    lengths = np.array([4, 6, 1])
    first = run_float(masked, {**samples, "valid_length": lengths})["y"]
    noisy = samples["x"].copy()
    for index, length in enumerate(lengths):
        noisy[index, :, length:] = 1e3
    np.testing.assert_array_equal(first, run_float(masked, {"x": noisy, "valid_length": lengths})["y"])
    np.testing.assert_allclose(first[1], run_float(plain, samples)["y"][1], rtol=1e-5, atol=1e-6)
    assert np.abs(first[0] - run_float(plain, samples)["y"][0]).max() > 1e-3


def test_valid_length_added_is_the_one_exported() -> None:
    added = add_valid_length(optimize(load_onnx(exported(Options(), 20))))
    exported_with = optimize(load_onnx(exported(Options(valid_length=True), 20)))
    samples = samples_of(exported_with)
    found = run_float(added, {"x": samples["x"], "valid_length": samples["valid_length"].reshape(-1)})["y"]
    np.testing.assert_allclose(found, run_float(exported_with, samples)["y"], rtol=1e-5, atol=1e-6)
    assert add_valid_length(exported_with) is exported_with


def test_valid_length_needs_a_sequence(tmp_path: Path) -> None:
    path = hand(tmp_path, [make_node("MatMul", ["x", "w"], ["y"])], (4, 5), w=NUMBERS[:5, :3])
    with pytest.raises(UnsupportedError, match="no attention, so no sequence axis"):
        add_valid_length(optimize(load_onnx(path)))
    nodes = [
        make_node("Attention", ["x", "x", "x"], ["a"], q_num_heads=2, kv_num_heads=2),
        make_node("Flatten", ["a"], ["f"], name="flat"),
        make_node("MatMul", ["f", "w"], ["y"]),
    ]
    path = save_model(tmp_path / "m.onnx", nodes, {"x": (1, 6, 8)}, {"w": NUMBERS[:48, :3]}, opset=23)
    with pytest.raises(UnsupportedError, match=r"\(Reshape\) mixes the rows"):
        add_valid_length(optimize(load_onnx(path)))


def mixing(kind: str, rows: int = 8) -> Graph:
    """An attention over (1, rows, 8) and, beside it, something that mixes rows: none of it may pass a valid length."""
    types = {"x": TensorType((1, rows, 8))}
    constants: dict[str, np.ndarray] = {}
    nodes: list[Node] = []

    def add(op: Operator, *inputs: str, name: str) -> str:
        types[name] = op.infer([types[i] for i in inputs])
        nodes.append(Node(name, op, inputs, name))
        return name

    def turned_linear(x: str, name: str) -> str:
        constants[f"{name}.w"] = np.eye(rows, dtype=np.float32) + 0.1
        types[f"{name}.w"] = TensorType((rows, rows))
        turned = add(Transpose((-3, -1, -2)), x, name=f"{name}.t")
        return add(Transpose((-3, -1, -2)), add(Linear(), turned, f"{name}.w", name=f"{name}.l"), name=name)

    x = "x"
    if kind == "mean before":
        x = add(Add(), "x", add(ReduceMean(-2, True), "x", name="mean"), name="both")
    if kind == "linear over rows before":
        x = turned_linear("x", "mixed")
    y = add(Attention(2, 0.5), x, x, x, name="attended")
    if kind == "linear over rows after":
        y = turned_linear(y, "mixed")
    if kind == "mean over rows laid down":
        y = add(ReduceMean(-1, False), add(Transpose((-3, -1, -2)), y, name="turned"), name="pool")
    else:
        y = add(ReduceMean(-2, False), y, name="pool")
    if kind == "beside":
        y = add(Add(), y, add(ReduceMean(-2, False), "x", name="other"), name="sum")
    return verify(Graph("mixing", ("x",), (y,), tuple(nodes), types, constants))


@pytest.mark.parametrize("rows", [6, 8])
@pytest.mark.parametrize("kind", ["plain", "mean before", "beside", "mean over rows laid down"])
def test_padded_rows_never_reach_the_result(kind: str, rows: int) -> None:
    masked = add_valid_length(mixing(kind, rows))
    x = np.random.default_rng(0).normal(0, 1, (2, 1, rows, 8)).astype(np.float32)
    x[1, :, :3] = x[0, :, :3]
    found = run_float(masked, {"x": x, "valid_length": np.array([3, 3], np.int32)})[masked.outputs[0]]
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    longer = run_float(masked, {"x": x, "valid_length": np.array([3, 4], np.int32)})[masked.outputs[0]]
    assert np.abs(longer[1] - found[1]).max() > 1e-4


@pytest.mark.parametrize("rows", [6, 8])
@pytest.mark.parametrize("kind", ["linear over rows before", "linear over rows after"])
def test_what_mixes_rows_is_refused_a_valid_length(kind: str, rows: int) -> None:
    with pytest.raises(UnsupportedError, match=r"mixes the rows|come from no input"):
        add_valid_length(mixing(kind, rows))
