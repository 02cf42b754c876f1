"""What a graph is apart from its names, to tell whether two files hold the same model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from picoformer.ir import Graph, TensorType
from picoformer.ir.operator import Array


@dataclass(frozen=True)
class CanonicalNode:
    """An operator, its attributes, and its inputs as numbers of earlier values."""

    kind: str
    attributes: tuple[tuple[str, object], ...]
    inputs: tuple[int, ...]
    type: TensorType


@dataclass(frozen=True, eq=False)
class CanonicalGraph:
    """Values by number, in the order in which the outputs need them: an input, a constant or a node each."""

    values: tuple[int | Array | CanonicalNode, ...]
    inputs: tuple[TensorType, ...]
    outputs: tuple[int, ...]


def canonical(graph: Graph) -> CanonicalGraph:
    """`graph` without names: values numbered depth first from the outputs."""
    numbers: dict[str, int] = {}
    values: list[int | Array | CanonicalNode] = []

    def number(value: int | Array | CanonicalNode, name: str) -> None:
        numbers[name] = len(values)
        values.append(value)

    for position, name in enumerate(graph.inputs):
        number(position, name)
    stack = list(reversed(graph.outputs))
    while stack:
        name = stack.pop()
        if name in numbers:
            continue
        if name in graph.constants:
            number(graph.constants[name], name)
            continue
        node = graph.producers[name]
        waiting = [x for x in node.inputs if x not in numbers]
        if waiting:
            stack += [name, *reversed(waiting)]
            continue
        attributes = tuple(sorted(node.op.attributes().items()))
        number(CanonicalNode(node.op.kind, attributes, tuple(numbers[x] for x in node.inputs), graph.types[name]), name)
    inputs = tuple(graph.types[name] for name in graph.inputs)
    return CanonicalGraph(tuple(values), inputs, tuple(numbers[name] for name in graph.outputs))


def differences(a: CanonicalGraph, b: CanonicalGraph, tolerance: float = 1e-5) -> list[str]:
    """Where two graphs differ, in words; empty when they are the same up to `tolerance` in constants and attributes."""
    found = []
    if a.inputs != b.inputs:
        found.append(f"inputs {list(map(str, a.inputs))} and {list(map(str, b.inputs))}")
    if a.outputs != b.outputs:
        found.append(f"outputs {a.outputs} and {b.outputs}")
    if len(a.values) != len(b.values):
        found.append(f"{len(a.values)} and {len(b.values)} values")
    for position, (x, y) in enumerate(zip(a.values, b.values, strict=False)):
        if not _same(x, y, tolerance):
            found.append(f"value {position}: {_show(x)} and {_show(y)}")
    return found


def _same(x: int | Array | CanonicalNode, y: int | Array | CanonicalNode, tolerance: float) -> bool:
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        if x.shape != y.shape or x.dtype != y.dtype:
            return False
        limit = tolerance * max(float(np.abs(x).max(initial=0)), 1e-6)
        return bool((np.abs(x.astype(np.float64) - y) <= limit).all())
    if isinstance(x, CanonicalNode) and isinstance(y, CanonicalNode):
        if (x.kind, x.inputs, x.type) != (y.kind, y.inputs, y.type) or len(x.attributes) != len(y.attributes):
            return False
        return all(
            key == other
            and (
                math.isclose(value, again, rel_tol=tolerance)
                if isinstance(value, float) and isinstance(again, float)
                else value == again
            )
            for (key, value), (other, again) in zip(x.attributes, y.attributes, strict=True)
        )
    return isinstance(x, int) and isinstance(y, int) and x == y


def _show(x: int | Array | CanonicalNode) -> str:
    if isinstance(x, CanonicalNode):
        attributes = ", ".join(f"{key}={value}" for key, value in x.attributes)
        return f"{x.kind}({attributes}){list(x.inputs)} {x.type}"
    return f"input {x}" if isinstance(x, int) else f"constant {list(x.shape)}"
