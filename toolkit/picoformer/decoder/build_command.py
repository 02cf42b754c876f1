"""The commands `build` and `export` on a language model that is to write text: files in, a folder out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from picoformer.build_folder import refuse_to_replace
from picoformer.decoder.build import DecoderBuild, beyond_training, build_decoder, decoder_graphs, text_example
from picoformer.decoder.generating import load_tokenizer, read_tokens
from picoformer.errors import ConfigError, DataError
from picoformer.files import atomic_folder
from picoformer.models.importers import ImportedModel, load_decoder
from picoformer.samples import load_samples
from picoformer.targets import Target

if TYPE_CHECKING:
    from picoformer.quantize import QuantizeSettings
    from picoformer.tokenizers import TextTokenizer

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
    opened = _open(model, calibration, options)
    built = build_decoder(
        opened.model, target, out, scheme, options["context"], options["block"], opened.calibration, settings,
        opened.tokenizer, prefix, opened.name, toolchain, progress, options["beams"],
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
    opened = _open(model, calibration, options)
    context, block = options["context"], options["block"]
    graphs = decoder_graphs(
        opened.model, scheme, context, block, opened.calibration, settings, progress, opened.name
    )  # fmt: skip
    draft = draft_c(graphs.graph, target.isa, prefix, slots=options["beams"])
    card = [f"source: {model.name}", f"source_sha256: {opened.model.sha256}", f"scheme: {scheme}"]
    with atomic_folder(out) as folder:
        made = write_c(draft, folder, card=card, text=text_example(opened.model, opened.tokenizer))
    return {
        "folder": str(out),
        "files": ", ".join(made.files),
        "arena_bytes": made.arena_bytes,
        "state_bytes": made.state_bytes,
        "weights_bytes": made.weights_bytes,
        "scheme": scheme,
    }


@dataclass(frozen=True)
class _Opened:
    """A checkpoint, its tokenizer's file, the tokens to calibrate on, and what the model is called."""

    model: ImportedModel
    tokenizer: Path | None
    calibration: Any
    name: str


def _open(model: Path, calibration: Path | None, options: Mapping[str, Any]) -> _Opened:
    imported = load_decoder(model)
    path = options["tokenizer"] or imported.tokenizer
    tokenizer = load_tokenizer(path, imported.config.vocab_size)
    tokens = None if calibration is None else calibration_tokens(calibration, tokenizer)
    kept = path if path is not None and path.is_file() else None
    return _Opened(imported, kept, tokens, (model.stem if model.is_file() else model.name) or "decoder")


def calibration_tokens(path: Path, tokenizer: TextTokenizer | None) -> Any:
    """The tokens of a text file, or of the array `tokens` of an .npz, int32 (n,)."""
    if path.suffix == ".npz":
        return token_rows(path).reshape(-1)
    if tokenizer is None:
        raise ConfigError(f"{path} is a text: give --tokenizer too, or an .npz of tokens")
    return read_tokens(path, tokenizer)


def token_rows(path: Path) -> Any:
    """The array `tokens` of an .npz, or the only one it has: int32 (texts, length). Raises DataError for another."""
    arrays = load_samples(path)
    found = arrays.get("tokens", next(iter(arrays.values())) if len(arrays) == 1 else None)
    if found is not None and found.dtype.kind not in "iu":
        raise DataError(f"{path}: 'tokens' holds {found.dtype}, and token ids are integers; save it as int32")
    if found is None or not 1 <= found.ndim <= 2 or found.size == 0:
        raise DataError(f"{path}: has no array 'tokens' of token ids, (texts, length); save one under this name")
    if found.min() < 0 or found.max() >= 1 << 31:
        raise DataError(f"{path}: holds numbers that are no token ids")
    return np.atleast_2d(found).astype(np.int32)
