"""The report: every figure given is shown, as text, as JSON and as a page that stands alone."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from picoformer.datasets import synthetic_signal
from picoformer.errors import DataError, ModelError
from picoformer.parity import FlashBytes, Link, OperatorCost, ParityReport, RamBytes
from picoformer.report import (
    Capacity,
    LiveBytes,
    LossCurve,
    Report,
    StageFigures,
    assemble,
    load_report,
    print_report,
    report_text,
    save_report,
)  # fmt: skip
from picoformer.report.figures import tables
from picoformer.report.page import render_page
from picoformer.report.terminal import bar, folded
from picoformer.reporting import _curve
from picoformer.stages.training import recover, run_files

PARITY = ParityReport(
    model="digits",
    scheme="int8",
    target="mps2-an386",
    samples=360,
    macs=229_632,
    links=(
        Link("torch", "float onnx", None, 3.1e-6, 1.0, 131.25, 1.0),
        Link("float graph", "qdq onnx", None, 0.0875, 0.999871, 38.46, 0.9944),
        Link("reference", "host", True, 0.0, 1.0, None, 1.0, 0.0),
        Link("host", "mps2-an386", True, 0.0, 1.0, None, 1.0, 0.0),
    ),
    instructions_per_inference=1_234_567,
    per_operator=(
        OperatorCost("embed/linear", "Linear", 150_001, 18_432),
        OperatorCost("layers.0/attention", "Attention", 700_002, 32_768),
        OperatorCost("layers.0/norm", "LayerNorm", 84_564, 0),
    ),
    ram=RamBytes(arena=6_144, stack=912, data=320, total=7_376),
    flash=FlashBytes(model=30_208, code=14_336, total=44_544),
)
REPORT = assemble(
    PARITY,
    (
        StageFigures("teacher", 0.9861, 203_210, 812_840),
        StageFigures("student", 0.9778, 26_346, 105_384),
        StageFigures("int8 firmware", 0.9750, 21_002, 30_208),
    ),
    (LiveBytes("embed/linear", 3_072), LiveBytes("layers.0/attention", 6_143), LiveBytes("layers.0/norm", 4_096)),
    Capacity(5_888, 4_194_304, 4_194_305),
)  # fmt: skip
FAILED = assemble(
    dataclasses.replace(
        PARITY,
        links=(*PARITY.links[:3], dataclasses.replace(PARITY.links[3], equal=False, max_abs=0.5, sqnr_db=21.5)),
        failures=("reference → mps2-an386: step 3 'layers.0/norm', tensor 'n<1>', sample 7, element [0, 2]",),
    )
)  # fmt: skip
NUMBERS = [
    "digits", "int8", "mps2-an386", "360 samples", "PASSED",
    "teacher", "98.61 %", "203,210", "812,840", "student", "97.78 %", "26,346", "97.50 %", "30,208",
    "torch", "float onnx", "3.10e-06", "131.2", "equal", "not asked", "0.999871", "99.4 %", "38.5",
    "6,144", "at least 5,888", "912", "320", "7,376", "of 4,194,304", "14,336", "44,544", "of 4,194,305",
    "1,234,567", "embed/linear", "150,001", "12.2 %", "18,432", "8.14",
    "layers.0/attention", "700,002", "56.7 %", "21.36", "229,632", "5.38", "6,143", "LayerNorm", "84,564",
]  # fmt: skip


@pytest.mark.parametrize("figure", NUMBERS)
def test_every_figure_stands_in_the_text_and_on_the_page(figure: str) -> None:
    assert figure in report_text(REPORT, 110)
    assert figure in re.sub(r"<style>.*</style>", "", render_page(REPORT), flags=re.S)


def test_plain_text_has_no_escapes_and_keeps_to_its_width() -> None:
    text = report_text(REPORT, 100)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert all(line == line.rstrip() for line in text.splitlines())


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")

    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    def printed(stream: io.StringIO) -> str:
        print_report(REPORT, stream, width=100)
        return stream.getvalue()

    assert "\x1b[" in printed(Terminal())
    assert "\x1b" not in printed(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", printed(Terminal()))


def test_a_terminal_without_unicode_gets_ascii() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    print_report(FAILED, stream, width=100)
    stream.flush()
    text = raw.getvalue().decode("ascii")
    assert "reference -> mps2-an386: step 3" in text and "DIFFERS" in text and "##" in text


def test_a_failure_is_said_first_and_in_full() -> None:
    text = report_text(FAILED)
    assert text.startswith("FAILED")
    assert FAILED.failures[0] in text.splitlines()[1]
    assert "DIFFERS" in text and "21.5" in text
    page = render_page(FAILED)
    assert "n&lt;1&gt;" in page and "n<1>" not in page


def test_what_was_not_measured_is_not_invented() -> None:
    bare = ParityReport("m", "int8", "host", 3, 10, (Link("reference", "host", True, 0.0, None, None, None),))
    text = report_text(assemble(bare))
    assert [t.title for t in tables(assemble(bare))] == ["Parity, link by link"]
    assert "None" not in text and "None" not in render_page(assemble(bare))
    unknown = dataclasses.replace(bare, per_operator=(OperatorCost("step", "Linear", None, 10),))
    assert re.search(r"step\s+Linear\s+-\s+10\s+-", report_text(assemble(unknown)))
    timed = dataclasses.replace(assemble(bare), timeline=(LiveBytes("step", 1_111),))
    assert "1,111" in report_text(timed)


def test_of_many_steps_the_costliest_are_shown_in_order() -> None:
    costs = tuple(OperatorCost(f"step{i:03}", "Linear", (i * 37) % 100 + 1, 1) for i in range(100))
    (table,) = [t for t in tables(assemble(dataclasses.replace(PARITY, per_operator=costs)), 10) if "Instr" in t.title]
    names = [str(row[0]) for row in table.rows]
    assert len(names) == 10 and names == sorted(names)
    assert {int(str(row[2])) for row in table.rows} == set(range(91, 101))
    assert table.note == "90 cheaper steps not shown"
    assert "step000" in render_page(assemble(dataclasses.replace(PARITY, per_operator=costs)))


def test_bars_are_as_long_as_their_share() -> None:
    assert bar(1.0, 8) == "████████" and bar(0.5, 8) == "████" and bar(0.0, 8) == ""
    assert bar(1 / 16, 8) == "▌" and bar(0.0001, 8) == "▏"
    assert bar(0.5, 8, ascii_only=True) == "####" and bar(0.0001, 8, ascii_only=True) == "#"


def test_report_json_is_the_verification_and_what_stands_beside_it(tmp_path: Path) -> None:
    record, page = save_report(REPORT, tmp_path / "out")
    written = json.loads(record.read_text())
    assert {key: written[key] for key in PARITY.to_json()} == PARITY.to_json()
    assert set(written) - set(PARITY.to_json()) == {"passed", "failures", "stages", "curves", "memory"}
    assert written["stages"][1] == {
        "name": "student",
        "accuracy": 0.9778,
        "parameters": 26_346,
        "bytes": 105_384,
        "bits_per_character": None,
        "samples": None,
    }
    assert written["memory"]["timeline"][1] == {"step": "layers.0/attention", "bytes": 6_143}
    assert written["memory"]["arena_lower_bound"] == 5_888
    assert page.read_text("utf-8") == render_page(REPORT)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["report.html", "report.json"]
    loaded = load_report(record)
    assert report_text(loaded) == report_text(REPORT) and isinstance(loaded, Report)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"passed": true}', '{"memory": {"timeline": [{"x": 1}]}}'])
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "report.json"
    with pytest.raises(DataError, match="is missing"):
        load_report(path)
    path.write_text(content)
    with pytest.raises(DataError, match="is not a report of this program"):
        load_report(path)


class _Page(HTMLParser):
    """Checks that tags close in order and collects what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)
        self.fetched += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("report", [REPORT, FAILED], ids=["passed", "failed"])
