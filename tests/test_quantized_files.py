"""Files that come quantized: their grids are kept, every operator is onnxruntime's to within a step, no data needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import picoformer
from digits_student import Student, trained
from onnx_spelling import spell_out
from onnxruntime_quantizer import EIGHT_BITS, SIXTEEN_BITS, quantized
from picoformer.errors import ConfigError, DataError
from picoformer.files import save_arrays
from picoformer.importing import import_given
from picoformer.ir import DType
from picoformer.ops import Linear
from picoformer.ops.fixedpoint import dequantize
from picoformer.qdq_comparison import compare_qdq
from picoformer.quantize import QuantizeSettings, quantize_given
from picoformer.reference import lower_graph, run_float, run_integer


@pytest.fixture(scope="module")
def student() -> Student:
    """With few samples: each operator is a run of its own for every one."""
    whole = trained()
    return replace(whole, test={name: value[:8] for name, value in whole.test.items()})


OFTEN = ("S8S8 per channel", "U8U8 per channel", "a pair for each reader", "S8S4", "QOperator")
"""What a quick run looks at: a file of each kind that is read in another way."""


@pytest.mark.parametrize(
    "variant", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in EIGHT_BITS]
)
def test_every_operator_is_that_of_onnxruntime(variant: str, student: Student, tmp_path: Path) -> None:
    path = quantized(student.onnx, tmp_path / "q.onnx", student.calibration, **EIGHT_BITS[variant])
    found = compare_qdq(path, student.test)
    kinds = {row.operator for row in found.rows}
    assert {"input", "Linear", "Add", "LayerNorm", "Attention", "Activation"} <= kinds, "operators are missing"
    for row in found.rows:
        if not row.inner:
            assert row.within_one >= 0.999, f"{row.value} ({row.operator}): {row.within_one:.3%} within one step"
    assert found.sqnr_db > 25 and found.agreement == 1.0


def test_integers_and_grids_are_those_of_the_file(student: Student, tmp_path: Path) -> None:
    import onnx
    import onnx.numpy_helper

    path = quantized(student.onnx, tmp_path / "q.onnx", student.calibration, activation_type=EIGHT_BITS[
        "U8S8 per channel"]["activation_type"], per_channel=True)  # fmt: skip
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    graph, given = import_given(path)
    typed = quantize_given(graph, given)
    first = next(node for node in typed.nodes if isinstance(node.op, Linear))
    weight = typed.constants[first.inputs[1]]
    np.testing.assert_array_equal(weight, stored["embedding.frames.weight_quantized"].T)
    np.testing.assert_array_equal(typed.constants[first.inputs[2]], stored["embedding.frames.bias_quantized"])
    quant = typed.types["logits"].quant
    assert quant is not None
    assert quant.scale == (float(stored["logits_scale"]),)
    assert quant.zero_point == int(stored["logits_zero_point"]) - 128  # uint8 as int8
    assert set(given.values) >= {"x", "logits", "embedding.add", "layers.0.add", "reducemean"}


@pytest.mark.parametrize("variant", SIXTEEN_BITS)
def test_sixteen_bits(variant: str, student: Student, tmp_path: Path) -> None:
    path = quantized(student.onnx, tmp_path / "q.onnx", student.calibration, **SIXTEEN_BITS[variant])
    found = compare_qdq(path, student.test)
    assert found.agreement == 1.0
    assert found.sqnr_db > (50 if "symmetric" in variant else 40)  # int8 files are near 30
    for row in found.rows if "symmetric" in variant else ():  # others clip where the file does not: grids are symmetric
        if row.operator in ("Add", "ReduceMean", "LayerNorm"):
            assert row.within_one >= 0.99, f"{row.value} ({row.operator}): {row.within_one:.3%}"
        if row.operator == "Linear":  # its multipliers have 16 bits: 17/65536 of a value, 9 steps of 32768 at most
            assert row.largest <= 10, f"{row.value}: {row.largest} steps"


def test_norms_and_gelus_that_are_spelled_out(student: Student, tmp_path: Path) -> None:
    """An old exporter's file: grids inside a norm fall away, that of its result stays."""
    old = spell_out(student.onnx, tmp_path / "old.onnx", opset=13)
    path = quantized(old, tmp_path / "q.onnx", student.calibration, per_channel=True)
    found = compare_qdq(path, student.test)
    plain = [row for row in found.rows if not row.inner]
    assert sum(row.operator == "LayerNorm" for row in plain) == 5
    assert sum(row.operator == "Activation" for row in plain) == 2
    assert all(row.within_one >= 0.999 for row in plain)
    assert {row.operator for row in found.rows if row.inner} == {"LayerNorm", "Activation", "Attention"}


