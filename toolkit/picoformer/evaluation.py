"""How good a build is on labelled data: sample by sample over the wire, beside the integer reference."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.build_folder import HOST, Build, open_build, with_full_length
from picoformer.emulator.session import Session, open_device
from picoformer.errors import ConfigError, DataError, DeviceError, UnsupportedError
from picoformer.files import refuse_inputs, refuse_unwritable
from picoformer.ir.operator import Array
from picoformer.link.messages import Table
from picoformer.metrics import IGNORED, Judgement, confusion
from picoformer.parity import FLOAT_DEVICE_TOLERANCE
from picoformer.predictions import SampleRun, load_predictions, save_predictions, stack_outputs
from picoformer.samples import (
    Labels,
    check_labels,
    class_scores,
    fit_samples,
    judge_outputs,
    load_samples,
    split_labels,
)
from picoformer.targets import Target, load_target, stand_in
from picoformer.verification import Measured, Runner

BATCH = 64
"""Samples that the reference computes at a time."""
PERCENTILES = (50, 90, 99)
MOST_CLASSES = 256
"""Of more classes there is no table of what was taken for what."""

Progress = Callable[[str, int, int, float], None]


@dataclass(frozen=True)
class Evaluation:
    """What a device made of labelled samples. `equal` says of each sample whether its output is the reference's (of a
    float32 build: within the tolerance of float C); `guess` and `reference_guess` are shaped like the labels."""

    model: str
    scheme: str
    where: str
    labels: Labels
    runs: tuple[SampleRun, ...]
    guess: Array
    judgement: Judgement
    reference_guess: Array
    reference_judgement: Judgement
    equal: Array
    classes: int
    clock_hz: int
    measured: Measured
    resent: int
    stands_in: str = ""

    @property
    def confusion(self) -> Array | None:
        """(classes, classes): how often each label, a row, was taken for each class, a column; None of too many."""
        return confusion(self.guess, self.labels.values, self.classes) if self.classes <= MOST_CLASSES else None

    @property
    def first_difference(self) -> int | None:
        """The first sample whose outputs are not the reference's."""
        return None if self.equal.all() else int(np.argmin(self.equal))

    def to_json(self) -> dict[str, Any]:
        """The object of `evaluate --json`; a figure that was not measured is null."""
        counts = self.confusion
        cycles = [run.cycles for run in self.runs if run.cycles is not None]
        seconds = [run.seconds for run in self.runs]
        return {
            "model": self.model,
            "scheme": self.scheme,
            "device": self.where,
            "ran_on_stand_in": self.stands_in or None,
            "samples": len(self.runs),
            "accuracy": self.judgement.accuracy,
            "metrics": self.judgement.to_dict(),
            "reference": {
                "accuracy": self.reference_judgement.accuracy,
                "equal_samples": int(self.equal.sum()),
                "same_predictions": int((self.guess == self.reference_guess).reshape(len(self.guess), -1).all(1).sum()),
                "first_difference": self.first_difference,
            },
            "per_class": self._per_class(),
            "confusion": None if counts is None else counts.tolist(),
            "latency": {
                "device_cycles": percentiles(cycles),
                "device_us": percentiles([1e6 * c / self.clock_hz for c in cycles]) if self.clock_hz else None,
                "instructions": percentiles([run.instructions for run in self.runs if run.instructions is not None]),
                "host_round_trip_ms": percentiles([1e3 * value for value in seconds]),
            },
            "clock_hz": self.clock_hz or None,
            "instructions_uncounted": self.measured.uncounted or None,
            "samples_per_second": len(seconds) / sum(seconds) if sum(seconds) > 0 else None,
            "stack_bytes": self.measured.stack_used,
            "requests_sent_again": self.resent,
            "emulator": self.measured.emulator or None,
        }

    def _per_class(self) -> list[dict[str, Any]]:
        counted = self.labels.values != IGNORED
        wanted, guess = self.labels.values[counted], self.guess[counted]
        names = (*self.labels.names, *([None] * self.classes))
        rows = []
        for index, hits, samples, named in zip(
            range(self.classes),
            *(np.bincount(a, minlength=self.classes).tolist() for a in (wanted[wanted == guess], wanted, guess)),
            strict=True,
        ):
            recall, precision = hits / samples if samples else None, hits / named if named else None
            row = {"class": index, "name": names[index], "samples": samples, "recall": recall, "precision": precision}
            rows.append(row)
        return rows


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """The values that 50, 90 and 99 % lie at or below (each one that was measured), and the largest; None of none."""
    if not values:
        return None
    found = np.percentile(np.array(values), PERCENTILES, method="inverted_cdf")
    figures = {f"p{share}": value.item() for share, value in zip(PERCENTILES, found, strict=True)}
    return {**figures, "max": max(values)}


