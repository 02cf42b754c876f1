"""The figures of doors.py as Markdown: doors.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

INTRODUCTION = """\
# Every door out, run by others

Made by `make doors` behind `picoformer run` of the two examples. Each file of a trained model is run on all samples by
software that is not ours, and set beside our own numbers of the same graph: the integer reference for integers, the
float graph for floats. Difference: the largest of all outputs, as a real number and in steps of the output's grid.
ONNX files and C have outputs of 16 bits, also where activations have 8; a TFLite file has one type for all. Same label
(of a language model: the likeliest token) as ours, and as the float model, which SQNR is to as well. Integers of C are
compared with the reference in every step's bytes, on this machine and in the emulator; its bytes are flash, model and
code. A dash: not measured, or without meaning.
"""

TABLE = """
| form | run by | difference | steps | as ours | as float | SQNR | bytes |
|---|---|---:|---:|---:|---:|---:|---:|
"""

OPTIMIZED = """
With optimizations onnxruntime is told `session.qdqisint8allowed` = 1 for signed 8-bit files, which it does not load on
x86 otherwise, and `session.qdq_matmulnbits_accuracy_level` = 1 for activations of 16 bits, which it rounds to 8
otherwise. TFLite Micro runs on this machine, by its own interpreter.
"""

SHORTFALLS = """
## Shortfalls

Rows of which less than 99 % of the labels are ours or the float model's. In brackets how far apart, in the outputs' own
unit, the two labels lie at most in the numbers that they are compared with.

"""

QUANTIZE_STATIC = """
## Our float file through onnxruntime's quantizer

`quantize_static` makes a quantized file of our float ONNX file (128 calibration samples); `picoformer build` takes it
with its own scales. Every value that has a grid in the file is computed by the file's own nodes, without optimizations,
from the integers that our reference has before it: the share of all values that lie within one step, the operator with
the smallest share, and the largest difference. An attention is one operator here and computes finer than the file,
which rounds scores and probabilities inside; "inner grids" is the smallest share of an attention with these roundings,
the file's own error, the other columns are without them. Outputs: SQNR and labels of the whole model against the file.

| model | file | samples | within one step | least operator | largest | inner grids | SQNR | same label |
|---|---|---:|---:|---|---:|---:|---:|---:|
"""

SIXTEEN = """
Wanted are 99.9 % of the values within one step. Files of 8 bits have {eight}{apart}.

**Files of 16 bits miss it:** {low} to {high}. A step there is 1/65,536 of the range; a Linear's multiplier of 16 bits
is 9 of them off at the end of it, and an attention more. Files with a zero point (S16S8) get a symmetric grid of up to
twice the step, which keeps what the file cuts off outside its range: the largest differences of all. More variants are
in `tests/test_quantized_files.py`, what becomes of each in [docs/quantized-onnx.md](../docs/quantized-onnx.md).
"""


def page(found: dict[str, Any]) -> str:
    """The whole page."""
    text = INTRODUCTION + "\n"
    text += "".join(f"- {name}: {version}\n" for name, version in found["tools"].items())
    for model, samples in found["samples"].items():
        text += f"\n## {model}, {samples}\n" + TABLE
        text += "".join(_line(_cells(row)) for row in found["rows"] if row["model"] == model)
    text += OPTIMIZED + SHORTFALLS + "".join(_shortfalls(found["rows"]))
    theirs = found["quantize_static"]
    text += QUANTIZE_STATIC + "".join(_line(_quantized(row)) for row in theirs)
    eight, sixteen = ([row for row in theirs if row["bits"] == bits] for bits in (8, 16))
    shares = [row["within_one"] for row in sixteen]
    apart = [
        f"; of {row['model']}, {row['variant']}, {_share(row['agreement'])} of {row['samples']} labels are the file's"
        for row in theirs
        if row["agreement"] < 0.99
    ]
    return text + SIXTEEN.format(
        eight=_share(min(row["within_one"] for row in eight), 2),
        apart="".join(apart),
        low=_share(min(shares)),
        high=_share(max(shares)),
    )


def _cells(row: dict[str, Any]) -> Sequence[str]:
    steps = row["largest_steps"]
    return (
        row["form"],
        row["runtime"],
        _real(row["largest"]),
        "–" if steps is None else f"{steps:,.0f}",
        _share(row["same_as_ours"]),
        _share(row["same_as_float"]),
        _decibels(row["sqnr_db"]),
        "–" if row["bytes"] is None else f"{row['bytes']:,}",
    )


def _shortfalls(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if "reason" in row:
            groups.setdefault((row["model"], row["reason"] or "**unexplained**"), []).append(row)
    for (model, reason), members in groups.items():
        forms = "; ".join(dict.fromkeys(row["form"] for row in members))
        told = []
        for who, key, margin in (
            ("ours", "same_as_ours", "margin_ours"),
            ("the float model's", "same_as_float", "margin_float"),
        ):
            least = min((row for row in members if row[key] is not None), key=lambda row: row[key], default=None)
            if least is not None and least[margin] is not None:
                most = max(row[margin] for row in members if row[margin] is not None)
                told.append(f"{_share(least[key])} of {least['samples']} are {who} ({_real(most)})")
        yield f"- {model}, {forms}: {', '.join(told) + '; ' if told else ''}{reason}.\n"


def _quantized(row: dict[str, Any]) -> Sequence[str]:
    return (
        row["model"],
        row["variant"],
        str(row["samples"]),
        _share(row["within_one"], 2),
        "each 100 %" if row["least"] == 1 else f"{row['least_operator']}, {_share(row['least'], 2)}",
        str(row["largest_steps"]),
        _share(row["inner_within_one"]),
        _decibels(row["sqnr_db"]),
        _share(row["agreement"]),
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _real(value: float | None) -> str:
    return "–" if value is None else "0" if value == 0 else f"{value:.2g}"


def _share(value: float | None, digits: int = 1) -> str:
    """A share in percent, never rounded up to all of it."""
    if value is None:
        return "–"
    if value == 1:
        return "100 %"
    return f"{min(100 * value, 100 - 10**-digits):.{digits}f} %"


def _decibels(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} dB"
