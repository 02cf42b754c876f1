"""Weights of mixed precision under a budget of bytes: int4 where it costs the outputs least for what it saves."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from picoformer.errors import ConfigError
from picoformer.ir import DType, Graph
from picoformer.ir.operator import Array
from picoformer.ops import Linear
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


def _weights(graph: Graph) -> list[str]:
    """Names of the constant weights of Linears, each once."""
    linears = [node for node in graph.nodes if isinstance(node.op, Linear)]
    return list(dict.fromkeys(node.inputs[1] for node in linears if node.inputs[1] in graph.constants))


def _typed_name(graph: Graph, typed: Graph, name: str) -> str:
    """What the weight `name` of the float graph is called in the quantized one."""
    reader = next(node for node in graph.consumers[name] if isinstance(node.op, Linear))
    return typed.producers[reader.output].inputs[1]
