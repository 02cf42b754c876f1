"""A report as files: report.json to read again, report.html for people."""

from __future__ import annotations

import json
from pathlib import Path

from picoformer.errors import DataError
from picoformer.files import atomic_write_text
from picoformer.report.page import render_page
from picoformer.report.record import Capacity, LiveBytes, LossCurve, Report, Sample, StageFigures, TextFigures


def save_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write report.json and report.html into `folder`; returns their paths."""
    record, page = folder / "report.json", folder / "report.html"
    atomic_write_text(record, json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n")
    atomic_write_text(page, render_page(report))
    return record, page


def load_report(path: Path) -> Report:
    """Read a report.json; raises DataError when it is missing or not one of ours."""
    try:
        record = json.loads(path.read_text("utf-8"))
        memory = record.pop("memory")
        timeline = tuple(LiveBytes(**entry) for entry in memory.pop("timeline"))
        passed, failures = record.pop("passed"), tuple(record.pop("failures"))
        stages = tuple(StageFigures(**stage) for stage in record.pop("stages"))
        curves = tuple(
            LossCurve(curve["stage"], tuple(curve["steps"]), tuple(curve["losses"]))
            for curve in record.pop("curves", ())
        )
        texts = tuple(
            TextFigures(**{**build, "samples": tuple(Sample(**sample) for sample in build["samples"])})
            for build in record.pop("texts", ())
        )
        return Report(record, passed, failures, stages, timeline, Capacity(**memory), curves, texts)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: run the pipeline first") from None
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise DataError(f"{path} is not a report of this program ({error}): run the pipeline again") from None
