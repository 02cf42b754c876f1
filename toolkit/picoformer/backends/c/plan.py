"""Where every value lies in the arena: lifetimes over the calls of a schedule, then offsets."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from picoformer.backends.c.flow import ALIGNMENT, Flow, aligned
from picoformer.backends.c.isa import Layout
from picoformer.backends.c.placement import Rectangle, place
from picoformer.backends.c.schedule import Schedule, Step, in_order, steps_of
from picoformer.backends.c.tiling import Tile, choose_schedule
from picoformer.ir import Graph

__all__ = ["ALIGNMENT", "MemoryPlan", "PlacedValue", "plan_memory", "plan_schedule", "scratch_name"]


@dataclass(frozen=True)
class PlacedValue:
    """One value's place. Lives from call `first` (−1: an input) to `last`, both included; bytes before alignment."""

    name: str
    bytes: int
    first: int
    last: int
    offset: int
    on: str = ""
    """The value it was written over, where it was computed in place."""
    height: int = 0
    """Rows of the tile that its place holds; 0 where all of it has room."""
    value: str = ""
    """The value of the graph that it is, under another name where it is computed again; empty for scratch."""

    @property
    def end(self) -> int:
        """One past its last byte."""
        return self.offset + self.bytes


@dataclass(frozen=True)
class MemoryPlan:
    """Offsets of all values: `peak` is the arena's size, `lower_bound` the most bytes alive at any one call of the best
    schedule that was looked for, `floor` the same for any number of instructions.

    `aliases` maps the output of a Reshape to the value whose bytes it is; `outputs` has the name of what each call
    computes, `names` by call the root of each value read → the name of whose bytes it reads. The scratch of call i is
    the value `scratch_name(i)`. All sizes are multiples of 16 bytes. `states` lie in memory of their own, which is kept
    from run to run; their offsets count from its start.
    """

    schedule: Schedule
    values: tuple[PlacedValue, ...]
    aliases: Mapping[str, str]
    outputs: tuple[str, ...]
    names: tuple[Mapping[str, str], ...]
    peak: int
    lower_bound: int
    floor: int
    states: tuple[PlacedValue, ...] = ()

    @cached_property
    def _places(self) -> dict[str, PlacedValue]:
        return {value.name: value for value in (*self.values, *self.states)}

    @property
    def state_bytes(self) -> int:
        """Bytes of memory that the states take."""
        return sum(aligned(value.bytes) for value in self.states)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps, numbered as they stand in the graph."""
        return self.schedule.steps

    def root(self, name: str) -> str:
        """The value whose bytes `name` is: itself unless it is a Reshape's output."""
        return self.aliases.get(name, name)

    def place(self, name: str) -> PlacedValue:
        """The place of a value or of what it is an alias of."""
        return self._places[self.root(name)]

    def read(self, call: int, name: str) -> PlacedValue:
        """Where a call finds a value that it reads."""
        return self._places[self.names[call][self.root(name)]]

    def written(self, call: int) -> PlacedValue:
        """Where a call leaves its output."""
        return self._places[self.outputs[call]]

    def alive(self, call: int) -> tuple[PlacedValue, ...]:
        """The values that need their place at a call; of values that share one, the one on top."""
        alive = [value for value in self.values if value.first <= call <= value.last]
        over = {value.on for value in alive if value.on}
        return tuple(value for value in alive if value.name not in over)

    def live(self, call: int) -> int:
        """Bytes alive at a call, each place rounded up to 16 and a value computed in place counted once."""
        return sum(aligned(value.bytes) for value in self.alive(call))

    def live_in(self, step: int) -> int:
        """The most bytes alive while a step runs."""
        return max(self.live(index) for index, call in enumerate(self.schedule.calls) if call.step == step)

    @cached_property
    def fullest(self) -> int:
        """The call with the most bytes alive, the first of them; −1 where that is the inputs being written."""
        return max(range(-1, len(self.schedule.calls)), key=self.live)


def scratch_name(call: int) -> str:
    """Name of the scratch buffer of a call in a plan (no value of a graph has a blank in front)."""
    return f" scratch of call {call}"


