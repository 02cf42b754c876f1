"""Samples as tokenizers write them, as the inputs of a graph: a mask becomes a length, kinds that are missing are 0."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from picoformer.encoder.graph import IDS, LENGTH, SEGMENTS
from picoformer.errors import DataError
from picoformer.ir import Graph
from picoformer.ir.operator import Array

MASK = "attention_mask"


def text_inputs(graph: Graph, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """`arrays` with `attention_mask` (samples, rows) as `valid_length`, and with `token_type_ids` of zeros where the
    graph wants some; without these where the graph has none and they are zeros. Other models' arrays come back as they
    are. Raises DataError for a mask that is not ones and then zeros.
    """
    found = dict(arrays)
    if IDS not in graph.inputs or IDS not in found:
        return found
    if MASK in found and MASK not in graph.inputs:
        lengths = _lengths(found.pop(MASK))
        if LENGTH in graph.inputs:
            if LENGTH in found and not np.array_equal(np.asarray(found[LENGTH]).reshape(-1), lengths):
                raise DataError(f"'{MASK}' and '{LENGTH}' disagree; keep one of them")
            found[LENGTH] = lengths
        elif (lengths < graph.types[IDS].shape[-1]).any():
            raise DataError(f"'{MASK}' hides rows, and the model has no '{LENGTH}'; build it with one")
    if SEGMENTS in graph.inputs and SEGMENTS not in found:
        found[SEGMENTS] = np.zeros_like(found[IDS])
    if SEGMENTS not in graph.inputs and SEGMENTS in found and not np.any(found[SEGMENTS]):
        del found[SEGMENTS]
    return found


def _lengths(mask: Array) -> Array:
    mask = np.asarray(mask)
    if mask.dtype.kind not in "iub" or mask.ndim < 2:
        raise DataError(f"'{MASK}' is {mask.dtype}{list(mask.shape)}; give integers 0 and 1, (samples, rows)")
    mask = mask.reshape(len(mask), -1).astype(np.int64)
    lengths: Array = mask.sum(axis=1)
    if not np.array_equal(mask, np.arange(mask.shape[1]) < lengths[:, None]):
        raise DataError(f"'{MASK}' must be ones and then zeros: pad texts behind, not in front")
    return lengths.astype(np.int32)
