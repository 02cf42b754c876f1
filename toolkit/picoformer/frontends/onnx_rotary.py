"""RotaryEmbedding of ONNX (opset 23) and of onnxruntime: rows turned by positions that are known."""

from __future__ import annotations

import numpy as np

from picoformer.errors import ModelError
from picoformer.frontends.onnx_builder import Converter, NodeReader
from picoformer.ir.operator import Array
from picoformer.ops import Reshape, Rope, Transpose


def rotations_of(node: NodeReader, cosines: Array, sines: Array) -> Array:
    """(rows, R): cos₀, sin₀, cos₁, sin₁, … out of two tables (…, rows, R/2)."""
    if cosines.shape != sines.shape or cosines.ndim < 2:
        raise ModelError(f"{node.builder.path}: node '{node.label}' has tables of different shapes; export again")
    pairs = np.stack([cosines, sines], axis=-1).astype(np.float32)
    return pairs.reshape(-1, 2 * cosines.shape[-1])


def turn(node: NodeReader, name: str, heads: int, rotations: Array, interleaved: bool, role: str) -> str:
    """`name` (B, S, H·D) turned; `rotations` has a row for each of its B·S rows, or for each of its S."""
    batch, rows, width = node.builder.type_of(name).shape
    if len(rotations) == rows:
        rotations = np.tile(rotations, (batch, 1))
    if len(rotations) != batch * rows or heads < 1 or width % heads or width // heads < rotations.shape[1]:
        raise ModelError(
            f"{node.builder.path}: node '{node.label}' turns {batch}·{rows} rows of {heads} heads by a table "
            f"{list(rotations.shape)}; export again"
        )
    # Samples one after the other are one block of rows: each has its own rows of the table.
    flat = node.step(Reshape((batch * rows, width)), [name], f"{role}_rows")
    table = node.constant(rotations, f"{role}_rotations")
    start = node.constant(np.zeros((), np.int64), f"{role}_first")
    turned = node.step(Rope(heads, rotations.shape[1], interleaved), [flat, table, start], f"{role}_turned")
    return node.step(Reshape((batch, rows, width)), [turned], f"{role}_blocks")


def picked(node: NodeReader, table: int, positions: Array | None) -> Array:
    """The rows of the constant table in input `table` at `positions`; the table itself when there are none."""
    values = node.array(table)
    if positions is None:
        return values
    if positions.size and not (positions.min() >= 0 and positions.max() < len(values)):
        raise ModelError(f"{node.builder.path}: node '{node.label}' has positions outside its table of {len(values)}")
    rows: Array = values[positions]
    return rows


def _rotary(node: NodeReader, cosines: Array, sines: Array) -> None:
    shape, name = node.type().shape, node.inputs[0]
    dimension = int(node.attribute("rotary_embedding_dim", 0))
    interleaved = bool(node.attribute("interleaved", 0))
    heads = int(node.attribute("num_heads", 0))
    rotations = rotations_of(node, cosines, sines)
    if len(shape) == 4:  # (batch, heads, rows, channels)
        heads = shape[1]
        moved = node.step(Transpose((-4, -2, -3, -1)), [name], "moved")
        name = node.step(Reshape((shape[0], shape[2], shape[1] * shape[3])), [moved], "merged")
    elif len(shape) != 3:
        raise node.unsupported(f"turns {list(shape)}", "give it three axes or four")
    elif heads == 0:
        # Where a head ends is not said, but a table of half its channels does.
        heads = shape[2] // rotations.shape[1] if dimension == 0 else 0
    if dimension not in (0, rotations.shape[1]):
        raise node.unsupported(f"turns {dimension} channels by a table of {rotations.shape[1]}", "export again")
    turned = turn(node, name, heads, rotations, interleaved, "value")
    if len(shape) == 3:
        node.give(turned)
        return
    apart = node.step(Reshape((shape[0], shape[2], shape[1], shape[3])), [turned], "apart")
    node.finish(Transpose((-4, -2, -3, -1)), [apart])


def rotary_embedding(node: NodeReader) -> None:
    """RotaryEmbedding-23: X, cos_cache, sin_cache, position_ids."""
    positions = node.array(3).astype(np.int64) if node.has_input(3) else None
    _rotary(node, picked(node, 1, positions), picked(node, 2, positions))


def contrib_rotary_embedding(node: NodeReader) -> None:
    """com.microsoft.RotaryEmbedding: input, position_ids (of the first row, or of each), cos_cache, sin_cache."""
    if float(node.attribute("scale", 1.0)) != 1.0:
        raise node.unsupported("scales its tables", "export with scale = 1")
    positions = node.array(1).astype(np.int64)
    rows = node.type().shape[-2]
    if positions.size == 1:
        positions = positions.reshape(()) + np.arange(rows)
    _rotary(node, picked(node, 2, positions), picked(node, 3, positions))


CONVERTERS: dict[str, Converter] = {
    "RotaryEmbedding": rotary_embedding,
    "com.microsoft.RotaryEmbedding": contrib_rotary_embedding,
}
