"""Where every value lies in the arena: lifetimes over the steps, then offsets."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from picoformer.backends.c.isa import Layout
from picoformer.backends.c.schedule import Step, steps_of
from picoformer.ir import DType, Graph

ALIGNMENT = 16
_SEARCH_WORK = 400_000
"""Local search: rectangle comparisons it may spend."""

_FROM_FIRST = ("first",)
_FROM_EITHER = ("first", "second")
_IN_PLACE: dict[str, tuple[str, ...]] = {
    "Activation": _FROM_FIRST,
    "Add": _FROM_EITHER,
    "LayerNorm": _FROM_FIRST,
    "Mul": _FROM_EITHER,
    "Requantize": _FROM_FIRST,
}
"""Kinds of steps whose output may lie on an operand, as the contracts in picoformer/ops.h allow."""

_IN_PLACE_FLOAT = ("Add", "Mul")


@dataclass(frozen=True)
class PlacedValue:
    """One value's place. Lives from step `first` (−1: an input) to `last`, both included; bytes before alignment."""

    name: str
    bytes: int
    first: int
    last: int
    offset: int
    on: str = ""
    """The value it was written over, where it was computed in place."""

    @property
    def end(self) -> int:
        """One past its last byte."""
        return self.offset + self.bytes


@dataclass(frozen=True)
class MemoryPlan:
    """Offsets of all values: `peak` is the arena's size, `lower_bound` the most bytes alive at any one step.

    `steps` are in execution order; `aliases` maps the output of a Reshape to the value whose
    bytes it is; the scratch of step i is the value `scratch_name(i)`. All sizes are multiples of 16 bytes.
    """

    steps: tuple[Step, ...]
    values: tuple[PlacedValue, ...]
    aliases: tuple[tuple[str, str], ...]
    peak: int
    lower_bound: int

    @cached_property
    def _places(self) -> dict[str, PlacedValue]:
        return {value.name: value for value in self.values}

    @cached_property
    def _aliases(self) -> dict[str, str]:
        return dict(self.aliases)

    def root(self, name: str) -> str:
        """The value whose bytes `name` is: itself unless it is a Reshape's output."""
        return self._aliases.get(name, name)

    def place(self, name: str) -> PlacedValue:
        """The place of a value or of what it is an alias of."""
        return self._places[self.root(name)]

    def live(self, step: int) -> int:
        """Bytes alive at a step, each place rounded up to 16 and a value computed in place counted once."""
        return _live(self.values, step)

    def timeline(self) -> str:
        """A drawing: one row per value, one column per step, `#` while it lives, `=` where it was written in place."""
        width = max((len(value.name) for value in self.values), default=4)
        lines = [f"{'value':{width}}  {'offset':>8} {'bytes':>8}  steps -1..{len(self.steps) - 1}"]
        for value in self.values:
            cells = ["#" if value.first <= step <= value.last else "." for step in range(-1, len(self.steps))]
            if value.on:
                cells[value.first + 1] = "="
            lines.append(f"{value.name:{width}}  {value.offset:8d} {value.bytes:8d}  {''.join(cells)}")
        lines.append(f"peak {self.peak} bytes, lower bound {self.lower_bound} bytes")
        return "\n".join(lines)


def scratch_name(step: int) -> str:
    """Name of the scratch buffer of a step in a plan (no value of a graph has a blank in front)."""
    return f" scratch of step {step}"


def plan_memory(graph: Graph, layout: Layout, keep: Sequence[str] = ()) -> MemoryPlan:
    """Plan the arena of a graph.

    Inputs live from before step 0 to their last reader, outputs to the end, the inputs in `keep` all the time.
    The same graph always gives the same plan.
    """
    aliases = _aliases(graph)
    steps = steps_of(graph, layout)
    values = _lifetimes(graph, steps, aliases, layout, keep)
    best: MemoryPlan | None = None
    for prefer in ("first", "last", "none"):
        groups = _groups(graph, steps, values, aliases, keep, prefer)
        placed = _place(_rectangles(groups))
        offsets = {value.name: offset for group, offset in zip(groups, placed, strict=True) for value in group}
        on = {after.name: before.name for group in groups for before, after in itertools.pairwise(group)}
        found = tuple(replace(value, offset=offsets[value.name], on=on.get(value.name, "")) for value in values)
        peak = max((_aligned(value.bytes) + value.offset for value in found), default=0)
        bound = max((_live(found, step) for step in range(-1, len(steps))), default=0)
        plan = MemoryPlan(steps, found, tuple(sorted(aliases.items())), peak, bound)
        if best is None or plan.peak < best.peak:
            best = plan
    assert best is not None
    return best


def _aliases(graph: Graph) -> dict[str, str]:
    aliases: dict[str, str] = {}
    for node in graph.nodes:
        if node.op.kind == "Reshape":
            aliases[node.output] = aliases.get(node.inputs[0], node.inputs[0])
    return aliases


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _live(values: Sequence[PlacedValue], step: int) -> int:
    alive = {value.name: value for value in values if value.first <= step <= value.last}
    over = {value.on for value in alive.values() if value.on and value.first == step}
    return sum(_aligned(value.bytes) for name, value in alive.items() if name not in over)


