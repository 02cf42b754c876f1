"""The command `export`: a model as ONNX, as TFLite, or as C in many forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from picoformer.cli_encoder import encoder_options, opened_model
from picoformer.cli_options import (
    ANY,
    C_FORMS,
    FILE,
    is_build,
    is_given,
    json_option,
    quantize_or_text_options,
    quantized_option,
    read_shapes,
    tile_option,
    valid_length_option,
)
from picoformer.cli_output import aligned, progress, show, show_figures
from picoformer.cli_text import DECODER_SCHEME, decoder_options, is_decoder
from picoformer.errors import ConfigError

if TYPE_CHECKING:
    from picoformer.exported import OnnxOptions, PackageOptions
    from picoformer.exporting_tflite import TfliteOptions

F = TypeVar("F", bound=Callable[..., Any])

ONNX = {"unsigned_activations": "--unsigned-activations", "matmul_nbits": "--matmul-nbits"}
C = {"target": "--target", "prefix": "--prefix", "tile": "--tile", "sample_file": "--inputs",
     "classes": "--classes"}  # fmt: skip
TFLITE = {"gelu": "--gelu", "any_operator": "--any-operator", "check": "--check", "runtime": "--runtime"}
"""Options that one kind of form has."""
NOT_TFLITE = {"quantized": "--quantized"}
"""Its integers are calibrated for it."""
ONE_TOKEN = {"beams": "--beams", "block": "--block"}
"""What a language model's step of one token, which is what ONNX and TFLite get, has no use for."""

_OPTIONS = (
    click.option("--format", "form", type=click.Choice(["onnx", "tflite", *C_FORMS]), default="onnx", show_default=True,
                 help="What to write."),
    click.option("--unsigned-activations", is_flag=True, help="ONNX: 8-bit activations as uint8, fast on x86."),
    click.option("--matmul-nbits", is_flag=True, help="ONNX: int4 weights for onnxruntime's MatMulNBits."),
    click.option("--gelu", type=click.Choice(["auto", "table", "operator", "decomposed"]), default="auto",
                 show_default=True,
                 help="TFLite: how GELU and SiLU are written; auto: int8 as a table, else as x times a logistic."),
    click.option("--any-operator", is_flag=True, help="TFLite: use operators that TFLite Micro has not, too."),
    click.option("--check", type=FILE, help="TFLite: compare every operator with its definition on this .npz."),
    click.option("--runtime", type=click.Choice(["litert", "litert-reference", "tensorflow-reference", "micro"]),
                 default="litert", show_default=True, help="TFLite: what runs the file to judge and check it."),
    click.option("--target", help="C: whose kernels; generic is plain C for any 32-bit core. Default: generic, of "
                                  "esp-idf esp32-c3."),
    click.option("--prefix", default="model", show_default=True, help="C: start of every symbol and file name."),
    click.option("--inputs", "sample_file", type=FILE,
                 help="C: .npz whose first sample the example runs on, and whose labels say the accuracy; else the "
                      "calibration samples."),
    click.option("--classes", metavar="NAMES", help="C: names of the classes, a,b,c or a text file with one a line."),
)  # fmt: skip


def form_options(function: F) -> F:
    """Adds what says which form is written, and how."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def chosen_options(form: str, given: Mapping[str, Any]) -> OnnxOptions | PackageOptions | TfliteOptions:
    """The options of the form's kind; ConfigError for one that is given and says nothing about it."""
    own = ONNX if form == "onnx" else TFLITE if form == "tflite" else C
    others = {**ONNX, **C, **TFLITE, **(NOT_TFLITE if own is TFLITE else {})}
    _refuse({name: option for name, option in others.items() if name not in own}, form)
    values = {name: given[name] for name in own}
    if own is TFLITE:
        from picoformer.exporting_tflite import TfliteOptions

        return TfliteOptions(**values)
    from picoformer.exported import OnnxOptions, PackageOptions

    if own is ONNX:
        return OnnxOptions(**values)
    return PackageOptions(inputs=values.pop("sample_file"), **values)


def _refuse(options: Mapping[str, str], form: str) -> None:
    for name, option in options.items():
        if is_given(name):
            raise ConfigError(f"{option} says nothing about --format {form}; leave it out")


@click.command()
@click.argument("model", type=ANY)
@quantize_or_text_options
@decoder_options
@encoder_options
@form_options
@valid_length_option
@quantized_option
@tile_option
@click.option("-o", "--output", type=ANY, required=True, help="An .onnx or .tflite file; of C a folder, or a .zip.")
@json_option
def export(
    model: Path,
    shapes: tuple[str, ...],
    calibration: Path | None,
    scheme: str,
    settings: Any,
    form: str,
    valid_length: bool,
    quantized: Path | None,
    output: Path,
    as_json: bool,
    **given: Any,
) -> None:
    """Write a model as ONNX, as TFLite, or as C in many forms.

    ONNX is float or quantized; TFLite float32, int8 or 16x8 (--scheme int8x16), in operators that TFLite Micro runs.
    MODEL is an ONNX file, a checkpoint (.safetensors) or the Hugging Face folder of an encoder, or for C a folder that
    `build` wrote. Of a language model,
    given as for `build`, ONNX and TFLite are a step of one token with its caches as inputs and outputs.
    """
    from picoformer.exported import Source
    from picoformer.exporting import export_files

    options = chosen_options(form, given)
    source = Source(model, calibration, scheme, settings, read_shapes(shapes), valid_length, quantized)
    is_text = not is_build(model) and is_decoder(model, given)
    with opened_model(model, given) as (file, is_folder), progress() as tick:
        if is_folder:
            source = replace(source, model=file, valid_length=False)
        if is_text:
            from picoformer.decoder.exporting import export_decoder_files

            if form not in C_FORMS:
                _refuse(ONE_TOKEN, form)
            chosen = scheme if is_given("scheme") else DECODER_SCHEME
            record = export_decoder_files(source, chosen, form, output, options, given, tick)
        else:
            record = export_files(source, form, output, options, tick)
    show(record, as_json, lambda: show_tflite(record) if form == "tflite" else show_figures(record))


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
