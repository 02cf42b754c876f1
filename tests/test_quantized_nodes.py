"""Single nodes of quantized files against onnxruntime: blocks, zero points, types; and what is refused of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor, make_tensor_value_info
from onnx.numpy_helper import from_array

import picoformer
from picoformer.backends.onnx.runtime import run_onnx
from picoformer.errors import ModelError, PicoformerError, UnsupportedError
from picoformer.frontends.onnx_integers import Steps, held_weight
from picoformer.importing import import_given
from picoformer.ir import DType
from picoformer.ir.types import BLOCK
from picoformer.ops import Linear, Requantize
from picoformer.quantize import quantize_given
from picoformer.reference import lower_graph, run_float, run_integer

N, K = 12, 80


def chance(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def saved(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any],
    x: tuple[int, ...] = (2, K),
    y: tuple[str, ...] = ("rows", "columns"),
) -> Path:
    stored = [v if isinstance(v, TensorProto) else from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = make_graph(
        nodes, "nodes", [make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [make_tensor_value_info("y", TensorProto.FLOAT, y)], stored,
    )  # fmt: skip
    model = make_model(graph, opset_imports=[make_opsetid("", 21), make_opsetid("com.microsoft", 1)])
    model.ir_version = 10
    onnx.save(model, path)
    return path


def nbits(
    path: Path, bits: int, block: int, zeros: bool, scales: np.ndarray | None = None, lie: dict[str, int] | None = None
) -> Path:
    blocks = -(-K // block)
    packed = chance().integers(0, 256, (N, blocks, block * bits // 8), dtype=np.uint8)
    if scales is None:
        scales = chance(1).uniform(0.5, 2.0, N * blocks).astype(np.float32) * chance(2).choice([-1, 1], N * blocks)
    constants: dict[str, Any] = {"b": packed, "s": scales.astype(np.float32)}
    if zeros:
        constants["z"] = chance(3).integers(0, 256, N * -(-blocks * bits // 8), dtype=np.uint8)
    keys = {"N": N, "K": K, "bits": bits, "block_size": block, **(lie or {})}
    node = make_node("MatMulNBits", ["x", *constants], ["y"], domain="com.microsoft", **keys)
    return saved(path, [node], constants)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("block", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("bits", [4, 8])
def test_matmul_nbits_means_what_it_means_to_onnxruntime(bits: int, block: int, zeros: bool, tmp_path: Path) -> None:
    path = nbits(tmp_path / "m.onnx", bits, block, zeros)
    samples = {"x": chance(4).normal(size=(3, 2, K)).astype(np.float32)}
    graph, given = import_given(path)
    wanted, found = run_onnx(path, samples)["y"], run_float(graph, samples)["y"]
    (type_, _) = next(iter(given.constants.values()))
    exact = block >= K  # one scale a row
    # Exact: sums in another order. Else each weight lies within 1/64 of a step; signs of errors differ.
    limit = 1e-5 if exact else 2e-3
    assert np.abs(found - wanted).max() <= limit * np.abs(wanted).max()
    if exact:
        assert type_.dtype in ((DType.INT8, DType.INT4) if bits == 4 else (DType.INT8, DType.INT16))
    else:
        assert type_.dtype is DType.INT16


def test_blocks_that_share_a_unit_stay_int4(tmp_path: Path) -> None:
    """Scales that are whole multiples of one: the grid of the file is held exactly, by four bits."""
    unit = chance().uniform(0.01, 0.02, (N, 1))
    multiples = chance(1).integers(1, 16, (N, 3))
    steps = chance(2).integers(-7, 8, (N, 96)).astype(np.int8)
    scale = (unit.astype(np.float32).astype(np.float64) * multiples).astype(np.float32)
    constants = {"w": make_tensor("w", TensorProto.INT4, (N, 96), steps.reshape(-1).tolist()), "s": scale}
    nodes = [
        make_node("DequantizeLinear", ["w", "s"], ["f"], axis=1, block_size=32),
        make_node("Transpose", ["f"], ["t"], perm=[1, 0]),
        make_node("MatMul", ["x", "t"], ["y"]),
    ]
    path = saved(tmp_path / "m.onnx", nodes, constants, (2, 96))
    _, given = import_given(path)
    (type_, held) = next(iter(given.constants.values()))
    assert type_.dtype is DType.INT4 and type_.quant is not None
    np.testing.assert_array_equal(held, steps)
    real = np.asarray(type_.quant.scale, np.float64)[:, None] * np.asarray(type_.quant.block_multipliers)
    np.testing.assert_array_equal(real.astype(np.float32), scale)


def test_a_weight_of_the_lowest_integer_needs_sixteen_bits() -> None:
    def refuse(why: str, mend: str) -> Exception:
        return AssertionError(f"{why}; {mend}")

    steps = np.array([[-128, 5, 127]], np.int64)
    held, type_ = held_weight("w", Steps(steps, np.full((1, 3), 0.5, np.float32), 8), refuse)
    assert type_.dtype is DType.INT16
    np.testing.assert_array_equal(held, steps)
    held, type_ = held_weight("w", Steps(steps[:, 1:], np.full((1, 2), 0.5, np.float32), 8), refuse)
    assert type_.dtype is DType.INT8
    np.testing.assert_array_equal(held, steps[:, 1:])


def test_the_unit_of_a_row_is_that_of_its_bias() -> None:
    """Scales of 14 and 7 units are as well 2 and 1 of another: the sums of the file are in steps of the first."""

    def refuse(why: str, mend: str) -> Exception:
        return AssertionError(f"{why}; {mend}")

    unit = np.float32(0.0137)
    scale = np.repeat((np.float64(unit) * np.array([[14, 7]])).astype(np.float32), BLOCK, axis=1)
    weight = Steps(chance().integers(-7, 8, (1, 2 * BLOCK)), scale, 4)
    for hint, multipliers in ((None, ((2, 1),)), (np.array([unit * np.float32(1.0000001)]), ((14, 7),))):
        quant = held_weight("w", weight, refuse, hint)[1].quant
        assert quant is not None and quant.block_multipliers == multipliers


def pair(source: str, scale: str, zero: str, output: str) -> list[onnx.NodeProto]:
    """QuantizeLinear and DequantizeLinear of a value."""
    return [
        make_node("QuantizeLinear", [source, scale, zero], [f"{output}_q"]),
        make_node("DequantizeLinear", [f"{output}_q", scale, zero], [output]),
    ]


@pytest.mark.parametrize("zero", [np.uint8(3), np.uint8(200), np.int8(-20), np.int16(0), np.uint16(32768)])
def test_unsigned_integers_become_signed(zero: Any, tmp_path: Path) -> None:
    scale = np.float32(0.05 if zero.dtype.itemsize == 1 else 2e-4)
    nodes = [*pair("x", "s", "z", "a"), make_node("Tanh", ["a"], ["t"]), *pair("t", "s", "z", "y")]
    path = saved(tmp_path / "m.onnx", nodes, {"s": scale, "z": zero})
    graph, given = import_given(path)
    typed = quantize_given(graph, given)
    shift = {"u": 1 << (8 * zero.dtype.itemsize - 1), "i": 0}[zero.dtype.kind]
    quant = typed.types["x"].quant
    assert quant is not None
    assert (quant.scale[0], quant.zero_point) == (float(scale), int(zero) - shift)
    samples = {"x": (4 * chance().normal(size=(5, 2, K))).astype(np.float32)}
    found = run_integer(lower_graph(typed), samples)["y"].astype(np.int64) - quant.zero_point
    wanted = np.rint(run_onnx(path, samples)["y"] / scale)
    assert np.abs(found - wanted).max() <= (0 if zero.dtype.itemsize == 1 else 1)


def test_a_value_on_two_grids_is_moved_from_its_own(tmp_path: Path) -> None:
    nodes = [
        *pair("x", "s", "z", "a"),
        *pair("a", "t", "z", "b"),
        make_node("Add", ["a", "b"], ["sum"]),
        *pair("sum", "t", "z", "y"),
    ]
    path = saved(tmp_path / "m.onnx", nodes, {"s": np.float32(0.03), "t": np.float32(0.083), "z": np.int8(4)})
    graph, given = import_given(path)
    typed = quantize_given(graph, given)
    assert [type(node.op).__name__ for node in typed.nodes] == ["Requantize", "Add"]
    assert isinstance(typed.nodes[0].op, Requantize)
    samples = {"x": (2 * chance().normal(size=(5, 2, K))).astype(np.float32)}
    found = run_integer(lower_graph(typed), samples)["y"]
    wanted = np.rint(run_onnx(path, samples)["y"] / np.float32(0.083)) + 4
    assert np.abs(found - wanted).max() <= 1 and (found == wanted).mean() > 0.99


def test_integers_may_be_moved_between_a_pair(tmp_path: Path) -> None:
    nodes = [
        make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        make_node("Reshape", ["q", "shape"], ["r"]),
        make_node("Transpose", ["r"], ["t"], perm=[1, 0]),
        make_node("DequantizeLinear", ["t", "s", "z"], ["y"]),
    ]
    constants = {"s": np.float32(0.1), "z": np.uint8(9), "shape": np.array([K, 2], np.int64)}
    path = saved(tmp_path / "m.onnx", nodes, constants)
    graph, given = import_given(path)
    typed = quantize_given(graph, given)
    samples = {"x": chance().normal(size=(3, 2, K)).astype(np.float32)}
    quant = typed.types["y"].quant
    assert quant is not None
    found = (run_integer(lower_graph(typed), samples)["y"].astype(np.float32) - quant.zero_point) * np.float32(0.1)
    np.testing.assert_allclose(found, run_onnx(path, samples)["y"], rtol=1e-6)


def test_a_bias_on_another_grid_is_rounded_to_that_of_the_sums(tmp_path: Path) -> None:
    weight = chance().integers(-127, 128, (K, N)).astype(np.int8)
    bias = chance(1).integers(-9000, 9000, N).astype(np.int32)
    constants = {
        "s": np.float32(0.04), "z": np.int8(-3), "w": weight, "ws": np.full(N, 0.01, np.float32), "b": bias,
        "bs": np.full(N, 0.0007, np.float32), "ys": np.float32(0.3), "yz": np.int8(5),
    }  # fmt: skip
    nodes = [
        *pair("x", "s", "z", "a"),
        make_node("DequantizeLinear", ["w", "ws"], ["wf"], axis=1),
        make_node("DequantizeLinear", ["b", "bs"], ["bf"], axis=0),
        make_node("Gemm", ["a", "wf", "bf"], ["g"]),
        *pair("g", "ys", "yz", "y"),
    ]
    path = saved(tmp_path / "m.onnx", nodes, constants)
    graph, given = import_given(path)
    typed = quantize_given(graph, given)
    node = next(node for node in typed.nodes if isinstance(node.op, Linear))
    np.testing.assert_array_equal(typed.constants[node.inputs[1]], weight.T)
    narrow, input_scale, weight_scale = (np.float64(np.float32(scale)) for scale in (0.0007, 0.04, 0.01))
    real = (bias * narrow).astype(np.float32)  # what DequantizeLinear gives
    np.testing.assert_array_equal(typed.constants[node.inputs[2]], np.rint(real / (input_scale * weight_scale)))
    samples = {"x": (2 * chance(2).normal(size=(8, 2, K))).astype(np.float32)}
    found = run_integer(lower_graph(typed), samples)["y"]
    wanted = np.rint(run_onnx(path, samples)["y"] / np.float32(0.3)) + 5
    assert np.abs(found - wanted).max() <= 1


def test_a_bias_on_the_grid_of_the_sums_is_kept_to_the_last_bit(tmp_path: Path) -> None:
    """Integers past 24 bits, which float32 would round."""
    bias = (1 << 25) + 1 + 2 * np.arange(N, dtype=np.int32)
    scales = np.full(N, np.float32(0.04) * np.float32(0.01), np.float32)
    constants = {
        "s": np.float32(0.04), "z": np.int8(-3), "w": np.ones((K, N), np.int8), "ws": np.full(N, 0.01, np.float32),
        "b": bias, "bs": scales, "ys": np.float32(200.0), "yz": np.int8(5),
    }  # fmt: skip
    nodes = [
        *pair("x", "s", "z", "a"),
        make_node("DequantizeLinear", ["w", "ws"], ["wf"], axis=1),
        make_node("DequantizeLinear", ["b", "bs"], ["bf"], axis=0),
        make_node("Gemm", ["a", "wf", "bf"], ["g"]),
        *pair("g", "ys", "yz", "y"),
    ]
    typed = quantize_given(*import_given(saved(tmp_path / "m.onnx", nodes, constants)))
    node = next(node for node in typed.nodes if isinstance(node.op, Linear))
    np.testing.assert_array_equal(typed.constants[node.inputs[2]], bias)


SCALED = {"s": np.float32(0.1), "t": np.float32(0.2), "z": np.int8(0)}
FAR = np.where(np.arange(N * 5) % 5 == 0, 1e-6, 1.0)
REFUSED: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], str]] = {
    "a pair of two scales": (
        [make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), make_node("DequantizeLinear", ["q", "t", "z"], ["y"])],
        SCALED, r"'q'.*other parameters.*same scale and zero point",
    ),
    "a scale of zero": (pair("x", "s", "z", "y"), {**SCALED, "s": np.float32(0)}, r"'x?y_q'.*positive.*calibrate"),
    "an infinite scale": (pair("x", "s", "z", "y"), {**SCALED, "s": np.float32(np.inf)}, r"infinity"),
    "activations in blocks": (
        [make_node("QuantizeLinear", ["x", "s"], ["q"], axis=1, block_size=16),
         make_node("DequantizeLinear", ["q", "s"], ["y"], axis=1, block_size=16)],
        {"s": np.full((2, K // 16), 0.1, np.float32)}, r"in blocks.*one scale",
    ),
    "a convolution that is none over patches": (
        [make_node("Reshape", ["x", "shape"], ["r"]), make_node("DequantizeLinear", ["w", "s"], ["f"]),
         make_node("Conv", ["r", "f"], ["y"], kernel_shape=[2, 2])],
        {"s": np.float32(0.1), "w": np.ones((3, 1, 2, 2), np.int8), "shape": np.array([1, 1, 8, 20], np.int64)},
        r"integer weights.*whole patches.*op_types_to_quantize",
    ),
    "scales found at run time": (
        [make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
         make_node("DequantizeLinear", ["q", "s", "z"], ["y"])], {}, r"run time.*quantize_static",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_says_what_would_mend_it(case: str, tmp_path: Path) -> None:
    nodes, constants, says = REFUSED[case]
    with pytest.raises(PicoformerError, match=says) as caught:
        ranks = ("n", "c", "h", "w") if "Conv" in {node.op_type for node in nodes} else ("rows", "columns")
        import_given(saved(tmp_path / "m.onnx", nodes, constants, y=ranks))
    assert "\n" not in str(caught.value)


def test_blocks_that_lie_too_far_apart_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"weight 'b'.*too far apart.*--scheme int4x8"):
        import_given(nbits(tmp_path / "m.onnx", 4, 16, False, FAR))


@pytest.mark.parametrize("lie", [{"N": 13}, {"K": 200}, {"block_size": 3}, {"bits": 3}, {"N": 0}, {"K": 1 << 40}])
def test_sizes_that_lie(lie: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises((ModelError, UnsupportedError), match="MatMulNBits") as caught:
        import_given(nbits(tmp_path / "m.onnx", 4, 16, True, lie=lie))
    assert "\n" not in str(caught.value)


def test_integers_of_another_size_than_they_say(tmp_path: Path) -> None:
    short = TensorProto(name="w", data_type=TensorProto.INT8, dims=[K, N], raw_data=b"123")
    nodes = [make_node("DequantizeLinear", ["w", "s"], ["f"]), make_node("MatMul", ["x", "f"], ["y"])]
    with pytest.raises(ModelError) as caught:
        import_given(saved(tmp_path / "m.onnx", nodes, {"w": short, "s": np.float32(0.1)}))
    assert "\n" not in str(caught.value)


def test_a_float_layer_whose_relu_a_grid_took_up_can_be_calibrated(tmp_path: Path) -> None:
    """The float graph has the ReLU, the integers its clamp: what weights and values cost is still measured."""
    grid = {"s": np.float32(0.05), "z": np.uint8(0)}
    path = saved(
        tmp_path / "relu.onnx",
        [
            make_node("Gemm", ["x", "w", "c"], ["raw"], transB=1),
            make_node("QuantizeLinear", ["raw", "s", "z"], ["q"]),
            make_node("DequantizeLinear", ["q", "s", "z"], ["h"]),
            make_node("Gemm", ["h", "v"], ["y"], transB=1),
        ],
        {"w": chance().normal(0, 0.2, (N, K)).astype(np.float32), "c": np.zeros(N, np.float32),
         "v": chance(1).normal(0, 0.3, (N, N)).astype(np.float32), **grid},
    )  # fmt: skip
    samples = {"x": chance(2).normal(0, 1, (16, 2, K)).astype(np.float32)}
    picoformer.build(path, calibration=samples, target="host", out=tmp_path / "out")
    found = picoformer.verify(tmp_path / "out", inputs=samples)
    assert found.report.passed, found.report.failures