def test_the_page_is_well_formed_and_self_contained(report: Report) -> None:
    page, parser = render_page(report), _Page()
    parser.feed(page)
    assert parser.open == [] and parser.fetched == []
    assert "url(" not in page and "@import" not in page and "<script" not in page
    assert page.count("<rect ") == len(report.timeline)


def test_curves_are_drawn_and_read_again(tmp_path: Path) -> None:
    report = dataclasses.replace(REPORT, curves=(LossCurve("teacher", (1, 2, 4), (2.5, 1.5, 0.5)),))
    save_report(report, tmp_path)
    assert load_report(tmp_path / "report.json").curves == report.curves
    page = (tmp_path / "report.html").read_text()
    assert '<polyline points="180.0,1.0 360.0,60.0 720.0,119.0"/>' in page
    assert "teacher: from 2.500 to 0.500 in 4 steps" in page
    assert "<polyline" not in render_page(REPORT)


@pytest.mark.parametrize(
    "points", ["{", "{}", '{"points": [{"step": 1}]}', '{"points": [{"step": 0, "loss": 1}]}',
               '{"points": [{"step": 1, "loss": NaN}]}'],
)  # fmt: skip
def test_broken_curves_are_named(points: str, tmp_path: Path) -> None:
    (tmp_path / "student.curves.json").write_text(points)
    with pytest.raises(ModelError, match=r"student\.curves\.json is broken; remove it, or train 'student' again"):
        _curve(tmp_path, "student")


