"""The report of a pipeline that ends in a language model: what each build says, beside the first one's parity."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from picoformer.report import Sample, TextFigures, save_report
from picoformer.reporting import TRAINED, report_of, stage_figures, training_curves


def write_text_reports(
    figures: Mapping[str, Mapping[str, Any]], builds: Sequence[tuple[Path, Path]], out: Path
) -> None:
    """Write report.json and report.html to `out`. `builds`: folder and verify.json of each, the first one's parity,
    memory and instructions in full."""
    records = [json.loads(verified.read_text("utf-8")) for _, verified in builds]
    texts = tuple(_text_figures(record) for record in records)
    stages = tuple(stage_figures(name, figures, out) for name in TRAINED if name in figures)
    first = {key: value for key, value in records[0].items() if key != "text"}
    report = report_of(first, stages, builds[0][0])
    save_report(dataclasses.replace(report, curves=training_curves(figures, out), texts=texts), out)


def _text_figures(record: Mapping[str, Any]) -> TextFigures:
    text = record["text"]
    bits = text["float_bits_per_character"]
    return TextFigures(
        f"{record['target']}, {record['scheme']}",
        text["context"],
        text["parameters"],
        text["judged_tokens"],
        bits,
        text.get("reference_bits_per_character", bits),
        text.get("device_bits_per_character"),
        text.get("device_tokens", 0),
        text["instructions_per_token"],
        text["ram_bytes"]["total"],
        text["flash_bytes"]["total"],
        tuple(
            Sample(each["prompt"], each["text"], each["tokens"], each["as_float"], each["float_margin"])
            for each in text["texts"]
        ),
    )
