"""The command `export` on a language model: its step of one token as ONNX or TFLite, or C that writes text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picoformer.decoder.build import decoder_graphs, text_example
from picoformer.decoder.opening import Checkpoint, open_checkpoint
from picoformer.decoder.sessions import context_of
from picoformer.decoder.writing import logits_scale, reference_session
from picoformer.exported import OnnxOptions, PackageOptions, Source, check_file
from picoformer.exporting import check_spelling, spelling_of, tick_of
from picoformer.ir import Graph
from picoformer.packaging import check_place, packed

if TYPE_CHECKING:
    from picoformer.backends.c import TextExample
    from picoformer.exporting_tflite import TfliteOptions
    from picoformer.packages.description import Text

Progress = Callable[[str, int, int, float], None]


def export_decoder_files(
    source: Source,
    scheme: str,
    form: str,
    out: Path,
    options: OnnxOptions | PackageOptions | TfliteOptions,
    given: Mapping[str, Any],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a checkpoint as the form `form` to `out`. `given`: context, block, beams and tokenizer, as the command has
    them, the middle two for C alone."""
    if isinstance(options, PackageOptions):
        return _package(source, scheme, form, out, options, given, progress)
    if isinstance(options, OnnxOptions):
        return _onnx(source, scheme, out, options, given, progress)
    from picoformer.decoder.tflite import export_decoder_tflite

    return export_decoder_tflite(
        source.model, source.calibration, scheme, out, options, source.settings, given["context"], given["tokenizer"],
        progress,
    )  # fmt: skip


def _onnx(
    source: Source, scheme: str, out: Path, options: OnnxOptions, given: Mapping[str, Any], progress: Progress | None
) -> dict[str, Any]:
    """The step of one token: tokens (1,), position () and the caches in, logits (1, vocabulary) and the caches out. A
    cache that comes out goes in at the next step; before the first it is all zeros."""
    from picoformer.backends.onnx.export import export_onnx

    spelling = spelling_of(options, is_float=scheme == "float32")
    check_file(out, ".onnx", (source.model, source.calibration, given["tokenizer"]))
    opened = open_checkpoint(source.model, given["tokenizer"], source.calibration)
    graphs = decoder_graphs(
        opened.model, scheme, given["context"], 1, opened.calibration, source.settings, tick_of(progress), opened.name
    )
    step = graphs.graph
    check_spelling(step, options)
    origin = {"source": source.model.name, "source_sha256": opened.model.sha256, "scheme": scheme}
    export_onnx(step, out, origin, spelling=spelling)
    return {
        "file": str(out),
        "bytes": out.stat().st_size,
        "scheme": scheme,
        "context": context_of(step),
        "cache_bytes": sum(step.types[before].bytes for before, _ in step.states),
    }


def _package(
    source: Source, scheme: str, form: str, out: Path, options: PackageOptions, given: Mapping[str, Any],
    progress: Progress | None,
) -> dict[str, Any]:  # fmt: skip
    """The C of a language model as a package (packages/forms.py)."""
    from picoformer.backends.c import check_prefix, draft_c
    from picoformer.packages.description import Origin, Package
    from picoformer.packages.forms import board_of

    board = board_of(form, options.target)
    check_prefix(options.prefix)
    check_place(out, (source.model, source.calibration, given["tokenizer"]))
    opened = open_checkpoint(source.model, given["tokenizer"], source.calibration)
    graphs = decoder_graphs(
        opened.model, scheme, given["context"], given["block"], opened.calibration, source.settings, tick_of(progress),
        opened.name,
    )  # fmt: skip
    draft = draft_c(graphs.graph, board.isa, options.prefix, slots=given["beams"])
    example = text_example(opened.model, opened.tokenizer_file)
    package = Package(
        form, draft, board, Origin(source.model.name, opened.model.sha256, scheme),
        text=_text(graphs.graph, opened, example), float_parameters=graphs.float_graph.parameters,
    )  # fmt: skip
    return packed(package, out, example)


def _text(graph: Graph, opened: Checkpoint, example: TextExample) -> Text:
    """The text of the package's example as the reference writes it, on the tokenizer that a device has."""
    from picoformer.backends.c.emit import EXAMPLE_TEXT, EXAMPLE_TOKENS
    from picoformer.generation import SamplerSettings, Stopping
    from picoformer.generation.loop import generate
    from picoformer.packages.description import Text

    context = context_of(graph)
    begin = (example.begin or (0,))[: max(1, context - 1)]
    words, prompt = None, begin
    if example.tokenizer is not None and opened.tokenizer is not None:
        ids = tuple(opened.tokenizer.encode(EXAMPLE_TEXT))
        begin = example.begin
        if len(begin) + len(ids) <= context:
            words, prompt = EXAMPLE_TEXT, (*begin, *ids)
    room = min(EXAMPLE_TOKENS, context - len(prompt) + 1)
    written = generate(
        reference_session(graph), prompt, SamplerSettings(greedy=True), logits_scale(graph), Stopping(room)
    ).tokens
    return Text(prompt, begin, words, written)
