"""What commands show: a progress bar on the way, figures or JSON at the end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import click

from picoformer.files import is_first_process


@contextlib.contextmanager
def progress(figure: str = "loss") -> Iterator[Callable[[str, int, int, float], None]]:
    """A progress bar on standard error for work of more than a moment; silent where that is no terminal. `figure`:
    what the last number of a tick is."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<34}"), BarColumn(30), TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not (console.is_terminal and is_first_process())
    ) as bar:
        tasks: dict[str, TaskID] = {}

        def tick(label: str, done: int, total: int, value: float) -> None:
            if label not in tasks:
                for task in tasks.values():
                    bar.update(task, visible=False)
                tasks[label] = bar.add_task(label, total=total, note="")
            note = f"{figure} {value:.3f}" if value else ""
            bar.update(tasks[label], completed=done, total=total, note=note, visible=True)

        yield tick


def notice(line: str) -> None:
    """One line on standard error for somebody to read."""
    if is_first_process():
        click.echo(f"picoformer: {line}", err=True)


def show(record: Any, as_json: bool, table: Callable[[], None]) -> None:
    """Print what a command found: one JSON object, or what `table` prints; in the first of several processes."""
    if not is_first_process():
        return
    if as_json:
        click.echo(json.dumps(record))
    else:
        table()


def aligned(rows: Sequence[Sequence[str]], numbers: Collection[int] = ()) -> list[str]:
    """Rows of cells as lines of text in columns, of which `numbers` are set flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index in numbers else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def show_figures(record: Mapping[str, Any]) -> None:
    """Print figures one below the other; those that are tables of their own are left out."""
    for key, value in record.items():
        if isinstance(value, dict):
            continue
        text = "not measured" if value is None else str(value)
        if isinstance(value, int | float):
            text = f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
        click.echo(f"  {key.replace('_', ' '):<26} {text}")
