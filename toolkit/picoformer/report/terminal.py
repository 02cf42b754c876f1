"""The report for a terminal: compact tables, colour where there is a terminal to show it."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import TYPE_CHECKING, TextIO

from picoformer.report.figures import Bar, Cell, Figures, Verdict, headline, tables
from picoformer.report.record import Report

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

BAR_WIDTH = 16
NARROWEST = 12
"""Columns that a name has at least."""
_WORDS = re.compile(r"[^./_+ -]*[./_+ -]*")
EIGHTHS = " ▏▎▍▌▋▊▉█"


def print_report(report: Report, stream: TextIO | None = None, width: int | None = None) -> None:
    """Print the report to `stream` (standard output by default); without colour unless it is a terminal and
    NO_COLOR is unset. `width` in columns: the terminal's, 100 elsewhere."""
    from rich.console import Console

    console = Console(file=stream, width=width, highlight=False)
    if width is None and not console.is_terminal:
        console.width = 100
    _print(report, console)


def report_text(report: Report, width: int = 100) -> str:
    """The report as plain text, `width` columns, no escape sequences."""
    from rich.console import Console

    stream = io.StringIO()
    _print(report, Console(file=stream, width=width, highlight=False, color_system=None, force_terminal=False))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _print(report: Report, console: Console) -> None:
    from rich.text import Text

    ascii_only = not (console.encoding or "").lower().startswith("utf")
    style, word = ("bold green", "PASSED") if report.passed else ("bold red", "FAILED")
    line = Text(no_wrap=False).append(word, style=style).append(f"  {headline(report)}", style="bold")
    console.print(_fit(line, ascii_only))
    for failure in report.failures:
        console.print(_fit(Text(f"  {failure}", style="red"), ascii_only), soft_wrap=True)
    for figures in tables(report):
        console.print()
        console.print(_fitting(figures, console, ascii_only))


def _fitting(figures: Figures, console: Console, ascii_only: bool) -> Table:
    """A table that keeps to the console's width: where it does not, the longest names take several lines."""
    from rich.measure import Measurement

    wide = console.options.update(max_width=10_000)
    table = _table(figures, ascii_only)
    for _ in figures.columns:
        excess = Measurement.get(console, wide, table).maximum - console.width
        longest = {
            index: max(len(cell) for row in figures.rows if isinstance(cell := row[index], str))
            for index, (_, is_number) in enumerate(figures.columns)
            if not is_number and any(isinstance(row[index], str) for row in figures.rows)
        }
        column = max(longest, key=lambda index: longest[index], default=None)
        if excess <= 0 or column is None or longest[column] <= NARROWEST:
            break
        most = max(NARROWEST, longest[column] - excess)
        rows = tuple(
            tuple(folded(cell, most) if i == column and isinstance(cell, str) else cell for i, cell in enumerate(row))
            for row in figures.rows
        )
        figures = replace(figures, rows=rows)
        table = _table(figures, ascii_only)
    return table


def folded(name: str, most: int) -> str:
    """A name in lines of at most `most` columns, broken behind its marks; a longer word loses its middle."""
    lines = [""]
    for word in _WORDS.findall(name):
        if len(word) > most:
            end = (most - 1) // 2
            word = f"{word[: most - 1 - end]}…{word[len(word) - end :]}"
        if len(lines[-1]) + len(word) > most:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)


def _table(figures: Figures, ascii_only: bool) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        title=figures.title,
        title_justify="left",
        title_style="bold cyan",
        caption=figures.note or None,
        caption_justify="left",
        box=box.ASCII2 if ascii_only else box.SIMPLE_HEAD,
        header_style="dim",
        show_footer=figures.total is not None,
        footer_style="bold",
        pad_edge=False,
        show_edge=False,
        padding=(0, 1),
    )
    total = figures.total or ("",) * len(figures.columns)
    for (heading, is_number), end in zip(figures.columns, total, strict=True):
        table.add_column(
            _fit_text(heading, ascii_only),
            footer=_cell(end, ascii_only),
            justify="right" if is_number else "left",
            no_wrap=is_number,
            overflow="fold",
        )
    for row in figures.rows:
        is_total = row[1:2] == ("total",)
        table.add_row(*(_cell(cell, ascii_only) for cell in row), style="bold" if is_total else None)
    return table


def _cell(cell: Cell, ascii_only: bool) -> Text:
    from rich.text import Text

    if isinstance(cell, Bar):
        return Text(bar(cell.share, BAR_WIDTH, ascii_only), style="cyan", no_wrap=True)
    if isinstance(cell, Verdict):
        return Text(cell.text, style={True: "green", False: "bold red", None: "dim"}[cell.good])
    return Text(_fit_text(cell, ascii_only))


def bar(share: float, width: int, ascii_only: bool = False) -> str:
    """A bar of `width` columns filled to `share` (0 to 1), in eighths of a column; any share above 0 shows."""
    if ascii_only:
        return "#" * max(round(share * width), int(share > 0))
    eighths = max(round(share * width * 8), int(share > 0))
    return "█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")


def _fit(text: Text, ascii_only: bool) -> Text:
    from rich.text import Text

    return Text(_fit_text(text.plain, True), style=text.style) if ascii_only else text


def _fit_text(text: str, ascii_only: bool) -> str:
    if not ascii_only:
        return text
    for mark, plain in (("·", "|"), ("→", "->"), ("∞", "inf"), ("Δ", "d"), ("…", "..."), ("↵", " / ")):
        text = text.replace(mark, plain)
    return text.encode("ascii", "replace").decode("ascii")
