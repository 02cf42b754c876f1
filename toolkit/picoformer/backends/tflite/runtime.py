"""Running a .tflite file, one sample at a time: under LiteRT, its reference kernels, TensorFlow's, or TFLite Micro."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from picoformer.errors import ConfigError, DataError, ModelError
from picoformer.ir.operator import Array

Runtime = Literal["litert", "litert-reference", "tensorflow-reference", "micro"]
RUNTIMES: tuple[str, ...] = get_args(Runtime)
"""`litert`: the kernels of LiteRT without a delegate; `litert-reference` and `tensorflow-reference`: the plain kernels
(BUILTIN_REF) of LiteRT and of TensorFlow; `micro`: the interpreter of TFLite Micro."""
MICRO_ARENA = 1 << 24
"""Bytes of the arena in which TFLite Micro is tried; all of a small model's tensors fit."""


def check_runtime(runtime: str) -> None:
    """Raise ModuleNotFoundError when what `runtime` names is not installed, ConfigError when there is no such one."""
    if runtime not in RUNTIMES:
        raise ConfigError(f"unknown runtime '{runtime}'; use one of {', '.join(RUNTIMES)}")
    library = {"micro": "tflite_micro", "tensorflow-reference": "tensorflow"}.get(runtime, "ai_edge_litert")
    if find_spec(library) is None:
        raise ModuleNotFoundError(f"No module named '{library}'", name=library)


