"""The ONNX front door: every covered node means what onnxruntime says, every bad file gets one clear line."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest
from onnx.helper import make_node

from onnx_models import EncoderOptions, export, exported, run_onnxruntime, sample_inputs, save_model
from onnx_spelling import spell_out
from picoformer.errors import ModelError, UnsupportedError
from picoformer.frontends.onnx import load_onnx
from picoformer.ir import DType
from picoformer.reference import run_float

RANDOM = np.random.default_rng(5)


def numbers(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def agree(path: Path, **keys: tuple[int, ...]) -> None:
    """The loaded graph computes what onnxruntime computes, under the file's own output name."""
    graph = load_onnx(path, keys or None)
    samples = sample_inputs({name: graph.types[name] for name in graph.inputs})
    expected = run_onnxruntime(path, samples)
    found = run_float(graph, samples)[graph.outputs[0]]
    assert graph.types[graph.outputs[0]].shape == expected.shape[1:]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


# (nodes from x to y, input shape, constants, opset): each a form of an operator that a file may hold.
FORMS = {
    "gemm": ([make_node("Gemm", ["x", "b", "c"], ["y"])], (4, 5), {"b": numbers(5, 3), "c": numbers(3)}, 20),
    "gemm transposed, scaled": (
        [make_node("Gemm", ["x", "b", "c"], ["y"], alpha=0.5, beta=2.0, transA=1, transB=1)],
        (5, 4),
        {"b": numbers(3, 5), "c": numbers(1, 3)},
        11,
    ),
    "gemm, a bias per row": (
        [make_node("Gemm", ["x", "b", "c"], ["y"], alpha=0.5, beta=0.3, transB=1)],
        (4, 5),
        {"b": numbers(3, 5), "c": numbers(4, 1)},
        13,
    ),
    "gemm without a bias": ([make_node("Gemm", ["x", "b"], ["y"], alpha=3.0)], (4, 5), {"b": numbers(5, 3)}, 13),
    "gemm of two activations": (
        [make_node("Gemm", ["x", "x"], ["y"], transB=1, alpha=0.5)], (4, 5), {}, 13,
    ),
    "matmul with a vector": ([make_node("MatMul", ["x", "b"], ["y"])], (2, 4, 5), {"b": numbers(5)}, 20),
    "matmul of a vector": ([make_node("MatMul", ["x", "b"], ["y"])], (5,), {"b": numbers(5, 3)}, 20),
    "sub, div, neg": (
        [make_node("Sub", ["c", "x"], ["a"]), make_node("Div", ["a", "c"], ["b"]), make_node("Neg", ["b"], ["y"])],
        (4, 5), {"c": numbers(5) + 3}, 20,
    ),
    "exp, sqrt, reciprocal, pow": (
        [make_node("Exp", ["x"], ["a"]), make_node("Sqrt", ["a"], ["b"]), make_node("Reciprocal", ["b"], ["c"]),
         make_node("Pow", ["c", "two"], ["y"])],
        (4, 5), {"two": np.float32(2)}, 20,
    ),
    "a constant of higher rank": ([make_node("Add", ["x", "c"], ["y"])], (4, 5), {"c": numbers(1, 4, 5)}, 20),
    "two activations of different rank": (
        [make_node("ReduceMean", ["x"], ["a"], axes=[0], keepdims=0), make_node("Mul", ["x", "a"], ["y"])],
        (4, 5), {}, 13,
    ),
    "relu, tanh, sigmoid": (
        [make_node("Relu", ["x"], ["a"]), make_node("Tanh", ["a"], ["b"]), make_node("Sigmoid", ["b"], ["y"])],
        (4, 5), {}, 20,
    ),
    "clip as relu": ([make_node("Clip", ["x", "zero"], ["y"])], (4, 5), {"zero": np.float32(0)}, 20),
    "clip to infinity": (
        [make_node("Clip", ["x", "zero", "top"], ["y"])],
         (4, 5), {"zero": np.float32(0), "top": np.float32(np.inf)}, 20,
    ),
    "gelu": ([make_node("Gelu", ["x"], ["y"])], (4, 5), {}, 20),
    "gelu by tanh": ([make_node("Gelu", ["x"], ["y"], approximate="tanh")], (4, 5), {}, 20),
    "layer norm": (
        [make_node("LayerNormalization", ["x", "g", "b"], ["y"], epsilon=1e-3)],
        (4, 5), {"g": numbers(5), "b": numbers(5)}, 17,
    ),
    "layer norm without a bias": ([make_node("LayerNormalization", ["x", "g"], ["y"])], (4, 5), {"g": numbers(5)}, 20),
    "layer norm over two axes": (
        [make_node("LayerNormalization", ["x", "g", "b"], ["y"], axis=1)],
        (2, 4, 5), {"g": numbers(4, 5), "b": numbers(4, 5)}, 20,
    ),
    "softmax": ([make_node("Softmax", ["x"], ["y"], axis=2)], (2, 4, 5), {}, 11),
    "softmax over another axis": ([make_node("Softmax", ["x"], ["y"], axis=1)], (2, 4, 5), {}, 13),
    "mean, axes as attribute": ([make_node("ReduceMean", ["x"], ["y"], axes=[1, -1], keepdims=0)], (2, 4, 5), {}, 13),
    "mean, axes as input": ([make_node("ReduceMean", ["x", "a"], ["y"], keepdims=0)], (2, 4, 5), {"a": ints(0, 1)}, 18),
    "mean of everything": ([make_node("ReduceMean", ["x"], ["y"])], (2, 4, 5), {}, 18),
    "no mean at all": ([make_node("ReduceMean", ["x"], ["y"], noop_with_empty_axes=1)], (2, 4, 5), {}, 18),
    "sum": ([make_node("ReduceSum", ["x", "a"], ["y"], keepdims=1)], (2, 4, 5), {"a": ints(-2)}, 13),
    "reshape with 0 and -1": ([make_node("Reshape", ["x", "s"], ["y"])], (2, 4, 5), {"s": ints(0, -1)}, 13),
    "flatten": ([make_node("Flatten", ["x"], ["y"], axis=-1)], (2, 4, 5), {}, 13),
    "squeeze, axes as attribute": ([make_node("Squeeze", ["x"], ["y"], axes=[0])], (1, 4, 1), {}, 11),
    "squeeze, all": ([make_node("Squeeze", ["x"], ["y"])], (1, 4, 1), {}, 13),
    "unsqueeze": ([make_node("Unsqueeze", ["x", "a"], ["y"])], (4, 5), {"a": ints(0, -1)}, 13),
    "expand": ([make_node("Expand", ["x", "s"], ["y"])], (1, 5), {"s": ints(2, 4, 1)}, 13),
    "transpose, default": ([make_node("Transpose", ["x"], ["y"])], (2, 4, 5), {}, 13),
    "slice with steps": (
        [make_node("Slice", ["x", "a", "b", "c", "d"], ["y"])],
        (2, 8, 5), {"a": ints(1, -3), "b": ints(100, -1), "c": ints(1, 2), "d": ints(3, 1)}, 13,
    ),
    "slice of everything": ([make_node("Slice", ["x", "a", "b"], ["y"])],
         (2, 8), {"a": ints(0), "b": ints(1 << 60)}, 13),
    "gather one": ([make_node("Gather", ["x", "i"], ["y"], axis=1)], (2, 4, 5), {"i": np.array(-1)}, 13),
    "gather a row of them": ([make_node("Gather", ["x", "i"], ["y"], axis=2)], (2, 4, 5), {"i": ints(0, 2, 4)}, 13),
    "split, sizes as attribute": (
        [make_node("Split", ["x"], ["a", "b"], axis=1, split=[1, 4]), make_node("Mul", ["a", "b"], ["y"])],
         (4, 5), {}, 11,
    ),
    "split, sizes as input": (
        [make_node("Split", ["x", "s"], ["a", "b"], axis=-1), make_node("Mul", ["a", "b"], ["y"])],
        (4, 5), {"s": ints(1, 4)}, 13,
    ),
    "split in equal parts": (
        [make_node("Split", ["x"], ["a", "b"], axis=0, num_outputs=2), make_node("Add", ["a", "b"], ["y"])],
         (4, 5), {}, 18,
    ),
    "tiles": ([make_node("Tile", ["x", "r"], ["y"])], (1, 4, 5), {"r": np.array([3, 2, 1])}, 13),
    "concat with a constant": ([make_node("Concat", ["c", "x"], ["y"], axis=1)],
         (1, 4, 5), {"c": numbers(1, 1, 5)}, 13),
    "identity, dropout, cast": (
        [make_node("Identity", ["x"], ["a"]), make_node("Dropout", ["a"], ["b"]),
         make_node("Cast", ["b"], ["y"], to=1)],
        (4, 5), {}, 13,
    ),
    "comparisons": (
        [make_node("GreaterOrEqual", ["x", "c"], ["a"]), make_node("Cast", ["a"], ["f"], to=1),
         make_node("LessOrEqual", ["x", "c"], ["b"]), make_node("Not", ["b"], ["n"]),
         make_node("Where", ["n", "f", "x"], ["y"])],
        (4, 5), {"c": np.float32(0.1)}, 16,
    ),
    "patches": (
        [make_node("Conv", ["x", "w", "b"], ["y"], strides=[2, 3], kernel_shape=[2, 3])],
        (1, 2, 4, 6), {"w": numbers(7, 2, 2, 3), "b": numbers(7)}, 13,
    ),
    "frames cut by a convolution": (
        [make_node("Conv", ["x", "w"], ["y"], strides=[3])], (1, 2, 6), {"w": numbers(7, 2, 3)}, 13,
    ),
    "attention of heads": ([make_node("Attention", ["x", "x", "x"], ["y"], scale=0.3)], (1, 2, 6, 4), {}, 23),
    "attention of rows": (
        [make_node("Attention", ["x", "x", "x"], ["y"], q_num_heads=2, kv_num_heads=2)], (1, 6, 8), {}, 23,
    ),
    "causal attention": ([make_node("Attention", ["x", "x", "x"], ["y"], is_causal=1)], (1, 2, 6, 4), {}, 23),
    "attention of fewer key heads": (
        [make_node("Slice", ["x", "zero", "half", "last"], ["k"]),
         make_node("Attention", ["x", "k", "k"], ["y"], q_num_heads=4, kv_num_heads=2, is_causal=1)],
        (1, 6, 8), {"zero": np.array([0]), "half": np.array([4]), "last": np.array([-1])}, 23,
    ),
    "attention with an additive mask": (
        [make_node("Attention", ["x", "x", "x", "m"], ["y"], q_num_heads=2, kv_num_heads=2)],
        (1, 6, 8), {"m": numbers(6, 6)}, 23,
    ),
    "shape arithmetic": (
        [make_node("Shape", ["x"], ["s"]), make_node("Gather", ["s", "i"], ["n"]),
         make_node("Range", ["zero", "n", "one"], ["r"]), make_node("ConstantOfShape", ["s"], ["c"]),
         make_node("Cast", ["r"], ["f"], to=1), make_node("Sin", ["f"], ["w"]),
         make_node("Add", ["x", "w"], ["a"]), make_node("Add", ["a", "c"], ["y"])],
        (4, 5), {"i": np.array(1), "zero": np.array(0), "one": np.array(1)}, 13,
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_means_what_onnxruntime_says(form: str, tmp_path: Path) -> None:
    nodes, shape, constants, opset = FORMS[form]
    agree(save_model(tmp_path / "m.onnx", nodes, {"x": shape}, constants, opset=opset))


def test_embedding_takes_int64_ids(tmp_path: Path) -> None:
    nodes = [make_node("Gather", ["table", "x"], ["y"])]
    path = save_model(
        tmp_path / "m.onnx", nodes, {"x": (1, 6)}, {"table": numbers(11, 4)}, input_type=onnx.TensorProto.INT64
    )
    agree(path)
    assert load_onnx(path).types["x"].dtype is DType.INT32


@pytest.mark.parametrize(
    ("options", "opset", "legacy"),
    [
        (EncoderOptions(), 20, False),
        (EncoderOptions(attention="sdpa", norm="post"), 23, False),
        (EncoderOptions(inputs="tokens", positions="sinusoidal", pooling="cls"), 18, False),
        (EncoderOptions(), 11, True),
        (EncoderOptions(inputs="image", activation="silu", pooling="cls"), 17, True),
    ],
)
def test_exported_encoders_load(options: EncoderOptions, opset: int, legacy: bool) -> None:
    agree(exported(options, opset, legacy))


def test_opset_24_loads(tmp_path: Path) -> None:
    nodes = [make_node("Relu", ["x"], ["y"])]
    graph = load_onnx(save_model(tmp_path / "m.onnx", nodes, {"x": (2, 3)}, opset=24))
    assert [node.op.kind for node in graph.nodes] == ["Activation"]


def test_values_keep_their_names() -> None:
    path = exported(EncoderOptions(), 20)
    graph = load_onnx(path)
    stored = {name for node in onnx.load(path).graph.node for name in node.output}
    assert graph.name == path.stem
    assert graph.inputs == ("x",) and graph.outputs == ("y",)
    assert {node.output for node in graph.nodes} <= stored


def test_dynamic_axes_are_fixed_by_the_shape_given(tmp_path: Path) -> None:
    nodes = [make_node("MatMul", ["x", "w"], ["y"])]
    path = save_model(tmp_path / "m.onnx", nodes, {"x": ("batch", "time", 5)}, {"w": numbers(5, 3)})
    agree(path, x=(1, 4, 5))
    with pytest.raises(ModelError, match=r"input 'x' is dynamic in axis 0 \('batch'\) and axis 1 .*--shape x=1,64,5"):
        load_onnx(path)
    with pytest.raises(ModelError, match=r"--shape x=1,4,6 contradicts the file, which says batch,time,5"):
        load_onnx(path, {"x": (1, 4, 6)})
    with pytest.raises(ModelError, match="no input 'z'; its inputs are x"):
        load_onnx(path, {"z": (1, 4, 5)})


@pytest.mark.parametrize("name", [b"two\nlines", b"\xff\xfe not text"])
def test_names_that_cannot_be_printed(name: bytes, tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.onnx", [make_node("Relu", ["x"], ["y"], name="n" * len(name))], {"x": (2,)})
    path.write_bytes(path.read_bytes().replace(b"n" * len(name), name))
    with pytest.raises(ModelError, match="cannot be printed") as caught:
        load_onnx(path)
    one_line(caught.value)


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text and len(text) < 800
    return text


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04 not a model at all", "is not an ONNX file"),
        (b"\x08\x08", "no graph in it"),
        (bytes(range(256)) * 8, "is not an ONNX file"),
    ],
)
def test_files_that_are_not_onnx(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=says) as caught:
        load_onnx(path)
    assert "bad.onnx" in one_line(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        load_onnx(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="not a file"):
        load_onnx(tmp_path)


def test_truncated_at_any_place() -> None:
    path = exported(EncoderOptions(), 20)
    data = path.read_bytes()
    cut = path.with_name("cut.onnx")
    for size in np.linspace(1, len(data) - 1, 40).astype(int):
        cut.write_bytes(data[:size])
        with pytest.raises((ModelError, UnsupportedError)) as caught:
            load_onnx(cut)
        assert "cut.onnx" in one_line(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(value: float, tmp_path: Path) -> None:
    weight = numbers(5, 3)
    weight[2, 1] = value
    path = save_model(tmp_path / "m.onnx", [make_node("MatMul", ["x", "w"], ["y"])], {"x": (4, 5)}, {"w": weight})
    with pytest.raises(ModelError, match=f"tensor 'w' holds {'NaN' if np.isnan(value) else 'infinity'}"):
        load_onnx(path)


def test_all_unsupported_operators_are_named_at_once(tmp_path: Path) -> None:
    nodes = [
        make_node("Hardmax", ["x"], ["a"], name="first"),
        make_node("LSTM", ["a", "w", "r"], ["b"], name="second", hidden_size=2),
        make_node("Fancy", ["b"], ["c"], name="third", domain="acme"),
        make_node("Relu", ["c"], ["y"]),
    ]
    path = save_model(tmp_path / "m.onnx", nodes, {"x": (1, 2, 3)}, {"w": numbers(1, 8, 3), "r": numbers(1, 8, 2)})
    with pytest.raises(UnsupportedError) as caught:
        load_onnx(path)
    text = one_line(caught.value)
    for part in (
        "Hardmax (node 'first', output 'a')",
        "LSTM (node 'second'",
        "acme.Fancy (node 'third'",
        "docs/onnx.md",
    ):
        assert part in text
    assert "Relu (" not in text and "dynamo=True" in text


def branch(name: str) -> onnx.GraphProto:
    value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2])
    return onnx.helper.make_graph([make_node("Relu", ["x"], [name])], name, [], [value])


REFUSED = {
    "control flow": (
        [make_node("If", ["c"], ["y"], name="fork", then_branch=branch("a"), else_branch=branch("b"))],
        (2,), {"c": np.array(True)}, r"If \(node 'fork'",
    ),
    "scales found at run time": (
        [make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="dynamic"),
         make_node("DequantizeLinear", ["q", "s", "z"], ["y"])],
        (2,), {}, "run time.*'dynamic'.*quantize_static.*float model",
    ),
    "a convolution of volumes": (
        [make_node("Conv", ["x", "w"], ["y"], name="conv")],
        (1, 1, 4, 4, 4), {"w": numbers(1, 1, 2, 2, 2)}, r"'conv'.*3 dimensions beside batch and channels",
    ),
    "attention whose key heads do not divide the others": (
        [make_node("Slice", ["x", "zero", "half", "last"], ["k"]),
         make_node("Attention", ["x", "k", "k"], ["y"], q_num_heads=3, kv_num_heads=2, name="odd")],
        (1, 6, 6), {"zero": np.array([0]), "half": np.array([4]), "last": np.array([-1])},
        r"'odd'.*3 heads of queries and 2 of keys",
    ),
    "a shuffle": (
        [make_node("Gather", ["x", "i"], ["y"])], (99,), {"i": ints(*range(98, 0, -1))}, "98 pieces in an irregular",
    ),
    "random numbers": (
        [make_node("RandomNormal", [], ["r"], shape=[2]), make_node("Add", ["x", "r"], ["y"])],
        (2,), {}, "RandomNormal",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_forms_that_are_refused(case: str, tmp_path: Path) -> None:
    nodes, shape, constants, says = REFUSED[case]
    path = save_model(tmp_path / "m.onnx", nodes, {"x": shape}, constants, opset=23)
    with pytest.raises(UnsupportedError, match=says) as caught:
        load_onnx(path)
    assert "m.onnx" in one_line(caught.value)


BROKEN = {
    "shapes that contradict": ([make_node("MatMul", ["x", "w"], ["y"])], {"w": numbers(7, 3)}, "contradict"),
    "an input nobody makes": ([make_node("Add", ["x", "ghost"], ["y"])], {}, "not a valid ONNX model"),
    "an output of constants": (
        [make_node("Relu", ["w"], ["y"]), make_node("Relu", ["x"], ["z"])], {"w": numbers(2)}, "does not depend",
    ),
    "a value that fills memory": (
        [make_node("ConstantOfShape", ["s"], ["c"]), make_node("Add", ["x", "c"], ["y"])],
        {"s": ints(1 << 20, 1 << 20, 4, 5)}, "does not fit memory",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_models_that_are_broken(case: str, tmp_path: Path) -> None:
    nodes, constants, says = BROKEN[case]
    path = save_model(tmp_path / "m.onnx", nodes, {"x": (4, 5)}, constants)
    with pytest.raises(ModelError, match=says) as caught:
        load_onnx(path)
    assert "m.onnx" in one_line(caught.value)


@pytest.mark.parametrize(("kind", "opset"), [("Clip", 9), ("Range", 27), ("SwiGLU", 27)])
def test_opsets_out_of_range(kind: str, opset: int, tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.onnx", [make_node(kind, ["x"], ["y"])], {"x": (2,)}, opset=opset)
    with pytest.raises(UnsupportedError, match=f"opset {opset}, in which {kind} may differ; 11 to 24 are read"):
        load_onnx(path)


@pytest.mark.parametrize("opset", [7, 25, 26])
def test_an_opset_in_which_nothing_differs_is_read(opset: int, tmp_path: Path) -> None:
    kinds = (("MatMul", ["x", "w"], "a"), ("Transpose", ["a"], "b"), ("Tanh", ["b"], "y"))
    nodes = [make_node(kind, inputs, [output]) for kind, inputs, output in kinds]
    agree(save_model(tmp_path / "m.onnx", nodes, {"x": (4, 5)}, {"w": numbers(5, 3)}, opset=opset))


def external(tmp_path: Path, location: str) -> Path:
    """A model whose weight lies in another file."""
    path = save_model(
        tmp_path / "model" / "m.onnx" if (tmp_path / "model").mkdir() is None else tmp_path,
        [make_node("MatMul", ["x", "w"], ["y"])], {"x": (4, 5)}, {"w": numbers(5, 3)},
    )  # fmt: skip
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(data)))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())
    (path.parent / "weights.bin").write_bytes(data)
    (tmp_path / "outside.bin").write_bytes(data)
    return path


def test_external_data_beside_the_model(tmp_path: Path) -> None:
    path = external(tmp_path, "weights.bin")
    agree(path)
    (path.parent / "weights.bin").write_bytes(b"short")
    with pytest.raises(ModelError, match=r"'w' lies past the end of 'weights.bin'"):
        load_onnx(path)
    (path.parent / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"'w' needs the file 'weights.bin'"):
        load_onnx(path)


@pytest.mark.parametrize("location", ["../outside.bin", "/etc/passwd", "", "a/../../outside.bin", "link.bin"])
def test_external_data_elsewhere_is_refused(location: str, tmp_path: Path) -> None:
    path = external(tmp_path, location)
    os.symlink(tmp_path / "outside.bin", path.parent / "link.bin")
    with pytest.raises(ModelError, match=r"tensor 'w' points"):
        load_onnx(path)


def test_other_float_types_become_float32(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weight = numbers(5, 3).astype(np.float16)
    nodes = [
        make_node("Cast", ["x"], ["h"], to=onnx.TensorProto.FLOAT16),
        make_node("MatMul", ["h", "w"], ["a"]),
        make_node("Cast", ["a"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    path = save_model(tmp_path / "m.onnx", nodes, {"x": (4, 5)}, {"w": weight})
    with caplog.at_level(logging.WARNING):
        graph = load_onnx(path)
    assert "float16 numbers; they are computed as float32" in caplog.text
    assert graph.constants["w"].dtype == np.float32
    x = numbers(2, 4, 5)
    np.testing.assert_allclose(run_float(graph, {"x": x})["y"], x @ weight.astype(np.float32), rtol=1e-6, atol=1e-6)


def test_functions_in_a_circle_are_refused(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.onnx", [make_node("F", ["x"], ["y"], domain="own")], {"x": (2,)})
    model = onnx.load(path)
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("own", 1)]
    body = [make_node("F", ["a"], ["b"], domain="own")]
    model.functions.append(onnx.helper.make_function("own", "F", ["a"], ["b"], body, opsets))
    model.opset_import.append(opsets[1])
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="in a circle"):
        load_onnx(path)


def test_functions_are_inlined(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.onnx", [make_node("F", ["x"], ["y"], domain="own")], {"x": (2,)})
    model = onnx.load(path)
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("own", 1)]
    body = [make_node("Relu", ["a"], ["b"])]
    model.functions.append(onnx.helper.make_function("own", "F", ["a"], ["b"], body, opsets[:1]))
    model.opset_import.append(opsets[1])
    path.write_bytes(model.SerializeToString())
    agree(path)


def test_dynamic_batch_of_todays_exporter(tmp_path: Path) -> None:
    import torch

    path = export(EncoderOptions(), tmp_path / "m.onnx", 20, dynamic_shapes=({0: torch.export.Dim("batch")}, None)[:1])
    with pytest.raises(ModelError, match=r"input 'x' is dynamic in axis 0 .*: fix it with --shape x=1,6,5"):
        load_onnx(path)
    agree(path, x=(1, 6, 5))


def test_spelled_out_files_load(tmp_path: Path) -> None:
    agree(spell_out(exported(EncoderOptions(), 20), tmp_path / "old.onnx"))
