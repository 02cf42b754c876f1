"""Measure the reference models and write benchmarks/results.json and results.md: python benchmarks/run.py [--check].

Instructions are counted in the emulator and are exact; bytes come from the linked ELF, the stack from the run. The
models are trained here from fixed seeds; figures of the kernels do not depend on the weights, those of quality do.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import picoformer
from picoformer.compress.settings import TrainSettings
from picoformer.compress.train import evaluate, train
from picoformer.datasets import synthetic_signal
from picoformer.models.config import reference_encoder_config
from picoformer.models.export import export_onnx
from picoformer.models.transformer import Transformer
from picoformer.targets import load_target

HERE = Path(__file__).parent
SAMPLES = 64
CASES = [("relu", "int8"), *(("gelu", scheme) for scheme in ("int8", "int8x16", "int4x8", "int4x16", "float32"))]
TARGET = "mps2-an386"
TOLERANCE = 0.01
"""A change of more than this share in a figure has to be written into the tracked table."""


def measure() -> dict[str, Any]:
    """Every case: accuracy, quality, instructions, bytes."""
    data = synthetic_signal(0)
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for activation in dict.fromkeys(activation for activation, _ in CASES):
            model = Transformer(reference_encoder_config(activation), seed=0)
            train(model, data.x_train, data.y_train, TrainSettings(epochs=8, label_smoothing=0.1))
            export_onnx(model, folder / f"{activation}.onnx")
            print(f"{activation}: trained, accuracy {evaluate(model, data.x_test, data.y_test):.3f}", file=sys.stderr)
        for activation, scheme in CASES:
            out = folder / f"{activation}-{scheme}"
            calibration = {"x": data.x_train[:200]} if scheme != "float32" else None
            source = folder / f"{activation}.onnx"
            picoformer.build(source, calibration=calibration, scheme=scheme, target=TARGET, out=out)
            inputs = {"x": data.x_test[:SAMPLES], "labels": data.y_test[:SAMPLES]}
            found = picoformer.verify(out, inputs=inputs)
            assert found.report.passed, found.report.failures
            lines.append(_line(f"reference encoder, {activation}", scheme, found.to_json()))
            print(f"{activation} {scheme}: done", file=sys.stderr)
    target = load_target(TARGET)
    return {
        "compiler": version_of(target.toolchain.program),
        "emulator": version_of(target.emulator.program),
        "flags": [target.toolchain.optimize, *target.toolchain.flags],
        "lines": lines,
    }


def _line(model: str, scheme: str, record: dict[str, Any]) -> dict[str, Any]:
    by_operator: dict[str, dict[str, int]] = {}
    for cost in record["instructions"]["per_operator"]:
        sums = by_operator.setdefault(cost["op"], {"instructions": 0, "macs": 0})
        sums["instructions"] += cost["instructions"]
        sums["macs"] += cost["macs"]
    return {
        "model": model,
        "scheme": scheme,
        "target": record["target"],
        "macs": record["macs"],
        "instructions": record["instructions"]["per_inference"],
        "ram_bytes": record["ram_bytes"],
        "flash_bytes": record["flash_bytes"],
        "flash_runtime_bytes": record["flash_runtime_bytes"],
        "sqnr_db": record["links"][-1]["sqnr_db"],
        "per_operator": by_operator,
    }


def version_of(program: str) -> str:
    """The first line a program says of its version."""
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return answer.stdout.splitlines()[0]


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    rows = [
        "# Measured figures",
        "",
        "Made by `make bench`; instructions are executed instructions in the emulator, **not cycles**.",
        f"{results['compiler']}, `{' '.join(results['flags'])}`; {results['emulator']}.",
        "Reference encoder: sequence 64 × 16 inputs, d 64, 4 heads, FFN 256, 2 pre-norm layers, learned positions,",
        "mean pool, 6 classes; 105,670 parameters, 7,405,952 MACs; trained on a synthetic signal.",
        "RAM is arena + stack + data; the wire and the fault handling are counted beside the inference code.",
        "",
        "| model | scheme | target | instructions | /MAC | RAM, bytes | arena | flash, bytes | code "
        "| runtime beside it | logits against float |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in results["lines"]:
        ram, flash = line["ram_bytes"], line["flash_bytes"]
        rows.append(
            f"| {line['model']} | {line['scheme']} | {line['target']} | {line['instructions']:,} | "
            f"{line['instructions'] / line['macs']:.2f} | {ram['total']:,} | {ram['arena']:,} | "
            f"{flash['total']:,} | {flash['code']:,} | {line['flash_runtime_bytes']:,} | {line['sqnr_db']:.1f} dB |"
        )
    rows += ["", "Instructions by operator:", ""]
    operators = list(dict.fromkeys(op for line in results["lines"] for op in line["per_operator"]))
    rows += [f"| model, scheme | {' | '.join(operators)} |", f"|---|{'---|' * len(operators)}"]
    for line in results["lines"]:
        cells = []
        for op in operators:
            cost = line["per_operator"].get(op)
            share = f" ({cost['instructions'] / cost['macs']:.2f}/MAC)" if cost and cost["macs"] else ""
            cells.append("–" if cost is None else f"{cost['instructions']:,}{share}")
        rows.append(f"| {line['model']}, {line['scheme']} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Figures that moved by more than TOLERANCE, one line each."""
    known = {(line["model"], line["scheme"]): line for line in old["lines"]}
    found = []
    for line in new["lines"]:
        before = known.get((line["model"], line["scheme"]))
        if before is None:
            found.append(f"{line['model']} {line['scheme']}: is not in the table")
            continue
        for name, was, now in (
            ("instructions", before["instructions"], line["instructions"]),
            ("RAM", before["ram_bytes"]["total"], line["ram_bytes"]["total"]),
            ("flash", before["flash_bytes"]["total"], line["flash_bytes"]["total"]),
            ("code", before["flash_bytes"]["code"], line["flash_bytes"]["code"]),
        ):
            if abs(now - was) > TOLERANCE * was:
                found.append(f"{line['model']} {line['scheme']}: {name} was {was:,}, is {now:,} ({now / was - 1:+.1%})")
    return found


def main() -> None:
    """Measure; with --check only compare with the tracked figures, else write them."""
    results = measure()
    tracked = HERE / "results.json"
    moved = changes(json.loads(tracked.read_text("utf-8")), results) if tracked.is_file() else []
    for change in moved:
        print(change)
    if "--check" in sys.argv[1:]:
        sys.exit(1 if moved else 0)
    tracked.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    (HERE / "results.md").write_text(table(results), "utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
