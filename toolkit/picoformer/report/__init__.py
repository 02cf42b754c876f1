"""The report: what was built and measured, for the terminal, as JSON and as a page."""

from picoformer.report.files import load_report, save_report
from picoformer.report.record import (
    Capacity,
    LiveBytes,
    LossCurve,
    Report,
    Sample,
    StageFigures,
    TextFigures,
    assemble,
)
from picoformer.report.terminal import print_report, report_text

__all__ = [
    "Capacity",
    "LiveBytes",
    "LossCurve",
    "Report",
    "Sample",
    "StageFigures",
    "TextFigures",
    "assemble",
    "load_report",
    "print_report",
    "report_text",
    "save_report",
]
