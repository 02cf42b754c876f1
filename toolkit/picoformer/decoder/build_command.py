"""The commands `build` and `export` on a language model that is to write text: files in, a folder out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picoformer.decoder.build import DecoderBuild, beyond_training, build_decoder, decoder_graphs, text_example
from picoformer.decoder.opening import Checkpoint, open_checkpoint
from picoformer.decoder.sessions import context_of
from picoformer.decoder.writing import logits_scale, reference_session
from picoformer.errors import ConfigError
from picoformer.ir import Graph
from picoformer.packaging import check_place, packed
from picoformer.targets import Target

if TYPE_CHECKING:
    from picoformer.backends.c import TextExample
    from picoformer.packages.description import Text
    from picoformer.quantize import QuantizeSettings

Progress = Callable[[str, int, int], None]


def build_decoder_files(
    model: Path,
    target: Target,
    out: Path,
    scheme: str,
    calibration: Path | None,
    settings: QuantizeSettings | None,
    prefix: str,
    toolchain: str,
    options: Mapping[str, Any],
    progress: Progress | None = None,
    told: Callable[[str], None] | None = None,
) -> DecoderBuild:
    """A checkpoint to the folder `out`. `options`: context, block, beams and tokenizer, as the command has them; `told`
    gets what somebody should know of the build."""
    opened = open_checkpoint(model, options["tokenizer"], calibration)
    built = build_decoder(
        opened.model, target, out, scheme, options["context"], options["block"], opened.calibration, settings,
        opened.tokenizer_file, prefix, opened.name, toolchain, progress, options["beams"],
    )  # fmt: skip
    if told is not None and (line := beyond_training(opened.model, options["context"])):
        told(line)
    return built


def export_decoder_files(
    model: Path,
    form: str,
    target: str | None,
    out: Path,
    scheme: str,
    calibration: Path | None,
    settings: QuantizeSettings | None,
    prefix: str,
    options: Mapping[str, Any],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The C of a language model as a package (packages/forms.py), as `export` does; `options` as for
    `build_decoder_files`. `target`: whose kernels; None for the form's default."""
    from picoformer.backends.c import check_prefix, draft_c
    from picoformer.packages.description import Origin, Package
    from picoformer.packages.forms import FORMS, board_of

    if form not in FORMS:
        raise ConfigError(f"{model}: a language model that writes text is exported as C; give --format c")
    board = board_of(form, target)
    check_prefix(prefix)
    check_place(out)
    opened = open_checkpoint(model, options["tokenizer"], calibration)
    context, block = options["context"], options["block"]
    graphs = decoder_graphs(
        opened.model, scheme, context, block, opened.calibration, settings, progress, opened.name
    )  # fmt: skip
    draft = draft_c(graphs.graph, board.isa, prefix, slots=options["beams"])
    example = text_example(opened.model, opened.tokenizer_file)
    package = Package(
        form, draft, board, Origin(model.name, opened.model.sha256, scheme), text=_text(graphs.graph, opened, example),
        float_parameters=graphs.float_graph.parameters,
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
