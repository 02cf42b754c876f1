"""Options that several commands share, and what their texts become."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from picoformer.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
ANY = click.Path(path_type=Path)
COUNT = click.IntRange(min=0)
SCHEMES = click.Choice(["int8", "int8x16", "float32"])
"""The names in picoformer.quantize.SCHEMES (a test compares them: importing it would make --help slow), and float32."""
METHODS = click.Choice(["percentile", "minmax", "mse"])


def json_option(function: F) -> F:
    """Adds --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")(function)


def shape_option(function: F) -> F:
    """Adds --shape."""
    return click.option(
        "--shape", "shapes", multiple=True, metavar="NAME=1,64,16", help="Fix the dynamic axes of an input; repeatable."
    )(function)


def quantize_options(function: F) -> F:
    """Adds all that says how a model is quantized."""
    for option in (
        click.option(
            "--inputs-dtype",
            type=click.Choice(["int8", "int16"]),
            default="int8",
            show_default=True,
            help="Integer type of the model's inputs; int16 with 16-bit activations.",
        ),
        click.option(
            "--bias-correction/--no-bias-correction",
            default=True,
            show_default=True,
            help="Biases take up the mean error of rounding.",
        ),
        click.option(
            "--rounding",
            type=click.Choice(["gptq", "nearest"]),
            default="gptq",
            show_default=True,
            help="How weights become integers.",
        ),
        click.option(
            "--percentile",
            type=click.FloatRange(50, 100, min_open=True),
            default=99.99,
            show_default=True,
            help="Part of the samples inside the range.",
        ),
        click.option("--method", type=METHODS, default="percentile", show_default=True, help="How ranges are chosen."),
        click.option("--scheme", type=SCHEMES, default="int8", show_default=True, help="What the numbers become."),
        click.option("--calibration", type=FILE, help=".npz with samples of the model's inputs."),
        shape_option,
    ):
        function = option(function)
    return function


def read_shapes(texts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """The --shape options as input name → shape; raises ConfigError naming one that makes no sense."""
    shapes = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        if not name or not all(size.strip().isdecimal() and int(size) > 0 for size in sizes.split(",")):
            raise ConfigError(f"--shape {text}: write NAME=1,64,16 with whole numbers above 0")
        if name in shapes:
            raise ConfigError(f"--shape {text}: the shape of '{name}' is given twice; keep one")
        shapes[name] = tuple(int(size) for size in sizes.split(","))
    return shapes


def quantize_settings(
    method: str, percentile: float, inputs_dtype: str, rounding: str = "gptq", bias_correction: bool = True
) -> Any:
    """The quantizer's settings; raises ConfigError."""
    from picoformer.config import QuantizationSection

    if not math.isfinite(percentile):
        raise ConfigError(f"--percentile {percentile}: give a number above 50 and at most 100")
    section = QuantizationSection(
        method=method,  # type: ignore[arg-type]
        percentile=percentile,
        inputs=inputs_dtype,  # type: ignore[arg-type]
        rounding=rounding,  # type: ignore[arg-type]
        bias_correction=bias_correction,
    )
    return section.settings()


def compress_options(function: F) -> F:
    """Adds all that a command takes which makes a checkpoint smaller and recovers it."""
    for option in (
        json_option,
        click.option("-o", "--output", type=FILE, required=True, help="The file to write."),
        click.option("--teacher", type=FILE, help="Recover by distillation from this checkpoint."),
        config_option,
        click.argument("data", type=FILE),
        click.argument("checkpoint", type=FILE),
    ):
        function = option(function)
    return function


def config_option(function: F) -> F:
    """Adds --config."""
    return click.option("--config", type=FILE, required=True, help="Pipeline TOML whose sections are the settings.")(
        function
    )
