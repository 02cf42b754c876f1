"""What `evaluate` prints for a person to read: accuracy, classes, what was confused with what, latencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from picoformer.cli_output import aligned

MOST_CLASSES = 20
"""More classes than this make no table."""
_LATENCIES = (
    ("device_us", "device, µs", 1),
    ("device_cycles", "device, cycles", 0),
    ("instructions", "instructions (no time)", 0),
    ("host_round_trip_ms", "host round trip, ms, line included", 2),
)


def print_evaluation(record: Mapping[str, Any]) -> None:
    """Print the object of `evaluate --json`."""
    runs_on = f" ({record['emulator']})" if record["emulator"] else ""
    print(f"{record['model']}: {record['scheme']} on {record['device']}{runs_on}, {record['samples']:,} samples")
    if record["ran_on_stand_in"]:
        print(f"  {record['ran_on_stand_in']} ran in place of the board")
    reference = record["reference"]
    rows = [
        ("accuracy", f"{record['accuracy']:.4f}", f"the reference: {reference['accuracy']:.4f}"),
        ("macro F1", f"{record['metrics']['macro_f1']:.4f}", ""),
        ("samples equal to the reference", f"{reference['equal_samples']:,}", f"of {record['samples']:,}"),
        ("predictions that are the same", f"{reference['same_predictions']:,}", f"of {record['samples']:,}"),
        ("stack, bytes", _figure(record["stack_bytes"], 0), ""),
        ("samples a second (of this machine's clock)", _figure(record["samples_per_second"], 1), ""),
    ]
    if record["requests_sent_again"]:
        rows.append(("requests sent again", f"{record['requests_sent_again']:,}", ""))
    _print(rows, {1})
    print()
    found = [(title, record["latency"][key], digits) for key, title, digits in _LATENCIES if record["latency"][key]]
    shares = list(found[0][1])
    heading = ("latency of a sample", *shares)
    _print([heading, *((title, *(_figure(f[share], digits) for share in shares)) for title, f, digits in found)],
           set(range(1, 1 + len(shares))))  # fmt: skip
    if not record["latency"]["instructions"] and not record["latency"]["device_cycles"]:
        print(f"  the device's own time is not known: it counts no cycles, and {record['instructions_uncounted']}")
    _print_classes(record["per_class"], record["confusion"])


def _print_classes(classes: Sequence[Mapping[str, Any]], confusion: Sequence[Sequence[int]]) -> None:
    if len(classes) > MOST_CLASSES:
        return
    names = [str(row["class"]) if row["name"] is None else row["name"] for row in classes]
    rows = [
        (name, f"{row['samples']:,}", _figure(row["recall"], 3), _figure(row["precision"], 3))
        for name, row in zip(names, classes, strict=True)
    ]
    print()
    _print([("class", "labels", "recall", "precision"), *rows], {1, 2, 3})
    print()
    print("  label (row) taken for class (column)")
    cells = [[str(count) if count else "." for count in row] for row in confusion]
    table = [(name, *row) for name, row in zip(names, cells, strict=True)]
    _print([("", *(name[:8] for name in names)), *table], set(range(1, 1 + len(names))))


def _print(rows: Sequence[Sequence[str]], numbers: set[int]) -> None:
    print("\n".join(f"  {line}" for line in aligned(rows, numbers)))


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
