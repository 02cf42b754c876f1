"""A quantized file under onnxruntime beside what is made of it here, operator by operator on the same integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from picoformer.errors import DataError
from picoformer.importing import import_given
from picoformer.ir import Graph
from picoformer.ir.operator import Array
from picoformer.samples import fit_samples


@dataclass(frozen=True)
class OperatorRow:
    """How far one value lies from the file's, both computed from the same integers.

    `inner` says that the file quantizes inside of what is one operator here (scores and probabilities of an attention):
    there is a row with these roundings, which are the file's own error, and one without them.
    """

    value: str
    operator: str
    elements: int
    equal: float
    within_one: float
    largest: int
    inner: bool = False


@dataclass(frozen=True)
class QdqComparison:
    """The rows, and the whole model against the file: SQNR of the outputs in dB, and agreement of the largest one."""

    rows: tuple[OperatorRow, ...]
    samples: int
    sqnr_db: float
    agreement: float

    @property
    def within_one(self) -> float:
        """Share of all values of operators, as the file means them, that lie within one step."""
        rows = [row for row in self.rows if not row.inner]
        return sum(row.within_one * row.elements for row in rows) / max(1, sum(row.elements for row in rows))

    @property
    def least(self) -> OperatorRow:
        """The operator with the smallest share of values within one step."""
        return min((row for row in self.rows if not row.inner), key=lambda row: row.within_one)

    def table(self) -> str:
        """One line per operator, for a terminal."""
        lines = [f"{'value':50} {'operator':22} {'values':>9} {'equal':>9} {'±1 step':>9} {'largest':>7}"]
        for row in self.rows:
            operator = f"{row.operator}{', inner grids' if row.inner else ''}"
            lines.append(
                f"{row.value[-50:]:50} {operator:22} {row.elements:9,} {row.equal:9.4%} {row.within_one:9.4%} "
                f"{row.largest:7}"
            )
        lines.append(
            f"{len(self.rows)} rows, {self.samples} samples: {self.within_one:.4%} of the values within one step; "
            f"outputs {self.sqnr_db:.1f} dB, {self.agreement:.1%} the same label"
        )
        return "\n".join(lines)


def compare_qdq(
    path: str | Path, inputs: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]] | None = None
) -> QdqComparison:
    """Run the quantized file `path` under onnxruntime (no optimizations) beside the integer reference.

    `inputs`: name → (samples, *shape). Every value with a grid in the file is computed by the file's own nodes from the
    integers that the reference has for the values before it. Raises DataError for a file without grids.
    """
    from picoformer.backends.onnx.cut import QuantizedFile
    from picoformer.backends.onnx.runtime import OnnxSession, run_onnx
    from picoformer.ops.fixedpoint import dequantize
    from picoformer.quantize import quantize_given
    from picoformer.reference import lower_graph, run_integer

    path = Path(path)
    graph, given = import_given(path, shapes)
    inputs = fit_samples(graph, inputs, path)
    if not given.sources:
        raise DataError(f"{path}: no activation has a grid; give a file that came quantized")
    typed = quantize_given(graph, given)
    ours = run_integer(lower_graph(typed), inputs)
    reals = {
        name: dequantize(ours[name], quant) for name, type_ in typed.types.items()
        if name in ours and (quant := type_.quant) is not None
    }  # fmt: skip
    samples = len(next(iter(inputs.values())))
    tensors = {rounded.source: (name, rounded) for name, rounded in given.sources.items()}
    file = QuantizedFile(path, list(tensors), {name: value[0] for name, value in inputs.items()})
    rows = []
    for tensor, (name, rounded) in tensors.items():
        found: dict[bool, Array] = {}
        for bare in (True, False):
            piece = file.piece(tensor, bare)
            if found and not piece.is_rounded_inside:
                continue
            session = OnnxSession(piece.content)
            far = []
            for index in range(samples):
                feeds = {
                    read: file.integers(tensors[read][1], reals[tensors[read][0]][index])
                    if read in tensors
                    else inputs[read][index]
                    for read in piece.reads
                }
                far.append(file.distance(rounded, session.run(feeds)[tensor], reals[name][index]))
            distance = np.stack(far)
            if not any(np.array_equal(distance, other) for other in found.values()):
                found[piece.is_rounded_inside] = distance
        rows += [_row(name, _operator(typed, name), distance, inner) for inner, distance in found.items()]
    whole = run_onnx(path, inputs)
    return QdqComparison(tuple(rows), samples, *_whole(whole, {name: reals[name] for name in graph.outputs}))


def _row(name: str, operator: str, distance: Array, inner: bool) -> OperatorRow:
    equal, near = float((distance == 0).mean()), float((distance <= 1).mean())
    return OperatorRow(name, operator, distance.size, equal, near, int(distance.max()), inner)


def _operator(graph: Graph, name: str) -> str:
    """What computes a value, whatever grid it passes on the way."""
    while name in graph.producers and graph.producers[name].op.kind == "Requantize":
        before = graph.producers[name].inputs[0]
        if not before.endswith("_finer"):
            break
        name = before
    return graph.producers[name].op.kind if name in graph.producers else "input"


def _whole(theirs: Mapping[str, Array], ours: Mapping[str, Array]) -> tuple[float, float]:
    error, signal, same = 0.0, 0.0, []
    for name, value in ours.items():
        wanted = theirs[name].reshape(value.shape).astype(np.float64)
        error, signal = error + float(np.square(wanted - value).sum()), signal + float(np.square(wanted).sum())
        same.append((wanted.argmax(-1) == value.argmax(-1)).mean())
    sqnr = float(10 * np.log10(signal / error)) if error and signal else float("inf")
    return sqnr, float(np.mean(same))
