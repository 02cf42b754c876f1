"""Reading .npz inputs and labels and holding them against a model: names, shapes, finite numbers."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from picoformer.datasets import ARRAYS as DATASET_ARRAYS
from picoformer.errors import DataError
from picoformer.ir import DType, Graph
from picoformer.ir.operator import Array
from picoformer.metrics import IGNORED, Judgement, judge
from picoformer.ops import Attention, Embedding, ReduceMean
from picoformer.ops.fixedpoint import dequantize

LABELS = "labels"
"""An array of this name is not an input: it holds the right answers, for accuracy and the other metrics."""
CHARACTERS = "characters_per_label"
"""Nor is this: one number, how many characters of text a label stands for."""
LABEL_NAMES = "label_names"
"""Nor this: what the labels 0, 1, … are called."""
CAPTURE = "capture"
"""Nor this: how the samples were recorded from a board, as JSON."""
ASIDE = (LABELS, CHARACTERS, LABEL_NAMES, CAPTURE)
DATASET_INPUT = "x"
"""The input that the samples of a data set (`picoformer dataset`) are for: that of every model trained here."""


def load_samples(path: Path, part: str = "test", most: int = 0) -> dict[str, Array]:
    """The arrays of an .npz file; raises DataError when it is missing or is not one.

    Of a data set of `picoformer dataset` the `part` "train" or "test" with its labels, `most` samples spread over it
    (0: all).
    """
    arrays = read_arrays(path)
    if not set(arrays) >= set(DATASET_ARRAYS):
        return arrays
    x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
    if x.shape[:1] != y.shape[:1] or not x.ndim:
        shapes = f"x_{part} is {list(x.shape)} and y_{part} {list(y.shape)}"
        raise DataError(f"{path}: {shapes}, which are not samples and their labels; make the data set again")
    chosen = np.linspace(0, len(x) - 1, most).astype(np.int64) if 0 < most < len(x) else slice(None)
    more = {name: arrays[name] for name in (CHARACTERS, LABEL_NAMES) if name in arrays}
    return {DATASET_INPUT: x[chosen], LABELS: y[chosen], **more}


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file as they are; raises DataError as `load_samples`."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; give an .npz with an array for each input of the model")
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: holds a single array; save it with np.savez(path, <input name>=array)")
        with archive:
            return {name: _plain_array(path, name, archive) for name in archive.files}
    except (ValueError, OSError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        if "pickle" in reason:  # numpy advises to allow it, which would run code out of the file
            reason = "Python objects, or no numpy file at all"
        raise DataError(
            f"{path}: is not a readable .npz file of numbers ({reason}); "
            "save it with np.savez(path, <input name>=array)"
        ) from None


def _plain_array(path: Path, name: str, archive: Mapping[str, object]) -> Array:
    value = archive[name]
    if not isinstance(value, np.ndarray):
        raise DataError(f"{path}: '{name}' is no numpy array; save it with np.savez(path, <input name>=array)")
    return value


def recorded_stretches(arrays: Mapping[str, Array], samples: int, path: Path) -> tuple[list[tuple[int, int]], int]:
    """Of samples that `capture` recorded: (first, how many) of each recording, and how many windows before one share
    readings with it; none and 0 of other samples. Raises DataError where the file is not as it was written."""
    if CAPTURE not in arrays:
        return [], 0
    try:
        found = json.loads(str(arrays[CAPTURE]))
        stretches = [(int(entry["first"]), int(entry["samples"])) for entry in found["recordings"]]
        window, stride = int(found["window"]), max(1, int(found["stride"]))
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: what it says of its recording makes no sense; record again") from None
    ends = [0, *(first + count for first, count in stretches)]
    if [first for first, _ in stretches] != ends[:-1] or ends[-1] != samples or min(n for _, n in stretches) < 1:
        raise DataError(f"{path}: its recordings are not those of its {samples} samples; record again")
    return stretches, max(0, -(-window // stride) - 1)


@dataclass(frozen=True)
class Labels:
    """The right answers: int64 (samples,), or (samples, rows) with one per row; for text, how many characters a
    label stands for on average (0: no text); and what labels 0, 1, … are called, where that is known."""

    values: Array
    characters_per_label: float = 0.0
    names: tuple[str, ...] = ()

    def first(self, count: int) -> Labels:
        """Those of the first `count` samples."""
        return replace(self, values=self.values[:count])


def split_labels(arrays: Mapping[str, Array], path: Path) -> tuple[dict[str, Array], Labels | None]:
    """(inputs, labels or None): the arrays named "labels", "characters_per_label", "label_names" and "capture" set
    aside and checked."""
    inputs = {name: value for name, value in arrays.items() if name not in ASIDE}
    labels = arrays.get(LABELS)
    if labels is None:
        return inputs, None
    if labels.ndim not in (1, 2) or labels.dtype.kind not in "iu":
        shape = f"{labels.dtype}{list(labels.shape)}"
        raise DataError(f"{path}: 'labels' is {shape}; give one integer a sample, or one for each of its rows")
    characters = arrays.get(CHARACTERS, np.array(0.0))
    if characters.shape or characters.dtype.kind != "f" or not 0 <= float(characters) < np.inf:
        raise DataError(f"{path}: '{CHARACTERS}' must be one number from 0 up")
    names = arrays.get(LABEL_NAMES, np.array([], "U1"))
    if names.ndim != 1 or (names.size and names.dtype.kind != "U"):
        raise DataError(f"{path}: '{LABEL_NAMES}' is {names.dtype}{list(names.shape)}; give one text for each class")
    if unreadable := [str(name) for name in names if not str(name).isprintable()]:
        raise DataError(f"{path}: '{LABEL_NAMES}' holds {unreadable[0]!r}; give names that can be printed")
    return inputs, Labels(labels.astype(np.int64), float(characters), tuple(map(str, names)))


def check_labels(labels: Labels | None, graph: Graph, inputs: Mapping[str, Array], path: Path) -> Labels | None:
    """`labels` again, once they fit samples, rows and classes of the model; raises DataError otherwise."""
    if labels is None or len(graph.outputs) != 1:
        return None
    samples = len(next(iter(inputs.values())))
    if len(labels.values) != samples:
        raise DataError(f"{path}: {len(labels.values)} labels for {samples} samples; give one for each")
    out = graph.types[graph.outputs[0]]
    classes, rows = out.width, out.rows
    if labels.values.ndim == 1 and rows != 1:
        classes, rows = out.elements, 1
    if labels.values.ndim == 2 and labels.values.shape[1] != rows:
        raise DataError(
            f"{path}: {labels.values.shape[1]} labels a sample, the model has {rows} rows; give one for each"
        )
    judged = labels.values[labels.values != IGNORED]
    if not len(judged):
        raise DataError(f"{path}: every label is {IGNORED}, which means: not judged; give labels")
    if judged.min() < 0 or judged.max() >= classes:
        raise DataError(f"{path}: labels go from {judged.min()} to {judged.max()}, the model has {classes} classes")
    if len(labels.names) > classes:
        named = f"names {len(labels.names)} labels ({', '.join(labels.names[:4])}, …)"
        raise DataError(f"{path}: {named}, the model has {classes} classes; give the data that it was trained for")
    return labels


def judge_outputs(graph: Graph, value: Array, labels: Labels) -> Judgement:
    """How well the one output of a graph, (samples, *shape) real or as its integers, foretells the labels."""
    return judge(class_scores(graph, value, labels), labels.values, labels.characters_per_label)


def class_scores(graph: Graph, value: Array, labels: Labels) -> Array:
    """The one output of a graph, (samples, *shape) real or as its integers, as real numbers shaped like the labels with
    a last axis of classes."""
    type_ = graph.types[graph.outputs[0]]
    value = np.asarray(value)
    if type_.quant is not None and value.dtype.kind in "iu":
        value = dequantize(value, type_.quant)
    samples = labels.values.shape[0]
    return value.reshape(*labels.values.shape, -1) if labels.values.ndim == 2 else value.reshape(samples, -1)


def real_outputs(graph: Graph, values: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of a graph, (samples, *shape) in its types, as real numbers."""
    real = {}
    for name, value in values.items():
        quant = graph.types[name].quant
        real[name] = np.asarray(value) if quant is None else dequantize(np.asarray(value), quant)
    return real


