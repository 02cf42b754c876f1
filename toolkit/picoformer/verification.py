"""Verifying a build: every form of the model run on the same samples, firmware in the emulator or on a board last."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from picoformer.build_folder import HOST, Build, full_length, open_build, with_full_length
from picoformer.cycles import Cycles, count_cycles, timings_of
from picoformer.emulator.interface import Instructions
from picoformer.emulator.session import Session, open_device
from picoformer.errors import DeviceError
from picoformer.firmware import SizeReport
from picoformer.ir import Graph
from picoformer.ir.operator import Array
from picoformer.link.messages import RunResult
from picoformer.metrics import Judgement
from picoformer.ops.fixedpoint import dequantize, quantize_real
from picoformer.parity import (
    FLOAT_TOLERANCE,
    DeviceRun,
    Executor,
    FlashBytes,
    Link,
    OperatorCost,
    ParityChain,
    ParityReport,
    RamBytes,
    Step,
    TensorQuality,
    compare,
    run_chain,
    sqnr_per_tensor,
)
from picoformer.predictions import stack_outputs
from picoformer.samples import Labels, check_labels, fit_samples, judge_outputs, load_samples, split_labels
from picoformer.targets import Target, load_target, stand_in

if TYPE_CHECKING:
    from picoformer.backends.c import Step as DeviceStep

LEAST_SQNR_DB = 10.0
"""Logits further from the float model than this are no rounding but a model that calibration has destroyed."""
FORMS = ("torch", "given onnx", "float onnx", "float graph", "qdq onnx", "reference")
"""The forms of a model that come before a device, in the chain's order."""

Progress = Callable[[str, int, int, float], None]


@dataclass(frozen=True)
class Measured:
    """What running samples on a device gave beside its outputs."""

    instructions: Instructions | None
    uncounted: str
    stack_used: int | None
    emulator: str
    cycles: Cycles | None = None
    """Of the first sample, where a board counts them."""


def counted_cycles(result: RunResult) -> Cycles | None:
    """What a board counted in one run; None where it counts nothing."""
    if result.init_cycles is None or result.step_cycles is None:
        return None
    steps = tuple((count, count) for count in result.step_cycles)
    return Cycles((result.init_cycles, result.init_cycles), steps, "the board's own counter", is_counted=True)


@dataclass(frozen=True)
class Verification:
    """The parity report, how good each form is where labels were given, and the quality of each tensor."""

    report: ParityReport
    judgements: dict[str, Judgement]
    quality: tuple[TensorQuality, ...]
    uncounted: str
    runtime_flash_bytes: int | None
    compiler: str
    emulator: str
    stands_in: str = ""
    """The target that ran in place of a board without an emulator; empty when none did."""
    cycles: Cycles | str = "not modelled"
    """What the instructions take by the core's published timings, or why that cannot be said."""

    @property
    def accuracy(self) -> dict[str, float]:
        """The share of right answers of each form; empty without labels."""
        return {form: judgement.accuracy for form, judgement in self.judgements.items()}

    def to_json(self) -> dict[str, Any]:
        """The object of `verify --json`, and beside it what a person may also want to know."""
        more = {
            "passed": self.report.passed,
            "failures": list(self.report.failures),
            "accuracy": self.accuracy,
            "metrics": {form: judgement.to_dict() for form, judgement in self.judgements.items()},
            "sqnr_db_per_tensor": [{"name": q.name, "op": q.op, "sqnr_db": q.sqnr_db} for q in self.quality],
            "instructions_uncounted": self.uncounted or None,
            "flash_runtime_bytes": self.runtime_flash_bytes,
            "ran_on_stand_in": self.stands_in or None,
            "compiler": self.compiler or None,
            "emulator": self.emulator or None,
            "cycles": None if isinstance(self.cycles, str) else self._cycles(self.cycles),
            "cycles_unmodelled": self.cycles if isinstance(self.cycles, str) else None,
        }
        return {**self.report.to_json(), **more}

    def _cycles(self, cycles: Cycles) -> dict[str, Any]:
        ranges = zip(self.report.per_operator, cycles.per_step, strict=True)
        steps = [{"name": cost.name, "op": cost.op, "low": low, "high": high} for cost, (low, high) in ranges]
        low, high = cycles.total
        return {
            "low": low,
            "high": high,
            "source": cycles.source,
            "is_counted": cycles.is_counted,
            "per_operator": steps,
        }


