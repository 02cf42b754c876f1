"""What a person gets to read: the report of a pipeline, and the tables that single commands print."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from picoformer.build_folder import Build, load_manifest, read_target
from picoformer.build_memory import read_memory
from picoformer.cli_output import aligned
from picoformer.errors import ModelError
from picoformer.quantization_report import print_quantization, read_quantization
from picoformer.report import (
    Capacity,
    LiveBytes,
    LossCurve,
    Report,
    StageFigures,
    load_report,
    print_report,
    save_report,
)
from picoformer.slot_image import IMAGE
from picoformer.targets import Target, in_binary

__all__ = [
    "TRAINED",
    "build_record",
    "print_build",
    "print_factorization",
    "print_inspection",
    "print_pruning",
    "print_quality",
    "print_report",
    "print_targets",
    "print_verification",
    "read_report",
    "report_of",
    "stage_figures",
    "target_record",
    "training_curves",
    "write_reports",
]

TRAINED = ("teacher", "student", "pruned", "factorized")
FORMS = {
    "float onnx": "float ONNX",
    "qdq onnx": "QDQ ONNX",
    "reference": "integer reference",
    "float graph": "float graph",
}


def write_reports(figures: Mapping[str, Mapping[str, Any]], folder: Path, verified: Path, out: Path) -> None:
    """Write report.json and report.html to `out` from the stages' figures, a build folder and its verify.json."""
    record = json.loads(verified.read_text("utf-8"))
    stages = [stage_figures(name, figures, out) for name in TRAINED if name in figures]
    manifest = load_manifest(folder)
    sizes = {"float onnx": _size(folder / "model.onnx"), "qdq onnx": _size(folder / "model_qdq.onnx")}
    sizes[manifest.target] = record["flash_bytes"]["total"]
    for form, found in record["metrics"].items():
        if form != "torch":
            name = FORMS.get(form, f"firmware, {form}")
            bits = found["bits_per_character"]
            size, samples = sizes.get(form), record["samples"]
            stages.append(StageFigures(name, found["accuracy"], manifest.parameters, size, bits, samples))
    curves = training_curves(figures, out)
    save_report(dataclasses.replace(report_of(record, tuple(stages), folder), curves=curves), out)


def stage_figures(name: str, figures: Mapping[str, Mapping[str, Any]], out: Path) -> StageFigures:
    """What a training stage gave."""
    return StageFigures(
        name,
        figures[name]["accuracy"],
        figures[name]["parameters"],
        _size(out / f"{name}.safetensors") or _size(out / f"{name}.onnx"),
        figures[name]["bits_per_character"],
        figures.get("data", {}).get("test"),
    )


def training_curves(figures: Mapping[str, Mapping[str, Any]], out: Path) -> tuple[LossCurve, ...]:
    """The curves of the stages that trained."""
    return tuple(curve for name in TRAINED if name in figures for curve in _curve(out, name))


def _curve(out: Path, stage: str) -> list[LossCurve]:
    """The loss of a stage that was trained, from the curves beside its checkpoint; none for one that was not."""
    path = out / f"{stage}.curves.json"
    if not path.is_file():
        return []
    try:
        points = [(int(point["step"]), float(point["loss"])) for point in json.loads(path.read_text("utf-8"))["points"]]
        if not all(step > 0 and math.isfinite(loss) for step, loss in points):
            raise ValueError("a step or a loss that cannot be")
    except (ValueError, KeyError, TypeError):
        raise ModelError(f"{path} is broken; remove it, or train '{stage}' again") from None
    return [LossCurve(stage, tuple(step for step, _ in points), tuple(loss for _, loss in points))]


def read_report(folder: Path) -> Report:
    """The report of a finished pipeline run; `folder` is its output folder, or the report.json itself."""
    return load_report(folder / "report.json" if folder.is_dir() else folder)


def print_verification(record: Mapping[str, Any], folder: Path) -> None:
    """Print what `verify` found on a build folder."""
    stages = tuple(
        StageFigures(FORMS.get(form, form), found["accuracy"], bits_per_character=found["bits_per_character"])
        for form, found in record["metrics"].items()
    )
    print_report(report_of(record, stages, folder))


