"""Replacing one node by others: a rule looks at a node and answers with a Patch, or with None to leave it.

A patch computes the same output under the same name, so every value keeps its meaning and the patches of one sweep
cannot disturb each other. What is no longer read falls away afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from picoformer.ir import DType, Graph, Node, Operator, TensorType, fresh_name
from picoformer.ir.operator import Array
from picoformer.ops import Add, Mul
from picoformer.ops.rounded import Dequantized
from picoformer.ops.spelled import spelled_type

SWEEPS_MAX = 200
"""More sweeps than any model needs; reaching it means that two rules undo each other."""


class Patch:
    """The nodes and constants that take the place of `root`."""

    def __init__(self, graph: Graph, root: Node) -> None:
        self.graph = graph
        self.root = root
        self.nodes: list[Node] = []
        self.types: dict[str, TensorType] = {}
        self.constants: dict[str, Array] = {}
        self.same: str | None = None

    def type_of(self, name: str) -> TensorType:
        """Type of a value of the graph or of the patch."""
        return self.types[name] if name in self.types else self.graph.types[name]

    def constant(self, value: Array, role: str) -> str:
        """A new float32 constant; `role` ends its name."""
        name = self.graph.fresh_name(f"{self.root.output}_{role}", self.types)
        self.constants[name] = np.ascontiguousarray(value, np.float32).reshape(np.shape(value))
        self.types[name] = TensorType(np.shape(value))
        return name

    def add(self, op: Operator, inputs: Sequence[str], role: str) -> str:
        """A node on the way; `role` ends the name of its value. Raises ValueError when the shapes do not fit."""
        name = self.graph.fresh_name(f"{self.root.output}_{role}", self.types)
        self.types[name] = spelled_type(op, [self.type_of(x) for x in inputs])
        self.nodes.append(Node(name, op, tuple(inputs), name))
        return name

    def finish(self, op: Operator, inputs: Sequence[str]) -> Patch:
        """The node that computes the root's output."""
        self.nodes.append(Node(self.root.name, op, tuple(inputs), self.root.output))
        return self

    def same_as(self, name: str) -> Patch | None:
        """The root's output equals `name`: its readers read that. None where an output would lose its name."""
        if self.root.output in self.graph.outputs and (name in self.graph.outputs or name not in self.graph.producers):
            return None
        self.same = name
        return self


Rule = Callable[[Graph, Node], Patch | None]


def rewrite(graph: Graph, rules: Sequence[Rule]) -> Graph:
    """Apply the rules, the first that answers for a node, sweep after sweep until none does."""
    for _ in range(SWEEPS_MAX):
        changed = _sweep(graph, rules)
        if changed is None:
            return graph
        graph = remove_dead(changed)
    raise AssertionError(f"{graph.name}: the rules {[rule.__name__ for rule in rules]} do not come to rest")


def _sweep(graph: Graph, rules: Sequence[Rule]) -> Graph | None:
    nodes: list[Node] = []
    types, constants = dict(graph.types), dict(graph.constants)
    renamed: dict[str, str] = {}
    names = {node.name for node in graph.nodes}
    hits = 0
    for position, node in enumerate(graph.nodes):
        patch = next((p for p in (rule(graph, node) for rule in rules) if p is not None), None)
        if patch is None or any(name in types for name in patch.types):
            nodes.append(node)
            continue
        hits += 1
        if patch.same is not None and node.output in graph.outputs:
            # The output keeps its name and the value it equals takes it; alone, so that nothing else renames it.
            rest = [*graph.nodes[:position], *graph.nodes[position + 1 :]]
            return substitute(graph.replace(nodes=rest), {patch.same: node.output}, rename_outputs=True)
        if patch.same is not None:
            renamed[node.output] = patch.same
        nodes += [_named(new, names, node) for new in patch.nodes]
        types.update(patch.types)
        constants.update(patch.constants)
    if not hits:
        return None
    return substitute(graph.replace(nodes=nodes, types=types, constants=constants), renamed)


def _named(new: Node, names: set[str], root: Node) -> Node:
    if new.name == root.name:
        return new
    name = fresh_name(new.name, names)
    names.add(name)
    return Node(name, new.op, new.inputs, new.output)


def substitute(graph: Graph, renamed: dict[str, str], rename_outputs: bool = False) -> Graph:
    """Let every reader of a renamed value read what it equals; with `rename_outputs` its producer is renamed too."""

    def final(name: str) -> str:
        while name in renamed:
            name = renamed[name]
        return name

    if not renamed:
        return graph
    nodes = [
        Node(n.name, n.op, tuple(map(final, n.inputs)), final(n.output) if rename_outputs else n.output)
        for n in graph.nodes
    ]
    return graph.replace(nodes=nodes)


def remove_dead(graph: Graph) -> Graph:
    """Drop nodes and constants that no output depends on. Inputs of the graph stay."""
    alive = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if node.output in alive:
            kept.append(node)
            alive.update(node.inputs)
    kept.reverse()
    values = alive | set(graph.inputs)
    return graph.replace(
        nodes=kept,
        types={name: type_ for name, type_ in graph.types.items() if name in values},
        constants={name: value for name, value in graph.constants.items() if name in alive},
    )


def merge_duplicates(graph: Graph) -> Graph:
    """One node where several compute the same from the same inputs, one constant where several hold the same."""
    same: dict[str, str] = {}
    seen_constants: dict[tuple[object, ...], str] = {}
    for name, value in graph.constants.items():
        key: tuple[object, ...] = (value.shape, value.dtype.str, value.tobytes())
        first = seen_constants.setdefault(key, name)
        if first != name:
            same[name] = first
    seen: dict[tuple[object, ...], str] = {}
    nodes = []
    for node in graph.nodes:
        inputs = tuple(same.get(name, name) for name in node.inputs)
        first = seen.setdefault((node.op, inputs), node.output)
        if first != node.output and node.output not in graph.outputs:
            same[node.output] = first
            continue
        nodes.append(Node(node.name, node.op, inputs, node.output))
    return remove_dead(graph.replace(nodes=nodes))


def fold_constants(graph: Graph) -> Graph:
    """Compute what depends on constants alone."""
    constants = dict(graph.constants)
    nodes = []
    for node in graph.nodes:
        opaque = isinstance(node.op, Dequantized)
        if not opaque and all(name in constants for name in node.inputs) and node.output not in graph.outputs:
            value = np.asarray(node.op.compute(*(constants[name] for name in node.inputs)))
            type_ = graph.types[node.output]
            value = value.astype(type_.dtype.numpy).reshape(type_.shape)
            if type_.dtype is not DType.FLOAT32 or np.isfinite(value).all():
                constants[node.output] = value
                continue
        nodes.append(node)
    return remove_dead(graph.replace(nodes=nodes, constants=constants))


def order_operands(graph: Graph) -> Graph:
    """Add and Mul of two activations: the one computed first stands first, so that both dialects agree."""
    age = {name: position for position, name in enumerate((*graph.inputs, *(n.output for n in graph.nodes)))}
    nodes = [
        Node(n.name, n.op, tuple(sorted(n.inputs, key=lambda x: age.get(x, len(age)))), n.output)
        if isinstance(n.op, (Add, Mul))
        else n
        for n in graph.nodes
    ]
    return graph.replace(nodes=nodes)