def evaluate_files(
    folder: Path,
    data: Path,
    port: str | None = None,
    on_host: bool = False,
    limit: int = 0,
    out: Path | None = None,
    resume: Path | None = None,
    progress: Progress | None = None,
    emulator: str = "auto",
) -> Evaluation:
    """Send the labelled samples of `data`, an .npz or a data set's test part, through a build's firmware: on the board
    at `port`, as this machine's program with `on_host`, else in the emulator.

    `out` gets every prediction, those before an error too; `resume`, such a file, those that need not be made again.
    Raises DataError for data that cannot be judged, DeviceError naming the sample at which a device failed for good.
    """
    build = open_build(folder)
    graph = build.graph
    if graph.states:
        raise UnsupportedError(
            f"{folder}: is a language model's build; `perplexity` judges its text, `verify` its steps"
        )
    if on_host and port is not None:
        raise ConfigError("--host runs on this machine and --port on a board; keep one")
    if out is not None:
        refuse_inputs(out, [data])
        refuse_unwritable(out)
    arrays, labels = split_labels(load_samples(data), data)
    if labels is None:
        raise DataError(f"{data}: has no array 'labels' to judge by; add one integer a sample, or use verify")
    if len(graph.outputs) != 1:
        names = ", ".join(f"'{name}'" for name in graph.outputs)
        raise UnsupportedError(f"{folder}: has the outputs {names}, and labels judge a model with one; use verify")
    inputs = fit_samples(graph, with_full_length(graph, arrays), data)
    checked = check_labels(labels, graph, inputs, data) or labels
    if limit:
        inputs = {name: value[:limit] for name, value in inputs.items()}
        checked = check_labels(checked.first(limit), graph, inputs, data) or checked
    target = load_target(HOST) if on_host else build.target
    runs = target if port is not None else stand_in(target)
    if target.is_host and port is not None:
        raise DeviceError("this build is for the host: build for the board that is on the port")
    done = [] if resume is None else load_predictions(resume, graph, inputs)
    truth = _reference(build, inputs, progress)[graph.outputs[0]]
    stream = _Stream(build, runs, port, emulator, inputs, checked, progress, done)

    def guess(value: Array) -> Array:
        return np.asarray(class_scores(graph, value, checked.first(len(value))).argmax(-1))

    def outputs() -> Array:
        return stack_outputs(graph, [run.outputs for run in stream.done])[graph.outputs[0]]

    place = out or resume
    try:
        measured = stream.run()
    except DeviceError as error:
        if place is None or not stream.done:
            raise
        kept = f"the {len(stream.done)} before it are in {place}, go on with --resume {place}"
        raise DeviceError(f"{error}; {kept}") from error
    finally:
        if place is not None and stream.done:
            few = truth[: len(stream.done)]
            save_predictions(place, graph, inputs, stream.done, checked, guess(outputs()), guess(few))
    value = outputs()
    return Evaluation(
        build.manifest.name,
        build.manifest.scheme,
        port or runs.name,
        checked,
        tuple(stream.done),
        guess(value),
        judge_outputs(graph, value, checked),
        guess(truth),
        judge_outputs(graph, truth, checked),
        _equal(value, truth),
        class_scores(graph, value, checked).shape[-1],
        0 if measured.emulator else stream.clock_hz,
        measured,
        stream.resent,
        "" if runs is target else runs.name,
    )