def report_of(record: Mapping[str, Any], stages: tuple[StageFigures, ...], folder: Path) -> Report:
    """The report of a build: the record of its verification, the stages before it, its memory."""
    rest = {key: value for key, value in record.items() if key not in ("passed", "failures")}
    target = read_target(folder)
    memory = read_memory(folder / target.name)
    timeline = tuple(LiveBytes(entry["step"], entry["bytes"]) for entry in memory["live"])
    ram = None if target.is_host else target.region("data").length
    flash = None if target.is_host else target.region("code").length
    capacity = Capacity(memory["lower_bound"], ram, flash, memory["decides"])
    return Report(rest, record["passed"], tuple(record["failures"]), stages, timeline, capacity)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def build_record(build: Build, target: Target) -> dict[str, Any]:
    """What `build` prints: sizes from the linked ELF and the memory plan."""
    memory = read_memory(build.folder / target.name)
    sizes, reason = build.sizes(target)
    record: dict[str, Any] = {
        "model": build.manifest.name,
        "scheme": build.manifest.scheme,
        "target": target.name,
        "folder": str(build.folder),
        "parameters": build.manifest.parameters,
        "macs": build.manifest.macs,
        "arena_bytes": memory["peak"],
        "arena_lower_bound_bytes": memory["lower_bound"],
        "arena_decided_by": memory["decides"],
        "compilers": dict(build.manifest.compilers),
    }
    if sizes is None:
        record |= {"flash_bytes": None, "ram_bytes": None, "not_compiled": reason}
    elif not target.is_host:
        record["flash_bytes"] = vars(sizes.flash)
        record["ram_bytes"] = vars(sizes.ram)
    if target.is_library:
        record |= {"library": str(build.folder / target.name / build.manifest.prefix), "sdk": target.library_sdk}
    if target.in_slot:
        image = build.folder / target.name / IMAGE
        record["image"] = {
            "file": str(image),
            "bytes": image.stat().st_size,
            "slot_bytes": target.slot_region.length,
            "version": target.image_version,
        }
    if target.stands_in:
        record["stands_in"] = target.stands_in
    chosen = read_quantization(build.folder)
    if chosen is not None:
        record["quantization"] = chosen
    return record


def print_build(record: Mapping[str, Any]) -> None:
    """Print what a build takes."""
    rows = [
        ("parameters", record["parameters"]),
        ("multiply-accumulates", record["macs"]),
        ("arena, bytes", record["arena_bytes"]),
        ("  at the very least", record["arena_lower_bound_bytes"]),
    ]
    image = "library" if "library" in record else "image"
    for kind, title in (("flash_bytes", f"flash of the {image}"), ("ram_bytes", f"RAM of the {image}")):
        rows += [(f"{title}, {part}, bytes", value) for part, value in (record.get(kind) or {}).items()
                 if image == "image" or part not in ("runtime", "stack")]  # fmt: skip
    print(f"{record['model']}: {record['scheme']} for {record['target']} in {record['folder']}")
    for name, value in rows:
        print(f"  {name:<32}{value:>12,}")
    print(f"  arena {record['arena_decided_by']}")
    if "library" in record:
        print(f"  {record['library']}/ is for a project of {record['sdk']}; its CMakeLists.txt says how")
        print(f"  {record['library']}_wire/ beside it lets such a program be verified on the board (--port)")
    if "image" in record:
        made = record["image"]
        print(
            f"  {made['file']}: {made['bytes']:,} bytes for a slot of {made['slot_bytes']:,}, version {made['version']}"
        )
    if "not_compiled" in record:
        print(f"  not compiled, so flash and RAM are not known: {record['not_compiled']}")
    if "stands_in" in record:
        print(f"  {record['target']} has no emulator: emulate and verify run firmware of {record['stands_in']} instead")
    for name, compiler in record["compilers"].items():
        print(f"  {f'compiled for {name} by':<32} {compiler}")
    if "quantization" in record:
        print_quantization(record["quantization"], most=3)


def target_record(target: Target) -> dict[str, Any]:
    """What `targets` says of one: clocks in Hz, sizes in bytes; None where there is no such thing."""
    runs = target.emulator
    return {
        "name": target.name,
        "description": target.description,
        "cpu": target.cpu,
        "architecture": target.architecture,
        "isa": list(target.isa),
        "clock_hz": target.clock_hz or None,
        "max_clock_hz": target.max_clock_hz or target.clock_hz or None,
        "flash_bytes": None if target.is_host else target.region("code").length,
        "ram_bytes": None if target.is_host else target.region("data").length,
        "builds": "program" if target.is_host else "library" if target.is_library else "image",
        "sdk": target.library_sdk or None,
        "emulator": None if runs is None else f"{runs.program} -M {runs.machine}" if runs.machine else runs.kind,
        "stands_in": target.stands_in or None,
        "flasher": target.flasher.kind if target.flasher else None,
    }


def print_targets(records: Sequence[Mapping[str, Any]]) -> None:
    """Print the targets, one a line, after a line of headings."""
    rows: list[tuple[str, ...]] = [
        ("name", "core", "MHz", "flash", "RAM", "instruction sets", "builds", "run by", "flasher")
    ]
    for record in records:
        clocks = [record[key] and f"{record[key] / 1e6:g}" for key in ("clock_hz", "max_clock_hz")]
        run_by = f"stands in: {record['stands_in']}" if record["stands_in"] else _machine(record["emulator"])
        rows.append(
            (
                record["name"],
                record["cpu"],
                "-" if not clocks[0] else clocks[0] if clocks[0] == clocks[1] else f"{clocks[0]} ({clocks[1]})",
                *("-" if record[key] is None else in_binary(record[key]) for key in ("flash_bytes", "ram_bytes")),
                ", ".join(record["isa"]),
                record["builds"],
                run_by,
                record["flasher"] or "-",
            )
        )
    print("\n".join(aligned(rows)))
    if any(record["max_clock_hz"] not in (0, record["clock_hz"]) for record in records):
        print("MHz: what the image built here runs at, and in brackets what the chip is rated for")


