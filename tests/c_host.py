"""A generated model as a shared library on this machine, driven through the descriptor a device's runtime uses."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from picoformer.backends.c import CModel, Tile, emit_c
from picoformer.host_library import DeviceModel, DevicePiece, DeviceTensor
from picoformer.ir import Graph
from picoformer.targets import resource_root

FIRMWARE = resource_root("firmware")
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")
GENERIC = ["generic"]
Objects = Callable[[str], Path]


def run(*command: str | Path) -> str:
    """Run a tool; its output, or a failure that shows it."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


class State(ctypes.Structure):
    """The generated <prefix>_t."""

    _fields_ = (
        ("arena", ctypes.c_void_p),
        ("next_call", ctypes.c_int16),
        ("tiling", ctypes.c_int16),
        ("row", ctypes.c_int32),
        ("status", ctypes.c_int),
    )


@dataclass(frozen=True)
class Host:
    """A compiled model."""

    library: ctypes.CDLL
    device: DeviceModel

    def read(self, tensor: DeviceTensor) -> bytes:
        return ctypes.string_at(self.device.arena + tensor.offset, tensor.bytes)

    def pieces(self, inputs: Mapping[str, bytes]) -> list[bytes]:
        """Write the inputs of one sample, then run: the bytes of each step's output, put together from the pieces that
        each call left; of a block the rows that are there."""
        device = self.device
        for tensor in device.inputs[: device.input_count]:
            data = inputs[tensor.name.decode()]
            assert len(data) == tensor.bytes
            ctypes.memmove(device.arena + tensor.offset, data, len(data))
        device.init(device.state)
        outputs = [b""] * device.step_count
        piece, more = DevicePiece(), 1
        while more:
            device.next(device.state, ctypes.byref(piece))
            more = device.step(device.state)
            assert more in (0, 1)
            outputs[piece.step] += ctypes.string_at(piece.data, piece.bytes)
        return outputs

    def steps(self, inputs: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
        """Write the inputs of one sample, then run: (name, bytes) of each step's output, whole unless the model has a
        valid length: see `rows_computed`."""
        for tensor, data in zip(self.device.steps[: self.device.step_count], self.pieces(inputs), strict=True):
            assert len(data) == tensor.bytes or ("valid_length" in inputs and len(data) < tensor.bytes), tensor.name
            yield tensor.name.decode(), data


def rows_computed(expected: NDArray[Any], data: bytes, inputs: Mapping[str, bytes]) -> NDArray[Any]:
    """The elements of a step's `expected` output that a device has to leave as `data`: all, or the rows before the
    valid length, of which the first is always there."""
    if len(data) == expected.nbytes:
        return expected.reshape(-1)
    length = int.from_bytes(inputs["valid_length"], "little", signed=True)
    kept = np.ascontiguousarray(expected[..., : min(max(length, 1), expected.shape[-2]), :])
    assert len(data) == kept.nbytes, f"{len(data)} bytes of {expected.shape} at length {length}"
    return kept.reshape(-1)


def object_cache(folder: Path) -> Objects:
    """Firmware sources by their path in firmware/, compiled into `folder`, once each."""

    @cache
    def compiled(source: str) -> Path:
        target = folder / f"{source.replace('/', '_')}.o"
        flags = ("-O1", "-fPIC", "-ffp-contract=off")
        run("gcc", "-std=c99", *flags, f"-I{FIRMWARE / 'include'}", "-c", FIRMWARE / source, "-o", target)
        return target

    return compiled


def link(folder: Path, models: Sequence[CModel], objects: Objects, *flags: str) -> ctypes.CDLL:
    """Compile models strictly and link them with exactly the sources they ask for."""
    own = [model.folder / name for model in models for name in model.model_sources]
    if len(models) > 1:
        own = [path for path in own if not path.name.endswith("_device.c")]
    needed = sorted({source for model in models for source in model.sources})
    output = folder / "model.so"
    options = ["-O1", "-fPIC", "-shared", "-Wl,--no-undefined", f"-I{FIRMWARE / 'include'}", *flags]
    run("gcc", *STRICT, *options, *own, *map(objects, needed), "-o", output)
    return ctypes.CDLL(str(output))


def host(graph: Graph, folder: Path, objects: Objects, tile: Tile = "auto") -> Host:
    model = emit_c(graph, GENERIC, "model", folder, tile=tile)
    library = link(folder, [model], objects)
    return Host(library, DeviceModel.in_dll(library, "pf_device"))
