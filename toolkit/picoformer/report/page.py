"""The report as one HTML page that needs nothing else: no script, no font, no image from elsewhere."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from picoformer.report.figures import Bar, Verdict, count, headline, number, percent, tables
from picoformer.report.record import Report

CHART_WIDTH, CHART_HEIGHT = 720, 120


def render_page(report: Report) -> str:
    """The page as text. Every name from a model is escaped."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.tests["bar"] = lambda cell: isinstance(cell, Bar)
    environment.tests["verdict"] = lambda cell: isinstance(cell, Verdict)
    source = files("picoformer.report").joinpath("page.html.j2").read_text("utf-8")
    return environment.from_string(source).render(
        headline=headline(report),
        report=report,
        cards=_cards(report),
        tables=tables(report, most_steps=1000),
        chart=_chart(report),
        curves=_curves(report),
    )


def _cards(report: Report) -> list[tuple[str, str]]:
    """The few figures at the top of the page: (figure, what it is)."""
    record = report.verification
    measured = [stage.accuracy for stage in report.stages if stage.accuracy is not None]
    bits = [stage.bits_per_character for stage in report.stages if stage.bits_per_character is not None]
    cards = [
        (number(bits[-1], ".3f"), "bits per character") if bits else None,
        (percent(measured[-1], 2), "accuracy on the test split") if measured else None,
        (count(record["ram_bytes"]["total"]), "bytes of RAM"),
        (count(record["flash_bytes"]["total"]), "bytes of flash"),
        (count(record["instructions"]["per_inference"]), "instructions per inference"),
    ]
    return [card for card in cards if card is not None and card[0] != "-"]


def _curves(report: Report) -> list[dict[str, Any]]:
    """Each training's loss as a polyline from first to last step and from the least loss to the largest."""
    found = []
    for curve in report.curves:
        if len(curve.steps) < 2:
            continue
        low, high, last = min(curve.losses), max(curve.losses), curve.steps[-1]
        spread = (high - low) or 1.0
        points = " ".join(
            f"{CHART_WIDTH * step / last:.1f},{1 + (CHART_HEIGHT - 2) * (high - loss) / spread:.1f}"
            for step, loss in zip(curve.steps, curve.losses, strict=True)
        )
        note = f"{curve.stage}: from {number(curve.losses[0], '.3f')} to {number(curve.losses[-1], '.3f')}"
        found.append({"points": points, "note": f"{note} in {count(last)} steps"})
    return found


def _chart(report: Report) -> dict[str, Any] | None:
    """Bars of the memory timeline as rectangles (x, y, width, height, label), or None without one."""
    peak = max((entry.bytes for entry in report.timeline), default=0)
    if not peak:
        return None
    width = CHART_WIDTH / len(report.timeline)
    bars = [
        (
            round(i * width, 2),
            round(CHART_HEIGHT * (1 - entry.bytes / peak), 2),
            round(max(width - 1, 0.5), 2),
            round(CHART_HEIGHT * entry.bytes / peak, 2),
            f"{entry.step}: {count(entry.bytes)} bytes",
        )
        for i, entry in enumerate(report.timeline)
    ]
    return {"width": CHART_WIDTH, "height": CHART_HEIGHT, "peak": count(peak), "bars": bars}