def _machine(emulator: str) -> str:
    return "itself" if emulator == "host" else emulator.replace("qemu-system-", "QEMU ").replace(" -M", "")


def print_quality(record: Mapping[str, Any]) -> None:
    """Print how well each quantized tensor keeps its float values."""
    print(
        f"{record['model']}: {record['scheme']}, constants {record['constant_bytes']:,} bytes, of them "
        f"weights and biases {record['parameter_bytes']:,} (float: {record['float_parameter_bytes']:,})"
    )
    for tensor in record["tensors"]:
        quality = "exact" if tensor["sqnr_db"] is None else f"{tensor['sqnr_db']:.1f} dB"
        print(f"  {quality:>9}  {tensor['type']:<18} {tensor['op']:<12} {tensor['name']}")


def print_pruning(record: Mapping[str, Any]) -> None:
    """Print what is left of every layer of a pruned model."""
    found = record["pruning"]
    if found["width_after"] != found["width_before"]:
        print(f"  d_model {found['width_before']} -> {found['width_after']}")
    for layer in found["layers"]:
        sizes = "  ".join(
            f"{layer[f'{key}_before']:,} -> {layer[f'{key}_after']:,} {title}"
            for key, title in (
                ("heads", "heads"),
                ("neurons", "neurons"),
                ("parameters", "parameters"),
                ("bytes", "bytes int8"),
                ("macs", "MACs"),
            )
        )
        print(f"  layer {layer['layer']:<3} {sizes}")
    for index, part in enumerate(found["rounds"]):
        after = "" if part["metric_recovered"] is None else f" -> {part['metric_recovered']:.4f} recovered"
        print(f"  round {index + 1:<3} {part['parameters']:,} parameters  {part['metric']:.4f}{after}")


def print_factorization(record: Mapping[str, Any]) -> None:
    """Print what became of every matrix of a factorized model."""
    for layer in record["factorization"]["layers"]:
        shape = f"{layer['outputs']} x {layer['inputs']}"
        rank = f"rank {layer['rank']}" if layer["rank"] else "whole"
        sizes = " ".join(
            f"{layer[f'{key}_before']:>11,} -> {layer[f'{key}_after']:>11,} {title}"
            for key, title in (("parameters", "parameters"), ("macs", "MACs"))
        )
        note = f"  ({layer['note']})" if layer["note"] else ""
        print(f"  {layer['name']:<30} {shape:<12} {rank:<9} {sizes}  error {layer['relative_error']:.1%}{note}")


def print_inspection(record: Mapping[str, Any]) -> None:
    """Print the operators that an ONNX file becomes."""
    for side in ("inputs", "outputs"):
        for name, shape in record[side].items():
            print(f"{side[:-1]:<7} {name} {shape}")
    for row in record["operators"]:
        details = ", ".join(f"{key}={value}" for key, value in row["attributes"].items())
        print(
            f"  {row['op']:<11} {row['shape']!s:<16} {row['parameters']:>10,} parameters {row['macs']:>12,} MACs  "
            f"{row['name']}{f'  ({details})' if details else ''}"
        )
    for part in record.get("parts", ()):
        shape = "".join(f"{part[key]:>5} {key}" for key in ("heads", "kv_heads", "neurons") if key in part)
        print(
            f"  {part['name']:<11} {part['parameters']:>10,} parameters {part['bytes']:>10,} bytes int8 "
            f"{part['macs']:>12,} MACs {shape}"
        )
    if record.get("nodes"):
        print(f"of {len(record['nodes'])} nodes of the file:")
        print("\n".join(f"  {line}" for line in aligned([_node_line(node) for node in record["nodes"]])))
    if "unsupported" in record and "parts" in record:
        print(f"not built: {record['unsupported']}")
    if record["macs"] is not None:
        print(f"{len(record['operators'])} operators, {record['parameters']:,} parameters, {record['macs']:,} MACs")


_FATES = {
    "kept": "becomes {kind}",
    "fused": "goes into {kind} {into}",
    "folded": "is computed now, a constant",
    "dropped": "falls away",
    "refused": "REFUSED: {reason}",
    "behind": "hangs on a node that is refused",
    "covered": "is covered",
}


def _node_line(node: Mapping[str, Any]) -> tuple[str, str, str]:
    """Operator, output and fate of a node of a file."""
    said = {"kind": "", "into": "", "reason": "", **node}
    return node["op"], node["output"], _FATES[node["fate"]].format(**said)
