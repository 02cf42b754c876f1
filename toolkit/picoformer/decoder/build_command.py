"""The command `build` on a language model that is to write text: files in, a build folder out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from picoformer.decoder.build import DecoderBuild, build_decoder
from picoformer.decoder.generating import load_tokenizer, read_tokens
from picoformer.errors import ConfigError, DataError
from picoformer.models.importers import load_decoder
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
) -> DecoderBuild:
    """A checkpoint to the folder `out`. `options`: context, block, beams and tokenizer, as the command has them."""
    imported = load_decoder(model)
    path = options["tokenizer"] or imported.tokenizer
    tokenizer = load_tokenizer(path, imported.config.vocab_size)
    tokens = None if calibration is None else calibration_tokens(calibration, tokenizer)
    kept = path if path is not None and path.is_file() else None
    name = (model.stem if model.is_file() else model.name) or "decoder"
    return build_decoder(
        imported, target, out, scheme, options["context"], options["block"], tokens, settings, kept, prefix, name,
        toolchain, progress, options["beams"],
    )  # fmt: skip


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
    if found is None or found.dtype.kind not in "iu" or not 1 <= found.ndim <= 2 or found.size == 0:
        raise DataError(f"{path}: has no array 'tokens' of token ids, (texts, length); save one under this name")
    if found.min() < 0 or found.max() >= 1 << 31:
        raise DataError(f"{path}: holds numbers that are no token ids")
    return np.atleast_2d(found).astype(np.int32)
