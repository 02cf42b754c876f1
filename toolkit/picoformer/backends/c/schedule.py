"""The steps of a model: which nodes one call of the device computes, and what it reads and leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from picoformer.backends.c.isa import Layout
from picoformer.ir import Graph, Node

Grouping = Callable[[Graph, Layout], tuple[tuple[Node, ...], ...]]
"""From a graph and a target's kernels to the nodes of each step, in execution order, Reshape nodes left out. Nodes of a
group stand next to each other in the graph, and what one but the last of them computes is read by the next one only."""


@dataclass(frozen=True)
class Step:
    """One or more nodes that one call computes. The last one's output is the step's; the others' exist nowhere."""

    nodes: tuple[Node, ...]

    @property
    def node(self) -> Node:
        """The first node: it reads what the step works on."""
        return self.nodes[0]

    @property
    def output(self) -> str:
        """The value that the step leaves."""
        return self.nodes[-1].output

    @property
    def kind(self) -> str:
        """The operators by name: `Linear`, `Linear+Activation`."""
        return "+".join(node.op.kind for node in self.nodes)

    @property
    def name(self) -> str:
        """The first node's name, for messages."""
        return self.node.name

    def reads(self, graph: Graph) -> tuple[str, ...]:
        """The values it reads that are not constants, in order; what stays inside is none of them."""
        inside = {node.output for node in self.nodes}
        return tuple(name for node in self.nodes for name in graph.activations(node) if name not in inside)

    def macs(self, graph: Graph) -> int:
        """Its multiply-accumulates."""
        return sum(
            node.op.macs([graph.types[name] for name in node.inputs], graph.types[node.output]) for node in self.nodes
        )

    def scratch_bytes(self, graph: Graph, layout: Layout) -> int:
        """Bytes of arena it needs for itself while it runs."""
        return max(layout.scratch_bytes(graph, node) for node in self.nodes)


def one_by_one(graph: Graph, layout: Layout) -> tuple[tuple[Node, ...], ...]:
    """Every node a step of its own."""
    return tuple((node,) for node in graph.nodes if node.op.kind != "Reshape")


def steps_of(graph: Graph, layout: Layout, group: Grouping = one_by_one) -> tuple[Step, ...]:
    """The steps of a graph for a target, in execution order; `group` says which nodes are one step."""
    return tuple(Step(nodes) for nodes in group(graph, layout))
