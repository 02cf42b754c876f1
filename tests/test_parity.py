"""Parity: the figures of a link, the step, tensor and element of a difference, and what passes."""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections.abc import Mapping

import numpy as np
import pytest

from picoformer.backends.onnx.export import onnx_bytes
from picoformer.backends.onnx.runtime import run_onnx
from picoformer.errors import DataError
from picoformer.ir import DType, Graph, Node, QuantParams, TensorType, verify
from picoformer.ir.operator import Array
from picoformer.ops import Activation, Linear, Requantize
from picoformer.parity import (
    DeviceRun,
    FlashBytes,
    Link,
    OperatorCost,
    ParityReport,
    RamBytes,
    compare,
    first_difference,
    run_chain,
    sqnr_per_tensor,
    step_crcs,
    steps_of,
)  # fmt: skip
from picoformer.reference import LoweredGraph, lower_graph, run_float, run_integer

SAMPLES = 5


def graphs() -> tuple[Graph, LoweredGraph, dict[str, Array]]:
    """relu(x · Wᵀ + b), then another linear layer: in float, and the same in int8 with a 16-bit output."""
    generator = np.random.default_rng(3)
    x = generator.uniform(-1, 1, (SAMPLES, 4, 6)).astype(np.float32)
    real = {
        "w1": generator.normal(size=(8, 6)),
        "b1": generator.normal(size=8),
        "w2": generator.normal(size=(3, 8)),
    }
    types = {
        "x": TensorType((4, 6)), "w1": TensorType((8, 6)), "b1": TensorType((8,)), "w2": TensorType((3, 8)),
        "hidden": TensorType((4, 8)), "relu": TensorType((4, 8)), "y": TensorType((4, 3)),
        "logits": TensorType((4, 3)),
    }  # fmt: skip
    nodes = (
        Node("layer/up", Linear(), ("x", "w1", "b1"), "hidden"),
        Node("layer/relu", Activation("relu"), ("hidden",), "relu"),
        Node("layer/down", Linear(), ("relu", "w2"), "y"),
        Node("layer/widen", Requantize(), ("y",), "logits"),
    )
    weights = {name: np.rint(value * 30).clip(-127, 127) / 30 for name, value in real.items()}
    constants = {name: value.astype(np.float32) for name, value in weights.items()}
    plain = verify(Graph("small", ("x",), ("logits",), nodes, types, constants))
    values = run_float(plain, {"x": x})

    def grid(name: str, dtype: DType) -> TensorType:
        return TensorType(types[name].shape, dtype, QuantParams((float(np.abs(values[name]).max()) / dtype.maximum,)))

    weight = QuantParams((1 / 30,))
    bias_steps = np.rint(weights["b1"] * 30 * 127).astype(np.int32)
    typed = {
        "x": TensorType((4, 6), DType.INT8, QuantParams((1 / 127,))),
        "w1": TensorType((8, 6), DType.INT8, weight),
        "b1": TensorType((8,), DType.INT32),
        "w2": TensorType((3, 8), DType.INT8, weight),
        "logits": grid("logits", DType.INT16),
        **{name: grid(name, DType.INT8) for name in ("hidden", "relu", "y")},
    }
    integers = {name: np.rint(weights[name] * 30).astype(np.int8) for name in ("w1", "w2")} | {"b1": bias_steps}
    return plain, lower_graph(verify(plain.replace(types=typed, constants=integers))), {"x": x}


PLAIN, LOWERED, INPUTS = graphs()
REFERENCE = run_integer(LOWERED, INPUTS)
STEPS = steps_of(LOWERED.graph)


def device(name: str, values: Mapping[str, Array], crcs: bool = True) -> DeviceRun:
    """A device that computes `values`."""
    return DeviceRun(
        name,
        {"logits": values["logits"]},
        step_crcs(values, STEPS) if crcs else None,
        lambda sample, step: np.ascontiguousarray(values[STEPS[step].tensor][sample]).tobytes(),
    )