def _lifetimes(
    graph: Graph, steps: Sequence[Step], aliases: dict[str, str], layout: Layout, keep: Sequence[str]
) -> tuple[PlacedValue, ...]:
    first = dict.fromkeys(graph.inputs, -1)
    last = dict.fromkeys(graph.inputs, -1)
    for index, step in enumerate(steps):
        for name in step.reads(graph):
            last[aliases.get(name, name)] = index
        first[step.output] = last[step.output] = index
    for name in (*graph.outputs, *keep):
        last[aliases.get(name, name)] = len(steps)
    values = [PlacedValue(name, graph.types[name].bytes, first[name], last[name], 0) for name in first]
    for index, step in enumerate(steps):
        if size := step.scratch_bytes(graph, layout):
            values.append(PlacedValue(scratch_name(index), size, index, index, 0))
    return tuple(values)


def _groups(
    graph: Graph,
    steps: Sequence[Step],
    values: Sequence[PlacedValue],
    aliases: dict[str, str],
    keep: Sequence[str],
    prefer: str,
) -> list[list[PlacedValue]]:
    """Values chained by computing in place; each chain takes one place. `prefer` says which operand is written over."""
    by_name = {value.name: value for value in values}
    chain: dict[str, list[PlacedValue]] = {value.name: [value] for value in values}
    for index, step in enumerate(steps):
        if prefer == "none":
            break
        candidates = [
            name
            for name in dict.fromkeys(aliases.get(name, name) for name in in_place_operands(graph, step))
            if by_name[name].last == index and name not in keep
        ]
        if candidates:
            operand = candidates[0 if prefer == "first" else -1]
            joined = chain[operand]
            joined.append(by_name[step.output])
            chain[step.output] = joined
    unique = {id(group): group for group in chain.values()}
    return list(unique.values())


def in_place_operands(graph: Graph, step: Step) -> tuple[str, ...]:
    """Inputs that the output of a step may be written over, if they die there: same element type, as many elements."""
    allowed = _IN_PLACE.get(step.kind, ())
    out = graph.types[step.output]
    if out.dtype is DType.FLOAT32 and step.kind not in _IN_PLACE_FLOAT:
        return ()
    operands = step.node.inputs[: len(allowed)]
    return tuple(
        name
        for name in operands
        if name not in graph.constants
        and graph.types[name].dtype is out.dtype
        and graph.types[name].elements == out.elements
    )


@dataclass(frozen=True)
class _Rectangle:
    """A group as the placement sees it: steps `first` to `last`, `size` bytes (aligned)."""

    first: int
    last: int
    size: int

    def meets(self, other: _Rectangle) -> bool:
        """Whether both live at some step."""
        return self.first <= other.last and other.first <= self.last


def _rectangles(groups: Sequence[Sequence[PlacedValue]]) -> list[_Rectangle]:
    return [
        _Rectangle(group[0].first, group[-1].last, max(_aligned(value.bytes) for value in group)) for group in groups
    ]


def _orders(rectangles: Sequence[_Rectangle]) -> Iterator[list[int]]:
    """Greedy orders worth trying; ties keep the order of the values."""
    indices = range(len(rectangles))
    keys = (
        lambda r: -r.size,
        lambda r: -(r.last - r.first),
        lambda r: -r.size * (r.last - r.first + 1),
        lambda r: r.first,
        lambda r: -r.last,
        lambda r: (-(r.last - r.first) // 4, -r.size),
    )
    for key in keys:
        yield sorted(indices, key=lambda i, key=key: key(rectangles[i]))  # type: ignore[misc]


def _place(rectangles: Sequence[_Rectangle]) -> list[int]:
    """Offsets: the best of the greedy orders, improved by moving one rectangle at a time to another turn."""
    if not rectangles:
        return []
    bound = max(sum(r.size for r in rectangles if r.first <= at.first <= r.last) for at in rectangles)
    meets = [[j for j, b in enumerate(rectangles) if j != i and a.meets(b)] for i, a in enumerate(rectangles)]
    best_order: list[int] = []
    best: list[int] = []
    best_peak = -1
    for order in _orders(rectangles):
        offsets, peak = _first_fit(order, rectangles, meets)
        if best_peak < 0 or peak < best_peak:
            best_order, best, best_peak = order, offsets, peak
    chance = random.Random(0)
    work = sum(len(m) for m in meets) + len(rectangles)
    for _ in range(_SEARCH_WORK // work):
        if best_peak == bound:
            break
        order = list(best_order)
        order.insert(chance.randrange(len(order)), order.pop(chance.randrange(len(order))))
        offsets, peak = _first_fit(order, rectangles, meets)
        if peak <= best_peak:
            best_order, best, best_peak = order, offsets, peak
    return best


def _first_fit(
    order: Sequence[int], rectangles: Sequence[_Rectangle], meets: Sequence[Sequence[int]]
) -> tuple[list[int], int]:
    """Each rectangle in turn at the lowest offset that is free during its life; the offsets and the peak."""
    offsets = [-1] * len(rectangles)
    peak = 0
    for index in order:
        size, offset = rectangles[index].size, 0
        for start, end in sorted(
            (offsets[j], offsets[j] + rectangles[j].size) for j in meets[index] if offsets[j] >= 0
        ):
            if offset + size <= start:
                break
            offset = max(offset, end)
        offsets[index] = offset
        peak = max(peak, offset + size)
    return offsets, peak
