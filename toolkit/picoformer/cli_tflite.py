"""What `export --format tflite` takes and prints."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from picoformer.cli_options import FILE, is_given
from picoformer.cli_output import aligned, show_figures
from picoformer.errors import ConfigError

if TYPE_CHECKING:
    from picoformer.exporting_tflite import TfliteOptions

F = TypeVar("F", bound=Callable[..., Any])

ONLY_TFLITE = {"gelu": "--gelu", "any_operator": "--any-operator", "check": "--check", "runtime": "--runtime"}
"""Options that say nothing about another format."""
ONLY_OTHERS = {"target": "--target", "prefix": "--prefix", "tile": "--tile", "quantized": "--quantized",
               "beams": "--beams", "block": "--block"}  # fmt: skip
"""Options that say nothing about a TFLite file: its integers are calibrated for it, and its steps take one token."""

_OPTIONS = (
    click.option(
        "--gelu",
        type=click.Choice(["auto", "table", "operator", "decomposed"]),
        default="auto",
        show_default=True,
        help="TFLite: how GELU and SiLU are written; auto: int8 as a table, else as x times a logistic.",
    ),
    click.option("--any-operator", is_flag=True, help="TFLite: use operators that TFLite Micro has not, too."),
    click.option("--check", type=FILE, help="TFLite: compare every operator with its definition on this .npz."),
    click.option(
        "--runtime",
        type=click.Choice(["litert", "litert-reference", "tensorflow-reference", "micro"]),
        default="litert",
        show_default=True,
        help="TFLite: what runs the file to judge and check it.",
    ),
)


def tflite_options(function: F) -> F:
    """Adds the options of a TFLite file; the command gets them as one argument `tflite`."""

    @functools.wraps(function)
    def with_options(**given: Any) -> Any:
        chosen = {name: given.pop(name) for name in ONLY_TFLITE}
        return function(tflite=_chosen(given["form"], chosen), **given)

    command: Any = with_options
    for option in _OPTIONS:
        command = option(command)
    result: F = command
    return result


def _chosen(form: str, given: Mapping[str, Any]) -> TfliteOptions | None:
    """The options, of a TFLite file; None for other formats. ConfigError for one that says nothing about the format."""
    for name, option in (ONLY_OTHERS if form == "tflite" else ONLY_TFLITE).items():
        if is_given(name):
            raise ConfigError(f"{option} says nothing about --format {form}; leave it out")
    if form != "tflite":
        return None
    from picoformer.exporting_tflite import TfliteOptions

    return TfliteOptions(**given)


def export_tflite(
    model: Path, is_decoder: bool, options: TfliteOptions, scheme: str, calibration: Path | None, settings: Any,
    shapes: Any, valid_length: bool, output: Path, decoder: Mapping[str, Any], tick: Any,
) -> dict[str, Any]:  # fmt: skip
    """Write the file of a model or, with a decoder's options, of a language model; returns the record to print."""
    if is_decoder:
        from picoformer.decoder.tflite import export_decoder_tflite

        return export_decoder_tflite(
            model, calibration, scheme, output, options, settings, decoder["context"], decoder["tokenizer"], tick
        )
    from picoformer.exporting_tflite import export_tflite_files

    return export_tflite_files(model, calibration, scheme, output, options, settings, shapes, tick, valid_length)


def show_tflite(record: Mapping[str, Any]) -> None:
    """Figures of a written file, the operators in it, and what the check found."""
    words = {True: "yes", False: "no"}
    show_figures({key: words[value] if isinstance(value, bool) else value for key, value in record.items()})
    used = ", ".join(f"{count} {name}" for name, count in record["operators"].items())
    click.echo(f"  {'operators':<26} {used}")
    if "checked" not in record:
        return
    head = ("operator", "where", "count", "elements", "equal", "worst")
    rows = [
        (
            entry["operator"],
            "inside a node" if entry["inside"] else "node",
            f"{entry['count']:,}",
            f"{entry['elements']:,}",
            f"{100 * entry['equal']:.3f} %",
            f"{entry['worst']:.3g}",
        )
        for entry in record["checked"]["summary"]
    ]
    click.echo("\n  each operator on the interpreter's own inputs, against its definition; worst in steps of its grid")
    for line in aligned([head, *rows], numbers=(2, 3, 4, 5)):
        click.echo(f"  {line}")
