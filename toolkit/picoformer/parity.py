"""Parity: one model along the chain of its forms, link by link, and the first step that differs, by name.

torch → float ONNX → float graph → QDQ ONNX → integer reference → host → emulator or board. Float neighbours
are close, integer neighbours are equal, and what quantization costs in between is measured and shown.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from picoformer.errors import DataError
from picoformer.ir import Graph, QuantParams
from picoformer.ir.operator import Array
from picoformer.ops.fixedpoint import dequantize
from picoformer.reference import LoweredGraph, run_float, run_integer
from picoformer.report.verification import FlashBytes, Link, OperatorCost, ParityReport, RamBytes

__all__ = [
    "FLOAT_DEVICE_TOLERANCE", "FLOAT_TOLERANCE", "DeviceRun", "Difference", "Executor", "FlashBytes",
    "Link", "OperatorCost", "ParityChain", "ParityReport", "RamBytes", "Step", "TensorQuality", "compare",
    "first_difference", "first_element", "little_endian", "run_chain", "sqnr_db", "sqnr_per_tensor",
    "step_crcs", "steps_of",
]  # fmt: skip

FLOAT_TOLERANCE = 1e-4
"""Largest distance between the float model and our float graph, as a part of the largest reference value:
both are float32, they only sum in different orders."""
FLOAT_DEVICE_TOLERANCE = 1e-5
"""The same for float32 C against the float model."""

Executor = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Inputs name → (samples, *shape) to outputs name → (samples, *shape)."""


def sqnr_db(reference: Array, value: Array) -> float | None:
    """10·log10(Σ reference² / Σ (reference − value)²); None where that is not finite."""
    signal = np.asarray(reference, np.float64)
    noise = float(((signal - np.asarray(value, np.float64)) ** 2).sum())
    power = float((signal**2).sum())
    if not (noise > 0 and power > 0 and math.isfinite(noise)):
        return None
    return 10 * math.log10(power / noise)


def compare(
    name_from: str,
    name_to: str,
    a: Array,
    b: Array,
    step: float | None = None,
    quant: QuantParams | None = None,
) -> Link:
    """The link from values `a` to values `b` of one tensor, (samples, *shape); axes of length 1 may differ.

    Two integer arrays are asked to be equal, and with `quant` are measured as the real numbers they stand
    for. `step` is the real size of one integer step (by default `quant`'s). Raises DataError when the
    shapes differ.
    """
    a, b = np.asarray(a), np.asarray(b)
    if [n for n in a.shape[1:] if n != 1] != [n for n in b.shape[1:] if n != 1] or len(a) != len(b):
        raise DataError(f"{name_from} has shape {list(a.shape)}, {name_to} has {list(b.shape)}")
    b = b.reshape(a.shape)
    integers = a.dtype.kind in "iu" and b.dtype.kind in "iu"
    equal = bool(np.array_equal(a, b)) if integers else None
    if quant is not None:
        a = dequantize(a, quant) if a.dtype.kind in "iu" else a
        b = dequantize(b, quant) if b.dtype.kind in "iu" else b
    x, y = a.astype(np.float64), b.astype(np.float64)
    distance = np.abs(x - y)
    steps: float | None = None
    if step is not None or quant is not None:
        size = quant.scale_array(x.ndim) if step is None and quant is not None else step
        steps = _finite(np.max(distance / size, initial=0.0))
    elif integers:
        steps = _finite(np.max(distance, initial=0.0))
    norm = math.sqrt(float((x * x).sum())) * math.sqrt(float((y * y).sum()))
    rows = x.reshape(-1, x.shape[-1]) if x.ndim > 1 and x.shape[-1] > 1 and x.size else None
    top1 = None
    if rows is not None:
        top1 = float((rows.argmax(axis=-1) == y.reshape(rows.shape).argmax(axis=-1)).mean())
    return Link(
        name_from,
        name_to,
        equal,
        _finite(np.max(distance, initial=0.0)),
        _finite(min(1.0, float((x * y).sum()) / norm)) if norm > 0 else None,
        sqnr_db(x, y),
        top1,
        steps,
    )


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _worst(links: Sequence[Link]) -> Link:
    """One link for several outputs: the worst of each figure."""

    def worst(choose: Callable[[list[float]], float], values: list[float | None]) -> float | None:
        known = [v for v in values if v is not None]
        return choose(known) if known else None

    asked = [link.equal for link in links if link.equal is not None]
    return Link(
        links[0].source,
        links[0].to,
        all(asked) if asked else None,
        worst(max, [link.max_abs for link in links]),
        worst(min, [link.cosine for link in links]),
        worst(min, [link.sqnr_db for link in links]),
        worst(min, [link.top1_agreement for link in links]),
        worst(max, [link.max_steps for link in links]),
    )


