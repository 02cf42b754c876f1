"""Reading an ONNX file that nobody vouches for: checked, static, folded, or refused in one line."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.inliner
import onnx.numpy_helper
import onnx.shape_inference
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from picoformer.errors import ModelError, UnsupportedError

OPSETS = range(11, 25)
FILE_BYTES_MAX = 1 << 31
"""Protobuf itself ends here; the weights of a microcontroller's model end much earlier."""
ELEMENTS_MAX = 1 << 26
"""Largest value inside a model that is taken seriously."""
DYNAMIC = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulInteger", "ConvInteger",
           "MatMulIntegerToFloat", "QAttention"}  # fmt: skip
"""Operators of files whose scales are found while they run, which integers alone cannot do."""
QDQ_PAIR = ("QuantizeLinear", "DequantizeLinear")
INTEGER_OPERATORS = {
    "MatMulNBits", "QGemm", "QLinearAdd", "QLinearConcat", "QLinearLeakyRelu", "QLinearMatMul", "QLinearMul",
    "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax",
}  # fmt: skip
"""Operators that hold scales and integers inside."""
CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}
STANDARD_DOMAINS = ("", "ai.onnx")
CONTRIB = "com.microsoft"
MISPLACED = {"SimplifiedLayerNormalization"}
"""onnxruntime's own operators that it writes into files as if they were ONNX's."""
FLOATS = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.BFLOAT16,
}
RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
SHAPE_OPERATORS = {"Shape", "Size"}
"""Operators whose result is known although their input is not: the shapes are static."""

log = logging.getLogger(__name__)


def read_model(path: Path, shapes: dict[str, tuple[int, ...]], covered: Collection[str]) -> onnx.ModelProto:
    """The model in `path` with static shapes, no functions, and everything constant folded into initializers.

    `shapes` fixes dynamic inputs; `covered` names the operators that may depend on the inputs.
    Raises ModelError for a broken file, UnsupportedError for operators that are not covered.
    """
    model = parse_model(path)
    check_operators(path, model, covered)
    _check_numbers(path, model)
    _fix_shapes(path, model, shapes)
    _guard(path, "is not a valid ONNX model", lambda: onnx.checker.check_model(model))
    return _fold(path, model)


def parse_model(path: Path) -> onnx.ModelProto:
    """The model in `path` as it was written, but for functions, which are inlined; ModelError for a broken file,
    UnsupportedError for an opset that is not read."""
    model = _parse(path)
    _check_names(path, model)
    _check_external_data(path, model)
    model = _inline(path, model)
    _place_contrib(model)
    _check_opset(path, model)
    return model


@dataclass(frozen=True)
class Standing:
    """Where a node of a file stands: the name it has in tables, whether its result depends on an input of the model,
    and whether it may be there."""

    node: onnx.NodeProto
    key: str
    depends: bool
    covered: bool


def standings(model: onnx.ModelProto, covered: Collection[str]) -> Iterator[Standing]:
    """Where each node stands, in the file's order; `covered` names the operators that may depend on the inputs."""
    opset = opset_of(model)
    stored = {tensor.name for tensor in model.graph.initializer}
    dynamic = {value.name for value in model.graph.input} - stored
    for node in model.graph.node:
        key = key_of(node)
        standard = node.domain in STANDARD_DOMAINS
        known = key in covered or (standard and onnx.defs.has(node.op_type, max_inclusive_version=opset))
        subgraph = any(a.HasField("g") or len(a.graphs) for a in node.attribute) or node.op_type in CONTROL_FLOW
        depends = any(name in dynamic for name in node.input)
        taken = known and not subgraph and (not depends or key in covered or key in SHAPE_OPERATORS)
        if depends and key not in SHAPE_OPERATORS:
            dynamic.update(node.output)
        yield Standing(node, key, depends, taken)


def one_line(error: BaseException) -> str:
    """The first line of an error's text that says something, at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]


def _guard(path: Path, what: str, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except Exception as error:  # the libraries raise anything from RuntimeError to their own types
        raise ModelError(f"{path} {what}: {one_line(error)}; export it again") from error


def _parse(path: Path) -> onnx.ModelProto:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ModelError(f"{path} is not a file: give an .onnx file")
        if size >= FILE_BYTES_MAX:
            raise ModelError(f"{path} has {size} bytes; files up to {FILE_BYTES_MAX} are read")
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}): give an .onnx file") from None
    if not data:
        raise ModelError(f"{path} is empty: export the model again")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise ModelError(f"{path} is not an ONNX file, or is cut short: export the model again") from None
    if model.ir_version <= 0 or not model.opset_import or not model.graph.node or not model.graph.output:
        raise ModelError(f"{path} is not an ONNX file, or is cut short (no graph in it): export the model again")
    return model


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    yield from model.graph.node
    for function in model.functions:
        yield from function.node


def _tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Every stored tensor with the name a person would know it by."""
    for tensor in model.graph.initializer:
        yield tensor.name, tensor
    for node in _nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield (node.output[0] if node.output else node.name), attribute.t
            for tensor in attribute.tensors:
                yield (node.output[0] if node.output else node.name), tensor