class TfliteSession:
    """A .tflite file that is run again and again. Arrays are those of the file: integers where it has integers.

    Raises ModelError for a file that the runtime does not take, ModuleNotFoundError where it is not installed.
    """

    def __init__(self, data: bytes, runtime: Runtime = "litert", keep_all: bool = False) -> None:
        check_runtime(runtime)
        self._runtime = runtime
        try:
            if runtime == "micro":
                self._open_micro(data, keep_all)
            else:
                with warnings.catch_warnings():  # TensorFlow says of its interpreter that LiteRT's takes its place
                    warnings.simplefilter("ignore", UserWarning)
                    self._open_lite(data, keep_all)
        except ModuleNotFoundError:
            raise
        except Exception as error:  # the interpreters raise RuntimeError, ValueError and types of their own
            raise ModelError(f"{runtime} cannot load the TFLite model ({_first_line(error)})") from error

    def _open_lite(self, data: bytes, keep_all: bool) -> None:
        make, kinds = _interpreter(self._runtime)
        kind = kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES if self._runtime == "litert" else kinds.BUILTIN_REF
        self._lite: Any = make(
            model_content=data, experimental_op_resolver_type=kind, num_threads=1,
            experimental_preserve_all_tensors=keep_all,
        )  # fmt: skip
        self._lite.allocate_tensors()
        signature = self._lite.get_signature_list()["serving_default"]
        details = {detail["name"]: detail for detail in self._lite.get_tensor_details()}
        self._inputs = {name: details[name] for name in signature["inputs"]}
        self._outputs = {name: details[name] for name in signature["outputs"]}
        self._details = details

    def _open_micro(self, data: bytes, keep_all: bool) -> None:
        from tflite_micro import runtime as micro

        from picoformer.backends.tflite.file import read_program

        self._program, _ = read_program(data)
        config = (
            micro.InterpreterConfig.kPreserveAllTensors if keep_all else micro.InterpreterConfig.kAllocationRecording
        )
        self._micro: Any = micro.Interpreter.from_bytes(data, arena_size=MICRO_ARENA, intrepreter_config=config)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One run: output name → array, for `inputs` name → array without a samples axis."""
        try:
            if self._runtime == "micro":
                return self._run_micro(inputs)
            for name, detail in self._inputs.items():
                self._lite.set_tensor(detail["index"], np.asarray(inputs[name], detail["dtype"]))
            self._lite.invoke()
            return {name: self._lite.get_tensor(detail["index"]) for name, detail in self._outputs.items()}
        except KeyError as error:
            raise DataError(f"input {error} is missing; given: {', '.join(inputs) or 'none'}") from None
        except Exception as error:
            raise ModelError(f"{self._runtime} fails: {_first_line(error)}") from error

    def _run_micro(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        for index, name in enumerate(self._program.inputs):
            tensor = self._program.tensors[name]
            self._micro.set_input(np.asarray(inputs[name], tensor.dtype).reshape(tensor.shape), index)
        self._micro.invoke()
        return {name: self._micro.get_output(index) for index, name in enumerate(self._program.outputs)}

    def value(self, name: str) -> Array:
        """A tensor after `run`, for a session that keeps all."""
        if self._runtime == "micro":
            result: Array = self._micro.GetTensor(list(self._program.tensors).index(name), 0)["tensor_data"]
            return result
        found: Array = self._lite.get_tensor(self._details[name]["index"])
        return found


def run_tflite(
    model: Path | bytes, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None, runtime: Runtime = "litert"
) -> dict[str, Array]:
    """Output name → real numbers, float32 (samples, *shape), for `inputs` name → (samples, *shape).

    Floats are quantized for inputs that the file has integers for, and outputs dequantized, on the file's grids.
    """
    from picoformer.backends.tflite.file import read_program
    from picoformer.ops.fixedpoint import dequantize

    data = model if isinstance(model, bytes) else Path(model).read_bytes()
    program, _ = read_program(data, "the TFLite model" if isinstance(model, bytes) else str(model))
    session, rows = TfliteSession(data, runtime), []
    names = list(program.outputs if outputs is None else outputs)
    for name in names:
        if name not in program.outputs:
            raise DataError(f"output '{name}' is not one of the file's: {', '.join(program.outputs)}")
    for sample in file_samples(program, inputs):
        rows.append(session.run(sample))
    results: dict[str, Array] = {}
    for name in names:
        stacked, grid = np.stack([row[name] for row in rows]), program.tensors[name].grid
        results[name] = stacked if grid is None else dequantize(stacked, grid)
    return results


def file_samples(program: Any, inputs: Mapping[str, Array]) -> list[dict[str, Array]]:
    """`inputs` name → (samples, *shape) as a list of what the file takes: its types, grids and shapes."""
    from picoformer.ir import DType
    from picoformer.ops.fixedpoint import quantize_real

    kinds = {"int8": DType.INT8, "int16": DType.INT16}
    missing = [name for name in program.inputs if name not in inputs]
    if missing:
        raise DataError(f"input '{missing[0]}' is missing; given: {', '.join(inputs) or 'none'}")
    counts = {len(np.atleast_1d(inputs[name])) for name in program.inputs}
    if len(counts) != 1 or 0 in counts:
        raise DataError(f"inputs have {sorted(counts)} samples; give each the same number, at least one")
    found: dict[str, Array] = {}
    for name in program.inputs:
        tensor, value = program.tensors[name], np.asarray(inputs[name])
        if value.size != len(value) * int(np.prod(tensor.shape, dtype=np.int64)):
            raise DataError(f"input '{name}' has samples of shape {list(value.shape[1:])}, the file {tensor.shape}")
        value = value.reshape(len(value), *tensor.shape)
        if tensor.grid is not None and value.dtype.kind == "f":
            value = quantize_real(value, tensor.grid, kinds[tensor.dtype])
        found[name] = value.astype(tensor.dtype)
    return [{name: value[index] for name, value in found.items()} for index in range(counts.pop())]


def _interpreter(runtime: str) -> tuple[Callable[..., Any], Any]:
    if runtime == "tensorflow-reference":
        with _silence():
            import tensorflow
        return tensorflow.lite.Interpreter, tensorflow.lite.experimental.OpResolverType
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    return Interpreter, OpResolverType


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps what a C++ library writes about itself while it is loaded from standard error."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
