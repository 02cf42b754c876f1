"""An ONNX file under onnxruntime, its optimizations on: what it wants, what it gives, and inputs held against that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.errors import ConfigError, DataError, ModelError

Array = np.ndarray[Any, Any]
TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint16)": "uint16",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}
MOST_ELEMENTS = 1 << 26
"""Of one input."""
MOST_THREADS = 1024


@dataclass(frozen=True)
class Port:
    """An input or output: its name, numpy's name of its type, and its shape with None for axes of any length; what the
    file calls these (`axes`), which must then be as long wherever they are called so."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    axes: tuple[str | None, ...] = ()

    @property
    def size(self) -> int | None:
        """Elements, where every axis but the first has a length (any first one counts as 1)."""
        rest = [1 if axis is None and at == 0 else axis for at, axis in enumerate(self.shape)]
        total = 1
        for axis in rest:
            if axis is None:
                return None
            total *= axis
        return total

    def fit(self, value: Any) -> Array:
        """`value` (numbers, nested lists of them, or an array) as the model takes it; a first axis of 1 may be left
        out. Raises DataError naming the input."""
        try:
            array = np.asarray(value)
        except (ValueError, TypeError, OverflowError):
            array = np.asarray(None)
        if array.dtype.kind not in "fiub":
            raise DataError(f"input '{self.name}' is no array of numbers; give rows of equal length, of {self._wants}")
        if array.size > MOST_ELEMENTS:
            raise DataError(f"input '{self.name}' has {array.size} numbers; give at most {MOST_ELEMENTS}")
        if not self._holds(array.shape):
            if self.shape and self.shape[0] in (1, None) and self._holds((1, *array.shape)):
                array = array[None]
            else:
                raise DataError(f"input '{self.name}' has shape {list(array.shape)}; the model wants {self._wants}")
        return self._typed(array)

    @property
    def _wants(self) -> str:
        return f"{self.dtype} {[axis if axis is not None else 'any' for axis in self.shape]}".replace("'", "")

    def _holds(self, shape: Sequence[int]) -> bool:
        return len(shape) == len(self.shape) and all(
            (axis is None and length > 0) or axis == length for axis, length in zip(self.shape, shape, strict=True)
        )

    def _typed(self, array: Array) -> Array:
        wanted = np.dtype(self.dtype)
        if wanted.kind == "f" and array.dtype.kind in "fiu":
            with np.errstate(over="ignore"):
                real = array.astype(wanted)
            if not np.isfinite(real).all():
                raise DataError(f"input '{self.name}' holds NaN, infinity, or more than {wanted} can be; mend it")
            return real
        if wanted.kind == "b" and array.dtype.kind == "b":
            return array
        if wanted.kind in "iu" and array.dtype.kind in "iu":
            limits = np.iinfo(wanted)
            if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
                raise DataError(f"input '{self.name}' holds {array.min()} to {array.max()}; {wanted} cannot")
            return array.astype(wanted)
        raise DataError(f"input '{self.name}' is {array.dtype}; the model wants {self._wants}")


class OnnxSession:
    """A loaded model. `run` may be called by several threads at once."""

    def __init__(self, model: Path, threads: int | None = None) -> None:
        """`threads`: how many one run may use; None for as many as there are cores. Raises ModelError."""
        import onnxruntime

        if threads is not None and not 1 <= threads <= MOST_THREADS:
            raise ConfigError(f"threads {threads}: give a whole number from 1 to {MOST_THREADS}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        # As on Arm, where this is so by default: pairs of signed 8-bit integers are a product of integers.
        options.add_session_config_entry("session.qdqisint8allowed", "1")
        try:
            self.session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises many types, none of them documented
            raise ModelError(f"{model}: onnxruntime cannot load it ({_line(error)})") from None
        self.inputs = tuple(_port(model, item) for item in self.session.get_inputs())
        self.outputs = tuple(_port(model, item) for item in self.session.get_outputs())
        self._names = [port.name for port in self.outputs]

    def fit(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Inputs by name, each as the model takes it. Raises DataError naming one that is missing, unknown or wrong."""
        known = ", ".join(f"'{port.name}'" for port in self.inputs)
        unknown = next((name for name in inputs if name not in {port.name for port in self.inputs}), None)
        if unknown is not None:
            raise DataError(f"input '{str(unknown)[:80]}' is none of the model's, which are {known}")
        missing = next((port.name for port in self.inputs if port.name not in inputs), None)
        if missing is not None:
            raise DataError(f"input '{missing}' is missing; the model's inputs are {known}")
        fitted = {port.name: port.fit(inputs[port.name]) for port in self.inputs}
        lengths: dict[str, tuple[int, str]] = {}
        for port in self.inputs:
            for axis, length in zip(port.axes, fitted[port.name].shape, strict=False):
                if axis is not None and lengths.setdefault(axis, (length, port.name))[0] != length:
                    other, first = lengths[axis]
                    raise DataError(f"input '{port.name}' has {length} along '{axis}', and '{first}' has {other}")
        return fitted

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Output name → array, for inputs as `fit` gives them. Raises DataError where the model fails on them."""
        try:
            values = self.session.run(self._names, dict(feeds))
        except Exception as error:
            raise DataError(f"the model fails on these inputs ({_line(error)})") from None
        return dict(zip(self._names, values, strict=True))


def _port(model: Path, item: Any) -> Port:
    if item.type not in TYPES:
        raise ModelError(f"{model}: '{item.name}' is a {item.type}, which is no array of numbers; export it otherwise")
    return Port(
        item.name, TYPES[item.type], tuple(axis if isinstance(axis, int) else None for axis in item.shape),
        tuple(axis if isinstance(axis, str) else None for axis in item.shape),
    )  # fmt: skip


def _line(error: Exception) -> str:
    """What onnxruntime says, without what it says of its own sources."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return first.split(" : ", 2)[-1][:300]