class Runner:
    """Runs samples on one device and keeps it at hand for a closer look at a sample that differs."""

    def __init__(self, session: Session, graph: Graph, steps: int, name: str, progress: Progress | None) -> None:
        self.session, self.graph, self.name, self.progress = session, graph, name, progress
        self._cycles: Cycles | None = None
        hello = session.device.hello()
        wanted = (len(graph.ports[0]), len(graph.ports[1]), steps)
        if (hello.input_count, hello.output_count, hello.step_count) != wanted:
            raise DeviceError(f"{name}: the firmware's inputs, outputs and steps are not this build's; flash it again")

    def __call__(self, inputs: Mapping[str, Array]) -> DeviceRun:
        """Every sample once, with a CRC of each step's output."""
        samples = len(next(iter(inputs.values())))
        crcs, outputs = [], []
        for sample in range(samples):
            if self.progress:
                self.progress(f"running on {self.name}", sample, samples, 0.0)
            self.write(inputs, sample)
            result = self.session.device.run(crc=True, outputs=True)
            assert result.step_crcs is not None and result.outputs is not None
            self._cycles = self._cycles or counted_cycles(result)
            crcs.append(result.step_crcs)
            outputs.append(result.outputs)
        if self.progress:
            self.progress(f"running on {self.name}", samples, samples, 0.0)

        def fetch(sample: int, step: int) -> bytes:
            self.write(inputs, sample)
            return self.session.device.run_for_step(step)

        return DeviceRun(self.name, stack_outputs(self.graph, outputs), np.array(crcs, np.uint32), fetch)

    def measured(self) -> Measured:
        """Instructions of the last run, the stack's high-water mark, and what ran it."""
        session = self.session
        stack = session.device.stack().used
        return Measured(session.instructions, session.uncounted, stack, session.emulator, self._cycles)

    def write(self, inputs: Mapping[str, Array], sample: int) -> None:
        """Send the inputs of one sample."""
        for index, name in enumerate(self.graph.ports[0]):
            type_, value = self.graph.types[name], inputs[name][sample]
            if type_.quant is not None and value.dtype.kind == "f":
                value = quantize_real(value, type_.quant, type_.dtype)
            data = np.ascontiguousarray(value.astype(type_.dtype.numpy.newbyteorder("<"))).tobytes()
            self.session.device.write_input(index, data)


