"""Quantizing a decoder of one window: grids of caches and rotations, tied tables, integers near the float meaning."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from decode_graphs import VOCABULARY, WIDTH, decoder, windows
from graphs import Array
from picoformer.backends.onnx.export import onnx_bytes
from picoformer.backends.onnx.runtime import run_onnx
from picoformer.ir import DType, Graph
from picoformer.ops.fixedpoint import dequantize
from picoformer.ops.rope import ROTATION_QUANT
from picoformer.quantize import SCHEMES, QuantizeSettings, quantize
from picoformer.reference import lower_graph, run_float, run_integer

FORMS = {
    "rotary": {},
    "interleaved": {"interleaved": True},
    "learned": {"learned": True},
    "slopes": {"slopes": True},
    "experts": {"experts": 5},
    "int8 caches": {"key_bits": 8, "value_bits": 8},
}
NOISE = {"int8x16": 37.0, "int4x16": 18.0, "int8": 32.0}
"""Decibels that the logits keep at least: the least that was seen, less two to four; experts by int4 keep 16."""


def settings(scheme: str, **more: object) -> QuantizeSettings:
    chosen = SCHEMES[scheme]
    return QuantizeSettings(weights=chosen.weights, activations=chosen.activations, **more)  # type: ignore[arg-type]


def decibels(wanted: Array, found: Array) -> float:
    return float(10 * np.log10(np.square(wanted).sum() / np.square(wanted - found).sum()))


def real(typed: Graph, name: str, value: Array) -> Array:
    quant = typed.types[name].quant
    assert quant is not None
    return dequantize(value, quant)


@pytest.mark.parametrize("scheme", NOISE)
@pytest.mark.parametrize("form", FORMS)
def test_integers_follow_the_float_meaning(form: str, scheme: str) -> None:
    graph = decoder(8, 8, **FORMS[form])  # type: ignore[arg-type]
    samples = windows(graph, 24)
    typed = quantize(graph, samples, run_float, settings(scheme))
    wanted, found = run_float(graph, samples), run_integer(lower_graph(typed), samples)
    assert decibels(wanted["logits"], real(typed, "logits", found["logits"])) > NOISE[scheme] - 4 * (form == "experts")


@pytest.mark.parametrize("scheme", NOISE)
@pytest.mark.parametrize("form", FORMS)
def test_onnx_of_a_quantized_decoder_follows_its_integers(form: str, scheme: str) -> None:
    graph = decoder(8, 8, **FORMS[form])  # type: ignore[arg-type]
    samples = windows(graph, 4)
    typed = quantize(graph, samples, run_float, settings(scheme))
    found = run_onnx(onnx_bytes(typed), samples)
    wanted = run_integer(lower_graph(typed), samples)
    for name in typed.outputs:
        error = real(typed, name, wanted[name]) - found[name]  # what rounding norms and attention otherwise leaves
        assert np.square(error).sum() < 10.0 ** (-3.6 if scheme == "int8" else -4.0) * np.square(found[name]).sum()


def test_a_block_at_a_time_gives_what_a_window_gives() -> None:
    """The integers of a window are those of its tokens one by one and in blocks: the caches hold all that counts."""
    graph = decoder(8, 8)
    samples = windows(graph, 24)
    typed = quantize(graph, samples, run_float, settings("int8x16"))
    whole = run_integer(lower_graph(typed), samples)
    for block in (1, 3):
        part = _of_block(typed, block)
        state = {name: np.zeros_like(whole[f"{name}_after"]) for name in ("keys", "values")}
        for start in range(0, 8, block):
            count = min(block, 8 - start)
            tokens = np.zeros((24, block), np.int32)
            tokens[:, :count] = samples["tokens"][:, start : start + count]
            first = min(start, 8 - block)  # the rows past `count` need a place in the cache, too
            if first < start:
                tokens[:, : start - first + count] = samples["tokens"][:, first : start + count]
                count += start - first
            numbers = {"position": np.full(24, first, np.int32), "count": np.full(24, count, np.int32)}
            result = run_integer(lower_graph(part), {"tokens": tokens, **numbers, **state})
            state = {name: result[f"{name}_after"] for name in state}
        np.testing.assert_array_equal(result["logits"], whole["logits"])
        for name, value in state.items():
            np.testing.assert_array_equal(value, whole[f"{name}_after"])


def _of_block(typed: Graph, block: int) -> Graph:
    """The same integers for blocks of another size."""
    types = dict(typed.types)
    types["tokens"] = dataclasses.replace(types["tokens"], shape=(block,))
    for node in typed.nodes:
        shape = node.op.infer([types[name] for name in node.inputs]).shape
        types[node.output] = dataclasses.replace(types[node.output], shape=shape)
    return typed.replace(types=types)


@pytest.mark.parametrize("scheme", ["int8", "int8x16"])
def test_a_cache_has_the_grid_of_its_rows(scheme: str) -> None:
    for bits, dtype in ((16, DType.INT16), (13, DType.INT16), (8, DType.INT8)):
        graph = decoder(8, 8, key_bits=bits, value_bits=bits)
        typed = quantize(graph, windows(graph, 4), run_float, settings(scheme))
        for cache, rows in (("keys", "key_turned"), ("values", "value")):
            before, after, row = (typed.types[name] for name in (cache, f"{cache}_after", rows))
            assert before == after and after.dtype is dtype and row.dtype is DType.INT16
            assert after.quant.per_tensor_scale == row.quant.per_tensor_scale * 2.0 ** (16 - bits)  # type: ignore[union-attr]


def test_rotations_count_in_their_own_steps() -> None:
    graph = decoder(8, 8)
    typed = quantize(graph, windows(graph, 4), run_float, settings("int8"))
    assert typed.types["rotations"].quant == ROTATION_QUANT
    wanted = np.rint(graph.constants["rotations"].astype(np.float64) * 2**14)
    np.testing.assert_array_equal(typed.constants["rotations"], wanted)


@pytest.mark.parametrize("dtype", [DType.INT8, DType.INT16])
@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_a_tied_table_is_stored_once(dtype: DType, rounding: str) -> None:
    graph = decoder(8, 8)
    wanted = settings("int8x16", weight_types={"table": dtype}, rounding=rounding)
    typed = quantize(graph, windows(graph, 8), run_float, wanted)
    readers = [node.inputs[1] for node in typed.nodes if node.output in ("embedded", "logits")]
    assert readers == ["table", "table"] and typed.types["table"].dtype is dtype
    assert [name for name, value in typed.constants.items() if value.shape == (VOCABULARY, WIDTH)] == ["table"]


def test_int16_tables_leave_less_noise() -> None:
    graph = decoder(8, 8)
    samples = windows(graph, 24)
    wanted = run_float(graph, samples)["logits"]
    noise = []
    for dtype in (DType.INT8, DType.INT16):
        typed = quantize(graph, samples, run_float, settings("int8x16", weight_types={"table": dtype}))
        found = run_integer(lower_graph(typed), samples)["logits"]
        noise.append(decibels(wanted, real(typed, "logits", found)))
    assert noise[1] > noise[0] + 1