class Step(NamedTuple):
    """One lowered step: its node and the tensor it computes. `length`: the input that says how many of its rows a
    device computes, where nobody reads more; empty where it computes all."""

    node: str
    tensor: str
    length: str = ""


def steps_of(graph: Graph) -> tuple[Step, ...]:
    """The steps of a graph in execution order."""
    return tuple(Step(node.name, node.output) for node in graph.nodes)


def little_endian(value: Array) -> bytes:
    """The bytes of an array as a little-endian device holds them, in C order."""
    return np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()


def step_crcs(values: Mapping[str, Array], steps: Sequence[Step]) -> Array:
    """CRC-32 of each sample's tensor after each step, uint32 (samples, steps)."""
    columns = [
        [zlib.crc32(little_endian(rows_there(values, step, sample))) for sample in range(len(values[step.tensor]))]
        for step in steps
    ]
    return np.array(columns, np.uint32).reshape(len(steps), -1).T


def rows_there(values: Mapping[str, Array], step: Step, sample: int) -> Array:
    """A sample's tensor after a step, as far as a device computes it: where rows are counted, the first always is."""
    value: Array = values[step.tensor][sample]
    if not step.length:
        return value
    length = int(np.asarray(values[step.length])[sample].reshape(()))
    return value[..., : min(max(length, 1), value.shape[-2]), :]


@dataclass(frozen=True)
class Difference:
    """Where a device first leaves the reference: the earliest step over all samples, then the lowest sample.

    `index`, `expected` and `found` name the first differing element of the tensor where its bytes were
    fetched.
    """

    sample: int
    step: int
    node: str
    tensor: str
    index: tuple[int, ...] | None = None
    expected: int | float | None = None
    found: int | float | None = None

    def __str__(self) -> str:
        return f"step {self.step} '{self.node}', tensor '{self.tensor}', sample {self.sample}{self.element}"

    @property
    def element(self) -> str:
        """The first differing element in words, behind a place; empty where its bytes were not fetched or are equal."""
        if self.index is None:
            return ""
        return f", element {list(self.index)}: expected {self.expected}, found {self.found}"


def first_difference(
    reference: Mapping[str, Array],
    steps: Sequence[Step],
    crcs: Array,
    fetch: Callable[[int, int], bytes] | None = None,
) -> Difference | None:
    """Where a device first differs from the reference, None where it never does.

    `reference`: tensor → (samples, *shape); `crcs`: what the device returned, (samples, steps);
    `fetch(sample, step)` gives the bytes of a step's tensor from the device. Raises DataError when `crcs`
    or the bytes have another size.
    """
    expected = step_crcs(reference, steps)
    crcs = np.asarray(crcs)
    if crcs.shape != expected.shape:
        raise DataError(
            f"a device returned CRCs of shape {list(crcs.shape)}, "
            f"the model has {expected.shape[0]} samples of {expected.shape[1]} steps"
        )
    differing = np.argwhere((crcs != expected).T)
    if not len(differing):
        return None
    index, sample = (int(n) for n in differing[0])
    step = steps[index]
    place = Difference(sample, index, step.node, step.tensor)
    return place if fetch is None else first_element(place, rows_there(reference, step, sample), fetch(sample, index))


def first_element(place: Difference, value: Array, found: bytes) -> Difference:
    """`place` with the first element of `value`, the reference's, whose bytes differ; raises DataError for bytes of a
    wrong length."""
    if len(found) != value.nbytes:
        raise DataError(f"tensor '{place.tensor}' has {value.nbytes} bytes, the device returned {len(found)}")
    device = np.frombuffer(found, value.dtype.newbyteorder("<")).reshape(value.shape)
    bits = f"<u{value.dtype.itemsize}"
    expected_bits = np.frombuffer(little_endian(value), bits).reshape(value.shape)
    differing = np.argwhere(expected_bits != np.frombuffer(found, bits).reshape(value.shape))
    if not len(differing):
        return place
    element = tuple(int(n) for n in differing[0])
    return Difference(
        place.sample,
        place.step,
        place.node,
        place.tensor,
        element,
        value[element].item(),
        device[element].item(),
    )


