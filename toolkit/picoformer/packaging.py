"""Exporting C: from a model's files to a package with an example, its answer by the reference, and the model's card."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from picoformer.build_folder import (
    full_length,
    open_build,
    quantize_samples,
    refuse_to_replace,
    with_full_length,
)
from picoformer.errors import ConfigError
from picoformer.exported import PackageOptions, Source
from picoformer.files import file_hash, refuse_inputs
from picoformer.importing import import_model, is_equalized
from picoformer.ir import DType, Graph
from picoformer.ir.operator import Array
from picoformer.packages.written import CARD, is_archive, strange_file
from picoformer.quantized_folder import quantized_scheme
from picoformer.samples import (
    check_labels,
    fit_samples,
    judge_outputs,
    load_samples,
    split_labels,
)

if TYPE_CHECKING:
    from picoformer.backends.c import TextExample
    from picoformer.packages.description import Accuracy, Origin, Package, Sample

CHUNK = 64
"""Samples that the reference runs at a time: it keeps every value of each."""

Tick = Callable[[str, int, int], None]


def package_files(
    source: Source, form: str, out: Path, options: PackageOptions, progress: Tick | None = None
) -> dict[str, Any]:
    """Write a model as the package `form` (packages/forms.py): the folder `out`, or an archive if that ends in .zip."""
    from picoformer.backends.c import check_prefix, check_tile
    from picoformer.estimate.tiles import draft_for
    from picoformer.packages.description import Origin, Package, read_classes
    from picoformer.packages.forms import board_of

    board, tile = board_of(form, options.target), check_tile(options.tile)
    check_prefix(options.prefix)
    check_place(out, (source.model, source.calibration, options.inputs))
    model, scheme = source.model, source.scheme
    if source.quantized is not None:
        scheme = quantized_scheme(source.quantized)
    if (model / "build.json").is_file():
        float_graph, typed, origin = _built(model)
    else:
        float_graph, typed, _ = quantize_samples(
            model, source.calibration, scheme, source.settings, source.shapes, source.valid_length, progress=progress,
            quantized=source.quantized,
        )  # fmt: skip
        if source.quantized is not None or is_equalized(source.settings):
            float_graph = import_model(model, source.shapes, source.valid_length)  # the model as it came
        origin = Origin(model.name, file_hash(model), scheme)
    draft = draft_for(typed, board, options.prefix, tile)
    names = read_classes(options.classes, draft.ports)
    sample, accuracy = _judged(typed, options.inputs or source.calibration, options.inputs is None)
    package = Package(
        form, draft, board, origin, sample=sample, classes=names, accuracy=accuracy,
        float_parameters=float_graph.parameters,
    )  # fmt: skip
    return packed(package, out)


def check_place(out: Path, reads: Iterable[Path | None] = ()) -> None:
    """Raise ConfigError where a package may not be written: over what an export did not write, or what it `reads`."""
    refuse_inputs(out, reads)
    if out.suffix in (".onnx", ".tflite"):
        raise ConfigError(f"{out}: names a file of another --format; C is a folder, or an archive that ends in .zip")
    if out.is_symlink():
        raise ConfigError(f"{out}: is a link; give the folder that it leads to, or a new one")
    if out.suffix == ".zip":
        if out.is_dir():
            raise ConfigError(f"{out}: is a folder; give the name of a .zip file")
        if out.exists() and not is_archive(out):
            raise ConfigError(f"{out}: is a file that no export wrote; give a new name")
    elif out.is_dir() and any(out.iterdir()) and (strange := strange_file(out)):
        raise ConfigError(f"{out}: {strange}; it would be lost: give a new folder, or move it away")
    else:
        refuse_to_replace(out, (CARD,))


def packed(package: Package, out: Path, text: TextExample | None = None) -> dict[str, Any]:
    """Generate the C of a package, write it as its form wants, and say what was written. `text`: what is known of a
    language model's text."""
    from dataclasses import replace

    from picoformer.backends.c import TextExample, write_c
    from picoformer.backends.c.emit import LARGEST_TEXT
    from picoformer.packages.forms import FORMS, write_package
    from picoformer.packages.sources import collect

    origin = package.origin
    lines = [f"source: {origin.source}", f"source_sha256: {origin.sha256}", f"scheme: {origin.scheme}"]
    with tempfile.TemporaryDirectory() as folder:
        most = LARGEST_TEXT if FORMS[package.form].has_binary else sys.maxsize
        made = write_c(package.draft, Path(folder), card=lines, text=text or TextExample(), largest_text=most)
        write_package(replace(package, files=collect(Path(folder))), out)
    record: dict[str, Any] = {
        "output": str(out),
        "form": package.form,
        "target": package.board.name,
        "arena_bytes": made.arena_bytes,
        "weights_bytes": made.weights_bytes,
        "scheme": origin.scheme,
        "accuracy": None if package.accuracy is None else package.accuracy.value,
    }
    if package.is_text:
        del record["accuracy"]
        record["state_bytes"] = made.state_bytes
    return record


