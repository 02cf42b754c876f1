"""Reading a safetensors file without torch: its header is checked against the file's size before anything is read.

The format (https://huggingface.co/docs/safetensors): 8 bytes with the header's length, a JSON header that gives each
tensor a type, a shape and a range of bytes, and the bytes. The ranges follow each other without holes.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from picoformer.errors import ModelError
from picoformer.models.importers.imported import check_finite

MAX_HEADER = 100 << 20
"""The format's own limit."""
MAX_AXES = 8

FLOATS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""Types that are read, as numpy reads them; a bfloat16 is the upper half of a float32."""
ITEM_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
              "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies in its file."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int  # in bytes from the file's beginning

    def read(self) -> NDArray[np.float32]:
        """The tensor as float32. Raises ModelError for other types than floats and for numbers that are not finite."""
        if self.dtype not in FLOATS:
            raise ModelError(
                f"{self.file}: tensor '{self.name}' is {self.dtype}; save it as one of {', '.join(FLOATS)}"
            )
        raw = np.fromfile(self.file, FLOATS[self.dtype], math.prod(self.shape), offset=self.offset)
        if raw.size != math.prod(self.shape):
            raise ModelError(f"{self.file}: ends inside tensor '{self.name}'; get the file again")
        values = (raw.astype(np.uint32) << np.uint32(16)).view(np.float32) if self.dtype == "BF16" else raw
        result: NDArray[np.float32] = values.astype(np.float32, copy=False).reshape(self.shape)
        check_finite(self.file, self.name, result)
        return result


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, Any]]:
    """Every tensor of a file by name, and its metadata. Raises ModelError for a header that does not fit the file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(MAX_HEADER, size - 8):
                raise ModelError(f"{path}: not a safetensors file, or cut off: {size} bytes; get the file again")
            text = stream.read(length)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); give a checkpoint") from error
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: its header is not JSON; get the file again") from error
    if not isinstance(header, dict):
        raise ModelError(f"{path}: its header is not a JSON object; get the file again")
    metadata = header.pop("__metadata__", None) or {}
    infos = [_info(path, name, entry) for name, entry in header.items()]
    end = 0
    for info, stop in sorted(infos, key=lambda item: (item[0].offset, item[1])):
        if info.offset != end:
            raise ModelError(f"{path}: tensor '{info.name}' begins at byte {info.offset}, not at {end}; save it again")
        end = stop
    if 8 + length + end != size:
        raise ModelError(
            f"{path}: {size} bytes, but its header tells of {8 + length + end}; the file is cut off or has more behind "
            "it, get it again"
        )
    moved = {
        info.name: TensorInfo(path, info.name, info.dtype, info.shape, 8 + length + info.offset) for info, _ in infos
    }
    return moved, metadata if isinstance(metadata, dict) else {}


def _info(path: Path, name: str, entry: Any) -> tuple[TensorInfo, int]:
    """A tensor with its offset behind the header, and the byte behind it."""
    parts = entry if isinstance(entry, dict) else {}
    dtype: Any = parts.get("dtype")
    shape: Any = parts.get("shape")
    offsets: Any = parts.get("data_offsets")
    if not (_are_sizes(shape) and len(shape) <= MAX_AXES and _are_sizes(offsets) and len(offsets) == 2):
        raise ModelError(f"{path}: tensor {name!r} has no valid shape or data_offsets; save the file again")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ModelError(f"{path}: tensor {name!r} is of the unknown type {dtype!r}; save it as one of F32, F16, BF16")
    count = math.prod(shape) * ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != count:
        raise ModelError(
            f"{path}: tensor {name!r} of shape {tuple(shape)} takes {count} bytes, its data_offsets "
            f"{offsets[1] - offsets[0]}; save the file again"
        )
    return TensorInfo(path, name, dtype, tuple(shape), offsets[0]), offsets[1]


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62 for value in values
    )