def _check_external_data(path: Path, model: onnx.ModelProto) -> None:
    folder = path.parent.resolve()
    total = 0
    found = False
    for name, tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        found = True
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        parts = Path(location).parts
        if not location or os.path.isabs(location) or ".." in parts or "\0" in location or "\\" in location:
            raise ModelError(f"{path}: tensor '{name}' points to '{location}'; its data must lie beside the model")
        file = (folder / location).resolve()
        if not file.is_relative_to(folder):
            raise ModelError(f"{path}: tensor '{name}' points out of the model's folder through '{location}'")
        if not file.is_file():
            raise ModelError(f"{path}: tensor '{name}' needs the file '{location}' beside the model; copy it there")
        try:
            offset, length = int(entries.get("offset", "0")), int(entries.get("length", "0"))
        except ValueError:
            raise ModelError(f"{path}: tensor '{name}' has an offset or length that is no number") from None
        length = length or file.stat().st_size - offset
        if offset < 0 or length < 0 or offset + length > file.stat().st_size:
            raise ModelError(f"{path}: tensor '{name}' lies past the end of '{location}': the file is cut short")
        total += length
        if total >= FILE_BYTES_MAX:
            raise ModelError(f"{path}: more than {FILE_BYTES_MAX} bytes of external data")
    if found:
        _guard(path, "has unreadable external data", lambda: onnx.load_external_data_for_model(model, str(folder)))


def self_contained(path: Path) -> bytes:
    """The file's bytes, with the tensors that lie in files beside it taken in; ModelError as from `read_model`."""
    model = _parse(path)
    if not external_files(path):
        return path.read_bytes()
    _check_external_data(path, model)
    for _, tensor in _tensors(model):
        tensor.data_location = onnx.TensorProto.DEFAULT
        tensor.ClearField("external_data")
    return bytes(model.SerializeToString())


def is_quantized(content: bytes) -> bool:
    """Whether the bytes of an ONNX file hold integers or grids of their own."""
    model = onnx.ModelProto()
    model.ParseFromString(content)
    return any(node.op_type in QDQ_PAIR or node.op_type in INTEGER_OPERATORS for node in _nodes(model))


def external_files(path: Path) -> tuple[Path, ...]:
    """The files beside an ONNX file that hold some of its tensors, sorted; none that lie elsewhere."""
    folder = path.parent.resolve()
    names = {
        entry.value
        for _, tensor in _tensors(_parse(path))
        for entry in tensor.external_data
        if tensor.data_location == onnx.TensorProto.EXTERNAL and entry.key == "location"
    }
    files = {(folder / name).resolve() for name in names if "\0" not in name}
    return tuple(sorted(file for file in files if file.is_relative_to(folder) and file.is_file()))


def _check_names(path: Path, model: onnx.ModelProto) -> None:
    names = [tensor.name for tensor in model.graph.initializer]
    names += [value.name for value in (*model.graph.input, *model.graph.output)]
    for node in _nodes(model):
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
        names += [attribute.name for attribute in node.attribute]
    for value in model.graph.input:
        names += [dimension.dim_param for dimension in value.type.tensor_type.shape.dim]
    names += [entry.domain for entry in model.opset_import]
    for _, tensor in _tensors(model):
        names += [text for entry in tensor.external_data for text in (entry.key, entry.value)]
    for name in names:
        # Text that is not UTF-8 comes out of protobuf as bytes.
        if not isinstance(name, str) or not name.isprintable():
            raise ModelError(f"{path}: the name {name[:40]!r} holds characters that cannot be printed")


