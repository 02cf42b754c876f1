"""The command `build` on a language model that is to write text: files in, a folder out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picoformer.decoder.build import DecoderBuild, beyond_training, build_decoder
from picoformer.decoder.opening import open_checkpoint
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