def plan_memory(graph: Graph, layout: Layout, keep: Sequence[str] = (), tile: Tile = "auto") -> MemoryPlan:
    """Plan the arena of a graph, on the schedule that `tile` asks for.

    Inputs live from before call 0 to their last reader, outputs to the end, the inputs in `keep` all the time.
    The same graph always gives the same plan.
    """
    steps = steps_of(graph, layout)
    choice = choose_schedule(graph, layout, steps, keep, tile)
    return plan_schedule(graph, layout, choice.schedule, keep, choice.bound, choice.floor)


def plan_schedule(
    graph: Graph,
    layout: Layout,
    schedule: Schedule | None = None,
    keep: Sequence[str] = (),
    bound: int = 0,
    floor: int = 0,
) -> MemoryPlan:
    """Plan the arena for one schedule, by default every step once and whole; without a `bound`, that of its lives."""
    schedule = schedule or in_order(steps_of(graph, layout))
    flow = Flow(graph, layout, schedule.steps, schedule.calls, keep)
    values = _lifetimes(flow, schedule)
    best: MemoryPlan | None = None
    for prefer in ("first", "last", "none"):
        groups = _groups(flow, schedule, values, prefer)
        offsets = dict(zip((id(group) for group in groups), place(_rectangles(groups)), strict=True))
        at = {value.name: offsets[id(group)] for group in groups for value in group}
        on = {after.name: before.name for group in groups for before, after in itertools.pairwise(group)}
        found = tuple(replace(value, offset=at[value.name], on=on.get(value.name, "")) for value in values)
        peak = max((aligned(value.bytes) + value.offset for value in found), default=0)
        plan = MemoryPlan(schedule, found, flow.aliases, tuple(flow.outputs), tuple(flow.names), peak, bound, floor)
        if best is None or plan.peak < best.peak:
            best = plan
    assert best is not None
    live = best.live(best.fullest)
    return replace(best, lower_bound=bound or live, floor=floor or live, states=_place_states(graph))


def _place_states(graph: Graph) -> tuple[PlacedValue, ...]:
    """The states one after the other."""
    found: list[PlacedValue] = []
    offset = 0
    for before, _ in graph.states:
        size = graph.types[before].bytes
        found.append(PlacedValue(before, size, 0, 0, offset, value=before))
        offset += aligned(size)
    return tuple(found)


def _lifetimes(flow: Flow, schedule: Schedule) -> tuple[PlacedValue, ...]:
    """Every value with its size and life; what calls that go by tiles read or leave whole lives through all of them."""
    values = []
    for name, defined in flow.defined.items():
        first, last, size, height = defined, flow.last[name], flow.bytes(name), 0
        for tiling in schedule.tilings:
            if flow.is_inside(name, tiling.first, tiling.last):
                size, height = size // tiling.rows * tiling.height, tiling.height
                break
            first = tiling.first if tiling.first <= first <= tiling.last else first
            last = tiling.last if tiling.first <= last <= tiling.last else last
        values.append(PlacedValue(name, size, first, last, 0, "", height, flow.value[name]))
    for call in range(len(schedule.calls)):
        by_tiles = schedule.tiling_of(call)
        if size := flow.scratch(call, by_tiles.height if by_tiles else None):
            values.append(PlacedValue(scratch_name(call), size, call, call, 0))
    return tuple(values)


def _groups(flow: Flow, schedule: Schedule, values: Sequence[PlacedValue], prefer: str) -> list[list[PlacedValue]]:
    """Values chained by computing in place; each chain takes one place. `prefer` says which operand is written over; a
    residual always is, or it would have to be copied first."""
    by_name = {value.name: value for value in values}
    chain: dict[str, list[PlacedValue]] = {value.name: [value] for value in values}
    taken: set[str] = set()
    for call, output in enumerate(flow.outputs):
        tiling = schedule.tiling_of(call)
        places = flow.places_for(call, (tiling.first, tiling.last) if tiling else None)
        free = [name for name in places if name not in taken]
        residual = flow.residual(call)
        if not free or (prefer == "none" and residual not in free):
            continue
        over = residual if residual in free else free[0 if prefer == "first" else -1]
        taken.add(over)
        joined = chain[over]
        joined.append(by_name[output])
        chain[output] = joined
    unique = {id(group): group for group in chain.values()}
    return list(unique.values())


def _rectangles(groups: Sequence[Sequence[PlacedValue]]) -> list[Rectangle]:
    return [Rectangle(group[0].first, group[-1].last, max(aligned(value.bytes) for value in group)) for group in groups]
