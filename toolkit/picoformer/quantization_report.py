"""What the quantizer chose for every value and weight and what that costs, as quantization.json beside a build."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from picoformer.errors import ModelError
from picoformer.files import atomic_write_text
from picoformer.ir import Graph
from picoformer.ir.operator import Array

FILE_NAME = "quantization.json"


def write_quantization(graph: Graph, typed: Graph, samples: Mapping[str, Array], folder: Path) -> dict[str, Any]:
    """Measure what the rounding of each value and weight costs and write it to `folder`; returns the record.

    `graph` is the float graph of `typed`; `samples`: input name → (samples, *shape), those of the calibration.
    """
    from picoformer.quantize import measure
    from picoformer.quantize.cost import constant_bytes, wide_macs
    from picoformer.reference import run_float

    sqnr, rows = measure(graph, typed, samples, run_float)
    record = {
        "model": typed.name,
        "sqnr_db": sqnr,
        "constant_bytes": constant_bytes(typed),
        "wide_macs": wide_macs(typed),
        "macs": typed.macs,
        "tensors": [asdict(row) for row in rows],
    }
    atomic_write_text(folder / FILE_NAME, json.dumps(record, indent=1) + "\n")
    return record


def read_quantization(folder: Path) -> dict[str, Any] | None:
    """The record that a build, `picoformer quantize` or `finetune` kept; None for a folder without one (float32).

    Raises ModelError when it is broken.
    """
    try:
        record: dict[str, Any] = json.loads((folder / FILE_NAME).read_text("utf-8"))
        keys = ("name", "op", "type", "is_constant", "gain_db", "bytes")
        tensors = [{key: row[key] for key in keys} for row in record["tensors"]]
        figures = {key: record[key] for key in ("model", "sqnr_db", "constant_bytes", "wide_macs", "macs")}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError(f"{folder / FILE_NAME} is broken; build again") from None
    return {**figures, "tensors": tensors}


def copy_quantization(source: Path, folder: Path, name: str) -> None:
    """Put the record that `picoformer quantize` or `finetune` kept in `source` into `folder`, for the model `name`."""
    record = read_quantization(source)
    if record is not None:
        atomic_write_text(folder / FILE_NAME, json.dumps({**record, "model": name}, indent=1) + "\n")


def print_quantization(record: Mapping[str, Any], most: int = 0) -> None:
    """Print the record, costliest first; only the first `most` rows where that is not 0."""
    share = record["wide_macs"] / max(record["macs"], 1)
    print(
        f"{record['model']}: {record['sqnr_db']:.1f} dB on calibration samples (simulated), constants "
        f"{record['constant_bytes']:,} bytes, {share:.1%} of the multiply-accumulates read 16 bits"
    )
    rows = record["tensors"][:most] if most else record["tensors"]
    print("  without its rounding the outputs would gain" + (f"; the {len(rows)} costliest:" if most else ":"))
    for row in rows:
        size = f"{row['bytes']:>9,} bytes {'constant' if row['is_constant'] else 'value':<8}"
        print(f"  {row['gain_db']:>+7.2f} dB  {row['type']:<4} {size}  {row['op']:<12} {row['name']}")
