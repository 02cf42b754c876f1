"""Running an ONNX file under onnxruntime, one sample at a time, with nothing rewritten by its optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.errors import DataError, ModelError
from picoformer.ir.operator import Array

NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint16)": np.uint16,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def run_onnx(
    model: Path | bytes, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
) -> dict[str, Array]:
    """Output name → (samples, *shape), for `inputs` name → (samples, *shape); `outputs` defaults to all.

    A sample is reshaped to the shape the file declares when only axes of length 1 differ (a batch axis), and
    converted to the type it declares. All optimizations are off and one thread is used, so that results are
    those of the nodes as written. Raises ModelError for a file that cannot be loaded or fails while it runs,
    DataError for inputs that do not fit.
    """
    session = _session(model)
    feeds = {item.name: _samples(item, inputs) for item in session.get_inputs()}
    known = [item.name for item in session.get_outputs()]
    names = list(known if outputs is None else outputs)
    for name in names:
        if name not in known:
            raise DataError(f"output '{name}' is not one of the file's: {', '.join(known)}")
    counts = {len(value) for value in feeds.values()}
    if len(counts) != 1 or 0 in counts:
        raise DataError(f"inputs have {sorted(counts)} samples; give each the same number, at least one")
    results: list[list[Array]] = []
    for index in range(counts.pop()):
        try:
            results.append(session.run(names, {name: np.asarray(value[index]) for name, value in feeds.items()}))
        except Exception as error:
            raise ModelError(f"onnxruntime fails at sample {index}: {str(error).splitlines()[0]}") from error
    return {name: np.stack([row[position] for row in results]) for position, name in enumerate(names)}


class OnnxSession:
    """An ONNX file that is run again and again, as a decoder is; all optimizations are off. Raises ModelError."""

    def __init__(self, model: Path | bytes) -> None:
        self._session = _session(model)
        self._inputs = self._session.get_inputs()
        self._names = [item.name for item in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One run: output name → array, for `inputs` name → array without a samples axis."""
        one = {name: np.asarray(value)[None] for name, value in inputs.items()}
        feeds = {item.name: np.asarray(_samples(item, one)[0]) for item in self._inputs}  # also of no axis
        try:
            return dict(zip(self._names, self._session.run(self._names, feeds), strict=True))
        except Exception as error:
            raise ModelError(f"onnxruntime fails: {str(error).splitlines()[0]}") from error


def _session(model: Path | bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises many types, none of them documented
        where = "the ONNX model" if isinstance(model, bytes) else str(model)
        raise ModelError(f"{where}: onnxruntime cannot load it ({str(error).splitlines()[0]})") from error


def _samples(item: Any, inputs: Mapping[str, Array]) -> Array:
    """The samples of one input as the file wants them, (samples, *declared shape)."""
    if item.name not in inputs:
        raise DataError(f"input '{item.name}' is missing; given: {', '.join(inputs) or 'none'}")
    value = np.asarray(inputs[item.name])
    if value.ndim == 0:
        raise DataError(f"input '{item.name}' has no samples axis")
    sample = value.shape[1:]
    declared = list(item.shape)
    if len(declared) == len(sample):
        declared = [m if isinstance(m, int) else n for m, n in zip(declared, sample, strict=True)]
    elif declared and not isinstance(declared[0], int):
        declared[0] = 1
    if [n for n in declared if n != 1] != [n for n in sample if n != 1]:
        raise DataError(f"input '{item.name}' has samples of shape {list(sample)}, the file wants {item.shape}")
    return value.reshape(len(value), *declared).astype(NUMPY_TYPES[item.type])