def check_calibration(arrays: Mapping[str, Array], labels: Labels | None, path: Path) -> None:
    """Refuse samples from which no range can be learned: raises DataError when all of them are the same, when one
    array is the same number everywhere, or when all have one label."""
    for name, value in arrays.items():
        if value.dtype.kind == "f" and value.size > 1 and value.min() == value.max():
            raise DataError(
                f"{path}: array '{name}' is {value.min():g} everywhere, which says nothing of its range; "
                "give samples as the model will see them"
            )
    counts = {len(value) for value in arrays.values() if value.ndim}
    if counts and min(counts) > 1 and all(value.ndim and (value == value[:1]).all() for value in arrays.values()):
        raise DataError(
            f"{path}: all {min(counts)} samples are the same one, so ranges would fit nothing else; "
            "give different samples, a hundred or more"
        )
    if labels is not None and labels.values.size > 1 and labels.values.min() == labels.values.max():
        raise DataError(
            f"{path}: all {len(labels.values)} samples have label {labels.values.min()}; give samples of every class, "
            "or leave 'labels' out when there is only one"
        )


def fit_samples(graph: Graph, arrays: Mapping[str, Array], path: Path) -> dict[str, Array]:
    """Each input of `graph` as (samples, *shape), float32 or int32; raises DataError naming the array at fault.

    A leading axis of 1 in the model's shape may be left out of the array or stand in it.
    """
    fitted: dict[str, Array] = {}
    for name in graph.inputs:
        type_ = graph.types[name]
        if name not in arrays:
            found = ", ".join(f"'{n}'" for n in arrays) or "nothing"
            raise DataError(f"{path}: no array '{name}' ({found} there); the model's inputs are {_names(graph)}")
        value = arrays[name]
        inner = type_.shape[1:] if type_.shape[:1] == (1,) else None
        if value.ndim and value.shape[1:] == type_.shape:
            shaped = value
        elif value.ndim and inner is not None and value.shape[1:] == inner:
            shaped = value.reshape(len(value), *type_.shape)
        else:
            raise DataError(
                f"{path}: array '{name}' has shape {list(value.shape)}; the model wants samples along axis 0 of "
                f"shape {list(type_.shape if inner is None else inner)}"
            )
        if not len(shaped):
            raise DataError(f"{path}: array '{name}' holds no samples")
        wants_float = type_.dtype is DType.FLOAT32 or type_.quant is not None
        if (wants_float and shaped.dtype.kind == "f") or (not wants_float and shaped.dtype.kind in "iu"):
            if not wants_float:
                _check_range(graph, name, shaped, path)
            fitted[name] = shaped.astype(np.float32 if wants_float else np.int32)
        else:
            raise DataError(
                f"{path}: array '{name}' is {value.dtype}; the model wants " + ("reals" if wants_float else "integers")
            )
        if not np.isfinite(fitted[name]).all():
            sample = int(np.argwhere(~np.isfinite(fitted[name]))[0][0])
            raise DataError(f"{path}: array '{name}' holds NaN or infinity, first in sample {sample}; mend it")
    unknown = [name for name in arrays if name not in graph.inputs]
    if unknown:
        raise DataError(f"{path}: array '{unknown[0]}' is no input of the model; its inputs are {_names(graph)}")
    counts = {name: len(value) for name, value in fitted.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"{path}: arrays differ in their number of samples: {counts}")
    return fitted


def _check_range(graph: Graph, name: str, value: Array, path: Path) -> None:
    """Refuse ids that an embedding has no row for, and lengths longer than what they are the length of."""
    low, high = -(1 << 31), (1 << 31) - 1
    for node in graph.consumers.get(name, ()):
        if isinstance(node.op, Embedding):
            low, high = 0, min(high, graph.types[node.inputs[1]].shape[0] - 1)
        elif isinstance(node.op, Attention) and name in node.inputs[3:]:
            low, high = 0, min(high, graph.types[node.inputs[1]].shape[-2])
        elif isinstance(node.op, ReduceMean) and name in node.inputs[1:]:
            low, high = 0, min(high, graph.types[node.inputs[0]].shape[node.op.axis])
    if value.min() < low or value.max() > high:
        raise DataError(f"{path}: array '{name}' holds {value.min()} to {value.max()}; the model takes {low} to {high}")


def _names(graph: Graph) -> str:
    return ", ".join(f"'{name}' {list(graph.types[name].shape)}" for name in graph.inputs)
