"""The benchmark's bookkeeping: which lines are checked, when a figure has moved, and what is drawn of them."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from picoformer.quantize import SCHEMES

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _importable() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def tracked() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((BENCHMARKS / "results.json").read_text())
    return found


LINE: dict[str, Any] = {
    "model": "digits student",
    "scheme": "int8",
    "target": "mps2-an386",
    "cpu": "cortex-m4",
    "macs": 1000,
    "instructions": 20_000,
    "cycles": {"low": 30_000, "high": 40_000},
    "ram_bytes": {"arena": 900, "stack": 90, "data": 10, "total": 1000},
    "flash_bytes": {"model": 6000, "code": 4000, "total": 10_000},
    "flash_runtime_bytes": 5000,
    "sqnr_db": None,
    "per_operator": {"Linear": {"instructions": 20_000, "macs": 1000}},
}


def test_the_lines_checked_have_every_core_and_every_scheme() -> None:
    from run import FLOAT, all_lines, cores, lines_to_check

    boards = cores()
    chosen = lines_to_check(boards)
    assert len(chosen) == len(set(chosen)) <= 16 and chosen == lines_to_check(cores())
    assert {line.target for line in chosen} == {board.name for board in boards.values()}
    assert {line.scheme for line in chosen} == {*SCHEMES, FLOAT}
    assert set(chosen) < set(all_lines(boards))


def test_every_line_that_can_be_checked_is_tracked() -> None:
    from run import changes, cores, lines_to_check

    lines = tracked()["lines"]
    assert {(line["model"], line["scheme"], line["target"]) for line in lines} >= set(lines_to_check(cores()))
    assert changes(lines, lines) == []


@pytest.mark.parametrize(
    ("figure", "inside"),
    [
        ("instructions", None),
        ("ram_bytes", "total"),
        ("flash_bytes", "total"),
        ("flash_bytes", "code"),
        ("cycles", "low"),
    ],
)
def test_a_figure_that_moves_by_more_than_a_percent_is_named(figure: str, inside: str | None) -> None:
    from run import changes

    old = LINE
    for factor, moved in ((1.009, 0), (1.011, 1), (0.989, 1)):
        new = copy.deepcopy(old)
        if inside is None:
            new[figure] = old[figure] * factor
        else:
            new[figure][inside] = old[figure][inside] * factor
        found = changes([old], [new])
        assert len(found) == moved and all(old["target"] in line for line in found), (factor, found)


def test_a_line_that_is_not_tracked_and_cycles_that_went_are_named() -> None:
    from run import changes

    old = LINE
    assert changes([], [old]) == [f"{old['model']}, {old['scheme']}, {old['target']}: is not in the table"]
    assert len(changes([old], [{**old, "cycles": None}])) == 2


def test_growth_is_drawn_and_the_page_has_every_line() -> None:
    from growth import AXES, draw, slopes
    from page import page

    growth = {axis: [{"size": n, "instructions": n * n, "ram": 9 * n} for n in sizes] for axis, sizes in AXES.items()}
    drawing = ElementTree.fromstring(draw(growth))
    points = sum(len(sizes) for sizes in AXES.values())
    assert len(drawing.findall("{http://www.w3.org/2000/svg}circle")) == 2 * points
    assert slopes([{"size": 1, "ram": 10}, {"size": 2, "ram": 40}], "ram") == pytest.approx([2.0])
    results = tracked()
    text = page(results)
    for line in results["lines"]:
        assert f"| {line['cpu']} | {line['scheme']} | {line['instructions']:,} |" in text
    assert text == (BENCHMARKS / "results.md").read_text(), "write results.md anew: make bench"
    assert "growth" not in results or (BENCHMARKS / "growth.svg").read_text() == draw(results["growth"])


def doors() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((BENCHMARKS / "doors.json").read_text("utf-8"))
    return found


def test_every_door_has_its_rows_and_a_shortfall_its_reason() -> None:
    from door_forms import BOUND, FIGURES, VARIANTS, expected_rows

    rows = doors()["rows"]
    assert [(row["model"], row["form"], row["runtime"]) for row in rows] == expected_rows()
    for row in rows:
        where = (row["model"], row["form"], row["runtime"])
        assert set(FIGURES) <= set(row), where
        shares = (row["same_as_ours"], row["same_as_float"])
        assert row.get("reason") or all(share is not None and share >= BOUND for share in shares), where
        if row["form"].startswith("C int"):
            assert row["largest"] == 0 and row["same_as_ours"] == 1, where
    theirs = doors()["quantize_static"]
    assert {row["variant"] for row in theirs} == set(VARIANTS)
    for row in theirs:
        assert row["bits"] == 16 or row["within_one"] >= 0.999, row


def test_the_page_of_doors_is_made_of_its_figures() -> None:
    from door_page import page

    assert (BENCHMARKS / "doors.md").read_text("utf-8") == page(doors()), "write doors.md anew: make doors"
    changed = doors()
    changed["rows"][0]["bytes"] += 1
    assert page(changed) != page(doors())
