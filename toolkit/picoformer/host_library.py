"""A model's C compiled into this process: a shared library that is called with arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from picoformer.backends.c import emit_c
from picoformer.compilers import choose_compiler
from picoformer.errors import DataError
from picoformer.ir import Graph
from picoformer.ir.operator import Array
from picoformer.targets import load_target, resource_root
from picoformer.toolchain import Unit, compile_units, run_tool

_FLAGS = ("-std=c99", "-O1", "-fPIC", "-ffp-contract=off")


class DeviceTensor(ctypes.Structure):
    """`pf_tensor_info` of picoformer/device.h."""

    _fields_ = (("name", ctypes.c_char_p), ("offset", ctypes.c_uint32), ("bytes", ctypes.c_uint32))


class DevicePiece(ctypes.Structure):
    """`pf_piece` of picoformer/device.h."""

    _fields_ = (("step", ctypes.c_uint32), ("data", ctypes.c_void_p), ("bytes", ctypes.c_uint32))


class DeviceModel(ctypes.Structure):
    """`pf_device_model` of picoformer/device.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("identity", ctypes.c_uint8 * 16),
        ("input_count", ctypes.c_uint16),
        ("output_count", ctypes.c_uint16),
        ("step_count", ctypes.c_uint16),
        ("inputs", ctypes.POINTER(DeviceTensor)),
        ("outputs", ctypes.POINTER(DeviceTensor)),
        ("steps", ctypes.POINTER(DeviceTensor)),
        ("arena_bytes", ctypes.c_uint32),
        ("arena", ctypes.c_void_p),
        ("state", ctypes.c_void_p),
        ("init", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
        ("step", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)),
        ("next", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(DevicePiece))),
    )


@dataclass(frozen=True)
class HostLibrary:
    """A compiled model: `run` computes in its one static arena, so one call at a time."""

    graph: Graph
    library: ctypes.CDLL

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Output name → array of its type in the graph, for one sample: input name → array of the shape and type that
        the graph says. Raises DataError when one is missing, or has another size."""
        model = DeviceModel.in_dll(self.library, "pf_device")
        model.init(model.state)
        for tensor in model.inputs[: model.input_count]:
            name = tensor.name.decode()
            type_ = self.graph.types[name]
            if name not in inputs or np.shape(inputs[name]) != type_.shape:
                given = f"shape {list(np.shape(inputs[name]))}" if name in inputs else "nothing"
                raise DataError(f"input '{name}' is {list(type_.shape)}; {given} was given")
            data = np.ascontiguousarray(inputs[name], type_.dtype.numpy).tobytes()
            ctypes.memmove(model.arena + tensor.offset, data, tensor.bytes)
        while (status := model.step(model.state)) == 1:
            pass
        if status < 0:
            raise DataError(f"the model gives up with status {status}: an input is out of its range")
        outputs = {}
        for tensor in model.outputs[: model.output_count]:
            type_ = self.graph.types[tensor.name.decode()]
            data = ctypes.string_at(model.arena + tensor.offset, tensor.bytes)
            outputs[tensor.name.decode()] = np.frombuffer(data, type_.dtype.numpy).reshape(type_.shape)
        return outputs


def build_library(graph: Graph, folder: Path, toolchain: str = "auto") -> HostLibrary:
    """Write the C of `graph` into the empty `folder`, compile it for this machine and load it.

    `toolchain` as for a build. Raises UnsupportedError for what has no C, ToolError without a compiler.
    """
    host = load_target("host")
    firmware = resource_root("firmware")
    model = emit_c(graph, host.isa, "model", folder / "source", tile="none")
    compiler = choose_compiler(host, toolchain)
    build = folder / "build"
    build.mkdir()
    include = [firmware / "include"]
    operators = [Unit(firmware / source, Path(source).with_suffix(".o")) for source in sorted(model.sources)]
    objects = compile_units(compiler, _FLAGS, include, operators, build, jobs=1)
    # Model and weights in one go: starting the compiler is most of the work for a small model.
    together = [name for name in model.model_sources if name.endswith(".c") and not name.endswith("_device.c")]
    (build / "together.c").write_text("".join(f'#include "../source/{name}"\n' for name in together))
    apart = [f"../source/{name}" for name in model.model_sources if name not in together]
    output = build / "model.so"
    sources = ["together.c", *apart, *map(str, objects)]
    command = [*compiler.compile, *_FLAGS, f"-I{include[0].resolve()}", "-I../source", "-shared", *sources]
    run_tool([*command, "-o", "model.so"], build, "the model", compiler.environment)
    return HostLibrary(graph, ctypes.CDLL(str(output.resolve())))