@dataclass(frozen=True)
class DeviceRun:
    """What a device under test gave for the inputs.

    `outputs`: name → (samples, *shape), integers for a quantized model. `crcs`: the CRC-32 per step,
    (samples, steps), where it sends them. `fetch(sample, step)`: the bytes of a step's tensor.
    """

    name: str
    outputs: Mapping[str, Array]
    crcs: Array | None = None
    fetch: Callable[[int, int], bytes] | None = None
    steps: Sequence[Step] | None = None
    """What the CRCs are of, where it is not the chain's steps."""


@dataclass(frozen=True)
class ParityChain:
    """The links in order, what failed (empty: nothing), and every value of the reference."""

    links: tuple[Link, ...]
    failures: tuple[str, ...]
    reference: Mapping[str, Array]

    @property
    def passed(self) -> bool:
        """True when every integer link is equal and every float link is within its tolerance."""
        return not self.failures


def run_chain(
    graph: Graph,
    inputs: Mapping[str, Array],
    *,
    quantized: LoweredGraph | None = None,
    torch_outputs: Mapping[str, Array] | None = None,
    float_model: Executor | None = None,
    qdq_model: Executor | None = None,
    devices: Sequence[Callable[[Mapping[str, Array]], DeviceRun] | DeviceRun] = (),
    steps: Sequence[Step] | None = None,
) -> ParityChain:
    """Run a model's forms on `inputs` (name → (samples, *shape)) and measure every link between neighbours.

    `graph` is the float graph after the passes. With `quantized` (scheme int8 and its kin) devices must
    equal the integer reference in every output and every step's CRC; without (scheme float32) their outputs
    must be within FLOAT_DEVICE_TOLERANCE of the float model. `float_model` and `qdq_model` run the ONNX
    files. `steps` are the device's, by default one per node. With two ends of different kind the last link
    goes from the float model straight to the last form: what the user gets, against what the user gave.
    """
    return _Chain(graph, inputs, quantized, steps).run(torch_outputs, float_model, qdq_model, devices)


@dataclass(eq=False)
class _Form:
    name: str
    outputs: Mapping[str, Array]
    on_grid: bool = False
    crcs: Array | None = None
    fetch: Callable[[int, int], bytes] | None = None
    steps: Sequence[Step] | None = None

    def crcs_of(self, tensors: Sequence[str], steps: Sequence[Step]) -> Array:
        """The columns of some tensors."""
        assert self.crcs is not None
        column = {step.tensor: index for index, step in enumerate(self.steps or steps)}
        return self.crcs[:, [column[tensor] for tensor in tensors]]