def verify_build(
    build: Build,
    inputs: Mapping[str, Array],
    labels: Labels | None = None,
    port: str | None = None,
    torch_outputs: Mapping[str, Array] | None = None,
    progress: Progress | None = None,
    least_sqnr_db: float = LEAST_SQNR_DB,
    emulator: str = "auto",
) -> Verification:
    """Run the chain on `inputs` (name → (samples, *shape)), the device on `port` in place of the `emulator` (qemu,
    unicorn or auto) if given.

    Raises DeviceError when a device crashes, hangs, or runs other firmware.
    """
    from picoformer.backends.onnx.runtime import run_onnx
    from picoformer.ops.graph_file import graph_identity
    from picoformer.reference import lower_graph, run_float

    graph, manifest = build.graph, build.manifest
    inputs = with_full_length(graph, inputs)
    target = build.target
    runs = target if port is not None else stand_in(target)
    boards = [target] if target.is_host else [load_target(HOST), runs]
    if target.is_host and port is not None:
        raise DeviceError("this build is for the host: build for the board that is on the port")
    steps = build.steps(boards[-1])
    quantized = None if manifest.scheme == "float32" else lower_graph(graph)
    forms: dict[str, Mapping[str, Array]] = {} if torch_outputs is None else {"torch": torch_outputs}
    measured: dict[str, Measured] = {}

    def kept(name: str, run: Callable[[Mapping[str, Array]], Mapping[str, Array]]) -> Executor:
        def run_and_keep(values: Mapping[str, Array]) -> Mapping[str, Array]:
            if progress:
                progress("running the model's other forms", len(forms), len(FORMS), 0.0)
            forms[name] = run(values)
            return forms[name]

        return run_and_keep

    with contextlib.ExitStack() as sessions:  # devices stay open until the chain has looked at what differs

        def device(board: Target) -> Callable[[Mapping[str, Array]], DeviceRun]:
            where = None if board.is_host else port

            def run(values: Mapping[str, Array]) -> DeviceRun:
                firmware = None if board.is_library else build.firmware(board)  # a library has no ELF of its own
                identity = graph_identity(graph)[:16]
                session = sessions.enter_context(
                    open_device(firmware, board, where, identity=identity, emulator=emulator)
                )
                own = build.steps(board)
                runner = Runner(session, graph, len(own), where or board.name, progress)
                result = replace(runner(values), steps=_steps(build, board))
                measured[board.name] = runner.measured()
                forms[result.name] = result.outputs
                return result

            return run

        is_float = not manifest.given
        comparable = not manifest.valid_length_added or _is_full(graph, inputs)
        unmasked = None if comparable or not is_float else _unmasked_link(build, inputs)
        chain = run_chain(
            build.float_graph,
            inputs,
            quantized=quantized,
            torch_outputs=torch_outputs,
            float_model=kept("float onnx", lambda v: run_onnx(build.float_onnx, v))
            if comparable and is_float
            else None,
            qdq_model=None if quantized is None else kept("qdq onnx", lambda v: run_onnx(build.qdq_onnx, v)),
            devices=[device(board) for board in boards],
            steps=_steps(build, boards[-1]),
        )
    links, failures = list(chain.links), list(chain.failures)
    if unmasked is not None:
        links.insert(0, unmasked[0])
        failures += unmasked[1]
    if comparable and not is_float:
        links.insert(0, _given_link(kept("given onnx", lambda v: run_onnx(build.float_onnx, v))(inputs), build, chain))
    end = links[-1]
    if quantized is not None and end.sqnr_db is not None and end.sqnr_db < least_sqnr_db:
        failures.append(
            f"{end.source} → {end.to}: {end.sqnr_db:.1f} dB is below {least_sqnr_db:g}: quantization lost the model; "
            f"calibrate with data like what it will see, or lower --min-sqnr"
        )
    last = measured[runs.name]
    sizes, _ = (None, "") if target.is_host else build.sizes(target)
    report = ParityReport(
        manifest.name,
        manifest.scheme,
        manifest.target if port is None else port,
        len(next(iter(inputs.values()))),
        manifest.macs,
        tuple(links),
        None if last.instructions is None else last.instructions.total,
        _costs(graph, steps, last.instructions),
        ram_bytes(build, target, sizes, last),
        flash_bytes(sizes),
        tuple(failures),
    )
    forms["float graph" if quantized is None else "reference"] = chain.reference
    quality: tuple[TensorQuality, ...] = ()
    if quantized is not None:
        few = {name: value[:64] for name, value in inputs.items()}
        integers = {name: value[:64] for name, value in chain.reference.items()}
        quality = tuple(sqnr_per_tensor(run_float(build.float_graph, few), integers, graph))
    runtime = None if sizes is None else sizes.flash.runtime
    ordered = sorted(forms, key=lambda name: FORMS.index(name) if name in FORMS else len(FORMS))
    forms = {name: forms[name] for name in ordered}
    stands_in = "" if runs is target else runs.name
    judged = _judge(forms, graph, labels)
    compiler = "" if runs.is_library else build.firmware(runs).compiler  # on a port: whatever the SDK took
    cycles: Cycles | str = last.cycles or "this board counts none, and they are modelled in an emulator only"
    if port is None:
        cycles = model_cycles(build, runs, inputs, emulator)
    return Verification(report, judged, quality, last.uncounted, runtime, compiler, last.emulator, stands_in, cycles)


def model_cycles(build: Build, board: Target, inputs: Mapping[str, Array], emulator: str = "auto") -> Cycles | str:
    """Cycles of the first sample of `inputs` on an emulated board, by the published timings of its core; or why not."""
    timings = timings_of(board)
    if board.is_host or isinstance(timings, str):
        return "cycles of a native process are not modelled" if board.is_host else str(timings)
    first = {name: value[:1] for name, value in inputs.items()}
    firmware = build.firmware(board)
    with open_device(firmware, board, profile=True, emulator=emulator) as session:
        Runner(session, build.graph, len(build.steps(board)), board.name, None)(first)
        profile, calls = session.profile, session.device.calls
    return (
        session.uncounted or "its emulator keeps no profile"
        if profile is None
        else count_cycles(firmware.elf, board, profile, calls)
    )


def _steps(build: Build, board: Target) -> list[Step]:
    """What the CRCs of a board's firmware are of."""
    lengths = build.lengths(board)
    return [Step(step.name, step.output, lengths.get(step.output, "")) for step in build.steps(board)]


