"""Measure the models on every emulated core in every scheme: python benchmarks/run.py [--check | --update].

Writes results.json, results.md and growth.svg. With --check a choice of lines that has every core and every scheme is
measured and compared with the tracked ones: a figure that moved by more than 1 % fails; with --update they take the
place of those tracked. Instructions are counted in the
emulator and are exact; cycles are modelled; bytes come from the linked ELF, the stack from the run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from models import REFERENCE, RELU, SHAPES, TRAINED, Files, prepare

from picoformer.quantize import SCHEMES
from picoformer.targets import Target, list_targets, load_target

HERE = Path(__file__).parent
TRACKED = HERE / "results.json"
TOLERANCE = 0.01
"""A change of more than this share in a figure has to be written into the tracked table."""
QUALITY_TOLERANCE_DB = 1.0
"""Training ends elsewhere on another processor."""
ROOM = 400_000
"""Bytes of flash and of RAM that a board needs to stand for its core with every model."""
FLOAT, FLOAT_CPU = "float32", "cortex-m4"


class Key(NamedTuple):
    """A line of the table."""

    model: str
    scheme: str
    target: str


def cores() -> dict[str, Target]:
    """Core → the first board that has it, room for the models, and QEMU to run on."""
    found: dict[str, Target] = {}
    for name in list_targets():
        board = load_target(name)
        if board.is_host or board.emulator is None or board.emulator.kind != "qemu":
            continue
        if min(board.region("code").length, board.region("data").length) >= ROOM:
            found.setdefault(board.cpu, board)
    return found


def all_lines(boards: dict[str, Target]) -> list[Key]:
    """Every model in every integer scheme on every core; float32 on one, and the reference encoder with ReLU."""
    names = [name for name in SHAPES if name != RELU]
    lines = [Key(name, scheme, board.name) for name in names for scheme in SCHEMES for board in boards.values()]
    lines += [Key(name, FLOAT, boards[FLOAT_CPU].name) for name in names]
    return sorted([*lines, Key(RELU, "int8", boards[FLOAT_CPU].name)])


def lines_to_check(boards: dict[str, Target]) -> list[Key]:
    """The reference encoder in every scheme on one core, and each other core in a scheme and a model, taking turns."""
    names, schemes = [name for name in SHAPES if name != RELU], list(SCHEMES)
    lines = {Key(REFERENCE, scheme, boards[FLOAT_CPU].name) for scheme in (*schemes, FLOAT)}
    for turn, board in enumerate(boards.values()):
        lines.add(Key(names[turn % len(names)], schemes[turn % len(schemes)], board.name))
    return sorted(lines)


def measure_all(lines: Sequence[Key]) -> list[dict[str, Any]]:
    """Measure lines, a process on each of this machine's cores; in order."""
    with tempfile.TemporaryDirectory() as scratch:
        begun = time.monotonic()
        with ProcessPoolExecutor(os.cpu_count() or 1, mp_context=get_context("spawn")) as pool:
            names = list(dict.fromkeys(line.model for line in lines))
            files = dict(zip(names, pool.map(prepare, names, [Path(scratch)] * len(names)), strict=True))
            grouped = [(key, list(group)) for key, group in groupby(sorted(lines), key=lambda line: line[:2])]
            jobs = [
                pool.submit(_measure, key, files[key[0]], [line.target for line in group]) for key, group in grouped
            ]
            found = [line for job in jobs for line in job.result()]
        print(f"{len(found)} lines in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return found


def _measure(key: tuple[str, str], files: Files, targets: list[str]) -> list[dict[str, Any]]:
    from measure import measure_model

    begun = time.monotonic()
    model, scheme = key
    found = measure_model(files.onnx, files.calibration, files.test, scheme, targets, model in TRAINED)
    print(f"{model}, {scheme}: {len(targets)} cores, {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return [{"model": model, **line} for line in found]


def tools(boards: dict[str, Target]) -> dict[str, Any]:
    """What each board was built and run with."""
    return {
        board.name: {
            "description": board.description,
            "compiler": version_of(board.toolchain.program),
            "flags": [board.toolchain.optimize, *board.toolchain.flags],
            "emulator": version_of(board.emulator.program),  # type: ignore[union-attr]
        }
        for board in boards.values()
    }


def version_of(program: str) -> str:
    """The first line a program says of its version."""
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return answer.stdout.splitlines()[0]


def _key(line: dict[str, Any]) -> Key:
    return Key(line["model"], line["scheme"], line["target"])


def changes(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[str]:
    """Figures that moved by more than TOLERANCE, one line each."""
    known = {_key(line): line for line in old}
    found = []
    for line in new:
        name = ", ".join(_key(line))
        before = known.get(_key(line))
        if before is None:
            found.append(f"{name}: is not in the table")
            continue
        for figure, was, now in zip(_FIGURES, _figures(before), _figures(line), strict=True):
            allowed = QUALITY_TOLERANCE_DB if figure == _FIGURES[-1] else TOLERANCE * abs(was or 0)
            if (was is None) != (now is None) or abs((now or 0) - (was or 0)) > allowed:
                found.append(f"{name}: {figure} was {was}, is {now}")
    return found


_FIGURES = ("instructions", "least cycles", "most cycles", "RAM", "flash", "code", "SQNR in dB")


def _figures(line: dict[str, Any]) -> list[float | None]:
    cycles = line["cycles"] or {"low": None, "high": None}
    return [
        line["instructions"],
        cycles["low"],
        cycles["high"],
        line["ram_bytes"]["total"],
        line["flash_bytes"]["total"],
        line["flash_bytes"]["code"],
        line["sqnr_db"],
    ]


def main() -> None:
    """Measure; with --check only compare a choice with the tracked figures, else write everything."""
    boards = cores()
    if "--check" in sys.argv[1:]:
        lines = lines_to_check(boards)
        print("checked: " + "; ".join(", ".join(line) for line in lines))
        moved = changes(json.loads(TRACKED.read_text("utf-8"))["lines"], measure_all(lines))
        print("\n".join(moved) or "no figure moved by more than 1 %")
        sys.exit(1 if moved else 0)
    if "--update" in sys.argv[1:]:
        results = json.loads(TRACKED.read_text("utf-8")) if TRACKED.is_file() else {}
        found = measure_all(lines_to_check(boards))
        new = {_key(line) for line in found}
        kept = [line for line in results.get("lines", []) if "cpu" in line and _key(line) not in new]
        write({**results, "tools": tools(boards), "lines": sorted([*kept, *found], key=_key)})
        return
    from growth import measure_growth

    results = {"tools": tools(boards), "lines": measure_all(all_lines(boards))}
    write(results | {"growth": measure_growth(boards[FLOAT_CPU].name)})


def write(results: dict[str, Any]) -> None:
    """Write the figures, the page and the drawing."""
    from growth import draw
    from page import page

    text = json.dumps(results, separators=(",", ":")).replace('{"model":"', '\n{"model":"')
    TRACKED.write_text(text + "\n", "utf-8")
    if "growth" in results:
        (HERE / "growth.svg").write_text(draw(results["growth"]), "utf-8")
    (HERE / "results.md").write_text(page(results), "utf-8")


if __name__ == "__main__":
    main()
