"""Figures as people read them: the rows of every table as text, shared by the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from picoformer.report.record import Report

UNKNOWN = "-"
"""Shown for a figure that was not measured."""


def count(value: int | float | None) -> str:
    """12345 → '12,345'."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def percent(value: float | None, digits: int = 1) -> str:
    """0.9725 → '97.2 %'."""
    return UNKNOWN if value is None else f"{100 * value:.{digits}f} %"


def number(value: float | None, form: str) -> str:
    """`value` in a format of the format mini-language."""
    return UNKNOWN if value is None else format(value, form)


@dataclass(frozen=True)
class Bar:
    """A share of a whole, 0 to 1, drawn as a bar."""

    share: float


@dataclass(frozen=True)
class Verdict:
    """A word and whether it is good news: True, False, or None where nothing was asked."""

    text: str
    good: bool | None


Cell = str | Bar | Verdict


@dataclass(frozen=True)
class Figures:
    """One table: title, columns as (heading, is a number), rows, and a row of totals or none."""

    title: str
    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[Cell, ...], ...]
    total: tuple[Cell, ...] | None = None
    note: str = ""


def tables(report: Report, most_steps: int = 40) -> list[Figures]:
    """The tables of a report that have something to show, in order; of the steps the `most_steps` costliest."""
    record = report.verification
    found = [
        _stages(report),
        _text_builds(report),
        _samples(report),
        _links(record["links"]),
        _memory(report),
        _steps(record, report, most_steps),
    ]
    return [table for table in found if table.rows]


def headline(report: Report) -> str:
    """Model, scheme, target and amount of evidence in one line."""
    record = report.verification
    evidence = f"{count(record['samples'])} samples"
    target = str(record["target"])
    if record.get("ran_on_stand_in"):
        target += f", run as the firmware of {record['ran_on_stand_in']}, which stands in for it"
    return " · ".join((record["model"], record["scheme"], target, evidence))


def _share(part: float | None, whole: float | None) -> float:
    return min(1.0, part / whole) if part and whole else 0.0


def _text_builds(report: Report) -> Figures:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            build.name,
            count(build.context),
            number(build.float_bits_per_character, ".4f"),
            number(build.bits_per_character, ".4f"),
            f"{100 * (build.bits_per_character / build.float_bits_per_character - 1):+.2f} %",
            number(build.device_bits_per_character, ".4f"),
            count(build.instructions_per_token),
            count(build.ram),
            count(build.flash),
        )
        for build in report.texts
    )
    columns = (
        ("build", False),
        ("context", True),
        ("float", True),
        ("integers", True),
        ("", True),
        ("on device", True),
        ("instr./token", True),
        ("RAM", True),
        ("flash", True),
    )
    judged = "; ".join(
        f"{build.name}: {count(build.judged_tokens)} tokens, on the device the first {count(build.device_tokens)} alone"
        for build in report.texts
    )
    return Figures("Bits per character of held-back text", columns, rows, note=judged)


def _samples(report: Report) -> Figures:
    rows: list[tuple[Cell, ...]] = []
    for build in report.texts:
        for sample in build.samples:
            same = UNKNOWN
            if sample.as_float is not None:
                whole = sample.as_float == sample.tokens
                same = "all" if whole else f"{sample.as_float} of {sample.tokens}, {number(sample.float_margin, '.3f')}"
            rows.append((build.name, f"{sample.prompt}|{sample.text}".replace("\n", "\u21b5"), same))
    columns = (("build", False), ("prompt|what the target wrote", False), ("as float, margin", False))
    note = "as float: tokens up to the first that the float model would not have taken, and by how much it would not"
    asked = any(sample.as_float is not None for build in report.texts for sample in build.samples)
    return Figures("Text", columns if asked else columns[:2], tuple(row if asked else row[:2] for row in rows),
                   note=note if asked else "")  # fmt: skip


_OF_STAGES = ("parameters", "bytes", "")


def _stages(report: Report) -> Figures:
    largest = max((stage.bytes or 0 for stage in report.stages), default=0)
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            stage.name,
            percent(stage.accuracy, 2),
            count(stage.parameters),
            count(stage.bytes),
            Bar(_share(stage.bytes, largest)),
        )
        for stage in report.stages
    )
    columns: tuple[tuple[str, bool], ...] = (
        ("stage", False),
        ("accuracy", True),
        ("parameters", True),
        ("bytes", True),
        ("", False),
    )
    bits = [number(stage.bits_per_character, ".3f") for stage in report.stages]
    if set(bits) - {UNKNOWN}:
        columns = (*columns[:2], ("bits/character", True), *columns[2:])
        rows = tuple((*row[:2], text, *row[2:]) for row, text in zip(rows, bits, strict=True))
    if all(stage.parameters is None for stage in report.stages):  # somebody's own model: forms of it, and no stages
        names, *judged = (index for index, column in enumerate(columns) if column[0] not in _OF_STAGES)
        kept = (names, *judged)
        columns = (("form", False), *(columns[index] for index in judged))
        rows = tuple(tuple(row[index] for index in kept) for row in rows)
        return Figures("The model, form by form", columns, rows, note=_judged_on(report))
    return Figures(f"From {report.stages[0].name} to firmware", columns, rows, note=_judged_on(report))


def _judged_on(report: Report) -> str:
    """Which rows were judged on how many samples, where not all on the same."""
    counts = [stage.samples for stage in report.stages]
    if len(set(counts)) < 2:
        return ""
    parts = []
    for samples in dict.fromkeys(counts):
        names = [stage.name for stage in report.stages if stage.samples == samples]
        span = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        parts.append(f"{span}: {count(samples)} samples")
    return "; ".join(parts)