def flipped(tensor: str, index: tuple[int, ...], bit: int = 0) -> dict[str, Array]:
    """The reference's values with one bit of one element turned over."""
    values = {name: value.copy() for name, value in REFERENCE.items()}
    values[tensor][index] ^= 1 << bit
    return values


def full_chain(*devices: DeviceRun, torch_scale: float = 1.0):
    data, qdq = onnx_bytes(PLAIN), onnx_bytes(LOWERED.graph)
    return run_chain(
        PLAIN,
        INPUTS,
        quantized=LOWERED,
        torch_outputs={"logits": run_float(PLAIN, INPUTS)["logits"] * np.float32(torch_scale)},
        float_model=lambda inputs: run_onnx(data, inputs),
        qdq_model=lambda inputs: run_onnx(qdq, inputs),
        devices=devices,
    )


def test_the_figures_of_a_link_are_those_of_their_definitions() -> None:
    a = np.array([[1.0, 2.0, -3.0], [4.0, 0.0, 1.0]], np.float32)
    b = np.array([[1.0, 2.5, -3.0], [1.0, 0.0, 2.0]], np.float32)
    link = compare("here", "there", a, b, step=0.5)
    assert link.source == "here" and link.to == "there" and link.equal is None
    assert link.max_abs == 3.0 and link.max_steps == 6.0 and link.top1_agreement == 0.5
    assert link.sqnr_db == pytest.approx(10 * math.log10(31 / 10.25))
    assert link.cosine == pytest.approx((1 + 5 + 9 + 4 + 2) / math.sqrt(31 * (16.25 + 5)))
    same = compare("here", "there", a, a)
    assert (same.max_abs, same.cosine, same.sqnr_db, same.top1_agreement) == (
        0.0,
        pytest.approx(1.0),
        None,
        1.0,
    )
    assert same.equal is None and same.max_steps is None


def test_integers_are_asked_to_be_equal_and_measured_as_real_numbers() -> None:
    quant = QuantParams((0.25,), 3)
    a = np.array([[3, 7, -1]], np.int8)
    b = np.array([[3, 7, 0]], np.int8)
    assert compare("a", "b", a, a.copy(), quant=quant).equal is True
    link = compare("a", "b", a, b, quant=quant)
    assert (link.equal, link.max_abs, link.max_steps) == (False, 0.25, 1.0)
    assert link.sqnr_db == pytest.approx(10 * math.log10((1 + 1) / 0.0625))
    mixed = compare("a", "b", np.array([[0.0, 1.0, -1.0]], np.float32), b, quant=quant)
    assert mixed.equal is None and mixed.max_steps == 1.0
    per_channel = compare("a", "b", a, b, quant=QuantParams((1.0, 1.0, 0.5), 0, -1))
    assert (per_channel.max_abs, per_channel.max_steps) == (0.5, 1.0)


def test_shapes_may_differ_in_a_batch_axis_only() -> None:
    a = np.zeros((4, 6), np.float32)
    assert compare("a", "b", a, a.reshape(4, 1, 6)).max_abs == 0.0
    with pytest.raises(DataError, match=r"a has shape \[4, 6\], b has \[4, 5\]"):
        compare("a", "b", a, a[:, :5])
    with pytest.raises(DataError, match="shape"):
        compare("a", "b", a, a[:3])


def test_nan_is_no_figure() -> None:
    a = np.ones((1, 2), np.float32)
    link = compare("a", "b", a, np.array([[np.nan, 1]], np.float32))
    assert link.max_abs is None and link.cosine is None and link.sqnr_db is None


def test_crcs_are_those_of_the_little_endian_bytes() -> None:
    crcs = step_crcs(REFERENCE, STEPS)
    assert crcs.shape == (SAMPLES, 4) and crcs.dtype == np.uint32
    assert crcs[2, 3] == zlib.crc32(REFERENCE["logits"][2].astype("<i2").tobytes())
    swapped = {name: value.astype(value.dtype.newbyteorder(">")) for name, value in REFERENCE.items()}
    np.testing.assert_array_equal(step_crcs(swapped, STEPS), crcs)


