"""What an encoder's folder is opened with: how long, for which task; and the ONNX file that the commands then take."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from picoformer.errors import ConfigError
from picoformer.files import atomic_write_bytes
from picoformer.ir import Graph
from picoformer.models.importers import ImportedEncoder, is_encoder, load_encoder

USUAL_ROWS = 128
"""Rows where nobody says how many: attention and activations of all that a model knows are too long for most boards."""


@dataclass(frozen=True)
class EncoderChoice:
    """What a folder leaves open. `length`: rows of the longest text, 0 for USUAL_ROWS or what the model knows if that
    is less; `task`: see `load_encoder`, "" for the folder's own; `one_text`: texts are never pairs, so no segment ids.
    """

    length: int = 0
    task: str = ""
    one_text: bool = False


def open_encoder(folder: Path, choice: EncoderChoice = EncoderChoice()) -> tuple[ImportedEncoder, Graph]:
    """The encoder in a folder and its float graph. Raises ModelError for the folder, ConfigError for the length."""
    from picoformer.encoder.graph import encoder_graph

    model = load_encoder(folder, choice.task, False if choice.one_text else None)
    rows = choice.length or min(model.longest, USUAL_ROWS)
    if rows > model.config.sequence:
        raise ConfigError(f"--length {rows}: {folder} knows {model.config.sequence} rows; give 1 to that")
    return model, encoder_graph(model.config, model.weights, rows, name=folder.resolve().name or "encoder")


def told(model: ImportedEncoder, graph: Graph) -> str:
    """One line of what was opened and what was chosen for it."""
    rows = graph.types[graph.inputs[0]].shape[-1]
    known = "" if rows == model.config.sequence else f" of {model.config.sequence} (--length)"
    return f"{model.source}; task {model.task}, {rows} rows{known}, inputs {', '.join(graph.inputs)}"


@contextlib.contextmanager
def opened(
    model: Path, choice: EncoderChoice = EncoderChoice(), notice: Callable[[str], None] | None = None
) -> Iterator[Path]:
    """The folder of an encoder as a temporary ONNX file that is called after it; any other path as it is.

    Raises ConfigError for a choice that says nothing about another model.
    """
    if not (model.is_dir() and is_encoder(model)):
        asked = {"--length": choice.length, "--task": choice.task, "--one-text": choice.one_text}
        for option in (name for name, value in asked.items() if value):
            raise ConfigError(f"{option} is for the folder of an encoder, and {model} is none; leave it out")
        yield model
        return
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / f"{model.resolve().name or 'encoder'}.onnx"
        _write(model, choice, path, notice)
        yield path


def _write(model: Path, choice: EncoderChoice, path: Path, notice: Callable[[str], None] | None) -> None:
    """Weights live in here alone: whoever reads the file has the memory for them."""
    from picoformer.backends.onnx.export import onnx_bytes

    imported, graph = open_encoder(model, choice)
    if notice is not None:
        notice(told(imported, graph))
    del imported
    atomic_write_bytes(path, onnx_bytes(graph))
