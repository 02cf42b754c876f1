"""What a model will take on a board: bytes, instructions, cycles, time, and whether it fits. Nothing is compiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picoformer.backends.c import Draft, Tile, check_tile, draft_c
from picoformer.build_folder import quantize_samples
from picoformer.cycles import timings_of
from picoformer.errors import ConfigError, FitError
from picoformer.estimate.calls import calls_of
from picoformer.estimate.costs import CostTable, Counts, cost_table
from picoformer.estimate.made_up import made_up_graph
from picoformer.estimate.mend import mends, nearest
from picoformer.estimate.need import BIGGEST, Need, misfit, needs
from picoformer.estimate.sizes import image_sizes, stack_used, unmeasured
from picoformer.estimate.tiles import draft_for, tiles_take
from picoformer.firmware import SizeReport
from picoformer.importing import import_model
from picoformer.ir import Graph
from picoformer.quantize import QuantizeSettings
from picoformer.targets import Target, list_targets, load_target

MADE_UP = "made up: sizes and counts hardly depend on it; give --calibration for the types a build chooses"


@dataclass(frozen=True)
class Estimate:
    """What the image of a draft will take on a board. `steps`: counts of each of its
    calls, or why they cannot be said."""

    draft: Draft
    target: Target
    scheme: str
    sizes: SizeReport
    stack: int | None
    steps: tuple[Counts | str, ...]
    table: CostTable | None

    @property
    def needs(self) -> tuple[Need, ...]:
        """Flash and RAM, as linked: the whole stack that is reserved, and the wire."""
        return needs(self.draft, self.target, self.sizes)

    @property
    def fits(self) -> bool:
        """Whether the board has both."""
        return all(need.fits for need in self.needs)

    @property
    def instructions(self) -> int | None:
        """Of one inference."""
        counted = [step.instructions for step in self.steps if isinstance(step, Counts)]
        return round(sum(counted)) if len(counted) == len(self.steps) else None

    @property
    def cycles(self) -> tuple[int, int] | None:
        """Least and most of one inference by the core's published timings, memory without wait states."""
        ranges = [step.cycles for step in self.steps if isinstance(step, Counts) and step.cycles is not None]
        if len(ranges) < len(self.steps):
            return None
        return round(sum(low for low, _ in ranges)), round(sum(high for _, high in ranges))

    @property
    def unknown(self) -> list[str]:
        """Why figures are missing or too low."""
        if self.table is None:
            return [f"no cost table for {self.target.cpu} with {self.target.toolchain.compiler}: code is not counted"]
        reasons = [step for step in self.steps if isinstance(step, str)]
        reasons += [f"code of {name} is not counted" for name in unmeasured(self.draft, self.table)]
        timings = timings_of(self.target)
        return list(dict.fromkeys([*reasons, *([timings] if isinstance(timings, str) else [])]))


def estimate(graph: Graph, target: Target, scheme: str, tile: Tile = "auto", toolchain: str = "auto") -> Estimate:
    """Estimate a graph, quantized for an integer scheme, on a board; `tile` and `toolchain` as for a build."""
    return estimate_draft(draft_for(graph, target, "model", tile, toolchain), target, scheme, toolchain)


def estimate_draft(draft: Draft, target: Target, scheme: str, toolchain: str = "auto") -> Estimate:
    """Estimate a draft, made for the target's instruction sets."""
    table = cost_table(target, toolchain)
    sizes = image_sizes(draft, target, table)
    if table is None:
        missing = f"no cost table for {target.cpu}"
        return Estimate(draft, target, scheme, sizes, None, (missing,) * len(draft.rows), None)
    steps = tuple(table.counts(calls, target) for calls in calls_of(draft))
    return Estimate(draft, target, scheme, sizes, stack_used(draft, table), steps, table)


def inspect_target(
    model: Path,
    target: Target,
    scheme: str,
    calibration: Path | None = None,
    settings: QuantizeSettings | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    tile: Tile = "auto",
    toolchain: str = "auto",
) -> tuple[dict[str, Any], FitError | None]:
    """What `inspect --target` prints, and the error that says what is too small on the board, None when the model fits.

    Raises ConfigError for the host, whose memory is not a figure of the model.
    """
    if target.is_host:
        raise ConfigError("target host is this machine, which has no flash; give a board: see `picoformer targets`")
    if calibration is None:
        float_graph = import_model(model, shapes)
        graph = made_up_graph(float_graph, scheme)
    else:
        float_graph, graph, _ = quantize_samples(model, calibration, scheme, settings, shapes)
    found = estimate(graph, target, scheme, check_tile(tile), toolchain)
    short = [need for need in found.needs if not need.fits]
    error = misfit(target, short, mends(float_graph, scheme, target, found.sizes)) if short else None
    more = None if found.table is None else tiles_take(found.draft, found.table, target)
    record = {**record_of(found, float_graph), "tiles_take": None if more is None else round(more)}
    return {**record, "data": MADE_UP if calibration is None else str(calibration)}, error


