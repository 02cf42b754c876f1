"""What is exported, and how: a model with the way it becomes integers, and what each kind of form can be asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from picoformer.errors import ConfigError
from picoformer.files import refuse_inputs

if TYPE_CHECKING:
    from picoformer.backends.c import Tile
    from picoformer.quantize import QuantizeSettings

Shapes = Mapping[str, tuple[int, ...]]


def check_file(out: Path, suffix: str, reads: Iterable[Path | None]) -> None:
    """Raise ConfigError when `out` cannot be a file of the kind that ends in `suffix`, or is one that is read."""
    if out.is_dir():
        raise ConfigError(f"{out}: is a folder; give the name of {'an' if suffix == '.onnx' else 'a'} {suffix} file")
    if out.suffix != suffix:
        raise ConfigError(f"{out}: this file ends in {suffix}; give it such a name, or another --format")
    refuse_inputs(out, reads)


@dataclass(frozen=True)
class Source:
    """A model: an ONNX file, a checkpoint or, for C, a folder that `build` wrote, which says the rest itself.

    `quantized`, a folder that `quantize` or `finetune` wrote, stands for calibration and scheme.
    """

    model: Path
    calibration: Path | None = None
    scheme: str = "float32"
    settings: QuantizeSettings | None = None
    shapes: Shapes | None = None
    valid_length: bool = False
    quantized: Path | None = None


@dataclass(frozen=True)
class OnnxOptions:
    """How a quantized ONNX file is spelled (backends/onnx/writer.py)."""

    unsigned_activations: bool = False
    matmul_nbits: bool = False


@dataclass(frozen=True)
class PackageOptions:
    """How C is packed. `target`: whose kernels; None for the form's default. `tile`: what is computed by tiles of rows
    (backends/c/tiling.py). `inputs`: an .npz whose first sample the example runs on, and whose labels, if it has some,
    say the accuracy; without one the calibration samples serve. `classes`: their names, or a file with them."""

    target: str | None = None
    prefix: str = "model"
    tile: Tile = "auto"
    inputs: Path | None = None
    classes: str | None = None
