"""Weights of mixed precision under a budget of bytes: int4 where it costs the outputs least for what it saves, and more
bits where rounding costs them most for what they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from picoformer.errors import ConfigError
from picoformer.ir import DType, Graph
from picoformer.ir.operator import Array
from picoformer.ops import Embedding, Linear
from picoformer.quantize.observe import RunFloat
from picoformer.quantize.rounding import is_tied
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
LEFT = 0.25
"""Share of the noise of nearest rounding that GPTQ leaves in a language model's logits (see docs/decisions.md)."""


def widen_weights(
    graph: Graph,
    calibration: Mapping[str, Array],
    run_float: RunFloat,
    build: Build,
    count: Callable[[Graph], int],
    share: float,
    centred: bool = False,
    left: float = 1.0,
) -> dict[str, DType]:
    """Weights and tables to widen, each with its type: what lessens the noise at the outputs most per byte, first.

    Each is widened alone, and the noise that goes measured. Of what a Linear's weight adds only the part `left` counts,
    for its integers will be chosen anew (LEFT by GPTQ); a table that an Embedding reads stays as it is rounded. Then
    one after the other is taken while `count` says that constants have grown by no more than `share` of what they are;
    what does not fit is passed over.
    """
    base = build({})
    budget = int(count(base) * (1.0 + share))
    simulation = Simulation(graph, few_samples(graph, calibration), run_float, base, centred)
    found = {name: _widenings(name, graph, base, build, simulation, count) for name in _tables(graph)}
    ranked = [
        (step.noise / step.bytes * (1.0 if is_tied(graph, name) else left), name, step.dtype)
        for name, steps in found.items()
        for step in steps
    ]
    chosen: dict[str, DType] = {}
    passed: set[str] = set()
    for worth, name, dtype in sorted(ranked, key=lambda entry: -entry[0]):  # the steps of one weight stay in order
        if worth <= 0.0 or name in passed:
            continue
        if count(build({**chosen, name: dtype})) <= budget:
            chosen[name] = dtype
        else:
            passed.add(name)
    return chosen


@dataclass(frozen=True)
class _Widening:
    """A weight one type wider: the noise that goes by it, the bytes that come."""

    dtype: DType
    noise: float
    bytes: int


def _widenings(
    name: str, graph: Graph, base: Graph, build: Build, simulation: Simulation, count: Callable[[Graph], int]
) -> list[_Widening]:
    """The steps from the type of a weight to 16 bits; none is worth more a byte than the one that it stands on."""
    dtype = base.types[_typed_name(graph, base, name)].dtype
    noise, size = simulation.base_noise, count(base)
    steps: list[_Widening] = []
    while dtype in WIDER:
        dtype = WIDER[dtype]
        typed = build({name: dtype})
        after, larger = simulation.noise(typed), count(typed)
        gained, grown = noise - after, max(larger - size, 1)
        if steps:
            gained = min(gained, steps[-1].noise * grown / steps[-1].bytes)
        steps.append(_Widening(dtype, gained, grown))
        noise, size = after, larger
    return steps


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
