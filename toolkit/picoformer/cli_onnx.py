"""Commands on ONNX files that make others of them."""

from __future__ import annotations

import math
from pathlib import Path

import click

from picoformer.cli_options import FILE, json_option, read_shapes, shape_option
from picoformer.cli_output import show
from picoformer.errors import ConfigError


@click.command()
@click.argument("model", type=FILE)
@click.argument("inputs", nargs=-1, required=True, metavar="NAME=NUMBERS…")
@click.option("-o", "--out", type=FILE, required=True, help="The ONNX file to write.")
@shape_option
@json_option
def fix(model: Path, inputs: tuple[str, ...], out: Path, shapes: tuple[str, ...], as_json: bool) -> None:
    """Fix inputs of an ONNX file, such as a mask.

    NAME=1 fills the input with one number, NAME=0,1,2 gives it as many as it has elements; what depends on it alone is
    then computed when the file is read. All that follows, onnxruntime too, takes the file that is written.
    """
    from picoformer.files import atomic_write_bytes, refuse_inputs
    from picoformer.frontends.onnx_fix import fix_inputs

    refuse_inputs(out, (model,))
    data, fixed = fix_inputs(model, _numbers(inputs), read_shapes(shapes))
    atomic_write_bytes(out, data)
    record = {"model": str(out), "fixed": fixed, "bytes": len(data)}
    listing = ", ".join(f"{name} {shape}" for name, shape in fixed.items())
    show(record, as_json, lambda: click.echo(f"{out}: {len(data):,} bytes, fixed: {listing}"))


def _numbers(texts: tuple[str, ...]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for text in texts:
        name, _, numbers = text.rpartition("=")
        try:
            values = [float(number) for number in numbers.split(",")]
        except ValueError:
            values = []
        if not name or not values or not all(map(math.isfinite, values)):
            raise ConfigError(f"{text}: write NAME=1, or NAME=0,1,2 with a number for each element")
        if name in found:
            raise ConfigError(f"{text}: '{name}' is given twice; keep one")
        found[name] = values
    return found


COMMANDS = (fix,)
