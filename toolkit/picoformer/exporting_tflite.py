"""The command `export --format tflite`: a model to a .tflite file, judged and checked under an interpreter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from picoformer.build_folder import quantize_model, quantize_samples, with_full_length
from picoformer.errors import ConfigError
from picoformer.exported import check_file
from picoformer.files import file_hash
from picoformer.importing import import_model
from picoformer.samples import check_labels, fit_samples, judge_outputs, load_samples, split_labels

if TYPE_CHECKING:
    from picoformer.backends.tflite.program import Program
    from picoformer.backends.tflite.runtime import Runtime
    from picoformer.backends.tflite.writer import Gelu
    from picoformer.ir import Graph
    from picoformer.ir.operator import Array
    from picoformer.quantize import QuantizeSettings

TFLITE_SCHEMES = ("float32", "int8", "int8x16")
"""The schemes that TFLite has: it takes activations of one type, and weights of 8 bits."""
RANGE_SAMPLES = 128
"""Calibration samples that the ranges inside operators are taken from."""
JUDGED_SAMPLES = 64
"""Calibration samples that the file is judged on where no others are given."""

Progress = Callable[[str, int, int, float], None]


@dataclass(frozen=True)
class TfliteOptions:
    """How a file is written: `gelu` (see backends/tflite/emitters.py), operators that TFLite Micro lacks where
    `any_operator`; and what it is checked on, `check`, an .npz of inputs, under which `runtime`."""

    gelu: Gelu = "auto"
    any_operator: bool = False
    check: Path | None = None
    runtime: Runtime = "litert"


def export_tflite_files(
    model: Path,
    calibration: Path | None,
    scheme: str,
    out: Path,
    options: TfliteOptions,
    settings: QuantizeSettings | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    progress: Progress | None = None,
    valid_length: bool = False,
) -> dict[str, Any]:
    """Write `model`, an ONNX file or a checkpoint, as the TFLite file `out`; returns what it is and how good.

    An integer scheme is calibrated for TFLite: every value of one type, on one grid. int8 is compared with what the
    device's own int8 costs, whose residual stream and outputs are 16 bits wide. With `options.check` every operator is
    compared with its definition on those inputs. Raises ConfigError, DataError or UnsupportedError in one line.
    """
    from picoformer.backends.tflite.export import export_tflite
    from picoformer.backends.tflite.runtime import check_runtime
    from picoformer.quantize import SCHEMES, QuantizeSettings, uniform_settings
    from picoformer.reference import run_float

    check_scheme(scheme)
    check_file(out, ".tflite", (model, calibration, options.check))
    check_runtime(options.runtime)
    given = settings or QuantizeSettings()
    chosen = given
    if scheme != "float32":
        chosen = uniform_settings(replace(given, activations=SCHEMES[scheme].activations))
    tick = None if progress is None else lambda what, done, total: progress(what, done, total, 0.0)
    graph, typed, samples = quantize_samples(
        model, calibration, scheme, chosen if scheme != "float32" else settings, shapes, valid_length, progress=tick
    )
    few = {name: value[:RANGE_SAMPLES] for name, value in samples.items()}
    values = {**few, **run_float(graph, few)} if few else {}
    runs = [{name: value[i] for name, value in values.items()} for i in range(len(next(iter(few.values()), [])))]
    told = provenance(model.name, file_hash(model), scheme)
    inputs, labels = _judged(options.check, graph, samples)
    program = export_tflite(typed, out, told, runs, options.gelu, options.any_operator)
    record = file_record(out, program, scheme)
    if inputs:
        device = None
        if scheme == "int8":
            device = _device_outputs(import_model(model, shapes, valid_length), samples, given, inputs)
        record.update(_quality(graph, out, inputs, labels, options.runtime, device))
    if options.check is not None:
        record["checked"] = _checked(out, typed, inputs, options.runtime)
    return record


def check_scheme(scheme: str) -> None:
    """Raise ConfigError for a scheme that TFLite does not have."""
    if scheme not in TFLITE_SCHEMES:
        raise ConfigError(f"scheme '{scheme}' is none of TFLite's; use one of {', '.join(TFLITE_SCHEMES)}")


def provenance(source: str, sha256: str, scheme: str) -> dict[str, str]:
    """What a file tells of where it is from."""
    from picoformer import __version__

    return {"source": source, "source_sha256": sha256, "scheme": scheme, "picoformer": __version__}


def file_record(out: Path, program: Program, scheme: str) -> dict[str, Any]:
    """What a written file is."""
    from picoformer.backends.tflite.operators import micro_runs

    used: dict[str, int] = {}
    for step in program.steps:
        used[step.operator] = used.get(step.operator, 0) + 1
    return {
        "file": str(out),
        "bytes": out.stat().st_size,
        "scheme": scheme,
        "steps": len(program.steps),
        "runs_on_tflite_micro": all(micro_runs(step.operator, program.types(step)[0]) for step in program.steps),
        "min_runtime_version": program.runtime,
        "operators": dict(sorted(used.items())),
    }


def _judged(check: Path | None, graph: Graph, samples: Mapping[str, Array]) -> tuple[dict[str, Array], Any]:
    """The inputs that the file is judged on, and their labels where there are any."""
    if check is None:
        return {name: value[:JUDGED_SAMPLES] for name, value in samples.items()}, None
    arrays, labels = split_labels(load_samples(check), check)
    inputs = fit_samples(graph, with_full_length(graph, arrays), check)
    return inputs, check_labels(labels, graph, inputs, check)


def _device_outputs(
    graph: Graph, samples: Mapping[str, Array], settings: QuantizeSettings, inputs: Mapping[str, Array]
) -> dict[str, Array]:
    """What the device's own int8 gives: real numbers."""
    from picoformer.ops.fixedpoint import dequantize
    from picoformer.reference import lower_graph, run_integer

    typed = quantize_model(graph, samples, settings)
    found = run_integer(lower_graph(typed), inputs)
    grids = {name: typed.types[name].quant for name in typed.outputs}
    return {name: found[name] if grid is None else dequantize(found[name], grid) for name, grid in grids.items()}