def _links(links: Sequence[Mapping[str, Any]]) -> Figures:
    words = {True: "equal", False: "DIFFERS", None: "not asked"}
    rows = []
    for link in links:
        exact = link["max_abs"] == 0
        rows.append(
            (
                str(link["from"]),
                str(link["to"]),
                Verdict(words[link["equal"]], link["equal"]),
                number(link["max_abs"], ".2e") if link["max_abs"] else ("0" if exact else UNKNOWN),
                "∞" if link["sqnr_db"] is None and exact else number(link["sqnr_db"], ".1f"),
                number(link["cosine"], ".6f"),
                percent(link["top1_agreement"]),
            )
        )
    columns = (
        ("from", False),
        ("to", False),
        ("equality", False),
        ("max |Δ|", True),
        ("SQNR dB", True),
        ("cosine", True),
        ("top-1", True),
    )
    return Figures("Parity, link by link", columns, tuple(rows))


def _memory(report: Report) -> Figures:
    record, capacity = report.verification, report.capacity
    rows: list[tuple[Cell, ...]] = []
    for kind, key, available in (
        ("RAM", "ram_bytes", capacity.ram_available),
        ("flash", "flash_bytes", capacity.flash_available),
    ):
        parts = record[key]
        if all(value is None for value in parts.values()):
            continue
        for part, value in parts.items():
            of = f"of {count(available)}" if part == "total" and available else ""
            if part == "arena" and capacity.arena_lower_bound is not None:
                of = f"at least {count(capacity.arena_lower_bound)}"
            whole = parts.get("total")
            rows.append((kind, part, count(value), of, Bar(_share(value, whole)) if part != "total" else ""))
    columns = (("memory", False), ("part", False), ("bytes", True), ("", False), ("", False))
    note = f"arena {capacity.arena_decided_by}" if capacity.arena_decided_by else ""
    return Figures("Memory", columns, tuple(rows), note=note)


def _steps(record: Mapping[str, Any], report: Report, most: int) -> Figures:
    costs = record["instructions"]["per_operator"]
    live = {entry.step: entry.bytes for entry in report.timeline}
    peak = max(live.values(), default=0)
    if not costs:
        rows = tuple((entry.step, count(entry.bytes), Bar(_share(entry.bytes, peak))) for entry in report.timeline)
        return Figures("Arena", (("step", False), ("live bytes", True), ("", False)), rows)
    whole = record["instructions"]["per_inference"]
    counted = sum(cost["instructions"] or 0 for cost in costs)
    shown = sorted(range(len(costs)), key=lambda i: (-(costs[i]["instructions"] or 0), i))[:most]
    lines: list[tuple[Cell, ...]] = []
    cycles = record.get("cycles")
    ranges = {step["name"]: _range(step, cycles) for step in cycles["per_operator"]} if cycles else {}
    for cost in (costs[i] for i in sorted(shown)):
        line = _cost(cost["name"], cost["op"], cost["instructions"], cost["macs"], whole or counted)
        line = _with_cycles(line, ranges[cost["name"]]) if ranges else line
        lines.append((*line, count(live.get(cost["name"]))) if live else line)
    total = _cost("one inference", "", whole, record["macs"], None)
    total = total if cycles is None else _with_cycles(total, _range(cycles, cycles))
    left = len(costs) - len(lines)
    notes = [f"{left} cheaper step{'s' if left != 1 else ''} not shown"] if left else []
    if cycles is not None and cycles.get("is_counted"):
        notes.append(f"Cycles: counted by {cycles['source']} in one inference, interrupts and wait states among them")
    elif cycles is not None:
        notes.append(f"Cycles: modelled by the {cycles['source']}; memory without wait states")
    elif record.get("cycles_unmodelled"):
        notes.append(f"Cycles: none; {record['cycles_unmodelled']}")
    if record.get("compiler") and record.get("emulator"):
        notes.append(
            f"code by {record['compiler']}, run by {record['emulator']}; another compiler's code has other counts"
        )
    note = "\n".join(notes)
    columns = (
        ("step", False),
        ("operator", False),
        ("instructions", True),
        ("share", True),
        *([] if ranges else [("", False)]),
        ("MACs", True),
        ("/MAC", True),
        *([("cycles", True)] if ranges else []),
        *([("arena", True)] if live else []),
    )
    bottom = (*total, count(peak)) if live else total
    return Figures("Instructions (not cycles)", columns, tuple(lines), bottom, note)


def _range(step: Mapping[str, Any], cycles: Mapping[str, Any]) -> str:
    """Thousands of cycles, least and most; all digits of what was counted."""
    if cycles.get("is_counted"):
        return f"{step['low']:,}"
    return f"{step['low'] / 1000:,.0f}-{step['high'] / 1000:,.0f} k"


def _with_cycles(line: tuple[Cell, ...], cycles: str) -> tuple[Cell, ...]:
    """A line of costs with its cycles in the place of its bar."""
    return (*(cell for index, cell in enumerate(line) if index != _BAR), cycles)


_BAR = 4
"""Where a line of costs has its bar."""


def _cost(name: str, op: str, instructions: int | None, macs: int | None, whole: int | None) -> tuple[Cell, ...]:
    share = _share(instructions, whole)
    each = instructions / macs if instructions is not None and macs else None
    known = instructions is not None and bool(whole)
    return (
        name,
        op,
        count(instructions),
        percent(share) if known else "",
        Bar(share) if known else "",
        count(macs) if macs else "",
        number(each, ".2f") if macs else "",
    )
