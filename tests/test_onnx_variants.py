"""Quantized ONNX in every spelling: what onnxruntime and its tools make of it, and that it comes back equal."""

from __future__ import annotations

import contextlib
import functools
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from command_line import refuses, succeeds
from digits_student import trained
from onnxruntime_quantizer import quantized
from picoformer.backends.onnx.export import export_onnx, onnx_bytes
from picoformer.backends.onnx.nbits import packed_blocks
from picoformer.backends.onnx.runtime import run_onnx
from picoformer.backends.onnx.writer import Spelling
from picoformer.files import save_arrays
from picoformer.importing import import_given, import_model
from picoformer.ir import DType, Graph, QuantParams
from picoformer.ir.types import BLOCK
from picoformer.ops.fixedpoint import dequantize
from picoformer.qdq_comparison import compare_qdq
from picoformer.quantize import SCHEMES, QuantizeSettings, quantize, quantize_given
from picoformer.reference import lower_graph, run_float, run_integer

SPELLINGS = {
    "signed": Spelling(),
    "unsigned": Spelling(unsigned_activations=True),
    "MatMulNBits": Spelling(matmul_nbits=True),
    "both": Spelling(unsigned_activations=True, matmul_nbits=True),
}
VARIANTS = [
    (scheme, spelling)
    for scheme in SCHEMES
    for spelling in SPELLINGS
    if (spelling != "unsigned" or scheme.endswith("8")) and ("int4" in scheme or "N" not in spelling)
    and (spelling != "both" or scheme == "int4x8")
]  # fmt: skip
LEAST_SQNR_DB = {"int8": 35.0, "int4x8": 35.0, "int8x16": 50.0, "int4x16": 50.0}
"""onnxruntime with no optimization against our integers: it rounds scores and numerators of a softmax nowhere."""
LEAST_AGREEMENT = 0.95
"""Of 40 digits two may lie so near to a boundary that a rounding moves them over it."""


@functools.cache
def typed(scheme: str) -> Graph:
    student, of = trained(), SCHEMES[scheme]
    settings = QuantizeSettings(
        weights=of.weights, activations=of.activations, rounding="nearest", widen=0.0, bias_correction=False
    )
    return quantize(import_model(student.onnx), student.calibration, run_float, settings)


@functools.cache
def reference(scheme: str) -> dict[str, np.ndarray]:
    return run_integer(lower_graph(typed(scheme)), trained().test)


def logits(scheme: str) -> np.ndarray:
    quant = typed(scheme).types["logits"].quant
    assert quant is not None
    return dequantize(reference(scheme)["logits"], quant)


def agreement(wanted: np.ndarray, found: np.ndarray) -> float:
    return float((wanted.argmax(-1) == found.argmax(-1)).mean())


def sqnr(wanted: np.ndarray, found: np.ndarray) -> float:
    error = float(np.square(wanted - found).sum())
    return float(10 * np.log10(np.square(wanted).sum() / error)) if error else float("inf")


