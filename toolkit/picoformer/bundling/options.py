"""What `pi package` can be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from picoformer.quantize import QuantizeSettings

SCHEMES = ("float32", "int8", "int4")


@dataclass(frozen=True)
class BundleOptions:
    """scheme       None: that of the folder, else float32
    task         None: what the model looks like
    calibration  samples of its inputs
    inputs       samples to check the bundle by; else those of the calibration, else made up
    classes      names, or a file with them; scores: what its output is, None to look
    pooling, normalize   of an embedding; pooling None: "mean" of rows, "none" of one
    max_length   most tokens of a text, 0: what the model or its tokenizer says, else 512
    context      of a language model; 0: what it was trained for
    sampling     of a language model: keys of generation.request.TextRequest
    archive      a .tar.gz beside the folder
    """

    scheme: str | None = None
    task: str | None = None
    calibration: Path | None = None
    inputs: Path | None = None
    tokenizer: Path | None = None
    classes: str | None = None
    scores: str | None = None
    pooling: str | None = None
    normalize: bool = True
    max_length: int = 0
    context: int = 0
    output: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    settings: QuantizeSettings | None = None
    archive: bool = False