def test_a_stage_that_did_not_train_shows_no_curve_of_an_earlier_run(tmp_path: Path) -> None:
    out = tmp_path / "pruned.safetensors"
    (tmp_path / "pruned.curves.json").write_text('{"points": [{"step": 1, "loss": 2.0}]}')
    assert _curve(tmp_path, "pruned")
    data = synthetic_signal(n=8)
    recover(None, data, None, None, False, None, run_files(out, None))
    assert _curve(tmp_path, "pruned") == []


def test_rows_that_were_judged_on_other_samples_are_said_to_be() -> None:
    stages = (
        StageFigures("teacher", 0.9, samples=900),
        StageFigures("student", 0.8, samples=900),
        StageFigures("firmware, host", 0.85, samples=4),
    )
    table = tables(dataclasses.replace(REPORT, stages=stages))[0]
    assert table.note == "teacher to student: 900 samples; firmware, host: 4 samples"
    assert not tables(dataclasses.replace(REPORT, stages=stages[:2]))[0].note


def named(*names: str) -> Report:
    """The report of steps with these names."""
    costs = tuple(OperatorCost(name, "Linear", 150_001 + i, 18_432) for i, name in enumerate(names))
    return assemble(dataclasses.replace(PARITY, per_operator=costs), REPORT.stages)


def test_long_names_are_broken_behind_their_marks() -> None:
    """Every word of a name stands whole in a narrow table, and no figure is lost."""
    names = ("/encoder/layers.0/self_attention/projection/MatMul_output_0", "/encoder/layers.11/norm/Add_1")
    wide, narrow = report_text(named(*names), 140), report_text(named(*names), 80)
    assert all(name in wide for name in names)
    lines = narrow[narrow.index("Instructions") :].splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in narrow
    first, second, end = (
        next(i for i, line in enumerate(lines) if word in line) for word in ("150,001", "150,002", "one inf")
    )
    assert "".join(line.split()[0] for line in lines[first:second]) == names[0]
    assert "".join(line.split()[0] for line in lines[second:end] if line.split()) == names[1]
    assert all(part.split()[0][-1] in "/_0" for part in lines[first:second])
    assert "18,432" in lines[first] and "8.14" in lines[first]


def test_a_word_longer_than_its_column_loses_its_middle() -> None:
    assert folded("encoder.layernormalization", 14) == "encoder.\nlayerno…zation"
    assert folded("a.b", 14) == "a.b" and folded("", 14) == ""


def test_somebodys_own_model_has_forms_and_no_stages() -> None:
    own = assemble(PARITY, (StageFigures("float ONNX", 0.9), StageFigures("integer reference", 0.8)))
    (table,) = (table for table in tables(own) if table.rows[0][0] == "float ONNX")
    assert (table.title, table.columns) == ("The model, form by form", (("form", False), ("accuracy", True)))
    assert table.rows == (("float ONNX", "90.00 %"), ("integer reference", "80.00 %"))
    assert "teacher" not in report_text(own) and "From teacher to firmware" in report_text(REPORT)
    untaught = assemble(PARITY, (StageFigures("student", 0.9, 26_346, 105_384),))
    assert "From student to firmware" in report_text(untaught)
