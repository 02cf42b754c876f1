"""The figures of a report, and report.json: what `verify` said, plus every stage before it and the memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from picoformer.errors import DataError
from picoformer.files import atomic_write_text
from picoformer.report.verification import ParityReport


@dataclass(frozen=True)
class StageFigures:
    """One form of the model on its way: accuracy in [0, 1] on the test split, parameters, bytes of its weights or
    file. None: not measured, or without meaning there."""

    name: str
    accuracy: float | None = None
    parameters: int | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class LiveBytes:
    """Bytes of the arena that hold living tensors while a step runs."""

    step: str
    bytes: int


@dataclass(frozen=True)
class Capacity:
    """What the plan could do at best (bytes) and what the target has (bytes); None: not known."""

    arena_lower_bound: int | None = None
    ram_available: int | None = None
    flash_available: int | None = None


@dataclass(frozen=True)
class Report:
    """Everything shown: `verification` is the object of `verify --json`, the rest is beside it in report.json."""

    verification: Mapping[str, Any]
    passed: bool
    failures: tuple[str, ...] = ()
    stages: tuple[StageFigures, ...] = ()
    timeline: tuple[LiveBytes, ...] = ()
    capacity: Capacity = Capacity()

    def to_json(self) -> dict[str, Any]:
        """The object of report.json."""
        return {
            **self.verification,
            "passed": self.passed,
            "failures": list(self.failures),
            "stages": [asdict(stage) for stage in self.stages],
            "memory": {**asdict(self.capacity), "timeline": [asdict(entry) for entry in self.timeline]},
        }


def assemble(
    parity: ParityReport,
    stages: tuple[StageFigures, ...] = (),
    timeline: tuple[LiveBytes, ...] = (),
    capacity: Capacity = Capacity(),
) -> Report:
    """The report of a verification and what is known of the stages before it."""
    return Report(parity.to_json(), parity.passed, parity.failures, stages, timeline, capacity)


def save_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write report.json and report.html into `folder`; returns their paths."""
    from picoformer.report.page import render_page

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
        return Report(record, passed, failures, stages, timeline, Capacity(**memory))
    except FileNotFoundError:
        raise DataError(f"{path} is missing: run the pipeline first") from None
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise DataError(f"{path} is not a report of this program ({error}): run the pipeline again") from None
