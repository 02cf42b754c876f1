"""The bytes of a .tflite file: a program written as a flatbuffer, and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from picoformer import __version__
from picoformer.backends.tflite.operators import BUILTINS
from picoformer.backends.tflite.program import Program, Step, Tensor
from picoformer.errors import ModelError
from picoformer.ir import QuantParams
from picoformer.ir.operator import Array

ELEMENT_TYPES = {"float32": 0, "int32": 2, "int64": 4, "bool": 6, "int16": 7, "int8": 9}
"""Numpy's name → TensorType of the schema."""
SCHEMA_VERSION = 3
ALIGNMENT = 16
"""Bytes that data of constants is aligned to: what the schema asks for and its Python code leaves out; a core without
unaligned loads reads constants in place."""
SIGNATURE = "serving_default"
RUNTIME_BYTES = 16
"""Length of the metadata `min_runtime_version`."""


def program_bytes(program: Program, metadata: Mapping[str, str]) -> bytes:
    """The file: signature `serving_default` with the graph's names, metadata `min_runtime_version` and `picoformer`
    (JSON of `metadata`). The same program and metadata give the same bytes."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    builder = flatbuffers.Builder(1 << 16)
    buffers = _Buffers()
    names = {name: index for index, name in enumerate(program.tensors)}
    subgraph = schema.SubGraphT()
    subgraph.name = program.name
    subgraph.tensors = [_tensor(schema, tensor, buffers) for tensor in program.tensors.values()]
    subgraph.inputs = [names[name] for name in program.inputs]
    subgraph.outputs = [names[name] for name in program.outputs]
    codes: dict[tuple[str, int], int] = {}
    subgraph.operators = [_operator(schema, program, step, names, codes) for step in program.steps]
    entries = {
        "min_runtime_version": program.runtime.encode().ljust(RUNTIME_BYTES, b"\0"),
        "picoformer": json.dumps(dict(sorted(metadata.items())), sort_keys=True).encode(),
    }
    found = [schema.MetadataT(name=name, buffer=buffers.add(data)) for name, data in entries.items()]
    signature = schema.SignatureDefT(
        inputs=[schema.TensorMapT(name=name, tensorIndex=names[name]) for name in program.inputs],
        outputs=[schema.TensorMapT(name=name, tensorIndex=names[name]) for name in program.outputs],
        signatureKey=SIGNATURE,
        subgraphIndex=0,
    )
    parts = {
        "Buffers": _packed_buffers(builder, schema, buffers.data),
        "OperatorCodes": _packed(builder, [_code(schema, *key) for key in codes]),
        "Subgraphs": _packed(builder, [subgraph]),
        "Metadata": _packed(builder, found),
        "SignatureDefs": _packed(builder, [signature]),
    }
    vectors = {name: _vector(builder, offsets) for name, offsets in parts.items()}
    description = builder.CreateString(f"picoformer {__version__}")
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, SCHEMA_VERSION)
    for name, offset in vectors.items():
        getattr(schema, f"ModelAdd{name}")(builder, offset)
    schema.ModelAddDescription(builder, description)
    builder.Finish(schema.ModelEnd(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


class _Buffers:
    """Constants in the order they come, each content once; the first is empty: that of every computed tensor."""

    def __init__(self) -> None:
        self.data: list[bytes] = [b""]
        self._known: dict[bytes, int] = {}

    def add(self, data: bytes) -> int:
        if data not in self._known:
            self._known[data] = len(self.data)
            self.data.append(data)
        return self._known[data]


def _tensor(schema: Any, tensor: Tensor, buffers: _Buffers) -> Any:
    packed = schema.TensorT()
    packed.name = tensor.name
    packed.shape = np.asarray(tensor.shape, np.int32)
    packed.type = ELEMENT_TYPES[tensor.dtype]
    packed.buffer = 0 if tensor.data is None else buffers.add(np.ascontiguousarray(tensor.data).tobytes())
    packed.quantization = schema.QuantizationParametersT()
    if tensor.grid is not None:
        packed.quantization.scale = np.asarray(tensor.grid.scale, np.float32)
        packed.quantization.zeroPoint = np.full(len(tensor.grid.scale), tensor.grid.zero_point, np.int64)
        if tensor.grid.axis is not None:
            packed.quantization.quantizedDimension = tensor.grid.axis + len(tensor.shape)
    return packed


def _operator(
    schema: Any, program: Program, step: Step, names: Mapping[str, int], codes: dict[tuple[str, int], int]
) -> Any:
    packed = schema.OperatorT()
    key = (step.operator, program.version(step))
    packed.opcodeIndex = codes.setdefault(key, len(codes))
    packed.inputs = np.asarray([names[name] for name in step.inputs], np.int32)
    packed.outputs = np.asarray([names[step.output]], np.int32)
    table = BUILTINS[step.operator].options
    if table:
        options = getattr(schema, f"{table}T")()
        for name, value in step.options.items():
            assert hasattr(options, name), f"{table} has no {name}"
            setattr(options, name, ELEMENT_TYPES.get(value, value) if isinstance(value, str) else value)
        packed.builtinOptionsType = getattr(schema.BuiltinOptions, table)
        packed.builtinOptions = options
    return packed


def _code(schema: Any, operator: str, version: int) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, operator)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)  # what old readers look at is a byte
    code.version = version
    return code


def _packed(builder: Any, parts: list[Any]) -> list[int]:
    return [part.Pack(builder) for part in parts]


def _packed_buffers(builder: Any, schema: Any, contents: list[bytes]) -> list[int]:
    offsets = []
    for data in contents:
        vector = 0
        if data:
            builder.StartVector(1, len(data), ALIGNMENT)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if data:
            schema.BufferAddData(builder, vector)
        offsets.append(schema.BufferEnd(builder))
    return offsets


def _vector(builder: Any, offsets: list[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    result: int = builder.EndVector()
    return result


def read_program(data: bytes, where: str = "the file") -> tuple[Program, dict[str, str]]:
    """(program, metadata) of a file that `program_bytes` wrote; raises ModelError for any other."""
    from ai_edge_litert import schema_py_generated as schema

    if data[4:8] != b"TFL3":
        raise ModelError(f"{where}: is no TFLite file")
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
        return _program(schema, model)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise ModelError(f"{where}: is not a TFLite file that picoformer wrote ({type(error).__name__})") from error
    except Exception as error:  # the reader of flatbuffers raises struct.error and types of its own
        raise ModelError(f"{where}: is damaged ({type(error).__name__})") from error


def _program(schema: Any, model: Any) -> tuple[Program, dict[str, str]]:
    subgraph = model.subgraphs[0]
    types = {number: name for name, number in ELEMENT_TYPES.items()}
    operators = {getattr(schema.BuiltinOperator, name): name for name in BUILTINS}
    contents = [b"" if b.data is None else bytes(bytearray(b.data)) for b in model.buffers]
    tensors = [_read_tensor(tensor, types[tensor.type], contents[tensor.buffer]) for tensor in subgraph.tensors]
    steps = []
    for operator in subgraph.operators:
        name = operators[model.operatorCodes[operator.opcodeIndex].builtinCode]
        inputs = tuple(tensors[int(index)].name for index in operator.inputs)
        options = {} if operator.builtinOptions is None else dict(vars(operator.builtinOptions))
        options.update({key: types[value] for key, value in options.items() if key.endswith("DataType")})
        steps.append(Step(name, inputs, tensors[int(operator.outputs[0])].name, options))
    found = {entry.name.decode(): contents[entry.buffer] for entry in model.metadata}
    text = {str(key): str(value) for key, value in json.loads(found["picoformer"]).items()}
    inputs, outputs = (tuple(tensors[int(i)].name for i in ends) for ends in (subgraph.inputs, subgraph.outputs))
    program = Program(subgraph.name.decode(), inputs, outputs, {t.name: t for t in tensors}, tuple(steps))
    return program, {**text, "min_runtime_version": found["min_runtime_version"].rstrip(b"\0").decode()}


def _read_tensor(tensor: Any, dtype: str, data: bytes) -> Tensor:
    shape = tuple(int(n) for n in ([] if tensor.shape is None else tensor.shape))
    grid, quant = None, tensor.quantization
    if quant is not None and quant.scale is not None and len(quant.scale):
        axis = None if len(quant.scale) == 1 else int(quant.quantizedDimension) - len(shape)
        grid = QuantParams(tuple(float(s) for s in quant.scale), int(quant.zeroPoint[0]), axis)
    value: Array | None = np.frombuffer(data, np.dtype(dtype)).reshape(shape) if data else None
    return Tensor(tensor.name.decode(), shape, dtype, grid, value)
