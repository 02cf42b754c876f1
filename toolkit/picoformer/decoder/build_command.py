"""The commands `build` and `export` on a language model that is to write text: files in, a folder out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picoformer.build_folder import refuse_to_replace
from picoformer.decoder.build import DecoderBuild, beyond_training, build_decoder, decoder_graphs, text_example
from picoformer.decoder.opening import open_checkpoint
from picoformer.files import atomic_folder
from picoformer.targets import Target

if TYPE_CHECKING:
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
    target: Target,
    out: Path,
    scheme: str,
    calibration: Path | None,
    settings: QuantizeSettings | None,
    prefix: str,
    options: Mapping[str, Any],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The C of a language model to the folder `out`, as `export` does; `options` as for `build_decoder_files`."""
    from picoformer.backends.c import check_prefix, draft_c, write_c

    check_prefix(prefix)
    refuse_to_replace(out, ("sources.json",))
    opened = open_checkpoint(model, options["tokenizer"], calibration)
    context, block = options["context"], options["block"]
    graphs = decoder_graphs(
        opened.model, scheme, context, block, opened.calibration, settings, progress, opened.name
    )  # fmt: skip
    draft = draft_c(graphs.graph, target.isa, prefix, slots=options["beams"])
    card = [f"source: {model.name}", f"source_sha256: {opened.model.sha256}", f"scheme: {scheme}"]
    with atomic_folder(out) as folder:
        made = write_c(draft, folder, card=card, text=text_example(opened.model, opened.tokenizer_file))
    return {
        "folder": str(out),
        "files": ", ".join(made.files),
        "arena_bytes": made.arena_bytes,
        "state_bytes": made.state_bytes,
        "weights_bytes": made.weights_bytes,
        "scheme": scheme,
    }
