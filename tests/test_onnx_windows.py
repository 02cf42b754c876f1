"""Every form of the ONNX operators on images and of one number, as onnxruntime computes it, before and after passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.helper import make_node
from torch import nn

from onnx_models import run_onnxruntime, save_model
from picoformer.backends.onnx.export import onnx_bytes
from picoformer.backends.onnx.runtime import run_onnx
from picoformer.errors import ModelError, UnsupportedError
from picoformer.frontends.onnx import load_onnx
from picoformer.ir import Graph
from picoformer.ops import Activation
from picoformer.ops.fixedpoint import dequantize
from picoformer.passes import optimize
from picoformer.quantize import SCHEMES, QuantizeSettings, quantize
from picoformer.reference import lower_graph, run_float, run_integer

Form = tuple[list[onnx.NodeProto], tuple[int, ...], dict[str, np.ndarray], int]


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(0, 1, shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def one(operator: str, shape: tuple[int, ...], opset: int = 22, /, **given: object) -> Form:
    """x and the arrays given, in their order, through one node with the other attributes given."""
    arrays = {name: value for name, value in given.items() if isinstance(value, np.ndarray)}
    attributes = {name: value for name, value in given.items() if name not in arrays}
    return [make_node(operator, ["x", *arrays], ["y"], **attributes)], shape, arrays, opset


def batch_norm(channels: int) -> dict[str, np.ndarray]:
    parts = {name: numbers(channels + at)[:channels] for at, name in enumerate(("s", "b", "m"))}
    return {**parts, "v": np.abs(numbers(channels)) + np.float32(0.1)}


IMAGE, LINE = (1, 4, 7, 6), (1, 4, 9)
FORMS: dict[str, Form] = {
    "conv": one("Conv", IMAGE, w=numbers(5, 4, 3, 3), b=numbers(5), pads=[1, 1, 1, 1]),
    "conv, two images": one("Conv", (2, 4, 7, 6), w=numbers(5, 4, 2, 3), strides=[2, 1], pads=[0, 1, 1, 0]),
    "conv, taps apart": one("Conv", IMAGE, w=numbers(5, 4, 3, 2), dilations=[2, 3], pads=[2, 0, 1, 3]),
    "conv, same upper": one("Conv", IMAGE, w=numbers(5, 4, 3, 2), strides=[2, 2], auto_pad="SAME_UPPER"),
    "conv, same lower": one("Conv", IMAGE, w=numbers(5, 4, 2, 3), strides=[2, 2], auto_pad="SAME_LOWER"),
    "conv, valid": one("Conv", IMAGE, w=numbers(5, 4, 3, 2), auto_pad="VALID"),
    "conv, single places": one("Conv", IMAGE, w=numbers(5, 4, 1, 1), b=numbers(5)),
    "conv, depthwise": one("Conv", IMAGE, w=numbers(4, 1, 3, 3), b=numbers(4), group=4, pads=[1, 1, 1, 1]),
    "conv, depthwise twice": one("Conv", IMAGE, w=numbers(8, 1, 3, 3), b=numbers(8), group=4, strides=[2, 2]),
    "conv, groups": one("Conv", IMAGE, w=numbers(6, 2, 3, 3), b=numbers(6), group=2, pads=[1, 1, 1, 1]),
    "conv of patches inside": (
        [make_node("Relu", ["x"], ["a"]), make_node("Conv", ["a", "w"], ["y"], strides=[2, 3])],
        (1, 2, 4, 6), {"w": numbers(7, 2, 2, 3)}, 13,
    ),
    "conv that leaves a rest": one("Conv", (1, 2, 5, 7), w=numbers(7, 2, 2, 3), strides=[2, 3]),
    "conv of lines": one("Conv", LINE, w=numbers(5, 4, 3), b=numbers(5), strides=[2], pads=[1, 2], dilations=[2]),
    "conv of lines, depthwise": one("Conv", LINE, w=numbers(4, 1, 3), group=4, pads=[1, 1]),
    "max pool": one("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
    "max pool, rounded up": one("MaxPool", IMAGE, kernel_shape=[2, 4], strides=[2, 3], ceil_mode=1),
    "max pool, rounded up with pads": one(
        "MaxPool", (1, 2, 5, 5), kernel_shape=[2, 2], strides=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1),
    "max pool, taps apart": one("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[3, 2]),
    "max pool of lines": one("MaxPool", LINE, kernel_shape=[3], strides=[2]),
    "average pool": one("AveragePool", IMAGE, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
    "average pool, pads counted": one(
        "AveragePool", IMAGE, kernel_shape=[3, 2], pads=[1, 0, 1, 1], count_include_pad=1),
    "average pool, same": one("AveragePool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    "average pool of lines": one("AveragePool", LINE, kernel_shape=[2], strides=[2]),
    "global average": one("GlobalAveragePool", IMAGE),
    "global average of lines": one("GlobalAveragePool", LINE),
    "global maximum": one("GlobalMaxPool", IMAGE),
    "largest": one("ReduceMax", IMAGE, a=ints(1, -1), keepdims=0),
    "largest of all": one("ReduceMax", IMAGE),
    "least": one("ReduceMin", IMAGE, a=ints(2)),
    "batch norm": one("BatchNormalization", IMAGE, **batch_norm(4)),
    "batch norm of rows": one("BatchNormalization", (3, 4), **batch_norm(4), epsilon=0.01),
    "batch norm behind a conv": (
        [make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
         make_node("BatchNormalization", ["a", "s", "b", "m", "v"], ["n"]), make_node("Relu", ["n"], ["y"])],
        IMAGE, {"w": numbers(4, 4, 3, 3), **batch_norm(4)}, 15,
    ),
    "batch norm behind a depthwise conv": (
        [make_node("Conv", ["x", "w", "c"], ["a"], group=4),
         make_node("BatchNormalization", ["a", "s", "b", "m", "v"], ["y"])],
        IMAGE, {"w": numbers(4, 1, 3, 3), "c": numbers(4), **batch_norm(4)}, 15,
    ),
    "instance norm": one("InstanceNormalization", IMAGE, s=numbers(4), b=numbers(4)),
    "group norm": one("GroupNormalization", IMAGE, s=numbers(4), b=numbers(4), num_groups=2),
    "relu6": one("Clip", IMAGE, a=np.array(0, np.float32), b=np.array(6, np.float32)),
    "clip above": (
        [make_node("Clip", ["x", "", "b"], ["y"])], IMAGE, {"b": np.array(0.5, np.float32)}, 13,
    ),
    "clip to the wrong way round": one(
        "Clip", IMAGE, a=np.array(0.5, np.float32), b=np.array(-0.5, np.float32)),
    "leaky": one("LeakyRelu", IMAGE, alpha=0.2),
    "leaky per channel": one("PRelu", IMAGE, s=numbers(4, 1, 1)),
    "leaky, one slope": one("PRelu", IMAGE, s=np.full((1,), 0.3, np.float32)),
    **{name.lower(): one(name, IMAGE) for name in (
        "Abs", "Celu", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "Mish", "Selu", "Softplus", "Softsign")},
    "hard sigmoid": one("HardSigmoid", IMAGE, alpha=0.3, beta=0.4),
    "max with a number": one("Max", IMAGE, a=np.array([0.2], np.float32)),
    "min with channels": one("Min", IMAGE, a=numbers(4, 1, 1)),
    "max of three": (
        [make_node("Neg", ["x"], ["a"]), make_node("Max", ["x", "a", "c"], ["y"])],
        IMAGE, {"c": np.array(0.7, np.float32)}, 13,
    ),
    "sum and mean": (
        [make_node("Sum", ["x", "c", "x"], ["a"]), make_node("Mean", ["a", "x"], ["y"])],
        IMAGE, {"c": numbers(4, 1, 1)}, 13,
    ),
    "difference and division": (
        [make_node("Exp", ["x"], ["e"]), make_node("Sub", ["x", "e"], ["d"]), make_node("Div", ["d", "e"], ["y"])],
        IMAGE, {}, 13,
    ),
    "zeros around": one("Pad", IMAGE, p=ints(0, 0, 1, 2, 0, 0, 0, 1)),
    "zeros around a line": one("Pad", LINE, p=ints(0, 0, 1, 0, 0, 2)),
    "zeros around for a conv": (
        [make_node("Pad", ["x", "p"], ["a"]), make_node("Conv", ["a", "w"], ["y"], pads=[0, 1, 0, 1])],
        IMAGE, {"p": ints(0, 0, 1, 2, 0, 0, 0, 1), "w": numbers(3, 4, 2, 2)}, 13,
    ),
    "numbers around": one("Pad", IMAGE, p=ints(0, 1, 0, 2, 0, 0, 3, 0), v=np.array(-1.5, np.float32)),
    "crop": one("Pad", IMAGE, p=ints(0, 0, -1, 0, 0, 0, -2, 1)),
    "edges repeated": one("Pad", IMAGE, p=ints(0, 0, 1, 2, 0, 0, 0, 1), mode="edge"),
    "reflection": one("Pad", IMAGE, p=ints(0, 0, 3, 2, 0, 0, 0, 1), mode="reflect"),
    "twice as large": (
        [make_node("Resize", ["x", "", "s"], ["y"], mode="nearest")],
        IMAGE, {"s": np.array([1, 1, 2, 3], np.float32)}, 13,
    ),
    "twice as large, asymmetric": (
        [make_node("Resize", ["x", "", "", "n"], ["y"], mode="nearest", nearest_mode="floor",
                   coordinate_transformation_mode="asymmetric")],
        IMAGE, {"n": ints(1, 4, 14, 6)}, 13,
    ),
    "half as large": (
        [make_node("Resize", ["x", "", "s"], ["y"], mode="nearest", nearest_mode="floor",
                   coordinate_transformation_mode="asymmetric")],
        IMAGE, {"s": np.array([1, 1, 1, 0.5], np.float32)}, 13,
    ),
    "resized by a broken factor": (
        [make_node("Resize", ["x", "", "s"], ["y"], mode="nearest")],
        IMAGE, {"s": np.array([1, 1, 1.5, 0.7], np.float32)}, 13,
    ),
    "depth to space": one("DepthToSpace", (1, 8, 2, 3), blocksize=2),
    "depth to space, columns first": one("DepthToSpace", (1, 8, 2, 3), blocksize=2, mode="CRD"),
    "space to depth": one("SpaceToDepth", (1, 3, 4, 6), blocksize=2),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms_agree_with_onnxruntime(form: str, tmp_path: Path) -> None:
    nodes, shape, constants, opset = FORMS[form]
    path = save_model(tmp_path / "m.onnx", nodes, {"x": shape}, constants, opset=opset)
    x = np.random.default_rng(5).normal(0, 2, (3, *shape)).astype(np.float32)
    wanted = run_onnxruntime(path, {"x": x})
    loaded = load_onnx(path)
    for graph in (loaded, optimize(loaded)):
        found = run_float(graph, {"x": x})["y"]
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * max(1.0, float(np.abs(wanted).max())))


REFUSED: dict[str, tuple[Form, type[Exception], str]] = {
    "a kernel that does not fit": (one("Conv", (1, 4, 2, 2), w=numbers(5, 4, 3, 3)), ModelError, "does not fit into"),
    "a pool of volumes": (one("MaxPool", (1, 2, 3, 3, 3), kernel_shape=[2, 2, 2]), UnsupportedError, "3 dimensions"),
    "groups that do not divide": (
        one("Conv", IMAGE, w=numbers(5, 2, 3, 3), group=2), (ModelError, UnsupportedError), "w|group",
    ),
    "resized smoothly": (
        ([make_node("Resize", ["x", "", "s"], ["y"], mode="linear")], IMAGE,
         {"s": np.array([1, 1, 2, 2], np.float32)}, 13),
        UnsupportedError, "use mode 'nearest'",
    ),
    "resized to a ratio": (
        ([make_node("Resize", ["x", "", "", "n"], ["y"], mode="nearest", keep_aspect_ratio_policy="not_larger")],
         IMAGE, {"n": ints(1, 4, 9, 9)}, 19),
        UnsupportedError, "ratio of width to height",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_forms_that_are_refused_say_why(case: str, tmp_path: Path) -> None:
    (nodes, shape, constants, opset), error, says = REFUSED[case]
    outputs = tuple(name for node in nodes for name in node.output)
    path = save_model(tmp_path / "m.onnx", nodes, {"x": shape}, constants, outputs, opset=opset)
    with pytest.raises(error, match=says) as caught:
        load_onnx(path)
    assert "\n" not in str(caught.value)


def exported(model: nn.Module, *shape: int, folder: Path) -> tuple[Path, Graph]:
    """The optimized graph of a torch module, seen to compute what the module does."""
    path = folder / "model.onnx"
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    torch.onnx.export(model.eval(), (x,), str(path), dynamo=True, verbose=False, input_names=["x"], output_names=["y"])
    graph = optimize(load_onnx(path))
    found = run_float(graph, {"x": x.numpy()[None]})["y"][0]
    with torch.no_grad():
        wanted = model(x).numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * max(1.0, float(np.abs(wanted).max())))
    return path, graph


class Blocks(nn.Module):
    """What convolutional networks are made of: a strided stem, a depthwise block, a residual, a pooled head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.deep = nn.Sequential(
            nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.Hardswish(), nn.Conv2d(8, 12, 1)
        )
        self.same = nn.Sequential(nn.Conv2d(12, 12, 3, 1, 1), nn.BatchNorm2d(12))
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.deep(self.stem(x))
        x = torch.max_pool2d(torch.relu(x + self.same(x)), 2)
        return self.head(x.mean((2, 3)))


