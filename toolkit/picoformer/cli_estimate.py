"""The commands' side of estimates: the options of inspect and targets that ask for one, and what they print."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import click

from picoformer.cli_options import ANY, FILE, SCHEMES, F, shape_option, toolchain_option
from picoformer.cli_output import aligned, show


def estimate_options(function: F) -> F:
    """Adds --target, --scheme and --calibration to inspect."""
    for option in (
        click.option("--calibration", type=FILE, help="With --target: samples, for the types that a build chooses."),
        click.option(
            "--scheme", type=SCHEMES, default="int8", show_default=True, help="With --target: what the numbers become."
        ),
        click.option("--target", help="Say what the model takes on this board; a target's name or its TOML file."),
    ):
        function = option(function)
    return function


def fits_options(function: F) -> F:
    """Adds --fits and, for it, --scheme, --shape and --toolchain to targets."""
    for option in (
        toolchain_option,
        shape_option,
        click.option(
            "--scheme", type=SCHEMES, default="int8", show_default=True, help="With --fits: what the numbers become."
        ),
        click.option(
            "--fits", type=ANY, help="The boards that this model fits, what it takes there, and what the others lack."
        ),
    ):
        function = option(function)
    return function


def inspect_on_target(
    model: Path,
    target: str,
    scheme: str,
    calibration: Path | None,
    shapes: Mapping[str, tuple[int, ...]],
    as_json: bool,
    tile: str = "auto",
    toolchain: str = "auto",
) -> None:
    """Print an estimate; raise FitError when the model does not fit the board."""
    from picoformer.estimate.inspection import inspect_target
    from picoformer.targets import load_target

    record, error = inspect_target(
        model, load_target(target), scheme, calibration, shapes=shapes, tile=tile, toolchain=toolchain
    )
    show(record, as_json, lambda: print_estimate(record))
    if error is not None:
        raise error


def list_fitting(
    model: Path, scheme: str, shapes: Mapping[str, tuple[int, ...]], toolchain: str, as_json: bool
) -> None:
    """Print the boards that a model fits, what it takes there, and what the others lack."""
    from picoformer.estimate.inspection import fits_record, on_all_boards

    record = fits_record(on_all_boards(model, scheme, shapes, toolchain))
    show(record, as_json, lambda: click.echo("\n".join(fitting_lines(record))))


def fitting_lines(record: Mapping[str, Any]) -> list[str]:
    """Two tables: who has the room, and who lacks what."""
    fits, small = record["fits"], record["too_small"]
    lines = [
        f"{record['model']}, {record['scheme']}, estimated: {len(fits)} of {len(fits) + len(small)} boards have room"
    ]
    if fits:
        headings = ("board", "RAM, bytes", "of", "flash, bytes", "of", "time", "at MHz", "rated MHz", "")
        rows = [headings, *map(_fitting, fits)]
        lines += ["", *aligned(rows, numbers=range(1, 8))]
    if small:
        lines += [
            "",
            *aligned([("too small", "RAM lacks, bytes", "flash lacks, bytes", ""), *map(_lacking, small)], (1, 2)),
        ]
    if any(board["costs_are_stale"] for board in fits):
        lines.append("some costs were measured on other kernels than these; to measure anew: make costs COSTS=--stale")
    return lines


def _fitting(board: Mapping[str, Any]) -> tuple[str, ...]:
    from picoformer.targets import in_binary

    time, clock, rated = "-", f"{board['clock_hz'] / 1e6:g}", "-"
    if board["seconds"] is not None:
        time = _seconds(board["seconds"])
    if board["max_clock_hz"] != board["clock_hz"]:
        rated = f"{board['max_clock_hz'] / 1e6:g}"
        rated += f": {_seconds(board['seconds_at_max_clock'])}" if board["seconds"] is not None else ""
    notes = ["and the SDK's"] * board["is_library"] + ["code not counted"] * (not board["is_counted"])
    memory = ((f"{board[kind]['bytes']:,}", in_binary(board[kind]["available"])) for kind in ("ram", "flash"))
    return (board["target"], *chain(*memory), time, clock, rated, ", ".join(notes))


def _lacking(board: Mapping[str, Any]) -> tuple[str, ...]:
    lacks = (f"{board['missing'][kind]:,}" if kind in board["missing"] else "" for kind in ("ram", "flash"))
    return (board["target"], *lacks, "" if board["is_counted"] else "at least; code not counted")


def print_estimate(record: Mapping[str, Any]) -> None:
    """Print an estimate as a table."""
    click.echo(f"{record['model']}: {record['scheme']} on {record['target']}, estimated; nothing was compiled")
    cycles, seconds = record["cycles"], record["seconds"]
    rows = [("multiply-accumulates", _count(record["macs"])), ("instructions", _count(record["instructions"]))]
    if record["tiles_take"]:
        share = record["tiles_take"] / (record["instructions"] - record["tiles_take"])
        rows.append(("  of which for tiles of rows, which save RAM", f"{_count(record['tiles_take'])} ({share:.1%})"))
    if cycles is not None:
        ends = " to ".join(dict.fromkeys(_count(cycles[end]) for end in ("low", "high")))
        rows.append(("cycles, memory without wait states", ends))
        is_rated = record["max_clock_hz"] != record["clock_hz"]
        sets_up = "the SDK's default" if record["is_library"] else "the clock that the image runs at"
        at = f"time at {record['clock_hz'] / 1e6:g} MHz{f', {sets_up}' if is_rated else ''}"
        rows.append((at, _seconds(seconds)))
        if is_rated:
            rated = f"time at {record['max_clock_hz'] / 1e6:g} MHz, the chip's rating, once your code sets it"
            rows.append((rated, _seconds(record["seconds_at_max_clock"])))
    for key, title in (("ram_bytes", "RAM"), ("flash_bytes", "flash")):
        rows += [(f"{title}, {part}, bytes", _count(value)) for part, value in record[key].items()]
    for key, title in (("ram", "RAM"), ("flash", "flash")):
        image, biggest = record["image"][key], record["biggest"][key]
        whole = "of the library" if record["is_library"] else "of the image, wire and reserved stack included"
        least = "" if record["is_counted"] else "at least "
        rows.append((f"{title} {whole}, bytes", f"{least}{_count(image['bytes'])} of {_count(image['available'])}"))
        rows += [(f"  of which {name}", _count(size)) for name, size in biggest]
    for name, text in rows:
        click.echo(f"  {name:<57}{text:>27}")
    for reason in record["unknown"]:
        click.echo(f"  not known: {reason}")
    click.echo(f"  data: {record['data']}")
    click.echo(f"  costs: measured on {record['costs']}" if record["costs"] else "  costs: none measured")
    for reservation in record["reservations"]:
        click.echo(f"  costs: measured on {reservation}")
    click.echo(_verdict(record))


def _verdict(record: Mapping[str, Any]) -> str:
    if not record["fits"]:
        return "it does not fit"
    counted = "" if record["is_counted"] else " as far as it is counted"
    return f"it fits{counted}" + ("; the SDK and your program come on top" if record["is_library"] else "")


def _count(value: int | None) -> str:
    return "not known" if value is None else f"{value:,}"


def _seconds(seconds: Mapping[str, float]) -> str:
    """A range of seconds in milliseconds, one figure where both ends are the same."""
    ends = dict.fromkeys(f"{seconds[end] * 1000:,.1f}" for end in ("low", "high"))
    return f"{' to '.join(ends)} ms"
