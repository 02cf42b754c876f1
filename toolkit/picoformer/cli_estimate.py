"""The commands' side of estimates: the options of inspect and targets that ask for one, and what they print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from picoformer.cli_options import FILE, SCHEMES, F
from picoformer.cli_output import show


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
    """Adds --fits and --scheme to targets."""
    for option in (
        click.option(
            "--scheme", type=SCHEMES, default="int8", show_default=True, help="With --fits: what the numbers become."
        ),
        click.option("--fits", type=FILE, help="Only the targets that this model fits, and what it takes there."),
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


def list_fitting(model: Path, scheme: str, as_json: bool) -> None:
    """Print the boards that a model fits, and what it takes there."""
    from picoformer.estimate.inspection import boards_that_fit, short_record

    record = [short_record(found) for found in boards_that_fit(model, scheme)]
    show(record, as_json, lambda: click.echo("\n".join(map(fitting_line, record)) or "it fits none of the targets"))


def fitting_line(record: Mapping[str, Any]) -> str:
    """One board as a line of text."""
    seconds = record["seconds"]
    ends = [] if seconds is None else [_seconds(seconds)]
    ends += ["and the SDK's"] * record["is_library"] + ["code not counted"] * (not record["is_counted"])
    return (
        f"{record['target']:<24} RAM {record['ram']['bytes']:>9,} of {record['ram']['available']:>11,}  flash "
        f"{record['flash']['bytes']:>9,} of {record['flash']['available']:>11,}  {', '.join(ends)}"
    ).rstrip()


def print_estimate(record: Mapping[str, Any]) -> None:
    """Print an estimate as a table."""
    click.echo(f"{record['model']}: {record['scheme']} on {record['target']}, estimated; nothing was compiled")
    cycles, seconds = record["cycles"], record["seconds"]
    rows = [("multiply-accumulates", _count(record["macs"])), ("instructions", _count(record["instructions"]))]
    if cycles is not None:
        rows.append(("cycles, memory without wait states", f"{_count(cycles['low'])} to {_count(cycles['high'])}"))
        rows.append((f"time at {record['clock_hz'] / 1e6:g} MHz", _seconds(seconds)))
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
    """A range of seconds in milliseconds."""
    return f"{seconds['low'] * 1000:,.1f} to {seconds['high'] * 1000:,.1f} ms"