def _given_link(given: Mapping[str, Array], build: Build, chain: ParityChain) -> Link:
    """A file that came quantized, under onnxruntime, against the integers that were made of it."""
    links = []
    for name in build.graph.outputs:
        quant = build.graph.types[name].quant
        ours = chain.reference[name] if quant is None else dequantize(chain.reference[name], quant)
        links.append(compare("given onnx", "reference", given[name], ours))
    return max(links, key=lambda link: link.max_abs or 0.0)


def _unmasked_link(build: Build, inputs: Mapping[str, Array]) -> tuple[Link, list[str]]:
    """The model as it came against its graph with nothing masked: the file knows no valid length."""
    from picoformer.backends.onnx.runtime import run_onnx
    from picoformer.reference import run_float

    whole = {**inputs, "valid_length": np.full_like(inputs["valid_length"], full_length(build.float_graph))}
    given, ours = run_onnx(build.float_onnx, whole), run_float(build.float_graph, whole)
    failures: list[str] = []
    found: Link | None = None
    for name in build.float_graph.outputs:
        link = compare("float onnx, full length", "float graph, full length", given[name], ours[name])
        limit = FLOAT_TOLERANCE * float(np.abs(given[name]).max(initial=0.0))
        if link.max_abs is None or link.max_abs > limit:
            failures.append(f"{link.source} → {link.to}: tensor '{name}' is apart by {link.max_abs}, over {limit:.3g}")
        found = link if found is None or (link.max_abs or 0) > (found.max_abs or 0) else found
    assert found is not None
    return found, failures


def _is_full(graph: Graph, inputs: Mapping[str, Array]) -> bool:
    """True when no sample is padded."""
    return bool((inputs["valid_length"] == full_length(graph)).all())


def _costs(graph: Graph, steps: Sequence[DeviceStep], instructions: Instructions | None) -> tuple[OperatorCost, ...]:
    costs = []
    for index, step in enumerate(steps):
        count = None if instructions is None else instructions.per_step[index]
        costs.append(OperatorCost(step.output, step.kind, count, step.macs(graph)))
    return tuple(costs)


def ram_bytes(build: Build, target: Target, sizes: SizeReport | None, measured: Measured) -> RamBytes:
    """Arena and data of what was built for the target, the run's stack; on the host only the arena means anything."""
    if target.is_host:
        return RamBytes(arena=build.firmware(target).sizes.ram.arena)
    stack = measured.stack_used
    if sizes is None:
        return RamBytes(stack=stack)
    ram = sizes.ram
    return RamBytes(ram.arena, stack, ram.data, None if stack is None else ram.arena + ram.data + stack)


def flash_bytes(sizes: SizeReport | None) -> FlashBytes:
    """What the linked image takes for the model and its code; nothing where there is none."""
    if sizes is None:
        return FlashBytes()
    return FlashBytes(sizes.flash.model, sizes.flash.code, sizes.flash.model + sizes.flash.code)


def _judge(forms: Mapping[str, Mapping[str, Array]], graph: Graph, labels: Labels | None) -> dict[str, Judgement]:
    """How well each form of the model foretells the labels."""
    if labels is None or len(graph.outputs) != 1:
        return {}
    return {form: judge_outputs(graph, values[graph.outputs[0]], labels) for form, values in forms.items()}


def verify_files(
    folder: Path,
    inputs_path: Path,
    port: str | None = None,
    checkpoint: Path | None = None,
    limit: int = 0,
    progress: Progress | None = None,
    least_sqnr_db: float = LEAST_SQNR_DB,
    emulator: str = "auto",
) -> Verification:
    """`verify_build` on files: a build folder and an .npz of inputs, "labels" among them if accuracy is wanted."""
    build = open_build(folder)
    arrays, labels = split_labels(load_samples(inputs_path), inputs_path)
    inputs = fit_samples(build.graph, with_full_length(build.graph, arrays), inputs_path)
    labels = check_labels(labels, build.graph, inputs, inputs_path)
    if limit:
        inputs = {name: value[:limit] for name, value in inputs.items()}
        labels = None if labels is None else labels.first(limit)
    torch = None
    if checkpoint is not None:
        from picoformer.stages import torch_outputs

        torch = torch_outputs(checkpoint, inputs[build.graph.inputs[0]][:, 0], build.graph.outputs)
    return verify_build(build, inputs, labels, port, torch, progress, least_sqnr_db, emulator)