def test_no_difference_is_found_where_there_is_none() -> None:
    assert first_difference(REFERENCE, STEPS, step_crcs(REFERENCE, STEPS)) is None


@pytest.mark.parametrize("bit", [0, 7, 14])
def test_a_single_bit_is_found_and_named(bit: int) -> None:
    values = flipped("logits", (3, 2, 1), bit)
    run = device("board", values)
    found = first_difference(REFERENCE, STEPS, run.crcs, run.fetch)
    assert found is not None
    assert (found.sample, found.step, found.node, found.tensor) == (3, 3, "layer/widen", "logits")
    assert found.index == (2, 1)
    assert found.expected == REFERENCE["logits"][3, 2, 1] and found.found == values["logits"][3, 2, 1]
    assert f"expected {found.expected}, found {found.found}" in str(found)
    without = first_difference(REFERENCE, STEPS, run.crcs)
    assert without is not None and without.index is None and "tensor 'logits', sample 3" in str(without)


def test_the_earliest_step_is_named_not_the_lowest_sample() -> None:
    values = flipped("logits", (0, 0, 0))
    values["hidden"][4, 1, 5] ^= 1
    run = device("board", values)
    found = first_difference(REFERENCE, STEPS, run.crcs, run.fetch)
    assert found is not None and (found.sample, found.node, found.index) == (4, "layer/up", (1, 5))


def test_crcs_and_bytes_of_a_wrong_size_are_refused() -> None:
    with pytest.raises(DataError, match=r"5 samples of 4 steps"):
        first_difference(REFERENCE, STEPS, step_crcs(REFERENCE, STEPS)[:, :3])
    run = device("board", flipped("y", (0, 0, 0)))
    with pytest.raises(DataError, match="tensor 'y' has 12 bytes, the device returned 3"):
        first_difference(REFERENCE, STEPS, run.crcs, lambda sample, step: b"abc")


def test_the_whole_chain_passes_and_stands_in_order() -> None:
    chain = full_chain(device("host", REFERENCE), device("mps2-an386", REFERENCE))
    assert chain.failures == () and chain.passed
    assert [(link.source, link.to) for link in chain.links] == [
        ("torch", "float onnx"),
        ("float onnx", "float graph"),
        ("float graph", "qdq onnx"),
        ("qdq onnx", "reference"),
        ("reference", "host"),
        ("host", "mps2-an386"),
        ("float onnx", "mps2-an386"),
    ]
    assert [link.equal for link in chain.links] == [None, None, None, None, True, True, None]
    assert chain.links[3].max_steps <= 1  # nothing but rounding stands between the two
    assert 25 < chain.links[6].sqnr_db < 60
    assert chain.links[6].sqnr_db == pytest.approx(chain.links[2].sqnr_db, abs=1)


@pytest.mark.parametrize("tensor", ["hidden", "relu", "y", "logits"])
def test_one_bit_on_one_device_breaks_the_chain_and_is_named(tensor: str) -> None:
    index = (1,) + (0,) * (REFERENCE[tensor].ndim - 2) + (2,)
    values = flipped(tensor, index)
    chain = full_chain(device("host", REFERENCE), device("mps2-an386", values))
    node = LOWERED.graph.producers[tensor].name
    assert not chain.passed
    assert [link.equal for link in chain.links[4:6]] == [True, False]
    (failure,) = chain.failures
    assert failure.startswith("reference → mps2-an386: step ")
    assert f"'{node}', tensor '{tensor}', sample 1, element [0, 2]" in failure
    assert f"expected {REFERENCE[tensor][index]}, found {values[tensor][index]}" in failure


def test_a_device_without_crcs_is_judged_by_its_outputs() -> None:
    chain = full_chain(device("host", flipped("logits", (2, 3, 0), 4), crcs=False))
    assert not chain.passed
    assert "'layer/widen', tensor 'logits', sample 2, element [3, 0]" in chain.failures[0]
    assert full_chain(device("host", REFERENCE, crcs=False)).passed


