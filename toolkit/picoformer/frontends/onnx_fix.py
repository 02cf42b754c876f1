"""An ONNX file with some of its inputs fixed: they are stored numbers from then on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from picoformer.errors import ModelError
from picoformer.frontends.onnx_load import ELEMENTS_MAX, axes_of, parse_model, self_contained
from picoformer.ir.operator import Array


def with_constants(model: onnx.ModelProto, constants: Mapping[str, Array]) -> onnx.ModelProto:
    """`model` with inputs as initializers, in place of any they have; ModelError for a name that no input has."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    inputs = {value.name: value for value in changed.graph.input}
    for name in constants:
        if name not in inputs:
            raise ModelError(f"the model has no input '{name}' to fix; its inputs are {', '.join(inputs)}")
    kept = [value for name, value in inputs.items() if name not in constants]
    del changed.graph.input[:]
    changed.graph.input.extend(kept)
    for index in reversed(range(len(changed.graph.initializer))):
        if changed.graph.initializer[index].name in constants:
            del changed.graph.initializer[index]
    changed.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items())
    return changed


def fix_inputs(
    path: Path, numbers: Mapping[str, Sequence[float]], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[bytes, dict[str, list[int]]]:
    """(the file at `path` with inputs fixed, the shape of each): one number fills an input, or there are as many as it
    has elements. `shapes` says those that the file does not. Raises ModelError for a broken file, an input that is not
    there, has no shape or another one, or is of a type that its numbers are not."""
    parse_model(path)
    model = onnx.ModelProto.FromString(self_contained(path))
    found = {}
    for value in model.graph.input:
        if value.name in numbers:
            found[value.name] = _filled(path, value, numbers[value.name], shapes.get(value.name))
    try:
        changed = with_constants(model, {name: found.get(name, np.zeros(())) for name in numbers})
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    for name in shapes:
        if name not in numbers:
            raise ModelError(f"{path}: --shape {name} speaks of an input that is not fixed here; leave it out")
    return changed.SerializeToString(), {name: list(array.shape) for name, array in found.items()}


def _filled(path: Path, value: onnx.ValueInfoProto, numbers: Sequence[float], given: tuple[int, ...] | None) -> Array:
    tensor = value.type.tensor_type
    axes = axes_of(path, value, given)
    shape = tuple(size for size in axes if isinstance(size, int) and size > 0)
    if len(shape) < len(axes) or (given is None and not tensor.HasField("shape")):
        raise ModelError(f"{path}: input '{value.name}' is dynamic: say its shape with --shape {value.name}=1,64")
    if math.prod(shape) > ELEMENTS_MAX or len(numbers) not in (1, math.prod(shape)):
        raise ModelError(
            f"{path}: input '{value.name}' has {math.prod(shape)} elements and {len(numbers)} numbers were given; give "
            f"one for all, or one for each"
        )
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.INT64,
             onnx.TensorProto.INT32, onnx.TensorProto.BOOL)  # fmt: skip
    if tensor.elem_type not in kinds:
        raise ModelError(f"{path}: input '{value.name}' is of a type that cannot be fixed here; export it without")
    with np.errstate(invalid="ignore"):  # what does not fit is another number, which is seen below
        array = np.asarray(numbers, np.float64).astype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    if array.dtype.kind != "f" and (array != np.asarray(numbers)).any():
        raise ModelError(f"{path}: input '{value.name}' is {array.dtype}; give numbers of that type")
    return np.full(shape, array[0]) if len(numbers) == 1 else array.reshape(shape)
