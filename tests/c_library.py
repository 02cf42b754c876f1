"""The C operators as a shared library of the host, called through ctypes with the fields of a lowered operator."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import decode_calls
from picoformer.backends.c.isa import layout_of
from picoformer.backends.c.sources import kernel_place
from picoformer.ir.operator import Array, Lowered
from picoformer.ir.types import DType, TensorType
from picoformer.ops import (
    LoweredAdd,
    LoweredAttention,
    LoweredEmbedding,
    LoweredInterpolatedTable,
    LoweredKvAppend,
    LoweredLayerNorm,
    LoweredLinear,
    LoweredMul,
    LoweredReduceMean,
    LoweredRequantize,
    LoweredSoftmax,
    LoweredTable,
)

FIRMWARE = Path(__file__).resolve().parent.parent / "firmware"
SOURCES = sorted([*(FIRMWARE / "ops").glob("*.c"), *(FIRMWARE / "kernels" / "generic").glob("*.c")])
WARNINGS = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror", "-ffp-contract=off"]
FLAGS = [*WARNINGS, f"-I{FIRMWARE / 'include'}"]

_SCALARS = {"int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "float": ctypes.c_float, "int": ctypes.c_int}
_GUARD = 64
_ARITHMETIC = """
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"
int32_t try_rescale(int32_t acc, int32_t m, int32_t shift) { return pf_rescale(acc, m, shift); }
int32_t try_rescale_wide(int64_t acc, int32_t m, int32_t shift) { return pf_rescale_wide(acc, m, shift); }
uint32_t try_reciprocal(uint32_t v, int32_t *lead) { return pf_reciprocal(v, lead); }
uint32_t try_reciprocal_sqrt(uint64_t v, int32_t *half) { return pf_reciprocal_sqrt(v, half); }
uint32_t try_numerator(const uint16_t *t, uint32_t d, uint32_t m, int32_t s) { return pf_numerator(t, d, m, s); }
"""
"""The inline functions of fixedpoint.h with a symbol each."""
_FILL = 0xA5
RESIDUAL = 1
"""PF_RESIDUAL of ops.h."""


def sources_for(target_isa: Sequence[str]) -> list[Path]:
    """Every operator, and each kernel file of the first instruction set that has it."""
    kernels = [path.name for path in SOURCES if path.parent.name == "generic"]
    chosen = [FIRMWARE / "kernels" / "/".join(kernel_place(name, target_isa)) for name in kernels]
    return [*(FIRMWARE / "ops").glob("*.c"), *chosen]


def preprocessed_header() -> str:
    """The headers of the operators and those of their own that they include, after the preprocessor."""
    names = "".join(f'#include "picoformer/{name}.h"\n' for name in ("ops", "ops_relative"))
    command = ["gcc", "-E", "-P", "-D_STDINT_H", *FLAGS, "-xc", "-"]
    return subprocess.run(command, input=names, capture_output=True, text=True, check=True).stdout


def prototypes(header: str) -> dict[str, list[str]]:
    """Function name → the C types of its parameters, as ops.h declares them."""
    found = {}
    for name, parameters in re.findall(r"(?:void|int)\s+(pf_\w+)\(([^)]*)\);", header):
        found[name] = [p.strip() for p in parameters.split(",")]
    return found


def structures(header: str) -> dict[str, tuple[type[ctypes.Structure], dict[str, str]]]:
    """Struct name → the same struct for ctypes, and the element type of each pointer in it."""
    found = {}
    for body, name in re.findall(r"typedef struct pf_\w+ \{([^}]*)\} (pf_\w+);", header):
        fields: list[tuple[str, Any]] = []
        pointers: dict[str, str] = {}
        for kind, names in re.findall(r"(?:const )?(\w+) ([^;]*);", body):
            for field in map(str.strip, names.split(",")):
                if field.startswith("*"):
                    pointers[field[1:]] = kind.removesuffix("_t").replace("float", "float32")
                fields.append((field.lstrip("*"), ctypes.c_void_p if field.startswith("*") else _SCALARS[kind]))
        found[name] = type(name, (ctypes.Structure,), {"_fields_": fields}), pointers
    return found


def of_kind(value: Array, kind: str) -> Array:
    """The elements as a pointer to `kind` wants them; any array behind one to void."""
    array = np.ascontiguousarray(value, None if kind == "void" else kind)
    assert (array == value).all()
    return array


class Library:
    """The operators of ops.h; `build` compiles them into a folder."""

    def __init__(self, path: Path, target_isa: Sequence[str] = ("generic",)) -> None:
        self.layout = layout_of(target_isa)
        header = preprocessed_header()
        self.prototypes = prototypes(header)
        self.structures = structures(header)
        self._library = ctypes.CDLL(str(path))
        has_status = set(re.findall(r"\bint\s+(pf_\w+)\(", header))
        for name, parameters in self.prototypes.items():
            function = getattr(self._library, name)
            function.restype = ctypes.c_int if name in has_status else None
            function.argtypes = [ctypes.c_void_p if "*" in p else ctypes.c_int32 for p in parameters]

    @classmethod
    def build(cls, folder: Path, compiler: str = "gcc", target_isa: Sequence[str] = ("generic",)) -> Library:
        """Compile every source; PICOFORMER_TEST_CFLAGS adds flags (a sanitizer, say)."""
        path = folder / f"operators_{compiler}.so"
        arithmetic = folder / "arithmetic.c"
        arithmetic.write_text(_ARITHMETIC)
        extra = os.environ.get("PICOFORMER_TEST_CFLAGS", "").split()
        command = [
            compiler,
            "-O2",
            "-fPIC",
            "-shared",
            *FLAGS,
            *extra,
            *map(str, sources_for(target_isa)),
            str(arithmetic),
            "-o",
            str(path),
        ]
        subprocess.run(command, check=True)
        return cls(path, target_isa)

    def guard(self, buffer: Guarded) -> Array:
        """The elements of a buffer that a call has written, its fences checked."""
        return buffer.value

    @contextmanager
    def scratch(self, size: int) -> Iterator[Array]:
        """So many bytes between fences, checked after the call."""
        buffer = Guarded((size,), np.uint8)
        yield buffer.array
        self.guard(buffer)

    def function(self, name: str, result: Any, *arguments: Any) -> Any:
        """A function that ops.h does not declare."""
        function = getattr(self._library, name)
        function.restype, function.argtypes = result, list(arguments)
        return function

    def structure(self, name: str, source: Lowered | None = None, **fields: Any) -> ctypes.Structure:
        """A filled struct: each field from `fields`, else from the attribute of `source`. It keeps its arrays alive."""
        kind, pointers = self.structures[name]
        struct = kind()
        struct.arrays = []
        for field, _ in kind._fields_:
            value = fields[field] if field in fields else getattr(source, field)
            if field in pointers and value is not None:
                array = of_kind(value, pointers[field])
                struct.arrays.append(array)
                value = array.ctypes.data
            setattr(struct, field, value)
        return struct

    def call(self, name: str, *arguments: Any) -> int | None:
        """Call with arrays, structs and numbers."""
        converted = []
        for argument in arguments:
            if isinstance(argument, ctypes.Structure):
                converted.append(ctypes.addressof(argument))
            elif isinstance(argument, np.ndarray):
                assert argument.flags.c_contiguous
                converted.append(argument.ctypes.data)
            else:
                converted.append(argument)
        result: int | None = getattr(self._library, name)(*converted)
        return result


class Guarded:
    """A result buffer between two fences; `value` checks that both still stand."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, content: Array | None = None) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._bytes = np.full(size + 2 * _GUARD, _FILL, np.uint8)
        self._size = size
        self.array = self._bytes[_GUARD : _GUARD + size].view(dtype).reshape(shape)
        if content is not None:
            self.array[...] = content

    @property
    def value(self) -> Array:
        """The array, after the check."""
        fences = np.concatenate([self._bytes[:_GUARD], self._bytes[_GUARD + self._size :]])
        assert (fences == _FILL).all(), "wrote outside its output"
        return self.array


