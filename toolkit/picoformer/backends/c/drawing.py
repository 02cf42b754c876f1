"""The memory plan as text: who lies where and when, and what decides how much it takes."""

from __future__ import annotations

from picoformer.backends.c.plan import MemoryPlan, PlacedValue


def timeline(plan: MemoryPlan) -> str:
    """One row per value, one column per call: `#` while it lives, `=` where it was written over another value in place,
    `:` and `-` the same for a tile of its rows. Above the columns stand the calls that go by tiles, below what lives at
    the fullest one."""
    calls = range(-1, len(plan.schedule.calls))
    width = max((len(value.name) for value in plan.values), default=4)
    lines = [f"{'value':{width}}  {'offset':>8} {'bytes':>8} {'rows':>5}  calls -1..{len(calls) - 2}"]
    if plan.schedule.tilings:
        lines.append(f"{'':{width}}  {'':>8} {'':>8} {'':>5}  {_brackets(plan)}".rstrip())
    for value in plan.values:
        rows = str(value.height) if value.height else ""
        cells = "".join(_cell(value, call) for call in calls)
        lines.append(f"{value.name:{width}}  {value.offset:8d} {value.bytes:8d} {rows:>5}  {cells}")
    lines.append(f"peak {plan.peak} bytes, lower bound {plan.lower_bound} bytes")
    if plan.floor < plan.lower_bound:
        lines.append(f"at any number of instructions {plan.floor} bytes would be the least")
    for tiling in (tiling for tiling in plan.schedule.tilings if tiling.tiles > 1):
        first, last = (plan.schedule.step_of(call).output for call in (tiling.first, tiling.last))
        lines.append(
            f"calls {tiling.first} to {tiling.last}, {tiling.height} of {tiling.rows} rows at a time: {first} to {last}"
        )
    lines.append(decides(plan))
    return "\n".join(lines)


def decides(plan: MemoryPlan) -> str:
    """What decides the peak: the fullest step and what lives there, the largest first."""
    where = "the inputs, before step 0" if plan.fullest < 0 else f"step '{plan.schedule.step_of(plan.fullest).output}'"
    alive = sorted(plan.alive(plan.fullest), key=lambda value: -value.bytes)
    parts = ", ".join(f"{_title(value)} {value.bytes:,}" for value in alive)
    return f"fullest at {where}: {parts}"


def _title(value: PlacedValue) -> str:
    if not value.value:
        return "scratch"
    return f"{value.height} rows of {value.value}" if value.height else value.value


def _brackets(plan: MemoryPlan) -> str:
    """`[---]` over the calls that go by tiles together."""
    cells = [" "] * (len(plan.schedule.calls) + 1)
    for tiling in (tiling for tiling in plan.schedule.tilings if tiling.tiles > 1):
        for call in range(tiling.first, tiling.last + 1):
            cells[call + 1] = "-"
        cells[tiling.last + 1] = "]"
        cells[tiling.first + 1] = "[" if tiling.first < tiling.last else "|"
    return "".join(cells)


def _cell(value: PlacedValue, call: int) -> str:
    if not value.first <= call <= value.last:
        return "."
    if value.on and call == value.first:
        return "-" if value.height else "="
    return ":" if value.height else "#"