def test_a_network_has_its_channels_last_throughout(tmp_path: Path) -> None:
    """One transposition, of the input; BatchNormalization is gone; the two means are one."""
    _, graph = exported(Blocks(), 1, 3, 16, 16, folder=tmp_path)
    kinds = [node.op.kind for node in graph.nodes if node.op.kind != "Reshape"]
    assert kinds == [
        "Transpose", "Patches", "Linear", "Activation", "DepthwiseConv", "Activation", "Linear", "Patches", "Linear",
        "Add", "Activation", "MaxPool", "ReduceMean", "Linear",
    ]  # fmt: skip
    functions = [node.op.function for node in graph.nodes if isinstance(node.op, Activation)]
    assert functions == ["clip", "hard_swish", "relu"]


def test_a_flattened_image_goes_into_the_weight(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    _, graph = exported(model, 1, 1, 8, 8, folder=tmp_path)
    kinds = [node.op.kind for node in graph.nodes if node.op.kind != "Reshape"]
    assert kinds == ["Patches", "Linear", "Activation", "Linear"]


def test_a_sequence_keeps_its_channels_last(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv1d(5, 8, 5, 2, 2), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 3, 1, 2, dilation=2), nn.ReLU(),
        nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    _, graph = exported(model, 1, 5, 40, folder=tmp_path)
    kinds = [node.op.kind for node in graph.nodes if node.op.kind != "Reshape"]
    assert kinds == [
        "Transpose", "Patches", "Linear", "Activation", "Patches", "Linear", "Activation", "AveragePool",
        "ReduceMean", "Linear",
    ]  # fmt: skip


@pytest.mark.parametrize("scheme", ["float32", "int8", "int8x16", "int4x8"])
def test_a_linear_on_patches_is_written_as_a_convolution(scheme: str, tmp_path: Path) -> None:
    """The exported file has Conv nodes in place of patches, and what it computes is the device's to a few steps."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 6, (3, 2), 1, (1, 0), (1, 2)), nn.GELU(),
        nn.Conv2d(6, 6, 3, 1, 1, groups=6), nn.Flatten(), nn.Linear(144, 7),
    )  # fmt: skip
    _, graph = exported(model, 1, 3, 12, 12, folder=tmp_path)
    x = np.random.default_rng(0).normal(0, 1, (32, 1, 3, 12, 12)).astype(np.float32)
    wanted = run_float(graph, {"x": x})["y"]
    if scheme != "float32":
        chosen = SCHEMES[scheme]
        settings = QuantizeSettings(activations=chosen.activations, weights=chosen.weights)
        graph = quantize(graph, {"x": x}, run_float, settings)
        type_ = graph.types["y"]
        assert type_.quant is not None
        wanted = dequantize(run_integer(lower_graph(graph), {"x": x})["y"], type_.quant)
    written = onnx_bytes(graph)
    kinds = [node.op_type for node in onnx.load_from_string(written).graph.node]
    assert kinds.count("Conv") == 3 and "Pad" not in kinds
    found = run_onnx(written, {"x": x})["y"]
    noise = float(((found - wanted) ** 2).mean() / (wanted**2).mean())
    assert noise < (1e-10 if scheme == "float32" else 1e-4)
    inside = onnx.load_from_string(onnx_bytes(graph, extra_outputs=True))
    assert {"y", *(node.output for node in graph.nodes)} <= {value.name for value in inside.graph.output}
