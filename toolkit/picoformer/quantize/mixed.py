"""Weights of mixed precision under a budget of bytes: int4 where it costs the outputs least for what it saves, and more
bits where rounding costs them most for what they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from picoformer.errors import ConfigError
from picoformer.ir import DType, Graph
from picoformer.ir.operator import Array
from picoformer.ops import Embedding, Linear
from picoformer.quantize.observe import RunFloat
from picoformer.quantize.sensitivity import few_samples
from picoformer.quantize.simulate import Simulation

Build = Callable[[Mapping[str, DType]], Graph]
"""The quantized graph with some weights, by their name in the float graph, at other types than they would have."""


def choose_weights(
    graph: Graph,
    calibration: Mapping[str, Array],
    run_float: RunFloat,
    build: Build,
    count: Callable[[Graph], int],
    budget: int,
    centred: bool = False,
) -> dict[str, DType]:
    """Weights to lower from int8 to int4, each with INT4, so that the constants fit `budget` bytes.

    Each weight is lowered alone and the noise that it adds to the outputs on calibration samples measured; then they
    are lowered together, least noise per byte saved first, until `count` says that it fits, and those that the rest
    turned out to make needless go back. Raises ConfigError with the least that can be met.
    """
    base = build({})
    size = count(base)
    if size <= budget:
        return {}
    names = [name for name in _weights(graph) if base.types[_typed_name(graph, base, name)].dtype is DType.INT8]
    everything = build(dict.fromkeys(names, DType.INT4))
    least = count(everything)
    if least > budget:
        raise ConfigError(
            f"a budget of {budget:,} bytes cannot be met: the constants take {least:,} bytes with every weight at int4 "
            f"({size:,} at int8); give at least {least:,}, or make the model smaller first"
        )
    simulation = Simulation(graph, few_samples(graph, calibration), run_float, base, centred)
    added: dict[str, float] = {}
    saved: dict[str, int] = {}
    for name in names:
        typed = build({name: DType.INT4})
        added[name] = simulation.noise(typed) - simulation.base_noise
        saved[name] = max(size - count(typed), 0)
    chosen: dict[str, DType] = {}
    for name in sorted((n for n in names if saved[n]), key=lambda n: added[n] / saved[n]):
        if count(build(chosen)) <= budget:
            break
        chosen[name] = DType.INT4
    for name in sorted(chosen, key=lambda n: -added[n]):
        fewer = {other: dtype for other, dtype in chosen.items() if other != name}
        if count(build(fewer)) <= budget:
            chosen = fewer
    return chosen


WIDER = {DType.INT4: DType.INT8, DType.INT8: DType.INT16}


def widen_weights(
    graph: Graph,
    calibration: Mapping[str, Array],
    run_float: RunFloat,
    build: Build,
    count: Callable[[Graph], int],
    share: float,
    centred: bool = False,
) -> dict[str, DType]:
    """Weights and tables to widen, each with its type: what lessens the noise at the outputs most per byte, first.

    Each is widened alone, and the noise that goes measured; then one after the other while `count` says that constants
    have grown by no more than `share` of what they are. What does not fit is passed over. A tied table is one, whoever
    reads it.
    """
    base = build({})
    size = count(base)
    budget = int(size * (1.0 + share))
    simulation = Simulation(graph, few_samples(graph, calibration), run_float, base, centred)
    steps: list[tuple[float, dict[str, DType]]] = []
    for name in _tables(graph):
        typed_name = _typed_name(graph, base, name)
        dtype, noise, bytes_before = base.types[typed_name].dtype, simulation.base_noise, size
        best = 0.0
        while dtype in WIDER:
            dtype = WIDER[dtype]
            typed = build({name: dtype})
            gained, grown = noise - simulation.noise(typed), max(count(typed) - bytes_before, 1)
            noise, bytes_before = noise - gained, bytes_before + grown
            # A further step must not come before the one that it stands on.
            best = gained / grown if not best else min(best, gained / grown)
            steps.append((best, {name: dtype}))
    chosen: dict[str, DType] = {}
    passed: set[str] = set()
    for worth, step in sorted(steps, key=lambda pair: -pair[0]):
        if worth <= 0.0 or passed.intersection(step):
            continue
        if count(build({**chosen, **step})) <= budget:
            chosen |= step
        else:
            passed |= set(step)
    return chosen


def _tables(graph: Graph) -> list[str]:
    """Names of the constant weights of Linears and tables of Embeddings, each once."""
    names = [
        node.inputs[1]
        for node in graph.nodes
        if isinstance(node.op, Linear | Embedding) and node.inputs[1] in graph.constants
    ]
    return list(dict.fromkeys(names))


def _weights(graph: Graph) -> list[str]:
    """Names of the constant weights of Linears, each once."""
    linears = [node for node in graph.nodes if isinstance(node.op, Linear)]
    return list(dict.fromkeys(node.inputs[1] for node in linears if node.inputs[1] in graph.constants))


def _typed_name(graph: Graph, typed: Graph, name: str) -> str:
    """What the weight `name` of the float graph is called in the quantized one."""
    reader = next(node for node in graph.consumers[name] if isinstance(node.op, Linear | Embedding))
    return typed.producers[reader.output].inputs[1]