def optimized(model: Path | bytes, **config: str) -> np.ndarray:
    """Logits of onnxruntime with all optimizations on."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    for key, value in config.items():
        options.add_session_config_entry(f"session.{key}", value)
    source = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return np.stack([session.run(["logits"], {"x": x})[0] for x in trained().test["x"]])


@pytest.mark.parametrize(("scheme", "spelling"), VARIANTS)
def test_what_goes_out_comes_back_equal(scheme: str, spelling: str, tmp_path: Path) -> None:
    """Every value of the graph under its name, not the outputs alone; and onnxruntime agrees with the integers."""
    path = tmp_path / "q.onnx"
    export_onnx(typed(scheme), path, spelling=SPELLINGS[spelling])
    graph, given = import_given(path)
    back = quantize_given(graph, given)
    assert {name: back.types[name] for name in back.outputs} == {
        name: typed(scheme).types[name] for name in back.outputs
    }
    found = run_integer(lower_graph(back), trained().test)
    assert set(found) == set(reference(scheme))
    for name, value in reference(scheme).items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    theirs = run_onnx(path, trained().test)["logits"]
    assert sqnr(logits(scheme), theirs) > LEAST_SQNR_DB[scheme]
    assert agreement(theirs, logits(scheme)) >= LEAST_AGREEMENT


@pytest.mark.parametrize(("scheme", "spelling"), VARIANTS)
def test_optimizations_load_and_keep_the_labels(scheme: str, spelling: str) -> None:
    """Signed 8-bit files ask for `qdqisint8allowed`, which is the default on Arm: without it onnxruntime 1.32 makes
    half of the pairs that it adds on x86 unsigned, and refuses its own graph."""
    data = onnx_bytes(typed(scheme), spelling=SPELLINGS[spelling])
    is_signed = scheme.endswith("8") and not SPELLINGS[spelling].unsigned_activations
    theirs = optimized(data, **({"qdqisint8allowed": "1"} if is_signed else {}))
    # With weights of 8 bits it rounds activations of 16 to 8, unless told not to.
    assert sqnr(logits(scheme), theirs) > 30
    assert agreement(theirs, logits(scheme)) >= LEAST_AGREEMENT
    if scheme == "int8x16":
        assert sqnr(logits(scheme), optimized(data, qdq_matmulnbits_accuracy_level="1")) > LEAST_SQNR_DB[scheme]


def test_unsigned_activations_are_the_same_numbers() -> None:
    signed, unsigned = (
        onnx.load_from_string(onnx_bytes(typed("int8"), spelling=SPELLINGS[name])) for name in ("signed", "unsigned")
    )
    kinds = {name: {t.name: t.data_type for t in m.graph.initializer} for name, m in (("s", signed), ("u", unsigned))}
    points = {node.input[2] for node in unsigned.graph.node if node.op_type == "QuantizeLinear"}
    assert onnx.TensorProto.UINT8 in {kinds["u"][name] for name in points}
    assert onnx.TensorProto.INT8 not in {kinds["u"][name] for name in points}
    assert onnx.TensorProto.UINT8 not in set(kinds["s"].values())
    first, second = (run_onnx(m.SerializeToString(), trained().test)["logits"] for m in (signed, unsigned))
    np.testing.assert_array_equal(first, second)


def test_int4_blocks_as_onnxruntime_packs_them() -> None:
    """Against its own quantizer's kernel: a file with our packed blocks multiplies as the numbers say."""
    generator = np.random.default_rng(0)
    weight = generator.integers(-7, 8, (5, 70)).astype(np.int8)
    multipliers = tuple(map(tuple, generator.integers(1, 16, (5, 3)).tolist()))
    quant = QuantParams(tuple(generator.uniform(0.01, 0.1, 5).tolist()), 0, -2, multipliers)
    packed, scales = packed_blocks(weight, quant)
    assert packed.shape == (5, 3, BLOCK // 2) and scales.shape == (15,)
    node = onnx.helper.make_node(
        "MatMulNBits", ["x", "b", "s"], ["y"], domain="com.microsoft", N=5, K=70, bits=4, block_size=BLOCK
    )
    value = functools.partial(onnx.helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT)
    graph = onnx.helper.make_graph(
        [node], "n", [value("x", shape=(2, 70))], [value("y", shape=(2, 5))],
        [onnx.numpy_helper.from_array(packed, "b"), onnx.numpy_helper.from_array(scales, "s")],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    x = generator.normal(size=(1, 2, 70)).astype(np.float32)
    np.testing.assert_allclose(
        run_onnx(model.SerializeToString(), {"x": x})["y"][0], x[0] @ dequantize(weight, quant).T, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("spelling", ["unsigned", "both"])
def test_onnxruntimes_own_format(spelling: str, tmp_path: Path) -> None:
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

    scheme = "int8" if spelling == "unsigned" else "int4x8"
    export_onnx(typed(scheme), tmp_path / "q.onnx", spelling=SPELLINGS[spelling])
    with contextlib.redirect_stdout(io.StringIO()):
        convert_onnx_models_to_ort(
            tmp_path / "q.onnx", output_dir=tmp_path, optimization_styles=[OptimizationStyle.Fixed]
        )
    theirs = optimized(tmp_path / "q.ort")
    assert agreement(theirs, logits(scheme)) >= LEAST_AGREEMENT


def test_our_float_file_goes_through_their_quantizer(tmp_path: Path) -> None:
    """quant_pre_process, then quantize_static on the float file of `export`, and its result comes in again."""
    export_onnx(import_model(trained().onnx), tmp_path / "float.onnx")
    path = quantized(tmp_path / "float.onnx", tmp_path / "q.onnx", trained().calibration, per_channel=True)
    found = compare_qdq(path, {name: value[:8] for name, value in trained().test.items()})
    assert all(row.within_one >= 0.999 for row in found.rows if not row.inner)
    assert found.agreement == 1.0


def test_export_command(tmp_path: Path) -> None:
    samples = tmp_path / "samples.npz"
    save_arrays(samples, trained().calibration)
    base: list[Any] = ["export", trained().onnx, "--calibration", samples, "--widen", "0"]
    path = tmp_path / "q.onnx"
    for _ in range(2):  # the same bytes each time
        before = path.read_bytes() if path.exists() else b""
        succeeds(*base, "--scheme", "int4x8", "--unsigned-activations", "--matmul-nbits", "-o", path)
        assert before in (b"", path.read_bytes())
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    kinds = {node.op_type for node in model.graph.node}
    assert "MatMulNBits" in kinds
    stored = {tensor.data_type for tensor in model.graph.initializer}
    assert onnx.TensorProto.UINT8 in stored and onnx.TensorProto.INT4 not in stored
    noted = {entry.key: entry.value for entry in model.metadata_props}
    assert noted["scheme"] == "int4x8" and len(noted["source_sha256"]) == 64
    refuses(
        [*base, "--unsigned-activations", "--scheme", "float32", "-o", tmp_path / "other"], "spell a quantized file"
    )
    refuses([*base, "--format", "c", "--matmul-nbits", "-o", tmp_path / "other"], "--matmul-nbits says nothing about")
    assert not (tmp_path / "other").exists()


def test_weights_without_blocks_are_packed_too() -> None:
    of = SCHEMES["int4x8"]
    settings = QuantizeSettings(
        weights=of.weights, activations=of.activations, rounding="nearest", widen=0.0, bias_correction=False, block=0
    )
    graph = quantize(import_model(trained().onnx), trained().calibration, run_float, replace(settings))
    assert not any(t.quant.block_multipliers for t in graph.types.values() if t.quant and t.dtype is DType.INT4)
    plain, packed = (
        run_onnx(onnx_bytes(graph, spelling=SPELLINGS[name]), trained().test)["logits"]
        for name in ("signed", "MatMulNBits")
    )
    assert sqnr(plain, packed) > 30  # sums in another order, rounded to a grid on the way