def _names(*types: TensorType) -> str:
    return "_".join(t.dtype.value for t in types)


def broadcast_of(library: Library, a: Array, b: Array) -> ctypes.Structure:
    """pf_broadcast for shapes whose second has ones only at one end, beside its common part."""
    padded = (1,) * (a.ndim - b.ndim) + b.shape
    inner = 1
    for size, own in zip(reversed(a.shape), reversed(padded), strict=True):
        if own != 1:
            break
        inner *= size
    if b.size == 1:
        inner = 1 if a.size == 1 else a.size
    return library.structure("pf_broadcast", count=a.size, period=b.size, inner=inner)


def execute(
    library: Library,
    lowered: Lowered,
    *activations: Array,
    alias: int | None = None,
    then: LoweredTable | LoweredInterpolatedTable | None = None,
    residual: Array | None = None,
) -> tuple[str, Array]:
    """What `lowered.execute` computes, by the C function for its types: (its name, the result).

    With `alias` the result is written over the activation of that index. `then`: the activation that a Linear computes
    along. `residual`: what a Linear adds its results to.
    """
    x = np.ascontiguousarray(activations[0])
    output: TensorType = (then or lowered).output  # type: ignore[union-attr]
    start = 0 if isinstance(lowered, LoweredKvAppend) else alias  # a cache is written in place
    y = Guarded(output.shape, output.dtype.numpy, None if start is None else activations[start])
    if alias == 0:
        x = y.array
    if residual is not None:
        y.array[...] = residual
    match lowered:
        case LoweredLinear():
            own = lowered.weight_dtype
            kind = {DType.INT4: "pf_linear_s4", DType.INT16: "pf_linear_w16"}.get(own, "pf_linear")
            wide = "wide_" if lowered.wide and own is not DType.INT16 else ""
            name = f"pf_linear_{wide}{'' if own is DType.INT8 else f'{own.value}_'}{_names(lowered.input, output)}"
            n, k = lowered.weight.shape
            rows, layout = x.size // k, library.layout.linear(lowered.input.dtype, lowered.weight_dtype, lowered.wide)
            weight, block = layout.pack_weight(lowered.weight), layout.block(rows, k)
            more = {"table": None, "entries": 0 if residual is None else RESIDUAL}
            more = more if then is None else {"table": then.table, "entries": len(then.table)}
            p = library.structure(kind, lowered, n=n, k=k, weight=weight, block=block, **more)
            scratch = Guarded((layout.scratch_bytes(rows, k),), np.uint8)
            library.call(name, p, x, y.array, rows, scratch.array)
            library.guard(scratch)
        case LoweredAttention():
            name = f"pf_attention_{_names(lowered.query, output)}"
            keys, values = np.ascontiguousarray(activations[1]), np.ascontiguousarray(activations[2])
            count = len(keys)
            sizes = {"head_size": x.shape[-1] // lowered.heads, "value_size": values.shape[-1] // lowered.kv_heads}
            valid = int(activations[3]) if lowered.has_valid_length else count
            layout = library.layout.attention(lowered.query.dtype)
            scratch = Guarded((layout.scratch_bytes(count, *sizes.values()),), np.uint8)
            p = library.structure("pf_attention", lowered, **sizes)
            library.call(name, p, x, keys, values, y.array, len(x), count, valid, scratch.array)
            library.guard(scratch)
        case LoweredLayerNorm():
            name = f"pf_layer_norm_{'' if lowered.gain is None else 'gain_'}{_names(lowered.input, output)}"
            library.call(name, library.structure("pf_layer_norm", lowered), x, y.array, x.size // lowered.width)
        case LoweredTable():
            name = f"pf_table_{_names(lowered.input, output)}"
            library.call(name, lowered.table, x, y.array, x.size)
        case LoweredInterpolatedTable():
            name = f"pf_interpolate_{_names(lowered.input, output)}"
            library.call(name, lowered.table, x, y.array, x.size)
        case LoweredAdd() | LoweredMul():
            b = y.array if alias == 1 else np.ascontiguousarray(activations[1])
            types = _names(lowered.a, lowered.b, output)
            kind = "pf_mul" if isinstance(lowered, LoweredMul) else "pf_add"
            name = f"{kind}_{types}"
            arguments = (broadcast_of(library, x, b), x, b, y.array)
            if isinstance(lowered, LoweredAdd) and lowered.is_plain and types == "s16_s16_s16":
                name = "pf_add_plain_s16"
                library.call(name, *arguments)
            else:
                library.call(name, library.structure(kind, lowered), *arguments)
        case LoweredRequantize():
            name = f"pf_requantize_{_names(lowered.input, output)}"
            library.call(name, library.structure("pf_requantize", lowered), x, y.array, x.size)
        case LoweredEmbedding():
            is_wide = lowered.table.dtype == np.int16
            name = f"pf_embedding_{'s16_' if is_wide else ''}{_names(output)}"
            rows, width = lowered.table.shape
            kind, fields = "pf_embedding_w16" if is_wide else "pf_embedding", {"rows": rows, "width": width}
            if not is_wide:
                fields["table"] = library.layout.embedding_row_s8.pack(lowered.table)
            p = library.structure(kind, lowered, **fields)
            assert library.call(name, p, x, y.array, x.size) == 0
        case LoweredReduceMean():
            name = f"pf_reduce_mean_{_names(lowered.input, output)}"
            length = x.shape[lowered.axis]
            inner = int(np.prod(x.shape[x.ndim + lowered.axis + 1 :]))
            outer = x.size // length // inner
            p = library.structure("pf_reduce_mean", lowered, outer=outer, length=length, inner=inner)
            library.call(name, p, x, y.array, int(activations[1]) if lowered.has_valid_length else length)
        case LoweredSoftmax():
            name = f"pf_softmax_{_names(lowered.input, output)}"
            p = library.structure("pf_softmax", lowered, width=x.shape[-1])
            library.call(name, p, x, y.array, x.size // x.shape[-1])
        case _:
            name = decode_calls.call(library, lowered, x, activations, y.array)
    return name, library.guard(y)
