"""What calibration data does to every value: its extremes, a histogram, and its extremes per channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from picoformer.errors import DataError
from picoformer.ir import DType, Graph
from picoformer.ir.operator import Array

RunFloat = Callable[[Graph, Mapping[str, Array]], dict[str, Array]]
"""An executor: graph, inputs (samples, *shape) → every value (samples, *shape)."""

BINS = 4096
BATCH = 32


@dataclass(frozen=True)
class Observation:
    """One value over all calibration samples.

    `histogram` counts elements in BINS equal bins over [minimum, maximum]; `channel_maximum` is the largest
    magnitude per index of the last axis, shape (width,).
    """

    minimum: float
    maximum: float
    histogram: Array
    channel_maximum: Array
    ranges: dict[tuple[str, float, int], tuple[float, float]] = field(default_factory=dict, compare=False, repr=False)
    """Ranges chosen so far, by method, percentile and levels: many types are tried on one observation."""

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(abs(self.minimum), abs(self.maximum))


def observe(
    graph: Graph,
    inputs: Mapping[str, Array],
    run_float: RunFloat,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Observation]:
    """Observe every float value of `graph` that is not a constant, in two passes over the samples.

    `inputs`: name → (samples, *shape). Raises DataError when there are no samples or a value is not finite.
    """
    samples = len(next(iter(inputs.values()))) if inputs else 0
    if samples == 0:
        raise DataError("the calibration data holds no samples: give at least one, better a hundred")
    batches = [slice(i, i + BATCH) for i in range(0, samples, BATCH)]
    lows: dict[str, float] = {}
    highs: dict[str, float] = {}
    channels: dict[str, Array] = {}
    for number, batch in enumerate(batches):
        for name, value in _float_values(graph, inputs, batch, run_float).items():
            if not np.isfinite(value).all():
                raise DataError(f"value '{name}' is not finite on the calibration data: check the model and the data")
            lows[name] = min(lows.get(name, np.inf), float(value.min()))
            highs[name] = max(highs.get(name, -np.inf), float(value.max()))
            peak = np.abs(value.reshape(-1, value.shape[-1] if value.ndim > 1 else 1)).max(axis=0)
            channels[name] = np.maximum(channels[name], peak) if name in channels else peak
        if progress:
            progress(number + 1, 2 * len(batches))
    counts = {name: np.zeros(BINS, np.int64) for name in lows}
    for number, batch in enumerate(batches):
        for name, value in _float_values(graph, inputs, batch, run_float).items():
            if highs[name] > lows[name]:
                # In float64: the bins of a narrow range far from zero are closer together than float32 numbers.
                counts[name] += np.histogram(value.astype(np.float64), BINS, (lows[name], highs[name]))[0]
        if progress:
            progress(len(batches) + number + 1, 2 * len(batches))
    return {name: Observation(lows[name], highs[name], counts[name], channels[name]) for name in lows}


def _float_values(graph: Graph, inputs: Mapping[str, Array], batch: slice, run_float: RunFloat) -> dict[str, Array]:
    values = run_float(graph, {name: value[batch] for name, value in inputs.items()})
    return {name: value for name, value in values.items() if graph.types[name].dtype is DType.FLOAT32}
