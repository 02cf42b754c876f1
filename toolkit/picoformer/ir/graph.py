"""The frozen graph: named values, nodes in execution order, constants."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from picoformer.ir.operator import Array, Operand, Operator
from picoformer.ir.types import TensorType


def fresh_name(wish: str, taken: Container[str]) -> str:
    """`wish`, or `wish_1`, `wish_2` … when it is taken."""
    name, count = wish, 0
    while name in taken:
        count += 1
        name = f"{wish}_{count}"
    return name


@dataclass(frozen=True)
class Node:
    """One operator applied to named values, giving one named value."""

    name: str
    op: Operator
    inputs: tuple[str, ...]
    output: str

    def __str__(self) -> str:
        return f"{self.output} = {self.op.kind}({', '.join(self.inputs)})"


@dataclass(frozen=True)
class Graph:
    """A model. Nodes stand in execution order; `types` knows every value; `constants` holds the known ones.

    Value names come from the source file and stay the same down to C symbols and parity reports.

    `states` are pairs (input, output) that live from one run to the next: what the output holds after a run is what the
    input holds in the next one, as the keys and values of a decoder do. They stand in `inputs` and `outputs` too.
    `count` names the input, one int32, that says how many rows of the block are there; the first axis of every value in
    `block` has that many. Empty where no rows are ever missing.
    `source` names the inputs that are given once and hold for all runs after, as a text to translate does: what is
    computed from them alone is the `prologue`, which has a run of its own. All that other nodes read of it are states,
    whose inputs nobody reads, and inputs of one element.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    types: Mapping[str, TensorType]
    constants: Mapping[str, Array] = field(default_factory=dict)
    states: tuple[tuple[str, str], ...] = ()
    count: str = ""
    source: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "types", MappingProxyType(dict(self.types)))
        frozen: dict[str, Array] = {}
        for name, value in self.constants.items():
            view = value.view()
            view.flags.writeable = False
            frozen[name] = view
        object.__setattr__(self, "constants", MappingProxyType(frozen))

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """Value name → the node that computes it."""
        return {node.output: node for node in self.nodes}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """Value name → the nodes that read it, in order (a node that reads it twice stands once)."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found.setdefault(name, []).append(node)
        return {name: tuple(nodes) for name, nodes in found.items()}

    @cached_property
    def ports(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Inputs and outputs that somebody outside writes and reads: all but the states."""
        before, after = {pair[0] for pair in self.states}, {pair[1] for pair in self.states}
        inputs = tuple(name for name in self.inputs if name not in before)
        return inputs, tuple(name for name in self.outputs if name not in after)

    @cached_property
    def block(self) -> frozenset[str]:
        """The values of which only the first `count` rows are there: inputs with an axis, but for states, and what is
        computed from them row by row."""
        if not self.count:
            return frozenset()
        found = {name for name in self.ports[0] if self.types[name].shape and name not in self.source}
        for node in self.nodes:
            if node.op.keeps_rows and (found.intersection(node.inputs) or node.op.makes_rows):
                found.add(node.output)
        return frozenset(found)

    @cached_property
    def prologue(self) -> frozenset[str]:
        """The outputs of the nodes that are computed once for each source."""
        found: set[str] = set()
        known = {*self.source, *self.constants}
        for node in self.nodes:
            if self.source and known.issuperset(node.inputs):
                known.add(node.output)
                found.add(node.output)
        return frozenset(found)

    def operand(self, name: str) -> Operand:
        """Type and, if constant, value of a value."""
        return Operand(self.types[name], self.constants.get(name))

    def operands(self, node: Node) -> tuple[Operand, ...]:
        """The operands of a node, in order."""
        return tuple(self.operand(name) for name in node.inputs)

    def activations(self, node: Node) -> tuple[str, ...]:
        """The inputs of a node that are not constants, in order."""
        return tuple(name for name in node.inputs if name not in self.constants)

    def is_used_once(self, name: str) -> bool:
        """True when exactly one node reads the value, once, and it is not an output of the graph."""
        readers = self.consumers.get(name, ())
        return len(readers) == 1 and readers[0].inputs.count(name) == 1 and name not in self.outputs

    def replace(
        self,
        *,
        nodes: Iterable[Node] | None = None,
        types: Mapping[str, TensorType] | None = None,
        constants: Mapping[str, Array] | None = None,
        inputs: tuple[str, ...] | None = None,
        outputs: tuple[str, ...] | None = None,
        name: str | None = None,
        states: tuple[tuple[str, str], ...] | None = None,
        count: str | None = None,
    ) -> Graph:
        """A copy with some parts exchanged."""
        changes: dict[str, object] = {
            key: value
            for key, value in {
                "nodes": None if nodes is None else tuple(nodes),
                "types": types,
                "constants": constants,
                "inputs": inputs,
                "outputs": outputs,
                "name": name,
                "states": states,
                "count": count,
            }.items()
            if value is not None
        }
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(
            node.op.macs([self.types[name] for name in node.inputs], self.types[node.output]) for node in self.nodes
        )

    @property
    def parameters(self) -> int:
        """Elements of all constants."""
        return sum(value.size for value in self.constants.values())

    def fresh_name(self, wish: str, taken: Iterable[str] = ()) -> str:
        """`wish`, or `wish_1`, `wish_2` … when it is in use."""
        return fresh_name(wish, {*self.types, *taken})

    def __str__(self) -> str:
        lines = [f"graph {self.name}({', '.join(f'{n}: {self.types[n]}' for n in self.inputs)})"]
        lines += [f"  {node}: {self.types[node.output]}" for node in self.nodes]
        return "\n".join([*lines, f"  return {', '.join(self.outputs)}"])