def test_a_float_link_beyond_its_tolerance_fails_by_name() -> None:
    chain = full_chain(torch_scale=1.0003)
    assert not chain.passed
    assert chain.failures[0].startswith("torch → float onnx: tensor 'logits', sample ")
    assert full_chain(torch_scale=1.00003).passed


@pytest.mark.parametrize(("factor", "passes"), [(1.0, True), (1.000005, True), (1.00003, False), (math.nan, False)])
def test_float32_devices_have_a_tolerance_instead_of_equality(factor: float, passes: bool) -> None:
    data = onnx_bytes(PLAIN)
    outputs = {"logits": run_float(PLAIN, INPUTS)["logits"] * np.float32(factor)}
    chain = run_chain(
        PLAIN,
        INPUTS,
        float_model=lambda inputs: run_onnx(data, inputs),
        devices=[lambda inputs: DeviceRun("host", outputs)],
    )
    assert chain.passed is passes
    assert [link.to for link in chain.links] == ["float graph", "host", "host"]
    assert all(link.equal is None for link in chain.links)


def test_a_missing_output_is_named() -> None:
    with pytest.raises(DataError, match="host gives no output 'logits'; it gives other"):
        full_chain(DeviceRun("host", {"other": REFERENCE["logits"]}))


def test_quality_per_tensor_names_where_accuracy_is_lost() -> None:
    values = run_float(PLAIN, INPUTS)
    found = sqnr_per_tensor(values, REFERENCE, LOWERED.graph)
    assert [(q.name, q.op) for q in found] == [
        ("hidden", "Linear"), ("relu", "Activation"), ("y", "Linear"), ("logits", "Requantize"),
    ]  # fmt: skip
    assert all(q.sqnr_db is not None and 25 < q.sqnr_db < 60 for q in found)
    worse = dict(REFERENCE) | {"y": REFERENCE["y"] // 16 * 16}
    assert sqnr_per_tensor(values, worse, LOWERED.graph)[2].sqnr_db < found[2].sqnr_db - 10


def report() -> ParityReport:
    return ParityReport(
        "digits", "int8", "mps2-an386", 360, 7_405_952,
        (Link("reference", "host", True, 0.0, 1.0, None, 1.0, 0.0),),
        123_456, (OperatorCost("layer/up", "Linear", 1000, 192),),
        RamBytes(arena=8192, total=12000), FlashBytes(model=100, code=200, total=300),
    )  # fmt: skip


def test_the_json_object_has_exactly_the_promised_keys() -> None:
    record = json.loads(json.dumps(report().to_json(), allow_nan=False))
    assert list(record) == [
        "model", "scheme", "target", "samples", "macs", "links", "instructions", "ram_bytes", "flash_bytes",
    ]  # fmt: skip
    assert list(record["links"][0]) == [
        "from",
        "to",
        "equal",
        "max_abs",
        "cosine",
        "sqnr_db",
        "top1_agreement",
    ]
    assert record["links"][0]["from"] == "reference" and record["links"][0]["sqnr_db"] is None
    assert record["instructions"] == {
        "per_inference": 123_456,
        "per_operator": [{"name": "layer/up", "op": "Linear", "instructions": 1000, "macs": 192}],
    }
    assert record["ram_bytes"] == {"arena": 8192, "stack": None, "data": None, "total": 12000}
    assert record["flash_bytes"] == {"model": 100, "code": 200, "total": 300}


def test_a_report_passes_when_every_integer_link_is_equal_and_nothing_failed() -> None:
    good = report()
    assert good.passed
    assert not dataclasses.replace(good, links=(dataclasses.replace(good.links[0], equal=False),)).passed
    assert not dataclasses.replace(good, failures=("reference → host: …",)).passed
    assert dataclasses.replace(good, links=(dataclasses.replace(good.links[0], equal=None),)).passed
