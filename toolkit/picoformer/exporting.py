"""The commands between files that are not a whole build: quantize, export, emulate, inspect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from picoformer.build_folder import import_model, open_build, quantize_samples, refuse_to_replace, with_full_length
from picoformer.errors import ConfigError, UnsupportedError
from picoformer.files import atomic_folder, file_hash, save_arrays
from picoformer.quantization_report import write_quantization
from picoformer.quantized_folder import quantized_scheme, save_quantized
from picoformer.samples import check_labels, fit_samples, judge_outputs, load_samples, split_labels
from picoformer.targets import load_target, stand_in

if TYPE_CHECKING:
    from picoformer.backends.c import Tile

FORMS = ("onnx", "c")

Progress = Callable[[str, int, int, float], None]
Shapes = Mapping[str, tuple[int, ...]]


def _tick(progress: Progress | None) -> Callable[[str, int, int], None] | None:
    return None if progress is None else lambda what, done, total: progress(what, done, total, 0.0)


def quantize_files(
    model: Path,
    calibration: Path | None,
    scheme: str,
    out: Path,
    settings: Any = None,
    shapes: Shapes | None = None,
    progress: Progress | None = None,
    valid_length: bool = False,
) -> dict[str, Any]:
    """Write the typed graph to the folder `out`, which `build` takes; returns SQNR in dB of every tensor."""
    from picoformer.parity import sqnr_per_tensor
    from picoformer.reference import lower_graph, run_float, run_integer

    refuse_to_replace(out, ("graph.json",))
    graph, typed, samples = quantize_samples(
        model, calibration, scheme, settings, shapes, valid_length, progress=_tick(progress)
    )
    is_moved = settings is not None and settings.equalization != "off"
    model_graph = (
        import_model(model, shapes, valid_length) if is_moved else graph
    )  # a build starts from the model as it is
    constants = sum(typed.types[name].bytes for name in typed.constants)
    with atomic_folder(out) as folder:
        save_quantized(folder, model_graph, typed, scheme, graph if is_moved else None)
        if samples:
            constants = write_quantization(graph, typed, samples, folder)["constant_bytes"]
    few = {name: value[:64] for name, value in samples.items()}
    quality = []
    if few:
        floats, integers = run_float(graph, few), run_integer(lower_graph(typed), few)
        quality = [q._asdict() for q in sqnr_per_tensor(floats, integers, typed)]
    return {
        "model": typed.name,
        "scheme": scheme,
        "constant_bytes": constants,
        "parameter_bytes": sum(typed.types[name].bytes for name in typed.constants),
        "float_parameter_bytes": sum(graph.types[name].bytes for name in graph.constants),
        "tensors": [{**q, "type": str(typed.types[q["name"]])} for q in quality],
    }


def export_files(
    model: Path,
    calibration: Path | None,
    scheme: str,
    form: str,
    target: str,
    prefix: str,
    out: Path,
    settings: Any = None,
    shapes: Shapes | None = None,
    progress: Progress | None = None,
    quantized: Path | None = None,
    tile: Tile = "auto",
    valid_length: bool = False,
) -> dict[str, Any]:
    """Write ONNX (`form` "onnx": float or QDQ) or the C library ("c") of an ONNX file or a checkpoint.

    `quantized`, a folder that `quantize` or `finetune` wrote, stands for calibration and scheme. `tile` says what the C
    computes by tiles of rows (backends/c/tiling.py).
    """
    from picoformer.backends.c import check_prefix, check_tile, write_c
    from picoformer.backends.onnx import export_onnx
    from picoformer.estimate.tiles import draft_for

    if form not in FORMS:
        raise ConfigError(f"unknown form '{form}'; use one of {', '.join(FORMS)}")
    if form == "onnx" and out.is_dir():
        raise ConfigError(f"{out}: is a folder; give the name of an .onnx file")
    if form == "c":
        refuse_to_replace(out, ("sources.json",))
        board, tile = load_target(target), check_tile(tile)
        check_prefix(prefix)
    if quantized is not None:
        scheme = quantized_scheme(quantized)
    _, typed, _ = quantize_samples(
        model, calibration, scheme, settings, shapes, valid_length, progress=_tick(progress), quantized=quantized
    )
    origin = {"source": model.name, "source_sha256": file_hash(model), "scheme": scheme}
    if form == "onnx":
        export_onnx(typed, out, origin)
        return {"file": str(out), "bytes": out.stat().st_size, "scheme": scheme}
    card = [f"{key}: {value}" for key, value in origin.items()]
    with atomic_folder(out) as folder:
        made = write_c(draft_for(typed, board, prefix, tile), folder, card=card)
    return {
        "folder": str(out),
        "files": ", ".join(made.files),
        "arena_bytes": made.arena_bytes,
        "weights_bytes": made.weights_bytes,
        "scheme": scheme,
    }


def emulate_files(
    folder: Path,
    inputs_path: Path,
    out: Path | None,
    limit: int = 0,
    progress: Progress | None = None,
    emulator: str = "auto",
) -> dict[str, Any]:
    """Run a build's firmware in its target's emulator, or that of the target that stands in for it.

    `out` gets the outputs as real numbers, samples on axis 0.
    """
    from picoformer.emulator.session import open_device
    from picoformer.ops.fixedpoint import dequantize
    from picoformer.ops.graph_file import graph_identity
    from picoformer.verification import Runner

    build = open_build(folder)
    graph, target = build.graph, build.target
    if graph.states:
        raise UnsupportedError(f"{folder}: is a language model's build, which runs on text: use generate or verify")
    runs = stand_in(target)
    arrays, labels = split_labels(load_samples(inputs_path), inputs_path)
    inputs = fit_samples(graph, with_full_length(graph, arrays), inputs_path)
    labels = check_labels(labels, graph, inputs, inputs_path)
    if limit:
        inputs = {name: value[:limit] for name, value in inputs.items()}
    identity = graph_identity(graph)[:16]
    with open_device(build.firmware(runs), runs, identity=identity, emulator=emulator) as session:
        runner = Runner(session, graph, len(build.steps(runs)), runs.name, progress)
        outputs = runner(inputs).outputs
        measured = runner.measured()
    real = {}
    for name, value in outputs.items():
        quant = graph.types[name].quant
        real[name] = np.asarray(value) if quant is None else dequantize(np.asarray(value), quant)
    if out is not None:
        save_arrays(out, real)
    record: dict[str, Any] = {"target": target.name, "samples": len(next(iter(real.values())))}
    if runs is not target:
        record["ran_on_stand_in"] = runs.name
    record["instructions_per_inference"] = None if measured.instructions is None else measured.instructions.total
    record["stack_bytes"] = measured.stack_used
    record |= {"compiler": build.firmware(runs).compiler, "emulator": measured.emulator}
    if labels is not None:
        rows = next(iter(real.values()))
        judgement = judge_outputs(graph, rows, labels.first(len(rows)))
        record |= {"accuracy": judgement.accuracy, "metrics": judgement.to_dict()}
    return record


def inspect_file(model: Path, shapes: Shapes | None = None) -> dict[str, Any]:
    """What a model becomes: its operators after fusion, with shapes, parameters and multiply-accumulates, and what
    became of each node of an ONNX file; of a checkpoint its parts too. Where its operators cannot be built there are
    these alone: `unsupported` says why."""
    if model.suffix != ".safetensors":
        from picoformer.node_fates import node_fates

        fates, error = node_fates(model, shapes)
        nodes = [fate.to_json() for fate in fates]
        if error is None:
            return {**_inspect_operators(model, shapes), "nodes": nodes}
        empty: dict[str, Any] = {"inputs": {}, "outputs": {}, "parameters": None, "macs": None, "operators": []}
        return {"model": model.stem, **empty, "nodes": nodes, "unsupported": str(error)}
    parts = inspect_parts(model)
    try:
        return {"parts": parts, **_inspect_operators(model, shapes)}
    except UnsupportedError as error:
        totals = {key: sum(part[key] for part in parts) for key in ("parameters", "macs")}
        nothing: dict[str, Any] = {"inputs": {}, "outputs": {}, "operators": []}
        return {"parts": parts, "model": model.stem, **nothing, **totals, "unsupported": str(error)}


def _inspect_operators(model: Path, shapes: Shapes | None) -> dict[str, Any]:
    graph = import_model(model, shapes)
    rows = []
    for node in graph.nodes:
        types = [graph.types[name] for name in node.inputs]
        parameters = sum(graph.constants[name].size for name in node.inputs if name in graph.constants)
        rows.append(
            {
                "name": node.output,
                "op": node.op.kind,
                "attributes": node.op.attributes(),
                "shape": list(graph.types[node.output].shape),
                "parameters": parameters,
                "macs": node.op.macs(types, graph.types[node.output]),
            }
        )
    return {
        "model": graph.name,
        "inputs": {name: list(graph.types[name].shape) for name in graph.inputs},
        "outputs": {name: list(graph.types[name].shape) for name in graph.outputs},
        "parameters": graph.parameters,
        "macs": graph.macs,
        "operators": rows,
    }


def inspect_parts(checkpoint: Path) -> list[dict[str, Any]]:
    """What the embedding, each layer and the head of a checkpoint cost; `bytes` is an estimate of int8 constants."""
    from picoformer.compress.count import count_parts
    from picoformer.models.checkpoint import load_checkpoint

    config = load_checkpoint(checkpoint)[0].config
    rows: list[dict[str, Any]] = []
    for part in count_parts(config):
        row = {"name": part.name, "parameters": part.parameters, "bytes": part.bytes, "macs": part.macs}
        if part.name.startswith("layers."):
            layer = int(part.name.removeprefix("layers."))
            row |= {"heads": config.heads[layer], "kv_heads": config.key_heads[layer], "neurons": config.d_ff[layer]}
        rows.append(row)
    return rows