class _Chain:
    def __init__(
        self,
        graph: Graph,
        inputs: Mapping[str, Array],
        quantized: LoweredGraph | None,
        steps: Sequence[Step] | None,
    ) -> None:
        self.graph, self.inputs, self.quantized = graph, inputs, quantized
        self.typed = graph if quantized is None else quantized.graph
        self.steps = tuple(steps_of(self.typed) if steps is None else steps)
        self.links: list[Link] = []
        self.failures: list[str] = []

    def run(
        self,
        torch_outputs: Mapping[str, Array] | None,
        float_model: Executor | None,
        qdq_model: Executor | None,
        devices: Sequence[Callable[[Mapping[str, Array]], DeviceRun] | DeviceRun],
    ) -> ParityChain:
        floats = [] if torch_outputs is None else [_Form("torch", torch_outputs)]
        if float_model is not None:
            floats.append(_Form("float onnx", float_model(self.inputs)))
        yardstick = floats[-1] if floats else None
        reference: Mapping[str, Array] = run_float(self.graph, self.inputs)
        last = _Form("float graph", reference)
        yardstick = yardstick or last
        floats.append(last)
        for a, b in pairwise(floats):
            self.link(a, b)
            self.check_close(a, b, FLOAT_TOLERANCE)
        if self.quantized is not None:
            if qdq_model is not None:
                last = self.link(last, _Form("qdq onnx", qdq_model(self.inputs), on_grid=True))
            reference = run_integer(self.quantized, self.inputs)
            crcs = step_crcs(reference, self.steps)
            last = self.link(last, _Form("reference", reference, on_grid=True, crcs=crcs))
        truth = last
        for item in devices:
            run = item if isinstance(item, DeviceRun) else item(self.inputs)
            form = _Form(run.name, run.outputs, self.quantized is not None, run.crcs, run.fetch, run.steps)
            last = self.link(last, form)
            if self.quantized is None:
                self.check_close(yardstick, form, FLOAT_DEVICE_TOLERANCE)
            else:
                self.check_equal(truth, form)
        if last not in floats and len(self.links) > 1:
            self.link(yardstick, last)
        return ParityChain(tuple(self.links), tuple(self.failures), reference)

    def link(self, a: _Form, b: _Form) -> _Form:
        """Measure the link from `a` to `b`; returns `b`."""
        found = []
        for name in self.graph.outputs:
            for form in (a, b):
                if name not in form.outputs:
                    raise DataError(f"{form.name} gives no output '{name}'; it gives {', '.join(form.outputs)}")
            quant = self.typed.types[name].quant if a.on_grid or b.on_grid else None
            found.append(compare(a.name, b.name, a.outputs[name], b.outputs[name], quant=quant))
        link = _worst(found)
        if link.equal and a.crcs is not None and b.crcs is not None:
            theirs = {(step.tensor, step.length) for step in b.steps or self.steps}
            both = [step.tensor for step in a.steps or self.steps if (step.tensor, step.length) in theirs]
            same = np.array_equal(a.crcs_of(both, self.steps), b.crcs_of(both, self.steps))
            link = replace(link, equal=bool(same))
        self.links.append(link)
        return b

    def check_close(self, a: _Form, b: _Form, tolerance: float) -> None:
        for name in self.graph.outputs:
            x = np.asarray(a.outputs[name], np.float64)
            y = np.asarray(b.outputs[name], np.float64).reshape(x.shape)
            limit = tolerance * float(np.abs(x).max(initial=0.0))
            distance = np.where(np.isnan(x - y), np.inf, np.abs(x - y))
            if distance.size and float(distance.max()) > limit:
                index = tuple(int(n) for n in np.unravel_index(int(distance.argmax()), x.shape))
                self.failures.append(
                    f"{a.name} → {b.name}: tensor '{name}', sample {index[0]}, element {list(index[1:])}: "
                    f"expected {x[index]:.7g}, found {y[index]:.7g}, apart by more than {limit:.3g}"
                )

    def check_equal(self, truth: _Form, device: _Form) -> None:
        """The device against the reference: every step where it sends CRCs, and every output."""
        difference = None
        if device.crcs is not None:
            difference = first_difference(truth.outputs, device.steps or self.steps, device.crcs, device.fetch)
        for name in self.graph.outputs:
            if difference is None:
                difference = self.output_difference(name, truth.outputs[name], device.outputs[name])
        if difference is not None:
            self.failures.append(f"{truth.name} → {device.name}: {difference}")

    def output_difference(self, name: str, expected: Array, found: Array) -> Difference | None:
        found = np.asarray(found).reshape(expected.shape)
        differing = np.argwhere(expected != found)
        if not len(differing):
            return None
        index = tuple(int(n) for n in differing[0])
        number = next((i for i, step in enumerate(self.steps) if step.tensor == name), len(self.steps))
        node = self.typed.producers[name].name if name in self.typed.producers else name
        values = expected[index].item(), found[index].item()
        return Difference(index[0], number, node, name, index[1:], *values)


class TensorQuality(NamedTuple):
    """How well the integers of one tensor follow its float values."""

    name: str
    op: str
    sqnr_db: float | None


def sqnr_per_tensor(
    float_values: Mapping[str, Array], integer_values: Mapping[str, Array], graph: Graph
) -> list[TensorQuality]:
    """SQNR of every quantized tensor that both executions know, in execution order: where accuracy is lost.

    Values: name → (samples, *shape); `graph` is the quantized one. None stands for "no difference".
    """
    found = []
    for node in graph.nodes:
        quant = graph.types[node.output].quant
        if quant is not None and node.output in float_values and node.output in integer_values:
            real = dequantize(integer_values[node.output], quant)
            found.append(TensorQuality(node.output, node.op.kind, sqnr_db(float_values[node.output], real)))
    return found
