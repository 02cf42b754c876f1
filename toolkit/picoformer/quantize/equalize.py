"""Moving per-channel scales between layers, so that one int8 grid fits all channels of a value; float stays the same.

From a LayerNorm, whose gain and bias take it up, into the linear layers behind it (SmoothQuant, Xiao et al. 2022); from
values of an attention into its output projection, between queries and keys, and across a ReLU (cross-layer
equalization, Nagel et al. 2019). A norm that a residual is added to as well, as those behind the branches of an encoder
are, keeps its channels: what its linear layers read is multiplied by a constant of each channel instead, in the step
that narrows it to 8 bits anyway. Tables that are summed to rows are divided likewise, and the sum multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from picoformer.ir import Graph, Node, TensorType, verify
from picoformer.ir.operator import Array
from picoformer.ops import Activation, Add, Attention, Embedding, LayerNorm, Linear, Mul
from picoformer.quantize.observe import Observation, RunFloat, observe
from picoformer.quantize.sensitivity import few_samples
from picoformer.quantize.simulate import Simulation, decibels

Equalization = Literal["off", "auto", "on"]
EQUALIZATIONS: tuple[str, ...] = get_args(Equalization)

Build = Callable[[Graph, Mapping[str, Observation]], Graph]
"""The quantized graph of a float one and what was observed of it."""

MIN_GAIN_DB = 0.5
"""What one place must gain at the outputs to be equalized: less is within the spread of calibration sets."""
LIMIT = 256.0
"""Largest factor, up or down, that a channel takes."""
FACTOR_STEPS = 127
"""A product of its own multiplies by whole multiples of 1/127."""


@dataclass(frozen=True)
class Place:
    """Where scales may move: channel i of `value` is divided by s[i] by its `writers` and multiplied again by its
    `readers`. For a LayerNorm the writer is the norm; for queries the writer is the query's Linear, and the reader is
    the one that makes the keys. Without writers a product of its own divides, for these readers alone; without readers
    one multiplies behind a sum of tables, which are the `tables`."""

    value: str
    writers: tuple[Node, ...]
    readers: tuple[Node, ...]
    tables: tuple[str, ...] = ()


def equalize(
    graph: Graph,
    calibration: Mapping[str, Array],
    run_float: RunFloat,
    build: Build,
    always: bool,
    centred: bool = False,
) -> Graph:
    """A graph that computes the same in float, with channels evened out where the quantized outputs gain from it.

    `calibration`: input name → (samples, *shape). `always` skips the measurement and equalizes every place there is.
    `centred` measures without the mean error of the outputs, for where biases will be corrected.
    """
    few = few_samples(graph, calibration)
    seen = observe(graph, few, run_float)
    simulation = None if always else Simulation(graph, few, run_float, build(graph, seen), centred)
    left = [place.value for place in find_places(graph)]
    gained = True
    while left and gained:  # where one place drowns the rest, what the others gain shows once it is mended
        gained = False
        for value in tuple(left):
            place = next(place for place in find_places(graph) if place.value == value)
            tried = move_scales(graph, place, balance(graph, place, seen))
            seen_then = observe(tried, few, run_float)
            if simulation is not None:
                typed = build(tried, seen_then)
                if decibels(simulation.noise(typed)) - decibels(simulation.base_noise) < MIN_GAIN_DB:
                    continue
                simulation.rebase(typed)
                gained = True
            left.remove(value)
            graph, seen = tried, seen_then
    return graph


def find_places(graph: Graph) -> Iterator[Place]:
    """Every place where scales can move without a change of what the graph computes."""
    for node in graph.nodes:
        if isinstance(node.op, LayerNorm):
            tables = _summed_tables(graph, node.inputs[0])
            if tables and graph.is_used_once(node.inputs[0]):
                yield Place(node.inputs[0], (), (), tables)
            readers = graph.consumers.get(node.output, ())
            own = tuple(reader for reader in readers if _is_own_linear(graph, reader))
            if readers and len(own) == len(readers) and _is_free(graph, node.output):
                yield Place(node.output, (node,), readers)
            elif own and any(isinstance(reader.op, Add) for reader in readers) and graph.types[node.output].rows > 1:
                yield Place(node.output, (), own)
        elif isinstance(node.op, Attention):
            query, key, value = (graph.producers.get(name) for name in node.inputs[:3])
            is_pair = query is not key and query and key and _feeds_one(graph, query) and _feeds_one(graph, key)
            if query and key and is_pair and graph.types[query.output].width == graph.types[key.output].width:
                yield Place(query.output, (query,), (key,))
            if value and graph.types[value.output].width == graph.types[node.output].width:
                yield from _between(graph, value, node.output)
        elif isinstance(node.op, Activation) and node.op.function == "relu" and node.inputs[0] in graph.producers:
            yield from _between(graph, graph.producers[node.inputs[0]], node.output)


def _summed_tables(graph: Graph, name: str) -> tuple[str, ...]:
    """The tables and constants whose rows are summed to `name`; nothing where anything else is in it, or reads one."""
    if name in graph.constants:
        return (name,) if graph.is_used_once(name) and graph.types[name].rank >= 2 else ()
    node = graph.producers.get(name)
    if node is None or not graph.is_used_once(name):
        return ()
    if isinstance(node.op, Embedding):
        return (node.inputs[1],) if graph.is_used_once(node.inputs[1]) else ()
    if not isinstance(node.op, Add):
        return ()
    parts = [_summed_tables(graph, operand) for operand in node.inputs]
    return tuple(name for part in parts for name in part) if all(parts) else ()


def _between(graph: Graph, writer: Node, value: str) -> Iterator[Place]:
    """The place between a Linear that only `value` is made of and the Linears that read `value`, if they are that."""
    readers = graph.consumers.get(value, ())
    own = _feeds_one(graph, writer) and _is_free(graph, value)
    if own and readers and all(_is_own_linear(graph, reader) for reader in readers):
        yield Place(value, (writer,), readers)


def _is_own_linear(graph: Graph, node: Node) -> bool:
    """A Linear whose constants no other node reads."""
    return isinstance(node.op, Linear) and all(n in graph.constants and graph.is_used_once(n) for n in node.inputs[1:])


def _feeds_one(graph: Graph, node: Node) -> bool:
    return _is_own_linear(graph, node) and graph.is_used_once(node.output)


def _is_free(graph: Graph, name: str) -> bool:
    return name not in graph.outputs


def balance(graph: Graph, place: Place, seen: Mapping[str, Observation]) -> Array:
    """(width,) s = √(largest |channel| / largest |weight that reads it|), geometric mean 1; for queries, the largest
    key stands for the weight."""
    largest = seen[place.value].channel_maximum.astype(np.float64)
    if place.tables:
        steps = np.maximum(1, np.rint(FACTOR_STEPS * largest / max(float(largest.max(initial=0)), 1e-30)))
        return (steps / FACTOR_STEPS).astype(np.float32)
    if _is_query(graph, place):
        against = seen[place.readers[0].output].channel_maximum.astype(np.float64)
    else:
        columns = [np.abs(graph.constants[reader.inputs[1]]).max(axis=0) for reader in place.readers]
        against = np.max(columns, axis=0).astype(np.float64)
    alive = (largest > 1e-6 * largest.max(initial=0)) & (against > 1e-6 * against.max(initial=0))
    scale = np.ones(len(largest))
    if alive.any():
        wanted = np.sqrt(largest[alive] / against[alive])
        scale[alive] = np.clip(wanted / np.exp(np.log(wanted).mean()), 1 / LIMIT, LIMIT)
    if not place.writers:  # what is multiplied by lies on the grid that a constant of 8 bits has
        steps = np.maximum(1, np.rint(FACTOR_STEPS * scale.min() / scale))
        scale = FACTOR_STEPS / steps
    result: Array = scale.astype(np.float32)
    return result


def _is_query(graph: Graph, place: Place) -> bool:
    return any(isinstance(node.op, Attention) for node in graph.consumers[place.value])


def move_scales(graph: Graph, place: Place, scale: Array) -> Graph:
    """`graph` with channel i of the place's value divided by scale[i], and multiplied again where it is read."""
    types, constants = dict(graph.types), dict(graph.constants)
    nodes = {node.output: node for node in graph.nodes}

    def put(name: str, value: Array) -> None:
        constants[name] = np.ascontiguousarray(value, np.float32)
        types[name] = TensorType(value.shape)

    for writer in place.writers:
        if isinstance(writer.op, Linear):
            put(writer.inputs[1], constants[writer.inputs[1]] / scale[:, None])
            for bias in writer.inputs[2:]:
                put(bias, constants[bias] / scale)
            continue
        affine = [constants[name] for name in writer.inputs[1:]] or [np.ones_like(scale), np.zeros_like(scale)]
        names = [graph.fresh_name(f"{writer.output}_{role}") for role in ("gain", "bias")]
        for name, old in zip(names, affine, strict=True):
            put(name, old / scale)
        nodes[writer.output] = Node(writer.name, writer.op, (writer.inputs[0], *names), writer.output)
    for reader in place.readers:
        if _is_query(graph, place):
            put(reader.inputs[1], constants[reader.inputs[1]] * scale[:, None])
            for bias in reader.inputs[2:]:
                put(bias, constants[bias] * scale)
        else:
            put(reader.inputs[1], constants[reader.inputs[1]] * scale)
    if place.tables:
        for table in place.tables:
            put(table, constants[table] / scale)
        even = graph.fresh_name(f"{place.value}_even")
        types[even] = types[place.value]
        factor = graph.fresh_name(f"{even}_factor")
        put(factor, scale)
        made = nodes[place.value]
        pair = [
            (even, Node(made.name, made.op, made.inputs, even)),
            (place.value, Node(f"{made.name}_whole", Mul(), (even, factor), place.value)),
        ]
        nodes = {
            name: node for old, one in nodes.items() for name, node in (pair if old == place.value else [(old, one)])
        }
    elif not place.writers:
        even = graph.fresh_name(f"{place.value}_even")
        factor = graph.fresh_name(f"{even}_factor")
        put(factor, 1.0 / scale)
        types[even] = graph.types[place.value]
        for reader in place.readers:
            node = nodes[reader.output]
            nodes[reader.output] = Node(node.name, node.op, (even, *node.inputs[1:]), node.output)
        product = Node(even, Mul(), (place.value, factor), even)
        nodes = {
            name: node
            for old, one in nodes.items()
            for name, node in ([(old, one), (even, product)] if old == place.value else [(old, one)])
        }
    read = {name for node in nodes.values() for name in node.inputs}
    unread = set(constants) - read
    return verify(
        graph.replace(
            nodes=nodes.values(),
            types={name: type_ for name, type_ in types.items() if name not in unread},
            constants={name: value for name, value in constants.items() if name not in unread},
        )
    )
