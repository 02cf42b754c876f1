"""The file of what a device made of samples, one by one: written by `evaluate`, and gone on from by it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.errors import DataError
from picoformer.files import save_arrays
from picoformer.ir import Graph
from picoformer.ir.operator import Array
from picoformer.ops.fixedpoint import quantize_real
from picoformer.ops.graph_file import graph_identity
from picoformer.samples import Labels, load_samples, real_outputs

OUTPUT = "output."
"""Start of the name of an array of outputs, as real numbers (samples, *shape)."""
NOT_COUNTED = -1


@dataclass(frozen=True)
class SampleRun:
    """One sample on a device: the bytes of each output, cycles and instructions where they were counted, and the
    seconds from the first byte of its inputs to the last of its outputs, by this machine's clock."""

    outputs: tuple[bytes, ...]
    cycles: int | None
    instructions: int | None
    seconds: float


def stack_outputs(graph: Graph, rows: Sequence[Sequence[bytes]]) -> dict[str, Array]:
    """Bytes of each output for every sample, as a device sent them, as name → (samples, *shape) of the graph."""
    values = {}
    for index, name in enumerate(graph.ports[1]):
        type_ = graph.types[name]
        little = type_.dtype.numpy.newbyteorder("<")
        values[name] = np.stack([np.frombuffer(row[index], little).reshape(type_.shape) for row in rows])
    return values


def save_predictions(
    path: Path, graph: Graph, inputs: Mapping[str, Array], runs: Sequence[SampleRun], labels: Labels, guess: Array,
    reference: Array,
) -> None:  # fmt: skip
    """Write the runs of the first samples of `inputs`: outputs as real numbers, predicted classes beside the
    reference's and the labels, and the figures of each run (−1: not counted)."""
    count = len(runs)
    arrays: dict[str, Array] = {
        "predictions": guess,
        "reference": reference,
        "labels": labels.values[:count],
        "cycles": np.array([NOT_COUNTED if run.cycles is None else run.cycles for run in runs], np.int64),
        "instructions": np.array(
            [NOT_COUNTED if run.instructions is None else run.instructions for run in runs], np.int64
        ),
        "host_round_trip_seconds": np.array([run.seconds for run in runs], np.float64),
        "model": np.array(graph_identity(graph).hex()),
        "data": np.array(_hash(inputs, count)),
    }
    real = real_outputs(graph, stack_outputs(graph, [run.outputs for run in runs]))
    save_arrays(path, {**arrays, **{OUTPUT + name: value for name, value in real.items()}})


def load_predictions(path: Path, graph: Graph, inputs: Mapping[str, Array]) -> list[SampleRun]:
    """The runs that `save_predictions` wrote; DataError for those of another model or of other samples."""
    arrays = load_samples(path)
    own = ("cycles", "instructions", "host_round_trip_seconds", "model", "data")
    wanted = (*own, *(OUTPUT + name for name in graph.outputs))
    if missing := [name for name in wanted if name not in arrays]:
        raise DataError(f"{path}: has no array '{missing[0]}'; give a file that evaluate -o wrote")
    if str(arrays["model"]) != graph_identity(graph).hex():
        raise DataError(f"{path}: holds predictions of another model; leave out --resume, or give this build's")
    count, samples = len(np.atleast_1d(arrays["cycles"])), len(next(iter(inputs.values())))
    if count > samples or str(arrays["data"]) != _hash(inputs, count):
        raise DataError(f"{path}: holds predictions of {count} other samples; leave out --resume, or give that data")
    outputs = []
    for name in graph.ports[1]:
        type_, value = graph.types[name], arrays[OUTPUT + name]
        if value.shape != (count, *type_.shape) or value.dtype.kind not in "fiu" or not np.isfinite(value).all():
            raise DataError(f"{path}: '{OUTPUT}{name}' is {value.dtype}{list(value.shape)}; evaluate anew")
        stored = value if type_.quant is None else quantize_real(value, type_.quant, type_.dtype)
        outputs.append(np.ascontiguousarray(stored.astype(type_.dtype.numpy.newbyteorder("<"))))
    cycles, instructions, seconds = (arrays[name] for name in own[:3])
    if any(value.shape != (count,) or value.dtype.kind not in "fi" for value in (cycles, instructions, seconds)):
        raise DataError(f"{path}: its figures are not one for each sample; evaluate anew")
    return [
        SampleRun(
            tuple(output[index].tobytes() for output in outputs),
            _counted(cycles[index]),
            _counted(instructions[index]),
            float(seconds[index]),
        )
        for index in range(count)
    ]


def _counted(value: Any) -> int | None:
    return None if value < 0 else int(value)


def _hash(inputs: Mapping[str, Array], count: int) -> str:
    """SHA-256 of the first `count` samples."""
    digest = hashlib.sha256()
    for name in sorted(inputs):
        digest.update(f"{name}\0{inputs[name].dtype.str}\0{list(inputs[name].shape[1:])}\0".encode())
        digest.update(np.ascontiguousarray(inputs[name][:count]).tobytes())
    return digest.hexdigest()