def record_of(found: Estimate, float_graph: Graph) -> dict[str, Any]:
    """An estimate as the JSON object that is printed; names of sizes as `verify --json` has them."""
    sizes, target, cycles = found.sizes, found.target, found.cycles
    known = found.stack is not None
    flash, *_, ram = found.needs
    image = {need.memory.lower(): {"bytes": need.needed, "available": need.available} for need in (flash, ram)}
    ram_total = sizes.ram.arena + sizes.ram.data + (found.stack or 0)
    return {
        "model": float_graph.name,
        "scheme": found.scheme,
        "target": target.name,
        "fits": found.fits,
        "is_library": target.is_library,
        "is_counted": known,
        "macs": float_graph.macs,
        "instructions": found.instructions,
        "cycles": None if cycles is None else {"low": cycles[0], "high": cycles[1]},
        "clock_hz": target.clock_hz,
        "seconds": _seconds(cycles, target.clock_hz),
        "max_clock_hz": target.max_clock_hz or target.clock_hz,
        "seconds_at_max_clock": _seconds(cycles, target.max_clock_hz or target.clock_hz),
        "ram_bytes": {
            "arena": sizes.ram.arena,
            "stack": found.stack,
            "data": sizes.ram.data if known else None,
            "total": ram_total if known else None,
        },
        "flash_bytes": {
            "model": sizes.flash.model,
            "code": sizes.flash.code if known else None,
            "total": sizes.flash.model + sizes.flash.code if known else None,
        },
        "image": image,
        "biggest": {need.memory.lower(): [list(part) for part in need.parts[:BIGGEST]] for need in (flash, ram)},
        "steps": _steps(found),
        "unknown": found.unknown,
        "costs": found.table.measured_on if found.table else None,
        "costs_are_stale": found.table.is_stale if found.table else None,
        "compiler": found.table.built_by if found.table else None,
        "reservations": found.table.reservations if found.table else [],
    }


def _seconds(cycles: tuple[int, int] | None, clock_hz: int) -> dict[str, float] | None:
    return None if cycles is None else {"low": cycles[0] / clock_hz, "high": cycles[1] / clock_hz}


def _steps(found: Estimate) -> list[dict[str, Any]]:
    """What each step takes, over all of its calls."""
    plan = found.draft.plan
    by_step: list[list[Counts | str]] = [[] for _ in plan.steps]
    for call, counts in zip(plan.schedule.calls, found.steps, strict=True):
        by_step[call.step].append(counts)
    rows = []
    for step, counted in zip(plan.steps, by_step, strict=True):
        known = [counts for counts in counted if isinstance(counts, Counts)]
        ranges = [counts.cycles for counts in known if counts.cycles is not None]
        whole = len(known) == len(counted)
        cycles = {"low": round(sum(r[0] for r in ranges)), "high": round(sum(r[1] for r in ranges))}
        rows.append(
            {
                "name": step.output,
                "op": step.kind,
                "instructions": round(sum(counts.instructions for counts in known)) if whole else None,
                "cycles": cycles if len(ranges) == len(counted) else None,
            }
        )
    return rows


def on_all_boards(
    model: Path,
    scheme: str,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    toolchain: str = "auto",
) -> list[Estimate]:
    """The estimates on every board that comes with picoformer, the smallest board first."""
    graph = made_up_graph(import_model(model, shapes), scheme)
    boards = nearest(map(load_target, list_targets()))
    drafts = {isa: draft_c(graph, isa) for isa in dict.fromkeys(tuple(board.isa) for board in boards)}
    return [estimate_draft(drafts[tuple(board.isa)], board, scheme, toolchain) for board in boards]


def fits_record(found: Sequence[Estimate]) -> dict[str, Any]:
    """What `targets --fits` prints: who has the room for a model, and what the others lack."""
    records = [record_of(one, one.draft.graph) for one in found]
    return {
        "model": records[0]["model"],
        "scheme": records[0]["scheme"],
        "fits": [_short(record) for record in records if record["fits"]],
        "too_small": [
            {"target": record["target"], "is_counted": record["is_counted"], "missing": _missing(record["image"])}
            for record in records
            if not record["fits"]
        ],
    }


def _short(record: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("target", "is_library", "is_counted", "compiler", "costs_are_stale", "instructions", "cycles")
    clocks = ("clock_hz", "seconds", "max_clock_hz", "seconds_at_max_clock")
    return {**{key: record[key] for key in (*kept, *clocks)}, **record["image"]}


def _missing(image: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Memory → the bytes that it is too small by."""
    return {name: one["bytes"] - one["available"] for name, one in image.items() if one["bytes"] > one["available"]}
