"""Choosing the schedule: which calls go by tiles of rows, and how high, so that little memory does."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from picoformer.backends.c.effort import effort, effort_by_tiles
from picoformer.backends.c.flow import Flow, aligned
from picoformer.backends.c.isa import Layout
from picoformer.backends.c.orders import orders_of
from picoformer.backends.c.schedule import Schedule, Step, Tiling
from picoformer.errors import ConfigError
from picoformer.ir import Graph

PRICE = 0.035
"""The part of all instructions, by estimate, that a model may take more for being computed by tiles."""
SLACK = 0.01
"""How far above the least memory a plan may stay for taller tiles."""
_LONGEST = 16
"""Most calls that go by tiles together."""

TILES = ("auto", "least", "none")
Tile = str | int
"""`auto`: the least memory at PRICE; `4%`: at that price; `least`: the least memory; `none`: no tiles; a number: tiles
of so many rows, where they take less memory."""


@dataclass(frozen=True)
class Choice:
    """A schedule, and the most bytes alive at once: in the best legal schedule that the settings allow (`bound`), and
    in the best one at any number of instructions (`floor`)."""

    schedule: Schedule
    bound: int
    floor: int


@dataclass(frozen=True)
class _Edge:
    """Calls `first` to `last` computed whole (`heights` 0) or by tiles of each of the `heights`: bytes alive, and
    instructions that they take more."""

    first: int
    last: int
    rows: int
    heights: tuple[int, ...]
    peaks: tuple[int, ...]
    prices: tuple[float, ...]


def check_tile(tile: Tile) -> Tile:
    """`tile`, a number in digits as an int; raises ConfigError for anything else that says nothing about tiles."""
    number = int(tile) if isinstance(tile, int) or tile.isdecimal() else 0
    if tile in TILES or (isinstance(tile, str) and re.fullmatch(r"\d+(\.\d+)?%", tile)):
        return tile
    if 0 < number < 1 << 31:
        return number
    raise ConfigError(f"tile '{tile}' is neither {', '.join(TILES)}, nor a percentage, nor a number of rows above 0")


def _limit(tile: Tile) -> float:
    """The part of all instructions that a model may take more for its tiles."""
    if isinstance(tile, str) and tile.endswith("%"):
        return float(tile[:-1]) / 100
    return PRICE if tile == "auto" else math.inf


def choose_schedule(
    graph: Graph, layout: Layout, steps: Sequence[Step], keep: Sequence[str] = (), tile: Tile = "auto"
) -> Choice:
    """The schedule of a graph's steps; among equals the cheapest, then the one with the fewest tiles.

    The bound is exact over the orders that `orders_of` gives and all ways of cutting each into calls by themselves and
    runs of calls that go by tiles of one height.
    """
    found: list[tuple[float, float, int, Flow, tuple[Tiling, ...]]] = []
    flows = [Flow(graph, layout, order.steps, order.calls, keep) for order in orders_of(graph, layout, steps, keep)]
    whole = sum(effort(flows[0], call) for call in range(len(flows[0].calls)))
    for flow in flows if tile != "none" else flows[:1]:
        edges = _edges(flow, tile)
        price = sum(effort(flow, index) for index, call in enumerate(flow.calls) if call.again)
        floor = _least(flow, edges, math.inf)
        limit = _limit(tile) * whole - price
        if limit < 0:
            found.append((math.inf, price, floor, flow, ()))
            continue
        least = _least(flow, edges, limit)
        cut = _cut(flow, edges, math.floor(least * (1 + SLACK)))
        assert cut is not None
        found.append((least, price + cut[0], floor, flow, cut[1]))
    bound, _, _, flow, tilings = min(found, key=lambda item: item[:2])
    return Choice(Schedule(flow.steps, flow.calls, tilings), int(bound), min(item[2] for item in found))


def _edges(flow: Flow, tile: Tile) -> list[list[_Edge]]:
    """By first call: every run of calls that can be made together."""
    found = []
    known: dict[tuple[int, int], float] = {}

    def price(call: int, rows: int, height: int) -> float:
        if (call, height) not in known:
            known[call, height] = effort_by_tiles(flow, call, rows, height)
        return known[call, height]

    for first in range(len(flow.calls)):
        edges = [_Edge(first, first, 0, (0,), (live_whole(flow, first),), (0.0,))]
        for last in range(first, min(first + _LONGEST, len(flow.calls))):
            if tile == "none" or not flow.may_go_by_tiles(first, last):
                break
            rows = flow.rows[first]
            assert rows is not None
            heights = [h for h in _heights(rows.rows, tile) if flow.is_legal(Tiling(first, last, rows.rows, h))]
            if heights:
                peaks = live_by_tiles(flow, first, last, np.array(heights)).max(axis=0)
                prices = [sum(price(call, rows.rows, h) for call in range(first, last + 1)) for h in heights]
                edges.append(_Edge(first, last, rows.rows, tuple(heights), tuple(map(int, peaks)), tuple(prices)))
        found.append(edges)
    return found


def _heights(rows: int, tile: Tile) -> list[int]:
    """Heights worth trying, tallest first: kernels take rows by twos, fours or sixes."""
    if isinstance(tile, int):
        return [tile] if tile < rows else []
    found = {1, 2, *(-(-rows // tiles // group) * group for tiles in range(2, rows + 1) for group in (2, 4, 6))}
    return sorted((height for height in found if height < rows), reverse=True)


def live_whole(flow: Flow, call: int) -> int:
    """Bytes alive while a call computes all its rows."""
    alive = sum(aligned(flow.bytes(name)) for name, first in flow.defined.items() if first <= call <= flow.last[name])
    over = flow.places_for(call, None)[:1]
    return alive - sum(aligned(flow.bytes(name)) for name in over) + aligned(flow.scratch(call))


def live_by_tiles(flow: Flow, first: int, last: int, heights: Any) -> Any:
    """Bytes alive at each of the calls `first` to `last` for tiles of each of the `heights`: (calls, heights)."""
    rows = flow.rows[first]
    assert rows is not None
    inside = [name for name in flow.defined if flow.is_inside(name, first, last)]
    whole = sum(
        aligned(flow.bytes(name))
        for name, defined in flow.defined.items()
        if defined <= last and flow.last[name] >= first and name not in inside
    )
    taken: set[str] = set()
    merged = np.zeros(last - first + 1, np.int64)
    for call in range(first, last + 1):
        over = next((name for name in flow.places_for(call, (first, last)) if name not in taken), None)
        if over is not None:
            taken.add(over)
            if over in inside:
                merged[call - first] = flow.bytes(over) // rows.rows
            else:
                whole -= aligned(flow.bytes(over))
    result = np.full((last - first + 1, len(heights)), whole, np.int64)
    for call in range(first, last + 1):
        for name in inside:
            if flow.defined[name] <= call <= flow.last[name]:
                result[call - first] += aligned(heights * (flow.bytes(name) // rows.rows))
        result[call - first] -= aligned(heights * merged[call - first])
        result[call - first] += [aligned(flow.scratch(call, int(height))) for height in heights]
    return result


def _least(flow: Flow, edges: list[list[_Edge]], limit: float) -> int:
    """The fewest bytes in which the calls can be cut at a price of at most `limit`."""
    peaks = sorted({peak for row in edges for edge in row for peak in edge.peaks})
    inputs = sum(aligned(flow.bytes(name)) for name, first in flow.defined.items() if first < 0)
    low, high = 0, len(peaks) - 1
    while low < high:
        middle = (low + high) // 2
        cut = _cut(flow, edges, peaks[middle])
        low, high = (low, middle) if cut is not None and cut[0] <= limit else (middle + 1, high)
    return max(peaks[low] if peaks else 0, inputs)


def _cut(flow: Flow, edges: list[list[_Edge]], peak: int) -> tuple[float, tuple[Tiling, ...]] | None:
    """The cheapest way to cut the calls within `peak` bytes, then that with the fewest tiles; None if there is none."""
    best: list[tuple[float, int, tuple[Tiling, ...]] | None] = [(0.0, 0, ())] + [None] * len(flow.calls)
    for first, row in enumerate(edges):
        before = best[first]
        if before is None:
            continue
        for edge in row:
            for height, live, price in zip(edge.heights, edge.peaks, edge.prices, strict=True):
                if live > peak:
                    continue
                tiling = (Tiling(edge.first, edge.last, edge.rows, height),) if height else ()
                tiles = sum(t.tiles for t in tiling)
                after = (before[0] + price, before[1] + tiles, (*before[2], *tiling))
                there = best[edge.last + 1]
                if there is None or after[:2] < there[:2]:
                    best[edge.last + 1] = after
    end = best[-1]
    return None if end is None else (end[0], end[2])
