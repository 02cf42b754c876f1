"""A model that goes on where its last run stopped: how many rows a run has, and where in the caches they belong."""

from __future__ import annotations

from dataclasses import dataclass

from picoformer.errors import UnsupportedError
from picoformer.ir import Graph
from picoformer.ops import KvAppend


@dataclass(frozen=True)
class Block:
    """A run has 1 to `rows` rows, as the input `count` says; the first stands at the input `position`, and the last
    before `context`. Where there is a `source`, a run of no rows reads it."""

    rows: int
    context: int
    count: str
    position: str
    source: tuple[str, ...] = ()


def block_of(graph: Graph) -> Block | None:
    """What a graph with states says about its rows; None for one without.

    Raises UnsupportedError for states that are not caches of one length, written at one position.
    """
    if not graph.states:
        return None
    states = [pair for pair in graph.states if pair[1] not in graph.prologue]
    appends = [graph.producers[after] for _, after in states if after in graph.producers]
    places = {node.inputs[2:4] for node in appends if isinstance(node.op, KvAppend)}
    lengths = {graph.types[node.output].shape[node.op.axis] for node in appends if isinstance(node.op, KvAppend)}
    known = all(isinstance(node.op, KvAppend) for node in appends) and len(appends) == len(states)
    rows = {
        graph.types[name].shape[0] for name in graph.ports[0] if name not in graph.source and graph.types[name].shape
    }
    if not known or len(places) != 1 or len(lengths) != 1 or len(rows) != 1:
        raise UnsupportedError(
            f"the states of model '{graph.name}' are not caches of one length, all appended to at one position"
        )
    position, count = places.pop()
    if count != graph.count:
        raise UnsupportedError(f"model '{graph.name}' counts its rows by '{graph.count}', its caches by '{count}'")
    return Block(rows.pop(), lengths.pop(), count, position, graph.source)
