"""The commands between files that are not a whole build: quantize, export, emulate, inspect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picoformer.build_folder import open_build, quantize_samples, refuse_to_replace, with_full_length
from picoformer.errors import ConfigError, UnsupportedError
from picoformer.exported import OnnxOptions, PackageOptions, Shapes, Source, check_file
from picoformer.files import atomic_folder, file_hash, save_arrays
from picoformer.importing import import_model, is_equalized
from picoformer.ir import DType, Graph
from picoformer.packaging import package_files
from picoformer.quantization_report import write_quantization
from picoformer.quantized_folder import quantized_scheme, save_quantized
from picoformer.samples import check_labels, fit_samples, judge_outputs, load_samples, real_outputs, split_labels
from picoformer.targets import stand_in

if TYPE_CHECKING:
    from picoformer.backends.onnx.writer import Spelling
    from picoformer.exporting_tflite import TfliteOptions

SIGNED = "loads it with session.qdqisint8allowed=1 only; a file of --unsigned-activations as it is"

Progress = Callable[[str, int, int, float], None]


def tick_of(progress: Progress | None) -> Callable[[str, int, int], None] | None:
    """`progress` as it is told of work without a figure, a loss for one."""
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
        model, calibration, scheme, settings, shapes, valid_length, progress=tick_of(progress)
    )
    is_moved = is_equalized(settings)  # a build starts from the model as it is
    model_graph = import_model(model, shapes, valid_length) if is_moved else graph
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
    source: Source,
    form: str,
    out: Path,
    options: OnnxOptions | PackageOptions | TfliteOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a model as the form `form` to `out`; `options` are those of its kind, None for the usual ones.

    Raises ConfigError for a form that there is not, or options that do not go with it.
    """
    from picoformer.exporting_tflite import TfliteOptions, export_tflite_files
    from picoformer.packages.forms import FORMS

    if form not in ("onnx", "tflite", *FORMS):
        raise ConfigError(f"unknown form '{form}'; use one of onnx, tflite, {', '.join(FORMS)}")
    kind = {"onnx": OnnxOptions, "tflite": TfliteOptions}.get(form, PackageOptions)
    chosen = kind() if options is None else options
    if isinstance(chosen, PackageOptions) and form in FORMS:
        return package_files(source, form, out, chosen, tick_of(progress))
    if isinstance(chosen, TfliteOptions) and form == "tflite":
        if source.quantized is not None:
            raise ConfigError("--quantized holds a device's grids and TFLite takes others; give --calibration")
        return export_tflite_files(
            source.model, source.calibration, source.scheme, out, chosen, source.settings, source.shapes, progress,
            source.valid_length,
        )  # fmt: skip
    if isinstance(chosen, OnnxOptions) and form == "onnx":
        return _export_onnx(source, out, chosen, progress)
    raise ConfigError(f"{type(chosen).__name__} say nothing about the form '{form}'; leave them out")


def _export_onnx(source: Source, out: Path, options: OnnxOptions, progress: Progress | None) -> dict[str, Any]:
    from picoformer.backends.onnx.export import export_onnx

    spelling = spelling_of(options, is_float=source.scheme == "float32" and source.quantized is None)
    check_file(out, ".onnx", (source.model, source.calibration))
    model, scheme = source.model, source.scheme
    if (model / "build.json").is_file():
        raise ConfigError(f"{model}: is a build folder, which has its ONNX in it; say which C to export with --format")
    if source.quantized is not None:
        scheme = quantized_scheme(source.quantized)
    _, typed, _ = quantize_samples(
        model, source.calibration, scheme, source.settings, source.shapes, source.valid_length,
        progress=tick_of(progress), quantized=source.quantized,
    )  # fmt: skip
    check_spelling(typed, options)
    origin = {"source": model.name, "source_sha256": file_hash(model), "scheme": scheme}
    export_onnx(typed, out, origin, spelling=spelling)
    record = {"file": str(out), "bytes": out.stat().st_size, "scheme": scheme}
    if holds_int8(typed) and not options.unsigned_activations:
        record["onnxruntime_on_x86"] = SIGNED
    return record


def spelling_of(options: OnnxOptions, is_float: bool) -> Spelling:
    """The options as the backend takes them; ConfigError for one that a float file has no use for."""
    from picoformer.backends.onnx.writer import Spelling

    spelling = Spelling(options.unsigned_activations, options.matmul_nbits)
    if is_float and spelling != Spelling():
        raise ConfigError("--unsigned-activations and --matmul-nbits spell a quantized file; give another --scheme")
    return spelling


def holds_int8(typed: Graph) -> bool:
    """Whether an activation of a quantized graph has 8 bits."""
    return any(type_.dtype is DType.INT8 for name, type_ in typed.types.items() if name not in typed.constants)


def check_spelling(typed: Graph, options: OnnxOptions) -> None:
    """Raise ConfigError for a spelling of something that a quantized graph has not."""
    if options.unsigned_activations and not holds_int8(typed):
        raise ConfigError("--unsigned-activations says nothing about activations of 16 bits; leave it out")
    if options.matmul_nbits and not any(typed.types[name].dtype is DType.INT4 for name in typed.constants):
        raise ConfigError("--matmul-nbits says nothing without int4 weights; give --scheme int4x8 or int4x16")


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
    real = real_outputs(graph, outputs)
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
