"""What runs when: the steps of a model, the calls that compute them, and the calls that go by tiles of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from picoformer.backends.c.fuse import fused
from picoformer.backends.c.isa import Layout
from picoformer.ir import Graph, Node

Grouping = Callable[[Graph, Layout], tuple[tuple[Node, ...], ...]]
"""From a graph and a target's kernels to the nodes of each step, in execution order, Reshape nodes left out. What a
node of a group but the last one computes is read by the next one only."""


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
    def residual(self) -> str | None:
        """What a Linear is added to in the same step."""
        first, last = self.nodes[0], self.nodes[-1]
        return next(name for name in last.inputs if name != first.output) if self.kind == "Linear+Add" else None

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


@dataclass(frozen=True)
class Call:
    """One turn of a step. `again`: its rows were computed before and are computed once more, where keeping them would
    cost memory."""

    step: int
    again: bool = False


@dataclass(frozen=True)
class Tiling:
    """Calls `first` to `last` run for `height` rows, then for the next, until all `rows` are done; where they are
    `counted`, until those before the valid length are (the first one in any case)."""

    first: int
    last: int
    rows: int
    height: int
    counted: bool = False

    @property
    def tile_rows(self) -> tuple[tuple[int, int], ...]:
        """The first row of each tile, and how many it has."""
        starts = range(0, self.rows, self.height)
        return tuple((start, min(self.height, self.rows - start)) for start in starts)

    @property
    def tiles(self) -> int:
        """How often each of the calls is made."""
        return -(-self.rows // self.height)


@dataclass(frozen=True)
class Schedule:
    """The steps, numbered as they stand in the graph, the calls in the order in which they are made, and the tilings,
    which do not overlap."""

    steps: tuple[Step, ...]
    calls: tuple[Call, ...]
    tilings: tuple[Tiling, ...] = ()

    def step_of(self, call: int) -> Step:
        """The step that a call computes."""
        return self.steps[self.calls[call].step]

    def tiling_of(self, call: int) -> Tiling | None:
        """The tiling that a call belongs to, if any."""
        return next((tiling for tiling in self.tilings if tiling.first <= call <= tiling.last), None)


def steps_of(graph: Graph, layout: Layout, group: Grouping = fused) -> tuple[Step, ...]:
    """The steps of a graph for a target, in the graph's order; `group` says which nodes are one step."""
    return tuple(Step(nodes) for nodes in group(graph, layout))


def in_order(steps: tuple[Step, ...]) -> Schedule:
    """Every step once, as a whole."""
    return Schedule(steps, tuple(Call(index) for index in range(len(steps))))