def _reference(build: Build, inputs: Mapping[str, Array], progress: Progress | None) -> dict[str, Array]:
    """What the integer reference computes of each sample (of a float32 build, the float graph)."""
    from picoformer.reference import lower_graph, run_float, run_integer

    lowered = None if build.manifest.scheme == "float32" else lower_graph(build.graph)
    samples = len(next(iter(inputs.values())))
    parts: dict[str, list[Array]] = {name: [] for name in build.graph.outputs}
    for start in range(0, samples, BATCH):
        if progress:
            progress("the reference", start, samples, 0.0)
        few = {name: value[start : start + BATCH] for name, value in inputs.items()}
        found = run_float(build.graph, few) if lowered is None else run_integer(lowered, few)
        for name, kept in parts.items():
            kept.append(np.asarray(found[name]))
    return {name: np.concatenate(kept) for name, kept in parts.items()}


def _equal(value: Array, truth: Array) -> Array:
    """(samples,): whether the output is the reference's, to the byte for integers."""
    flat, wanted = value.reshape(len(value), -1), truth.reshape(len(truth), -1)
    limit = FLOAT_DEVICE_TOLERANCE * float(np.abs(wanted).max(initial=0.0)) if value.dtype.kind == "f" else 0
    return np.asarray((np.abs(flat.astype(np.float64) - wanted) <= limit).all(axis=1))


@dataclass
class _Stream:
    """Samples through a device, one after the other; `done` keeps those that are through, whatever happens then."""

    build: Build
    target: Target
    port: str | None
    emulator: str
    inputs: Mapping[str, Array]
    labels: Labels
    progress: Progress | None
    done: list[SampleRun]
    resent: int = 0
    clock_hz: int = 0
    was_open: bool = False
    right: int = 0
    judged: int = 0

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self.labels.values)

    def run(self) -> Measured:
        """Run what is left. What the line does to requests is the exchange's to mend."""
        for index in range(len(self.done)):
            self._judge(index)
        try:
            return self._session()
        except DeviceError as error:
            if not self.was_open:
                raise
            raise DeviceError(f"sample {len(self.done)} of {self.samples}: {error}") from error

    def _session(self) -> Measured:
        from picoformer.ops.graph_file import graph_identity

        build, target = self.build, self.target
        firmware = None if target.is_library else build.firmware(target)
        identity = graph_identity(build.graph)[:16]
        with open_device(firmware, target, self.port, identity=identity, emulator=self.emulator) as session:
            self.was_open = True
            runner = Runner(session, build.graph, len(build.steps(target)), self.port or target.name, None)
            self.clock_hz = session.device.hello().clock_hz
            for table in (Table.INPUTS, Table.OUTPUTS):  # asked here, so that no sample's time holds it
                session.device.tensors(table)
            sent_again = session.device.exchange.resent  # by a board that was just starting
            self._tick(runner.name)
            while len(self.done) < self.samples:
                self.done.append(self._one(session, runner))
                self._judge(len(self.done) - 1)
                self._tick(runner.name)
            self.resent = session.device.exchange.resent - sent_again
            return runner.measured()

    def _one(self, session: Session, runner: Runner) -> SampleRun:
        """The next sample."""
        began = time.perf_counter()
        runner.write(self.inputs, len(self.done))
        result = session.device.run(outputs=True)
        seconds = time.perf_counter() - began
        assert result.outputs is not None
        cycles = None if result.step_cycles is None else (result.init_cycles or 0) + sum(result.step_cycles)
        counted = session.instructions
        return SampleRun(result.outputs, cycles, None if counted is None else counted.total, seconds)

    def _judge(self, index: int) -> None:
        graph, label = self.build.graph, self.labels.values[index : index + 1]
        value = stack_outputs(graph, [self.done[index].outputs])[graph.outputs[0]]
        guess = class_scores(graph, value, Labels(label)).argmax(-1)
        self.right += int((guess == label).sum())
        self.judged += int((label != IGNORED).sum())

    def _tick(self, name: str) -> None:
        if self.progress:
            accuracy = self.right / self.judged if self.judged else 0.0
            self.progress(f"evaluating on {name}", len(self.done), self.samples, accuracy)
