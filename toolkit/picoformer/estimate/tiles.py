"""Tiles at a price: a percentage of the instructions by the measured costs, where the core's are known."""

from __future__ import annotations

import math

from picoformer.backends.c import Draft, Tile, draft_c
from picoformer.estimate.calls import calls_of
from picoformer.estimate.costs import CostTable, Counts, cost_table
from picoformer.ir import Graph
from picoformer.targets import Target

_DRAFTS = 4
"""Plans by tiles that are looked at, beside the one without: each takes as long as any other."""
_NEAR = 0.8
"""The part of what tiles may take that is near enough."""


def draft_for(
    graph: Graph, target: Target, prefix: str = "model", tile: Tile = "auto", toolchain: str = "auto"
) -> Draft:
    """The draft of a graph for a target's instruction sets.

    The planner keeps a percentage by rough prices of its own. Where the core's costs are measured, those decide: of a
    few plans the one with the least memory whose tiles take no more than `tile` says. Raises as `draft_c` does.
    """
    table = None if target.is_host or not is_price(tile) else cost_table(target, toolchain)
    best = draft_c(graph, target.isa, prefix, tile if table is None else "none")
    whole = None if table is None else instructions(best, table, target)
    if table is None or whole is None:
        return best if table is None else draft_c(graph, target.isa, prefix, tile)
    most = float(str(tile).rstrip("%")) / 100
    price = most
    for _ in range(_DRAFTS):
        draft = draft_c(graph, target.isa, prefix, f"{100 * price:.4f}%")
        taken = instructions(draft, table, target)
        share = math.inf if taken is None else taken / whole - 1
        if share <= most:
            best = min(best, draft, key=lambda one: one.arena_bytes)
            if share <= 0 or share > _NEAR * most or draft.plan.lower_bound <= draft.plan.floor:
                break  # near enough, or no plan takes less memory
            price *= most / share
        else:
            price *= (0.9 if price == most else 0.5) * most / share  # a plan of some steps may stay the same
    return best


def is_price(tile: Tile) -> bool:
    """Whether `tile` says how many instructions more tiles may take."""
    return isinstance(tile, str) and tile.endswith("%")


def instructions(draft: Draft, table: CostTable, target: Target) -> float | None:
    """Of one inference, by the measured costs; None where a function's are not known."""
    found = [table.counts(calls, target) for calls in calls_of(draft)]
    counted = [one.instructions for one in found if isinstance(one, Counts)]
    return sum(counted) if len(counted) == len(found) else None


def tiles_take(draft: Draft, table: CostTable, target: Target) -> float | None:
    """Instructions that the tiles of a draft take more than its model without tiles; None where that is not known."""
    if not any(tiling.tiles > 1 for tiling in draft.plan.schedule.tilings) and not any(
        call.again for call in draft.plan.schedule.calls
    ):
        return 0.0
    whole = draft_c(draft.graph, target.isa, draft.prefix, "none")
    with_tiles, without = (instructions(one, table, target) for one in (draft, whole))
    return None if with_tiles is None or without is None else with_tiles - without
