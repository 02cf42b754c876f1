"""Files of many samples: .npz with samples along axis 0, .csv with one a row, .txt with one text a line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.errors import DataError
from picoformer.raspberry_pi.array_files import read_arrays
from picoformer.raspberry_pi.lines import read_lines
from picoformer.raspberry_pi.onnx_session import Array, Port
from picoformer.raspberry_pi.runner import Given, Runner

LABELS = "labels"
"""An array of this name in an .npz is no input: it holds the right answers."""
ASIDE = ("label_names", "characters_per_label", "capture")
"""Nor are these, which `capture` and `dataset` write beside the labels."""
MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Samples:
    """What a file asks about, sample by sample, and the right answers where it has them."""

    given: Sequence[Given]
    labels: Array | None = None


def read_samples(path: Path, runner: Runner) -> Samples:
    """The samples of a file, by its suffix. Raises DataError naming the file, and the line or array that is wrong."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; give an .npz, a .csv, a .txt, or - for standard input")
    if path.stat().st_size > MOST_BYTES:
        raise DataError(f"{path}: {path.stat().st_size} bytes; give at most {MOST_BYTES}, or - for standard input")
    match path.suffix.lower():
        case ".npz":
            return _of_arrays(path, runner)
        case ".csv":
            found: list[Given] = list(_rows(path, _only_port(path, runner)))
        case ".txt":
            found = list(_texts(path))
        case suffix:
            raise DataError(f"{path}: '{suffix}' is no kind of samples; give an .npz, a .csv, a .txt, or -")
    if not found:
        raise DataError(f"{path}: is empty; give a sample a line")
    return Samples(found)


def _of_arrays(path: Path, runner: Runner) -> Samples:
    known = {port.name for port in runner.inputs}
    arrays = read_arrays(path, [name for name in ASIDE if name not in known])
    labels = arrays.pop(LABELS, None) if LABELS not in known else None
    if not arrays or any(value.ndim == 0 for value in arrays.values()):
        raise DataError(f"{path}: every array has samples along axis 0; save it so")
    counts = {name: len(value) for name, value in arrays.items()}
    count = next(iter(counts.values()))
    if len(set(counts.values())) > 1 or count == 0:
        raise DataError(f"{path}: arrays differ in their number of samples, or have none: {counts}")
    if labels is not None and (labels.shape != (count,) or labels.dtype.kind not in "iu"):
        raise DataError(f"{path}: 'labels' is {labels.dtype}{list(labels.shape)}; give one integer for each sample")
    return Samples([{name: value[at] for name, value in arrays.items()} for at in range(count)], labels)


def _only_port(path: Path, runner: Runner) -> Port:
    if len(runner.inputs) != 1 or runner.inputs[0].size is None:
        raise DataError(
            f"{path}: a row of numbers is one input of a fixed shape, and this model's are others; use .npz"
        )
    return runner.inputs[0]


def _rows(path: Path, port: Port) -> Iterator[dict[str, Any]]:
    """One sample a row; a first row of names is passed over."""
    shape = tuple(axis or 1 for axis in port.shape)
    kind = np.int64 if np.dtype(port.dtype).kind in "iu" else np.float64
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for number, cells in enumerate(csv.reader(stream), start=1):
                if not cells:
                    continue
                try:
                    row = np.array([cell.strip() for cell in cells]).astype(kind)
                except (ValueError, OverflowError):
                    if number == 1:
                        continue
                    raise DataError(f"{path}: line {number} holds something that is no number; mend it") from None
                if row.size != port.size:
                    raise DataError(
                        f"{path}: line {number} has {row.size} numbers; input '{port.name}' takes {port.size}"
                    )
                yield {port.name: row.reshape(shape)}
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is no .csv ({error}); save it again") from None


def _texts(path: Path) -> Iterator[str]:
    with path.open("rb") as stream:
        for number, line in enumerate(read_lines(stream), start=1):
            if line is None:
                raise DataError(f"{path}: line {number} is too long; give shorter texts")
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{path}: line {number}, byte {error.start} is no UTF-8; convert the text") from None
            if not text.strip():
                raise DataError(f"{path}: line {number} is empty; give one text a line")
            yield text