def _quality(
    graph: Graph, out: Path, inputs: Mapping[str, Array], labels: Any, runtime: Runtime,
    device: Mapping[str, Array] | None,
) -> dict[str, Any]:  # fmt: skip
    from picoformer.backends.tflite.runtime import run_tflite
    from picoformer.parity import compare
    from picoformer.reference import run_float

    name = graph.outputs[0]
    truth = run_float(graph, inputs)[name]
    found = run_tflite(out, inputs, [name], runtime)[name]
    link = compare("float", "tflite", truth, found)
    record: dict[str, Any] = {
        "runtime": runtime,
        "samples": len(truth),
        "max_abs": link.max_abs,
        "sqnr_db": link.sqnr_db,
        "same_label": link.top1_agreement,
    }
    if labels is not None:
        judged = judge_outputs(graph, found.reshape(truth.shape), labels)
        record["accuracy"] = judged.accuracy
    if device is not None:
        own = compare("float", "device", truth, device[name])
        record.update(device_int8_sqnr_db=own.sqnr_db, device_int8_same_label=own.top1_agreement)
        if own.sqnr_db is not None and link.sqnr_db is not None:
            record["cost_of_one_type_db"] = own.sqnr_db - link.sqnr_db
    return record


def _checked(out: Path, typed: Graph, inputs: Mapping[str, Array], runtime: Runtime) -> dict[str, Any]:
    from picoformer.backends.tflite.compare import compare_tflite, summary

    rows = compare_tflite(out, typed, {name: np.asarray(value) for name, value in inputs.items()}, runtime)
    return {"summary": summary(rows), "rows": [row.to_json() for row in rows]}
