"""Numbers and arrays as C writes them."""

from __future__ import annotations

import numpy as np

from picoformer.ir import DType
from picoformer.ir.operator import Array

C_TYPES = {
    np.dtype(np.int8): "int8_t",
    np.dtype(np.uint8): "uint8_t",
    np.dtype(np.int16): "int16_t",
    np.dtype(np.uint16): "uint16_t",
    np.dtype(np.int32): "int32_t",
    np.dtype(np.int64): "int64_t",
    np.dtype(np.float32): "float",
}
"""numpy type → C type of an array that can be emitted."""

LINE = 110
ROWS_AT_ONCE = 1 << 12
"""Lines of numbers that are strings of their own at one time."""


def c_type(dtype: DType) -> str:
    """The C type of a value's elements."""
    return C_TYPES[np.dtype(dtype.numpy)]


def float_literal(value: float) -> str:
    """The shortest decimal that reads back as the same float32."""
    text = np.format_float_scientific(np.float32(value), unique=True, trim="-")
    plain = np.format_float_positional(np.float32(value), unique=True, trim="0")
    return f"{plain if len(plain) <= len(text) + 2 else _with_point(text)}f"


def _with_point(text: str) -> str:
    return text if "." in text else text.replace("e", ".0e")


def array_body(values: Array) -> str:
    """The elements of an array, in rows of at most LINE columns, indented by four."""
    flat = values.reshape(-1)
    if flat.dtype.kind == "f":
        words = [float_literal(v) for v in flat.tolist()]
        return _rows(words, _per_line(max(map(len, words), default=1)))
    longest = max(len(str(flat.min())), len(str(flat.max()))) if flat.size else 1
    per_line = _per_line(longest)
    chunk = per_line * ROWS_AT_ONCE  # a table of a vocabulary is millions of numbers, and each a string of its own
    return "\n".join(
        _rows(list(map(str, flat[start : start + chunk].tolist())), per_line) for start in range(0, flat.size, chunk)
    )


def _per_line(longest: int) -> int:
    """Words of at most `longest` letters that a line has room for."""
    count = max(1, (LINE - 4 + 1) // (longest + 2))
    return count - count % 8 if count >= 16 else count


def _rows(words: list[str], per_line: int) -> str:
    return "\n".join(f"    {', '.join(words[i : i + per_line])}," for i in range(0, len(words), per_line))