def _inline(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    if not model.functions:
        return model
    calls = {
        (function.domain, function.name): {(node.domain, node.op_type) for node in function.node}
        for function in model.functions
    }
    done: set[tuple[str, str]] = set()
    while len(done) < len(calls):
        ready = {key for key in calls.keys() - done if not (calls[key] & calls.keys()) - done}
        if not ready:
            raise ModelError(f"{path}: its functions call each other in a circle; export it again")
        done |= ready
    inlined: onnx.ModelProto = _guard(
        path, "has functions that cannot be inlined", lambda: onnx.inliner.inline_local_functions(model)
    )
    return inlined


def _place_contrib(model: onnx.ModelProto) -> None:
    """Put operators that are onnxruntime's into its domain."""
    for node in model.graph.node:
        if node.op_type in MISPLACED and node.domain in STANDARD_DOMAINS:
            node.domain = CONTRIB
    domains = {entry.domain for entry in model.opset_import}
    if CONTRIB not in domains and any(node.domain == CONTRIB for node in model.graph.node):
        model.opset_import.add(domain=CONTRIB, version=1)


def key_of(node: onnx.NodeProto) -> str:
    """The name that a table of operators has a node under: with its domain unless that is ONNX's own. QuantizeLinear
    and DequantizeLinear are the same in both domains that have them."""
    if node.domain in STANDARD_DOMAINS or (node.domain == CONTRIB and node.op_type in QDQ_PAIR):
        return node.op_type
    return f"{node.domain}.{node.op_type}"


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operator set the model uses."""
    return max((entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS), default=0)


def _check_opset(path: Path, model: onnx.ModelProto) -> None:
    """Refuse opsets that are not read; one beside them is read as the nearest when its operators are the same there."""
    opset = opset_of(model)
    if opset in OPSETS:
        return
    nearest = OPSETS.start if opset < OPSETS.start else OPSETS.stop - 1
    changed = {kind for node in _nodes(model) if (kind := _changed(node, opset, nearest)) is not None}
    if changed:
        raise UnsupportedError(
            f"{path} uses opset {opset}, in which {', '.join(sorted(changed))} may differ; {OPSETS.start} to "
            f"{OPSETS.stop - 1} are read: export with opset_version=20 or convert with onnx.version_converter"
        )
    for entry in model.opset_import:
        if entry.domain in STANDARD_DOMAINS:
            entry.version = nearest


def _changed(node: onnx.NodeProto, opset: int, nearest: int) -> str | None:
    """The name of a standard operator that two opsets define differently, or one of them not at all."""
    if node.domain not in STANDARD_DOMAINS:
        return None
    try:
        ours, theirs = (_meaning(onnx.defs.get_schema(node.op_type, one)) for one in (nearest, opset))
    except (onnx.defs.SchemaError, TypeError):  # TypeError: a version that is no 32-bit number
        return node.op_type
    return None if ours == theirs else node.op_type


def _meaning(schema: onnx.defs.OpSchema) -> tuple[object, ...]:
    """All that the definition of an operator says but the element types it takes, which only ever grow in number."""
    attributes = [(a.name, a.type, a.required, a.default_value.SerializeToString()) for a in schema.attributes.values()]
    operands = [[(one.name, one.option) for one in group] for group in (schema.inputs, schema.outputs)]
    return schema.doc, attributes, operands


def check_operators(path: Path, model: onnx.ModelProto, covered: Collection[str]) -> None:
    """Raise UnsupportedError naming every operator that depends on the inputs and is not in `covered`."""
    missing: dict[str, tuple[str, str]] = {}
    for standing in standings(model, covered):
        node, full = standing.node, standing.key
        output = node.output[0] if node.output else ""
        if node.op_type in DYNAMIC:
            raise UnsupportedError(
                f"{path} is quantized with scales found at run time (node '{node.name}', {full}, output '{output}'): "
                f"quantize it with fixed ones (quantize_static, QuantFormat.QDQ), or give the float model"
            )
        if node.op_type in RANDOM:
            raise UnsupportedError(
                f"{path}: node '{node.name}' ({node.op_type}) draws random numbers; export in eval mode"
            )
        if not standing.covered:
            missing.setdefault(full, (node.name, output))
    if missing:
        listing = "; ".join(
            f"{kind} (node '{name}', output '{output}')" if name else f"{kind} (output '{output}')"
            for kind, (name, output) in missing.items()
        )
        raise UnsupportedError(
            f"{path} uses operators that are not covered: {listing}. "
            f"`picoformer inspect` says what becomes of each node: write the model with operators that are covered "
            f"(docs/onnx.md), or export it with torch.onnx.export(..., dynamo=True, opset_version=20)"
        )


def _check_numbers(path: Path, model: onnx.ModelProto) -> None:
    if model.graph.sparse_initializer:
        name = model.graph.sparse_initializer[0].values.name
        raise UnsupportedError(f"{path}: tensor '{name}' is stored sparse; export it dense")
    other = set()
    for name, tensor in _tensors(model):
        if tensor.data_type in FLOATS and tensor.data_type != onnx.TensorProto.FLOAT:
            other.add(onnx.TensorProto.DataType.Name(tensor.data_type).lower())
        value = _guard(path, f"holds a broken tensor '{name}'", functools.partial(onnx.numpy_helper.to_array, tensor))
        if tensor.data_type not in FLOATS:
            continue
        check_finite(path, name, np.asarray(value, np.float64))
    if other:
        log.warning("%s holds %s numbers; they are computed as float32", path, " and ".join(sorted(other)))


def check_finite(path: Path, name: str, value: Any) -> None:
    """Raise ModelError for NaN and infinity; masks of nothing but 0 and minus infinity, and single limits, pass."""
    if np.isfinite(value).all():
        return
    if np.isnan(value).any():
        raise ModelError(f"{path}: tensor '{name}' holds NaN; train or export the model again")
    is_mask = bool(((value == 0) | np.isneginf(value)).all())
    if not is_mask and value.size != 1:
        raise ModelError(f"{path}: tensor '{name}' holds infinity; train or export the model again")


def axes_of(path: Path, value: onnx.ValueInfoProto, given: tuple[int, ...] | None) -> list[int | str | None]:
    """The size of each axis of an input, its name or None where the file leaves it open; all are `given`, if they are.
    ModelError where these contradict the file."""
    tensor = value.type.tensor_type
    said = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim]
    if given is None:
        return said
    if tensor.HasField("shape") and (
        len(given) != len(said) or any(isinstance(s, int) and s != g for s, g in zip(said, given, strict=True))
    ):
        file_shape = ",".join("?" if s is None else str(s) for s in said)
        asked = ",".join(map(str, given))
        raise ModelError(f"{path}: --shape {value.name}={asked} contradicts the file, which says {file_shape}")
    return list(given)


def _fix_shapes(path: Path, model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> None:
    """Set every input's shape; afterwards nothing in the file says a dynamic dimension."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: value for value in model.graph.input if value.name not in stored}
    for name in shapes:
        if name not in inputs:
            raise ModelError(f"{path} has no input '{name}'; its inputs are {', '.join(inputs)}")
    dynamic = []
    for name, value in inputs.items():
        if not value.type.HasField("tensor_type"):
            raise UnsupportedError(f"{path}: input '{name}' is not a tensor")
        tensor = value.type.tensor_type
        said = axes_of(path, value, shapes.get(name))
        if name in shapes:
            tensor.shape.ClearField("dim")
            for size in shapes[name]:
                tensor.shape.dim.add().dim_value = size
        elif not tensor.HasField("shape"):
            dynamic.append(f"input '{name}' has no shape at all: fix it with --shape {name}=1,64,16")
            continue
        open_axes = [axis for axis, size in enumerate(said) if not isinstance(size, int)]
        if open_axes:
            example = ",".join(str(s if isinstance(s, int) else 1 if i == 0 else 64) for i, s in enumerate(said))
            axes = " and ".join(f"axis {axis}" + (f" ('{said[axis]}')" if said[axis] else "") for axis in open_axes)
            dynamic.append(f"input '{name}' is dynamic in {axes}: fix it with --shape {name}={example}")
            continue
        sizes = [size for size in said if isinstance(size, int)]
        if any(size < 1 for size in sizes) or np.prod(sizes, dtype=np.float64) > ELEMENTS_MAX:
            raise ModelError(f"{path}: input '{name}' has shape {sizes}; every axis must be at least 1 and fit memory")
    if dynamic:
        raise ModelError(f"{path}: {'; '.join(dynamic)}")


def _fold(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """Infer shapes, refusing what cannot be, and let the optimizer compute what is constant."""
    import onnxscript.optimizer

    del model.graph.value_info[:]  # they may still say the dynamic dimensions
    for output in model.graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    inferred = _guard(
        path,
        "has shapes that contradict each other",
        lambda: onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True),
    )
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        sizes = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if np.prod(sizes, dtype=np.float64) > ELEMENTS_MAX:
            raise ModelError(f"{path}: value '{value.name}' would have shape {sizes}, which does not fit memory")
    folded: onnx.ModelProto = _guard(
        path,
        "cannot be simplified",
        lambda: onnxscript.optimizer.optimize(
            model, input_size_limit=4 * ELEMENTS_MAX, output_size_limit=4 * ELEMENTS_MAX
        ),
    )
    return folded
