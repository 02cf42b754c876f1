"""Who writes and who reads which value, call by call: the lives of all values, and what may lie on what."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from picoformer.backends.c.isa import Layout, LinearLayout
from picoformer.backends.c.rows import RowWise, row_wise
from picoformer.backends.c.schedule import Call, Step, Tiling
from picoformer.backends.c.scratch import relative_scratch
from picoformer.ir import DType, Graph, Node
from picoformer.ops import ExpertLinear, KvAppend, Linear, RelativeAttention, Reshape

ALIGNMENT = 16

_FROM_FIRST = ("first",)
_FROM_EITHER = ("first", "second")
_IN_PLACE: dict[str, tuple[str, ...]] = {
    "Activation": _FROM_FIRST,
    "Add": _FROM_EITHER,
    "Attention": _FROM_FIRST,
    "CachedAttention": _FROM_FIRST,
    "LayerNorm": _FROM_FIRST,
    "Linear+Add": ("residual",),
    "Mul": _FROM_EITHER,
    "RelativeAttention": _FROM_FIRST,
    "Requantize": _FROM_FIRST,
    "RmsNorm": _FROM_FIRST,
    "Rope": _FROM_FIRST,
    "ScaleRows": _FROM_FIRST,
}
"""Kinds of steps whose output may lie on an operand, as the contracts in picoformer/ops.h allow."""

_IN_PLACE_FLOAT = ("Add", "Mul")


Bytes = TypeVar("Bytes", int, NDArray[np.int64])


def aligned(size: Bytes) -> Bytes:
    """`size` bytes as a place takes them; of an array, each."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def again_name(value: str, call: int) -> str:
    """Name of what a repeated call computes, apart from the first time (no value of a graph has a blank in front)."""
    return f" {value} again at call {call}"


