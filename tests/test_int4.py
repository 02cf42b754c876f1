"""int4 weights: their type and files, scales and blocks, packing, and the integers of whole graphs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from picoformer.backends.c import emit_c
from picoformer.backends.c.isa import layout_of
from picoformer.backends.onnx.export import onnx_bytes
from picoformer.backends.onnx.runtime import run_onnx
from picoformer.errors import ConfigError, ModelError
from picoformer.ir import DType, Graph, QuantParams, TensorType, verify
from picoformer.ir.operator import LoweringError, Operand
from picoformer.ir.verify import GraphError
from picoformer.ops import Linear
from picoformer.ops.fixedpoint import dequantize
from picoformer.ops.graph_file import graph_identity, load_graph, save_graph
from picoformer.quantize import QuantizeSettings, quantize
from picoformer.quantize.int4 import element_scales, quantize_int4
from picoformer.quantize.rounding import gptq
from picoformer.reference import lower_graph, run_float, run_integer
from test_quantize import Builder, block, samples
from test_rounding import correlated, hessian

INT4 = QuantizeSettings(weights=DType.INT4)


def linears(graph: Graph) -> dict[str, TensorType]:
    """Output of each Linear → the type of its weight."""
    return {node.output: graph.types[node.inputs[1]] for node in graph.nodes if isinstance(node.op, Linear)}


def long_rows(bias: bool = True) -> Graph:
    """Three Linears in a line, the middle one of 9 × 70 with int4 weights in three blocks, the last of 6."""
    rng = np.random.default_rng(3)
    b = Builder(x=(1, 5, 12))
    middle = b.linear(b.linear("x", 70, "first", rng), 9, "middle", rng)
    if not bias:
        b.nodes[-1] = type(b.nodes[-1])("middle", Linear(), b.nodes[-1].inputs[:2], "middle")
        del b.types["middle.b"], b.constants["middle.b"]
    return b.graph(b.linear(middle, 4, "last", rng))


def data(count: int = 64) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(8).normal(0, 1, (count, 1, 5, 12)).astype(np.float32)}


def test_bytes_count_two_to_a_byte_and_a_byte_a_block() -> None:
    assert DType.INT4.bits == 4 and (DType.INT4.minimum, DType.INT4.maximum) == (-8, 7)
    assert TensorType((3, 7), DType.INT4).bytes == 3 * 4  # each row starts at a byte
    quant = QuantParams((0.1, 0.2), 0, -2, ((1, 2, 3), (4, 5, 15)))
    assert TensorType((2, 70), DType.INT4, quant).bytes == 2 * 35 + 6
    assert TensorType((2, 70), DType.INT16).bytes == 280
    with pytest.raises(ValueError, match="half a byte"):
        _ = DType.INT4.bytes


@pytest.mark.parametrize(
    ("axis", "multipliers"),
    [(-1, ((1,), (1,))), (-2, ((1,),)), (-2, ((1,), (16,))), (-2, ((1,), (0,))), (-2, ((1,), (1, 2))), (-2, ((), ()))],
)
def test_block_multipliers_that_make_no_sense_are_refused(axis: int, multipliers: Any) -> None:
    with pytest.raises(ValueError, match="block multipliers"):
        QuantParams((0.1, 0.2), 0, axis, multipliers)


def test_a_block_multiplier_stands_for_its_32_elements() -> None:
    quant = QuantParams((0.5, 0.25), 0, -2, ((1, 3), (2, 15)))
    real = dequantize(np.full((2, 40), -2, np.int8), quant)
    assert real[0].tolist() == [-1.0] * 32 + [-3.0] * 8
    assert real[1].tolist() == [-1.0] * 32 + [-7.5] * 8


def test_a_graph_keeps_its_int4_weights_in_a_file(tmp_path: Path) -> None:
    typed = quantize(long_rows(), data(), run_float, INT4)
    assert linears(typed)["middle"].quant.block_multipliers  # type: ignore[union-attr]
    save_graph(typed, tmp_path)
    again = load_graph(tmp_path)
    assert dict(again.types) == dict(typed.types) and graph_identity(again) == graph_identity(typed)


def _multiplier(record: dict[str, Any]) -> None:
    record["types"]["middle.w"]["quant"]["block_multipliers"][0][1] = 16


def _block_count(record: dict[str, Any]) -> None:
    for row in record["types"]["middle.w"]["quant"]["block_multipliers"]:
        row.append(1)


def _text(record: dict[str, Any]) -> None:
    record["types"]["middle.w"]["quant"]["block_multipliers"] = "many"


def _activation(record: dict[str, Any]) -> None:
    record["types"]["middle"]["dtype"] = "s4"


def _range(record: dict[str, Any]) -> None:
    record["types"]["first.w"]["dtype"] = "s4"


@pytest.mark.parametrize("harm", [_multiplier, _block_count, _text, _activation, _range])
def test_hostile_files_are_refused_in_one_line(harm: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    save_graph(quantize(long_rows(), data(), run_float, INT4), tmp_path)
    record = json.loads((tmp_path / "graph.json").read_text())
    harm(record)
    (tmp_path / "graph.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match="not a graph of this program"):
        load_graph(tmp_path)


def test_verify_names_what_is_wrong_with_int4() -> None:
    typed = quantize(long_rows(), data(), run_float, INT4)
    wrong = {**typed.constants, "middle.w": np.full((9, 70), 8, np.int8)}
    with pytest.raises(GraphError, match=r"'middle.w' is s4\[9,70\] and holds numbers outside -8 to 7"):
        verify(typed.replace(constants=wrong))


def test_int8_weights_take_no_block_multipliers() -> None:
    quant = QuantParams((0.1,) * 2, 0, -2, ((3,), (4,)))
    weight = Operand(TensorType((2, 3), DType.INT8, quant), np.ones((2, 3), np.int8))
    x, y = (TensorType((1, k), DType.INT8, QuantParams((0.1,))) for k in (3, 2))
    with pytest.raises(LoweringError, match="no block multipliers"):
        Linear().lower((Operand(x), weight), y)


def loss(weight: np.ndarray, steps: np.ndarray, quant: QuantParams) -> float:
    return float(np.square(weight - steps * element_scales(quant, weight.shape)).sum())


def test_scales_lose_less_than_those_that_reach_the_largest_weight() -> None:
    weight = np.random.default_rng(0).standard_t(4, (20, 96))
    whole, blocks = (quantize_int4(weight, None, size) for size in (0, 32))
    largest = np.abs(weight).max(axis=1, keepdims=True) / 7
    plain = np.square(weight - np.rint(weight / largest) * largest).sum()
    assert loss(weight, *whole) < 0.9 * plain
    assert loss(weight, *blocks) < 0.7 * loss(weight, *whole)
    for steps, quant in (whole, blocks):
        assert steps.dtype == np.int8 and np.abs(steps).max() == 7
        nearest = np.rint(weight / element_scales(quant, weight.shape))
        assert np.array_equal(steps, np.clip(nearest, -7, 7))
    assert max(map(max, blocks[1].block_multipliers)) == 15 and not whole[1].block_multipliers


def test_short_rows_need_no_blocks_and_dead_ones_do_no_harm() -> None:
    weight = np.random.default_rng(0).normal(0, 1, (4, 33))
    assert not quantize_int4(weight[:, :32])[1].block_multipliers
    assert len(quantize_int4(weight)[1].block_multipliers[0]) == 2
    weight[1], weight[2, :32] = 0, 0
    for size in (0, 32):
        steps, quant = quantize_int4(weight, None, size)
        assert not steps[1].any() and not steps[2, :32].any() and min(quant.scale) >= 2.0**-12 * max(quant.scale) / 15
        steps, quant = quantize_int4(np.zeros((2, 40)), None, size)
        assert not steps.any()


def test_a_floor_under_the_scales_is_kept() -> None:
    weight = np.random.default_rng(0).normal(0, 1, (3, 64))
    for size in (0, 32):
        free, held = quantize_int4(weight, None, size)[1], quantize_int4(weight, np.array([0.0, 0.11, 0.5]), size)[1]
        assert held.scale[0] == free.scale[0] and held.scale[2] == 0.5
        assert held.scale[1] >= np.float32(0.11)


@pytest.mark.parametrize("size", [0, 32])
def test_gptq_keeps_each_weight_on_its_own_scale(size: int) -> None:
    weight = np.random.default_rng(5).normal(0, 0.3, (12, 70)) * np.repeat([1.0, 0.2, 3.0], [32, 32, 6])
    nearest, quant = quantize_int4(weight, None, size)
    scales, x = element_scales(quant, weight.shape), correlated(400, 70)
    chosen = gptq(weight, scales, hessian(x), 7)
    errors = [np.square(x @ (weight - steps * scales).T).sum() for steps in (chosen, nearest)]
    assert np.abs(chosen).max() == 7 and errors[0] < 0.6 * errors[1]
    on_a_diagonal = gptq(weight, scales, np.eye(70), 7)
    assert np.array_equal(on_a_diagonal, nearest)


def test_the_ends_and_what_is_asked_for_stay_int8() -> None:
    graph = long_rows()
    kinds = {name: type_.dtype for name, type_ in linears(quantize(graph, data(), run_float, INT4)).items()}
    assert kinds == {"first": DType.INT8, "middle": DType.INT4, "last": DType.INT8}
    settings = QuantizeSettings(weights=DType.INT4, weight_types={"middle.w": DType.INT8, "last.w": DType.INT4})
    kinds = {name: type_.dtype for name, type_ in linears(quantize(graph, data(), run_float, settings)).items()}
    assert kinds == {"first": DType.INT8, "middle": DType.INT8, "last": DType.INT4}
    inside = {type_.dtype for type_ in linears(quantize(block(), samples(), run_float, INT4)).values()}
    assert inside == {DType.INT4, DType.INT8}


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="a block of 16"):
        QuantizeSettings(block=16)
    with pytest.raises(ConfigError, match="weights are int16, int8 or int4"):
        QuantizeSettings(weight_types={"a.w": DType.INT32})


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
@pytest.mark.parametrize("activations", [DType.INT8, DType.INT16])
@pytest.mark.parametrize("size", [0, 32])
def test_a_graph_with_int4_weights_follows_its_float_values(rounding: Any, activations: DType, size: int) -> None:
    graph = long_rows(bias=size == 0)
    settings = QuantizeSettings(weights=DType.INT4, activations=activations, rounding=rounding, block=size)
    typed = quantize(graph, data(), run_float, settings)
    quant = typed.types["last"].quant
    assert quant is not None and linears(typed)["middle"].dtype is DType.INT4
    found = dequantize(run_integer(lower_graph(typed), data())["last"], quant)
    real = run_float(graph, data())["last"]
    assert 10 * np.log10(np.square(real).sum() / np.square(real - found).sum()) > (19 if rounding == "gptq" else 15)


def unpacked(rows: np.ndarray) -> np.ndarray:
    """Bytes (…, K / 2) to int4 (…, K), written without a look at how they were packed."""
    return np.stack([((int(b) >> shift & 15) + 8) % 16 - 8 for b in rows.reshape(-1) for shift in (0, 4)]).reshape(
        *rows.shape[:-1], -1
    )


def test_weights_are_packed_as_the_layouts_say() -> None:
    weight = np.random.default_rng(0).integers(-8, 8, (3, 7)).astype(np.int8)
    plain = layout_of(["generic"]).linear(DType.INT8, DType.INT4)
    rows = plain.pack_weight(weight).reshape(3, 4)
    assert np.array_equal(unpacked(rows)[:, :7], weight) and not unpacked(rows)[:, 7].any()
    assert plain.pack_weight(np.array([[1, -1, 7]], np.int8)).tolist() == [0xF1, 0x07]
    assert (
        layout_of(["generic"]).linear(DType.INT16, DType.INT4).pack_weight(weight).tolist() == rows.reshape(-1).tolist()
    )
    pairs = layout_of(["dsp", "generic"]).linear(DType.INT8, DType.INT4).pack_weight(weight).reshape(2, 8)
    found = np.concatenate([[[(int(b) >> shift & 15) - 8 for b in pair] for shift in (0, 4)] for pair in pairs])
    assert found.shape == (4, 8) and np.array_equal(found[:3, :7], weight)
    assert not found[3].any() and not found[:, 7].any()


def test_the_generated_c_holds_half_the_bytes(tmp_path: Path) -> None:
    sizes = {}
    for name, settings in (("int8", QuantizeSettings()), ("int4", INT4)):
        typed = quantize(long_rows(), data(), run_float, settings)
        made = emit_c(typed, ["generic"], "m", tmp_path / name)
        sizes[name] = made.weights_bytes
    assert sizes["int8"] - sizes["int4"] == 9 * 70 - (9 * 35 + 9 * 3)
    text = (tmp_path / "int4" / "weights.c").read_text()
    assert "middle.w, s4 9 x 70, row by row, two to a byte" in text and "const uint8_t m_middle_w[315]" in text


@pytest.mark.parametrize("size", [0, 32])
def test_onnxruntime_reads_the_same_weights(size: int) -> None:
    """int4 initializers, with a scale a block where there are blocks: every value within a step of the reference."""
    typed = quantize(long_rows(), data(), run_float, QuantizeSettings(weights=DType.INT4, block=size))
    content = onnx_bytes(typed, extra_outputs=True)
    inputs = data(8)
    reference, found = run_integer(lower_graph(typed), inputs), run_onnx(content, inputs)
    for name, limit in (("first", 1.01), ("middle", 2.01)):
        quant = typed.types[name].quant
        assert quant is not None
        steps = np.abs(found[name].reshape(reference[name].shape) - dequantize(reference[name], quant)) / quant.scale[0]
        assert steps.max() <= limit, name
    assert len(content) < len(onnx_bytes(quantize(long_rows(), data(), run_float)))