@pytest.mark.parametrize("target", [pytest.param("host", marks=pytest.mark.slow), "mps2-an386"])
def test_firmware_without_calibration(
    target: str, student: Student, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Asymmetric activations and weights of 16 bits on the host, symmetric weights on a board: equal bytes."""
    if target != "host":
        request.getfixturevalue("arm_tools")
    variant = EIGHT_BITS["U8U8 per channel" if target == "host" else "S8S8 per channel"]
    path = quantized(student.onnx, tmp_path / "q.onnx", student.calibration, **variant)
    build = picoformer.build(path, target=target, out=tmp_path / "out")
    assert build.manifest.given and build.manifest.scheme == "int8"
    found = picoformer.verify(tmp_path / "out", inputs=student.test, samples=3).report
    assert found.passed, found.failures
    links = {(link.source, link.to): link for link in found.links}
    assert links["reference", "host"].equal
    assert target == "host" or links["host", target].equal
    given = links["given onnx", "reference"]
    assert given.sqnr_db is not None and given.sqnr_db > 25
    assert given.top1_agreement == 1.0


def test_values_without_a_grid(student: Student, tmp_path: Path) -> None:
    """Products alone are quantized: what the file leaves out gets the range its operands allow, or that data has."""
    path = quantized(
        student.onnx, tmp_path / "q.onnx", student.calibration, per_channel=True, op_types_to_quantize=["MatMul"],
        preprocess=False,
    )  # fmt: skip
    graph, given = import_given(path)
    left_out = [node.output for node in graph.nodes if node.output not in given.values]
    assert any(node.op.kind == "LayerNorm" for node in graph.nodes) and left_out
    wanted = run_float(graph, student.test)["logits"]
    for calibration in (None, student.calibration):
        typed = quantize_given(graph, given, calibration, run_float)
        assert all(typed.types[name].dtype is DType.INT16 for name in left_out if "reshape" not in name)
        quant = typed.types["logits"].quant
        assert quant is not None
        found = dequantize(run_integer(lower_graph(typed), student.test)["logits"], quant)
        sqnr = 10 * np.log10(np.square(wanted).sum() / np.square(wanted - found).sum())
        assert sqnr > 20, f"{sqnr:.1f} dB"
        np.testing.assert_array_equal(found.argmax(-1), wanted.argmax(-1))


def test_what_would_change_the_grids_is_refused(student: Student, tmp_path: Path) -> None:
    path = quantized(student.onnx, tmp_path / "q.onnx", student.calibration, **SIXTEEN_BITS["S16S8 symmetric"])
    with pytest.raises(ConfigError, match=r"quantized as int8x16.*--scheme int8x16"):
        picoformer.build(path, scheme="int8", out=tmp_path / "out")
    settings = QuantizeSettings(budget=10_000)
    with pytest.raises(ConfigError, match="--budget"):
        picoformer.build(path, scheme="int8x16", settings=settings, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_alone(student: Student, tmp_path: Path) -> None:
    """MatMulNBits: weights keep the integers of the file, activations are calibrated here."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(student.onnx), bits=4, block_size=32, is_symmetric=False)
    quantizer.process()
    path = tmp_path / "q.onnx"
    onnx.save(quantizer.model.model, path)
    with pytest.raises(DataError, match="--calibration"):
        picoformer.build(path, out=tmp_path / "out")
    graph, given = import_given(path)
    samples = tmp_path / "samples.npz"
    save_arrays(samples, student.calibration)
    settings = QuantizeSettings(widen=0.0)
    typed = picoformer.quantize_model(path, calibration=samples, settings=settings)
    kept = [name for name in given.constants if name in typed.constants]
    assert len(kept) == len(given.constants) == 13
    for name in kept:
        np.testing.assert_array_equal(typed.constants[name], given.constants[name][1])
    found = run_integer(lower_graph(typed), student.test)["logits"]
    wanted = run_float(graph, student.test)["logits"]
    np.testing.assert_array_equal(found.argmax(-1), wanted.argmax(-1))


class Block(torch.nn.Module):
    """One layer of an encoder with a head, as anybody writes it."""

    def __init__(self) -> None:
        super().__init__()
        nn = torch.nn
        self.embed, self.head = nn.Linear(8, 16), nn.Linear(16, 5)
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.first, self.second = nn.LayerNorm(16), nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        y = self.first(x)
        q, k, v = (m(y).reshape(1, 6, 2, 8).transpose(1, 2) for m in (self.query, self.key, self.value))
        weights = torch.softmax(q @ k.transpose(-1, -2) * 8**-0.5, -1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(1, 6, 16))
        x = x + self.down(torch.nn.functional.gelu(self.up(self.second(x))))
        logits: torch.Tensor = self.head(x.mean(1))
        return logits


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", ["xnnpack", "x86"])
def test_exports_of_torchao(quantizer: str, tmp_path: Path) -> None:
    """PT2E: one quantizer gives every value a grid, the other only what products read."""
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.testing.pt2e._xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

    torch.manual_seed(0)
    example = (torch.randn(1, 6, 8),)
    rule = (
        XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
        if quantizer == "xnnpack"
        else x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    )
    prepared = prepare_pt2e(torch.export.export(Block().eval(), example).module(), rule)
    for _ in range(16):
        prepared(torch.randn(1, 6, 8))
    program = torch.export.export(convert_pt2e(prepared), example)
    exported = torch.onnx.export(program, example, dynamo=True, opset_version=20, verbose=False)
    assert exported is not None
    exported.save(str(tmp_path / "q.onnx"))
    found = compare_qdq(
        tmp_path / "q.onnx", {"x": np.random.default_rng(0).normal(size=(8, 1, 6, 8)).astype(np.float32)}
    )
    kinds = {row.operator for row in found.rows}
    wanted = {"Linear", "Add", "Attention", "Activation"} if quantizer == "xnnpack" else {"Attention", "Activation"}
    assert wanted <= kinds
    assert all(row.within_one >= 0.999 for row in found.rows if not row.inner)
    assert found.sqnr_db > 25
