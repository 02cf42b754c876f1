"""Rows of a constant table picked by an index, in floats or integers."""

from __future__ import annotations

import numpy as np

from picoformer.backends.tflite.writer import TfliteWriter
from picoformer.ir import Node, QuantParams


def gather_rows(
    w: TfliteWriter, node: Node, rows: np.ndarray, grid: QuantParams | None, index: str, output: str = ""
) -> str:
    """`rows[index]`, of floats (no grid) or of integers on `grid`, into `output` or an inner value.

    TFLite Micro picks no rows of int16: there the table is float32, which QUANTIZE turns into the same integers.
    """
    name = output or w.fresh(f"{node.output}/rows")
    if grid is None:
        return w.emit("GATHER", [w.floats(node, "table", rows), index], name, axis=0)
    if w.base == "int8" or w.any_operator:
        table = w.integers(node, "table", np.ascontiguousarray(rows), grid)
        return w.emit("GATHER", [table, index], name, w.base, grid, axis=0)
    table = w.floats(node, "table", rows * np.float64(grid.per_tensor_scale))
    return w.emit("QUANTIZE", [w.part("GATHER", [table, index], node, "float32", axis=0)], name, w.base, grid)


def picked_rows(w: TfliteWriter, node: Node, rows: np.ndarray, scales: np.ndarray, index: str) -> list[str]:
    """[rows[index], scales[index]] as int16, whose product is what int8 `rows` (V, D) with a scale each stand for."""
    whole = QuantParams((1.0,))
    row = w.part("GATHER", [w.integers(node, "table", rows, whole), index], node, "int8", whole, axis=0)
    scale = w.part("GATHER", [w.floats(node, "scales", scales.reshape(-1, 1)), index], node, "float32", axis=0)
    grid = QuantParams((float(scales.max()) / 32767,))
    return [w.widened(row, node), w.part("QUANTIZE", [scale], node, "int16", grid)]