def _built(folder: Path) -> tuple[Graph, Graph, Origin]:
    """The graphs of a build folder and where they are from."""
    from picoformer.packages.description import Origin

    build = open_build(folder)
    if build.graph.states:
        raise ConfigError(f"{folder}: is a language model's build; export its checkpoint with the same options")
    manifest = build.manifest
    return build.float_graph, build.graph, Origin(f"{manifest.name}.onnx", manifest.source_sha256, manifest.scheme)


def _judged(graph: Graph, path: Path | None, is_calibration: bool) -> tuple[Sample, Accuracy | None]:
    """The example's sample, and how many of the file's labels the reference finds; a made-up one without a file."""
    from picoformer.backends.c.names import comment
    from picoformer.packages.description import Accuracy, Sample

    run = _reference(graph)
    if path is None:
        made = _made_up(graph)
        return Sample(made, _first(run(_batched(made))), "made-up numbers"), None
    arrays, labels = split_labels(load_samples(path), path)
    values = fit_samples(graph, with_full_length(graph, arrays), path)
    labels = check_labels(labels, graph, values, path)
    first = {name: value[0] for name, value in values.items()}
    sample = Sample(first, _first(run(_batched(first))), f"the first sample of {comment(path.name)}")
    if labels is None:
        return sample, None
    told = comment(path.name)
    if is_calibration and graph_is_integer(graph):
        told += ", the samples it was calibrated on"
    rows = [
        run({name: value[i : i + CHUNK] for name, value in values.items()})[graph.outputs[0]]
        for i in range(0, len(labels.values), CHUNK)
    ]
    value = judge_outputs(graph, np.concatenate(rows), labels).accuracy
    return sample, None if value is None else Accuracy(value, len(labels.values), told)


def graph_is_integer(graph: Graph) -> bool:
    """Whether a graph is quantized."""
    return any(type_.quant is not None for type_ in graph.types.values())


def _reference(graph: Graph) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """What computes the outputs, (samples, *shape): the integer meaning, or the float one where there is no other."""
    from picoformer.reference import lower_graph, run_float, run_integer

    lowered = lower_graph(graph) if graph_is_integer(graph) else None

    def run(values: Mapping[str, Array]) -> dict[str, Array]:
        found = run_float(graph, values) if lowered is None else run_integer(lowered, values)
        return {name: found[name] for name in graph.outputs}

    return run


def _batched(values: Mapping[str, Array]) -> dict[str, Array]:
    return {name: np.asarray(value)[None] for name, value in values.items()}


def _first(values: Mapping[str, Array]) -> dict[str, Array]:
    return {name: value[0] for name, value in values.items()}


def _made_up(graph: Graph) -> dict[str, Array]:
    """An input of every kind where nobody gave one: reals from -1 to 1, ids that the tables have, the full length."""
    from picoformer.ops import Embedding

    found: dict[str, Array] = {}
    for name in graph.inputs:
        type_ = graph.types[name]
        if type_.dtype is not DType.INT32 or type_.quant is not None:
            counted = np.arange(type_.elements, dtype=np.int64) * 37 % 101 - 50
            found[name] = (counted / 50).astype(np.float32).reshape(type_.shape)
        elif name == "valid_length":
            found[name] = np.full(type_.shape, full_length(graph), np.int32)
        else:
            tables = [node for node in graph.consumers.get(name, ()) if isinstance(node.op, Embedding)]
            rows = min((graph.types[node.inputs[1]].shape[0] for node in tables), default=1)
            found[name] = (np.arange(type_.elements, dtype=np.int32) % rows).reshape(type_.shape)
    return found
