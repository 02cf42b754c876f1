"""How cost grows with sequence, width and depth of an encoder: measured, and drawn as an SVG."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from picoformer.models.config import TransformerConfig

BASE = {"sequence": 64, "width": 64, "depth": 2}
AXES = {"sequence": (16, 32, 64, 128, 256), "width": (16, 32, 64, 128), "depth": (1, 2, 4, 8)}
SCHEME = "int8"
FIGURES = {"instructions": "instructions", "ram": "RAM, bytes"}
_WIDE, _HIGH, _LEFT, _TOP, _GAP = 250, 190, 74, 34, 46
_LINE = "#2a6fb0"


def _config(sequence: int, width: int, depth: int) -> TransformerConfig:
    return TransformerConfig.uniform(
        layers=depth, heads=4, d_ff=4 * width, d_model=width, sequence=sequence, input_size=16, classes=6
    )


def measure_growth(target: str) -> dict[str, list[dict[str, int]]]:
    """Axis → a point for each of its sizes, everything else as in BASE."""
    from measure import measure_model

    from picoformer.models.export import export_onnx
    from picoformer.models.transformer import Transformer

    chance = np.random.default_rng(0)
    points: dict[str, list[dict[str, int]]] = {}
    known: dict[tuple[int, ...], dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for axis, sizes in AXES.items():
            for size in sizes:
                shape = {**BASE, axis: size}
                key = tuple(shape.values())
                if key not in known:
                    path = Path(scratch) / "model.onnx"
                    export_onnx(Transformer(_config(**shape), seed=0), path)
                    samples = chance.standard_normal((4, shape["sequence"], 16)).astype(np.float32)
                    (line,) = measure_model(path, samples, samples[:1], SCHEME, [target], quality=False)
                    known[key] = {"instructions": line["instructions"], "ram": line["ram_bytes"]["total"]}
                points.setdefault(axis, []).append({"size": size, **known[key]})
    return points


def slopes(points: Sequence[dict[str, int]], figure: str) -> list[float]:
    """The exponent with which a figure grows between each two neighbouring sizes."""
    pairs = itertools.pairwise(points)
    return [float(np.log(b[figure] / a[figure]) / np.log(b["size"] / a["size"])) for a, b in pairs]


def draw(growth: dict[str, list[dict[str, int]]]) -> str:
    """A panel for each figure and axis, both scales logarithmic, every point with its number."""
    wide = _LEFT + len(AXES) * (_WIDE + _GAP)
    high = _TOP + len(FIGURES) * (_HIGH + _GAP) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{wide}" height="{high}" fill="white"/>',
    ]
    for row, (figure, title) in enumerate(FIGURES.items()):
        values = [point[figure] for points in growth.values() for point in points]
        low, most = min(values), max(values)
        y0 = _TOP + row * (_HIGH + _GAP)
        for column, (axis, points) in enumerate(growth.items()):
            x0 = _LEFT + column * (_WIDE + _GAP)
            parts += _panel(axis, points, figure, title, (low, most), x0, y0)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(
    axis: str, points: Sequence[dict[str, int]], figure: str, title: str, ends: tuple[int, int], x0: int, y0: int
) -> list[str]:
    def share(value: float, low: float, high: float) -> float:
        return float(np.log(value / low) / np.log(high / low)) if high > low else 0.5

    sizes = [point["size"] for point in points]
    places = [
        (
            x0 + 16 + share(point["size"], sizes[0], sizes[-1]) * (_WIDE - 32),
            y0 + _HIGH - 12 - share(point[figure], *ends) * (_HIGH - 36),
        )
        for point in points
    ]
    parts = [
        f'<rect x="{x0}" y="{y0}" width="{_WIDE}" height="{_HIGH}" fill="none" stroke="#bbb"/>',
        f'<text x="{x0}" y="{y0 - 8}" fill="#222">{title} by {axis}</text>',
        f'<polyline fill="none" stroke="{_LINE}" stroke-width="1.5" points="'
        + " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        + '"/>',
    ]
    for (x, y), point in zip(places, points, strict=True):
        anchor = "end" if point is points[-1] else "start" if point is points[0] else "middle"
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{_LINE}"/>',
            f'<text x="{x:.1f}" y="{y - 8:.1f}" text-anchor="{anchor}" fill="#222">{_short(point[figure])}</text>',
            f'<text x="{x:.1f}" y="{y0 + _HIGH + 14}" text-anchor="middle" fill="#666">{point["size"]}</text>',
        ]
    return parts


def _short(value: int) -> str:
    """7475400 → 7.48 M."""
    for unit, name in ((1_000_000, " M"), (1_000, " k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return str(value)