class Flow:
    """The calls of a model in order, and the lives of its values.

    A value goes by its root: the one whose bytes it is, where it is a Reshape's output. What a repeated call computes
    is a value of its own. `defined[name]` is the call that computes a value, −1 for an input; `last[name]` the last one
    that reads it, `len(calls)` where it stays to the end.
    """

    def __init__(
        self, graph: Graph, layout: Layout, steps: Sequence[Step], calls: Sequence[Call], keep: Sequence[str] = ()
    ) -> None:
        self.graph, self.layout = graph, layout
        self.steps, self.calls, self.keep = tuple(steps), tuple(calls), tuple(keep)
        self.aliases = aliases_of(graph)
        self._scratch: dict[tuple[int, int | None], int] = {}
        states = {before for before, _ in graph.states}
        inside = [name for name in graph.inputs if name not in states]  # of the arena: states have a place of their own
        self.outputs: list[str] = []
        self.names: list[dict[str, str]] = []
        """By call: the root of each value that it reads → whose bytes these are at that time."""
        self.defined = dict.fromkeys(inside, -1)
        self.last = dict.fromkeys(inside, -1)
        self.value = {name: name for name in inside}
        """What is computed → the value of the graph that it is."""
        current: dict[str, str] = {}
        for index, call in enumerate(self.calls):
            step = self.steps[call.step]
            roots = [self.aliases.get(name, name) for name in step.reads(graph)]
            self.names.append({root: current.get(root, root) for root in roots})
            for name in self.names[-1].values():
                if name not in states:
                    self.last[name] = index
            if step.output in self.aliases:  # a state, written where it lies
                self.outputs.append(self.aliases[step.output])
                if self.outputs[-1] not in states:
                    self.last[self.outputs[-1]] = index
                continue
            output = again_name(step.output, index) if call.again else step.output
            current[step.output] = output
            self.outputs.append(output)
            self.value[output] = step.output
            self.defined[output] = self.last[output] = index
        for name in (*graph.outputs, *keep):
            root = self.aliases.get(name, name)
            if root not in states:
                self.last[current.get(root, root)] = len(self.calls)

    @cached_property
    def _wide(self) -> dict[str, bool]:
        """Output of each Linear and ExpertLinear → whether it takes the kernel with 64-bit sums."""
        kinds = (Linear, ExpertLinear)
        nodes = (node for step in self.steps for node in step.nodes)
        return {node.output: self.layout.is_wide(self.graph, node) for node in nodes if isinstance(node.op, kinds)}

    def scratch(self, call: int, rows: int | None = None) -> int:
        """Bytes of arena that a call needs for itself; `rows`: those it computes, where not all of them."""
        key = (self.calls[call].step, rows)
        if key not in self._scratch:
            nodes = self.step(call).nodes
            sizes = (self._scratch_of(node, rows) for node in nodes)
            self._scratch[key] = max(sizes)
        return self._scratch[key]

    def _scratch_of(self, node: Node, rows: int | None) -> int:
        if isinstance(node.op, RelativeAttention):
            keys = self.graph.types[node.inputs[1]]
            return relative_scratch(keys.shape[-2], keys.width // node.op.heads)
        return self.layout.scratch_bytes(self.graph, node, rows, self._wide.get(node.output))

    def linear_layout(self, node: Node) -> LinearLayout:
        """What the kernel of a Linear wants."""
        x, weight = (self.graph.types[name] for name in node.inputs[:2])
        return self.layout.linear(x.dtype, weight.dtype, self._wide[node.output])

    @cached_property
    def rows(self) -> tuple[RowWise | None, ...]:
        """How each call goes by rows."""
        by_step = [row_wise(self.graph, step) for step in self.steps]
        return tuple(by_step[call.step] for call in self.calls)

    @cached_property
    def whole(self) -> tuple[frozenset[str], ...]:
        """By call: what it reads all of, whichever rows it computes."""
        found = []
        for names, rows in zip(self.names, self.rows, strict=True):
            roots = () if rows is None else {self.aliases.get(name, name) for name in rows.whole}
            found.append(frozenset(name for root, name in names.items() if root in roots))
        return tuple(found)

    def step(self, call: int) -> Step:
        """The step that a call computes."""
        return self.steps[self.calls[call].step]

    def residual(self, call: int) -> str | None:
        """What a call adds its results to, by the name of whose bytes it reads."""
        name = self.step(call).residual
        return None if name is None else self.names[call][self.aliases.get(name, name)]

    def bytes(self, name: str) -> int:
        """Size of all of a value."""
        return self.graph.types[self.value[name]].bytes

    def is_inside(self, name: str, first: int, last: int) -> bool:
        """Whether a value lives between these calls only, so that a tile of it is enough there."""
        return first <= self.defined[name] and self.last[name] <= last

    def may_go_by_tiles(self, first: int, last: int) -> bool:
        """Whether these calls can be made a tile of rows at a time: the same rows in each of them, and nothing that one
        of them computes is read whole by another."""
        rows = self.rows[first]
        return rows is not None and all(
            (other := self.rows[call]) is not None
            and other.rows == rows.rows
            and all(self.defined[name] < first for name in self.whole[call])
            for call in range(first, last + 1)
        )

    def is_legal(self, tiling: Tiling) -> bool:
        """Whether these calls can go by tiles of this height."""
        calls = range(tiling.first, tiling.last + 1)
        return self.may_go_by_tiles(tiling.first, tiling.last) and all(
            rows is not None and rows.rows == tiling.rows and rows.is_legal(tiling.height)
            for rows in (self.rows[call] for call in calls)
        )

    def places_for(self, call: int, tiled: tuple[int, int] | None) -> list[str]:
        """What the output of a call may be written over; `tiled`: the first and last of the calls that go by tiles
        together with it.

        An operand that dies there, where the operator allows it. Among tiles also, for an output that is kept whole, a
        value kept whole with rows of the same size that these calls use up row by row.
        """
        output, operands = self.outputs[call], self._operands(call)
        if output not in self.defined:  # a state has a place of its own
            return []
        if tiled is None:
            return [name for name in operands if self.last[name] == call and name not in self.keep]
        first, last = tiled
        if self.is_inside(output, first, last):
            return [name for name in operands if self.last[name] == call and self.is_inside(name, first, last)]
        read = dict.fromkeys(name for names in self.names[first : call + 1] for name in names.values())
        return [
            name
            for name in [*operands, *(name for name in read if name not in operands)]
            if self.defined[name] < first <= self.last[name]
            and (self.last[name] < call or (self.last[name] == call and name in operands))
            and self.bytes(name) == self.bytes(output)
            and name not in self.keep
            and all(name not in whole for whole in self.whole[first : last + 1])
        ]

    def _operands(self, call: int) -> list[str]:
        """The operands that the output may lie on by the operator's contract, as long as they die there."""
        names, step = self.names[call], self.step(call)
        allowed = _IN_PLACE.get(step.kind, ())
        if isinstance(step.node.op, Linear) and not step.residual and self.linear_layout(step.node).in_place:
            allowed = _FROM_FIRST
        found = [self.aliases.get(name, name) for name in in_place_operands(self.graph, step, allowed)]
        if step.kind in ("Attention", "RelativeAttention"):  # the queries, where they are not keys or values too
            whole = {self.aliases.get(name, name) for name in step.node.inputs[1:]}
            found = [root for root in found if root not in whole]
        return list(dict.fromkeys(names[root] for root in found))


def aliases_of(graph: Graph) -> dict[str, str]:
    """The output of each Reshape → the value whose bytes it is; likewise a cache that is appended to, and what
    the prologue keeps."""
    aliases: dict[str, str] = {}
    for node in graph.nodes:
        if isinstance(node.op, Reshape | KvAppend):
            aliases[node.output] = aliases.get(node.inputs[0], node.inputs[0])
    return {**{after: before for before, after in graph.states if after in graph.prologue}, **aliases}


def in_place_operands(graph: Graph, step: Step, allowed: Sequence[str]) -> tuple[str, ...]:
    """Inputs that the output of a step may be written over, if they die there: of those that its kind allows (a value
    of _IN_PLACE), the ones with the same element type and as many elements."""
    out = graph.types[step.output]
    if out.dtype is DType.FLOAT32 and step.kind not in _IN_PLACE_FLOAT:
        return ()
    operands = (step.residual,) if step.residual else step.node.inputs[: len(allowed)]
    return tuple(
        name
        for name in operands
        if name not in graph.constants
        and graph.types[name].dtype is out.dtype
        and graph.types[name].elements == out.elements
        and (graph.types[name].width == out.width or "Linear" not in step.kind)
    )
