"""How much each value and each weight costs the outputs, measured, and which values are therefore widened to 16 bits.

The measure is the signal-to-noise ratio (SQNR) of the model's outputs on calibration samples, in a simulation that
rounds every value as the integers would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from picoformer.ir import DType, Graph
from picoformer.ir.operator import Array, LoweringError
from picoformer.ops import DepthwiseConv, Linear, Patches
from picoformer.quantize.cost import live_peak, wide_macs
from picoformer.quantize.observe import RunFloat
from picoformer.quantize.simulate import Simulation, decibels

Build = Callable[[Mapping[str, DType]], Graph]
"""The quantized graph with some values at other types than they would have."""

MIN_GAIN_DB = 0.1
"""What widening must gain at the outputs to be worth anything."""
SAMPLE_MACS = 500_000_000
SAMPLES = (8, 64)
"""A simulation runs on as many samples as SAMPLE_MACS allow, within these bounds."""


@dataclass(frozen=True)
class Sensitivity:
    """One value or weight of a quantized graph. `gain_db`: what the SQNR of the outputs would gain were it not rounded
    at all. `bytes`: of RAM for a value, of flash for a constant."""

    name: str
    op: str
    type: str
    is_constant: bool
    gain_db: float
    bytes: int


READERS = (Linear, Patches, DepthwiseConv)
"""Operators that read int16 values of many rows through a bridge to int8."""


@dataclass(frozen=True)
class _Candidate:
    name: str
    noise: float
    cost: float


def few_samples(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """As many of the samples as a simulation takes, spread evenly over all of them."""
    total = len(next(iter(inputs.values())))
    least, most = SAMPLES
    count = min(total, max(least, min(most, SAMPLE_MACS // max(graph.macs, 1))))
    chosen = [index * total // count for index in range(count)]
    return {name: inputs[name][chosen] for name in graph.inputs}


def choose_wide(
    graph: Graph,
    calibration: Mapping[str, Array],
    run_float: RunFloat,
    build: Build,
    share: float,
    centred: bool = False,
) -> dict[str, DType]:
    """Values to widen from int8 to int16, each with INT16: those that gain most for their cost.

    `share` bounds what it may cost: that part of all multiply-accumulates may read 16 bits, and the bytes of values
    alive at once may grow by that part. The cost of one is the sum of both parts. `calibration`: input name →
    (samples, *shape). `build` gives the quantized graph with values wanted INT16 beyond those that are anyway.
    `centred` measures without the mean error of the outputs, for where biases will be corrected.
    """
    base = build({})
    macs, peak = max(graph.macs, 1), live_peak(base)

    def cost(typed: Graph) -> tuple[float, float]:
        return (wide_macs(typed) - wide_macs(base)) / macs, (live_peak(typed) - peak) / max(peak, 1)

    def fits(typed: Graph) -> bool:
        return max(cost(typed)) <= share

    names = [name for name in _candidates(graph, base) if fits(build({name: DType.INT16}))]
    if not names:
        return {}
    simulation = Simulation(graph, few_samples(graph, calibration), run_float, base, centred)
    candidates = []
    for name in names:
        typed = build({name: DType.INT16})
        if _lowers(base, typed):
            candidates.append(_Candidate(name, simulation.noise(typed), sum(max(part, 0.0) for part in cost(typed))))
    chosen: dict[str, DType] = {}
    noise = simulation.base_noise
    free = 1e-4  # so that what costs nothing still has an order
    for candidate in sorted(candidates, key=lambda c: (c.noise - simulation.base_noise) / (c.cost + free)):
        if decibels(candidate.noise) - decibels(simulation.base_noise) < MIN_GAIN_DB / 2:
            continue
        more = {**chosen, candidate.name: DType.INT16}
        typed = build(more)
        if not fits(typed):
            continue
        found = simulation.noise(typed)
        if decibels(found) - decibels(noise) >= MIN_GAIN_DB:
            chosen, noise = more, found
    return chosen


def _candidates(graph: Graph, base: Graph) -> list[str]:
    """Values of `graph` that are int8, or that some Linear reads through a bridge to int8."""
    names = []
    for name, type_ in base.types.items():
        if name not in graph.types or name in graph.constants or type_.quant is None:
            continue
        if name in graph.producers and isinstance(graph.producers[name].op, Patches):
            continue  # on the grid of the image
        bridged = any(node.op.kind == "Requantize" for node in base.consumers.get(name, ()))
        if type_.dtype is DType.INT8 or (bridged and any(isinstance(n.op, READERS) for n in graph.consumers[name])):
            names.append(name)
    return names


def _lowers(base: Graph, typed: Graph) -> bool:
    """Whether the nodes that differ from `base` have an integer form, without a bridge back to 8 bits among them."""
    if len(typed.nodes) > len(base.nodes):
        return False
    for node in typed.nodes:
        known = base.producers.get(node.output)
        names = (*node.inputs, node.output)
        if node == known and all(typed.types[name] == base.types[name] for name in names):
            continue
        try:
            node.op.lower(typed.operands(node), typed.types[node.output])
        except (LoweringError, NotImplementedError):
            return False
    return True


def measure(
    graph: Graph, typed: Graph, calibration: Mapping[str, Array], run_float: RunFloat
) -> tuple[float, tuple[Sensitivity, ...]]:
    """(simulated SQNR of the outputs in dB, every value and weight with what its rounding costs, costliest first).

    `typed` is `graph` quantized. Biases are left out: their rounding is far below that of anything else.
    """
    simulation = Simulation(graph, few_samples(graph, calibration), run_float, typed)
    base = decibels(simulation.base_noise)
    rows = []
    for name, type_ in typed.types.items():
        if type_.quant is None or type_.dtype is DType.INT32:
            continue
        is_constant = name in typed.constants
        gain = decibels(simulation.noise(typed, name)) - base
        owner = typed.consumers[name][0] if is_constant else typed.producers.get(name)
        op = "input" if owner is None else owner.op.kind
        rows.append(Sensitivity(name, op, type_.dtype.value, is_constant, gain, type_.bytes))
    return base, tuple(sorted(rows, key=lambda row: -row.gain_db))
