"""What the commands take of an encoder's folder: how long, for which task, and the ONNX file that it becomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from picoformer.cli_output import notice

F = TypeVar("F", bound=Callable[..., Any])

TASKS = ("classify", "label", "span", "masked-lm", "next-sentence", "embedding", "first", "pooled", "rows")
"""Those of picoformer.models.importers (a test compares them)."""

_OPTIONS = (
    click.option("--length", type=click.IntRange(1, 1 << 20),
                 help="Of an encoder's folder: rows of the longest text. Default: 128, or what it knows if less."),
    click.option("--task", type=click.Choice(TASKS),
                 help="Of an encoder's folder: what comes out, where it leaves that open or another is wanted."),
    click.option("--one-text", is_flag=True, help="Of an encoder's folder: no pairs, so no input of segment ids."),
)  # fmt: skip


def encoder_options(function: F) -> F:
    """Adds --length, --task and --one-text."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def is_encoder_folder(model: Path) -> bool:
    """Whether a path is the folder of an encoder."""
    if not ((model / "config.json").is_file() or (model / "modules.json").is_file()):
        return False
    from picoformer.models.importers import is_encoder

    return is_encoder(model)


@contextmanager
def opened_model(model: Path, options: dict[str, Any]) -> Iterator[tuple[Path, bool]]:
    """(the model as a file, whether it was the folder of an encoder). Takes this file's options out of `options`."""
    from picoformer.encoder.opening import EncoderChoice, opened

    choice = EncoderChoice(options.pop("length") or 0, options.pop("task") or "", options.pop("one_text"))
    with opened(model, choice, notice) as path:
        yield path, path != model


ONLY_ENCODER_FOLDERS: Mapping[str, str] = {"length": "--length", "task": "--task", "one_text": "--one-text"}
"""Options that a language model has no use for."""
