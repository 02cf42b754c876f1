"""What a model's outputs say: class names with probabilities, vectors, and both as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from picoformer.errors import DataError, ModelError
from picoformer.raspberry_pi.manifest import Classes, Embedding
from picoformer.raspberry_pi.onnx_session import Array


@dataclass(frozen=True)
class Scored:
    """A class: its name (its number where it has none), its number, and how probable it is."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Classification:
    """The likeliest classes, the likeliest first; whether the text was cut."""

    top: tuple[Scored, ...]
    is_cut: bool = False

    @property
    def label(self) -> str:
        """The likeliest class."""
        return self.top[0].label

    @property
    def probability(self) -> float:
        """How probable that is."""
        return self.top[0].probability

    def to_json(self) -> dict[str, Any]:
        """What `pi classify --json` says."""
        top = [{"label": c.label, "index": c.index, "probability": round(c.probability, 6)} for c in self.top]
        return {**top[0], "top": top, **cut_json(self.is_cut)}


@dataclass(frozen=True)
class Embedded:
    """A vector, float32 (width,); whether the text was cut."""

    vector: Array
    is_cut: bool = False

    def to_json(self) -> dict[str, Any]:
        """What `pi embed --json` says."""
        return {"embedding": self.vector.tolist(), **cut_json(self.is_cut)}


def cut_json(is_cut: bool) -> dict[str, Any]:
    """Said only of a text whose end the model has not seen."""
    return {"truncated": True} if is_cut else {}


def probabilities(classes: Classes, outputs: dict[str, Array]) -> Array:
    """float64 (classes,), from the one row of scores. Raises ModelError for an output that is none, DataError for
    scores that are not finite."""
    scores = _output(classes.output, outputs)
    if scores.ndim == 0 or scores.size != scores.shape[-1] or scores.size < 1:
        raise ModelError(f"output '{classes.output}' is {list(scores.shape)}, not one row of scores; use `pi run`")
    row: Array = scores.reshape(-1).astype(np.float64)
    if not np.isfinite(row).all():
        raise DataError("the model's scores are not finite on these inputs")
    if classes.scores == "probabilities":
        return row
    odds = np.exp(row - row.max())
    return np.asarray(odds / odds.sum())


def classified(row: Array, labels: tuple[str, ...], top: int, is_cut: bool = False) -> Classification:
    """The `top` likeliest; of equal ones the lower number first."""
    order = np.argsort(-row, kind="stable")[: max(1, top)]
    return Classification(
        tuple(Scored(labels[i] if labels else str(i), i, float(row[i])) for i in map(int, order)), is_cut
    )


def embedded(embedding: Embedding, outputs: dict[str, Array], mask: Array | None, is_cut: bool = False) -> Embedded:
    """The vector of an output. `mask`, bool (rows,): which rows are no padding, None for all of them."""
    rows = _output(embedding.output, outputs).astype(np.float32)
    if embedding.pooling == "none":
        vector = rows.reshape(-1)
    else:
        if rows.ndim < 2:
            raise ModelError(f"output '{embedding.output}' is {list(rows.shape)}, which has no rows to pool")
        table = rows.reshape(-1, rows.shape[-1])
        if mask is not None and len(mask) == len(table) and mask.any():
            table = table[mask]
        vector = table[0] if embedding.pooling == "first" else table.mean(axis=0)
    if not np.isfinite(vector).all():
        raise DataError("the model's vector is not finite on these inputs")
    if embedding.normalize:
        length = float(np.linalg.norm(vector.astype(np.float64)))
        vector = (vector / length if length > 0 else vector).astype(np.float32)
    return Embedded(vector, is_cut)


def cosine(one: Array, other: Array) -> float:
    """Of the angle between two vectors; 0 where one of them is nothing."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > 0 else 0.0


def _output(name: str, outputs: dict[str, Array]) -> Array:
    if name not in outputs:
        raise ModelError(f"the model has no output '{name[:80]}', which its bundle says it has; pack again")
    return outputs[name]
