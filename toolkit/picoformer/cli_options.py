"""Options that several commands share, and what their texts become."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from picoformer.errors import ConfigError

if TYPE_CHECKING:
    from picoformer.quantize import QuantizeSettings

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
ANY = click.Path(path_type=Path)
COUNT = click.IntRange(min=0)
SCHEMES = click.Choice(["int8", "int8x16", "int4x8", "int4x16", "float32"])
"""The names in picoformer.quantize.SCHEMES (a test compares them: importing it would make --help slow), and float32."""
C_FORMS = ("c", "c-arrays", "c-single", "arduino", "platformio", "esp-idf", "zephyr", "cmsis-pack")
"""The names in picoformer.packages.forms.FORMS (a test compares them)."""
METHODS = click.Choice(["percentile", "minmax", "mse"])
BUILD = ("cobs", "elftools", "jinja2", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "pydantic", "rich", "scipy",
         "serial")  # fmt: skip
"""Libraries of the compiler."""
EXTRAS = {**dict.fromkeys(BUILD, "build"), "tokenizers": "pi", "torch": "train", "safetensors": "train",
          "sklearn": "train", "ai_edge_litert": "tflite", "flatbuffers": "tflite", "tflite_micro": "tflite",
          "tensorflow": "tensorflow"}  # fmt: skip
"""A library that is not always there → the extra that brings it."""


def missing_extra(library: str, command: str | None) -> str:
    """The extra that brings a library which a command lacks."""
    name = library.split(".")[0]
    if command == "pi" and name == "onnxruntime":
        return "pi"  # which brings no more than a Pi needs
    return EXTRAS.get(name, "dev")


def json_option(function: F) -> F:
    """Adds --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")(function)


def shape_option(function: F) -> F:
    """Adds --shape."""
    return click.option(
        "--shape", "shapes", multiple=True, metavar="NAME=1,64,16", help="Fix the dynamic axes of an input; repeatable."
    )(function)


def is_given(name: str) -> bool:
    """Whether a parameter of the running command stands on the command line."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def refuse_given(options: Mapping[str, str], whose: str) -> None:
    """Raise ConfigError for an option (parameter → as it is written) that says nothing about `whose` build."""
    for name, option in options.items():
        if is_given(name):
            raise ConfigError(f"{option} says nothing about {whose} build; leave it out")


def quantize_options(function: F, more_of: tuple[str, str] = ("", "")) -> F:
    """Adds all that says how a model is quantized; the command gets it as one argument `settings`. `more_of`: what the
    help says besides of --scheme and of --calibration."""

    @functools.wraps(function)
    def with_settings(**options: Any) -> Any:
        if options.get("quantized") is not None:
            for name in ("scheme", *QUANTIZE_OPTIONS):
                if is_given(name):
                    option = "inputs-dtype" if name == "inputs" else name.replace("_", "-")
                    raise ConfigError(f"--{option} says how to quantize, and --quantized that it is done; keep one")
        given = {name: options.pop(name) for name in QUANTIZE_OPTIONS}
        return function(settings=quantize_settings(**given), **options)

    command: Any = with_settings
    for option in (
        *QUANTIZE_OPTIONS.values(),
        click.option(
            "--scheme", type=SCHEMES, default="int8", show_default=True, help=f"What the numbers become{more_of[0]}."
        ),
        click.option("--calibration", type=FILE, help=f".npz with samples of the model's inputs{more_of[1]}."),
        shape_option,
    ):
        command = option(command)
    result: F = command
    return result


def quantize_or_text_options(function: F) -> F:
    """`quantize_options` of a command that takes language models too."""
    return quantize_options(
        function, ("; of a language model int8x16 where none is given", "; of a language model a text, or its tokens")
    )


QUANTIZE_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "budget": click.option(
        "--budget",
        metavar="BYTES",
        help="Most bytes for constants (98304, 96KB, 96KiB): weights become int4 where it costs least.",
    ),
    "equalization": click.option(
        "--equalization",
        type=click.Choice(["off", "auto", "on"]),
        default="off",
        show_default=True,
        help="Move channel scales between layers: never, where the outputs gain, always.",
    ),
    "widen": click.option(
        "--widen",
        type=click.FloatRange(0, 1),
        default=0.01,
        show_default=True,
        help="Share of the multiply-accumulates that may read values widened to 16 bits.",
    ),
    "wide_weights": click.option(
        "--wide-weights",
        type=click.FloatRange(0, 4),
        help="Share of the constants' bytes that weights may grow by for more bits; 0, and 0.25 for small decoders.",
    ),
    "inputs": click.option(
        "--inputs-dtype",
        "inputs",
        type=click.Choice(["int8", "int16"]),
        default="int8",
        show_default=True,
        help="Least integer type of the model's inputs; int16 with 16-bit activations.",
    ),
    "bias_correction": click.option(
        "--bias-correction/--no-bias-correction",
        default=True,
        show_default=True,
        help="Biases take up the mean error of rounding.",
    ),
    "rounding": click.option(
        "--rounding",
        type=click.Choice(["gptq", "nearest"]),
        default="gptq",
        show_default=True,
        help="How weights become integers.",
    ),
    "percentile": click.option(
        "--percentile",
        type=click.FloatRange(50, 100, min_open=True),
        default=99.99,
        show_default=True,
        help="Part of the samples inside the range.",
    ),
    "method": click.option(
        "--method", type=METHODS, default="percentile", show_default=True, help="How ranges are chosen."
    ),
}
"""Keys of the section [quantization] → the option that says the same."""


def quantized_option(function: F) -> F:
    """Adds --quantized."""
    return click.option(
        "--quantized", type=FOLDER, help="Take the integers from a folder that quantize or finetune wrote."
    )(function)


def valid_length_option(function: F) -> F:
    """Adds --valid-length."""
    return click.option(
        "--valid-length", is_flag=True, help="Add an input for the number of rows that are not padding."
    )(function)


def tile_option(function: F) -> F:
    """Adds --tile."""
    return click.option(
        "--tile",
        default="auto",
        show_default=True,
        metavar="auto|4%|least|none|ROWS",
        help="Compute rows in tiles: the least memory for about 3.5 % more instructions, for at most another part by "
        "the core's measured costs, for any number of them; no tiles; or so many rows at a time where it saves memory.",
    )(function)


ONLY_MODELS = {"scheme": "--scheme", "calibration": "--calibration", "quantized": "--quantized", "shapes": "--shape",
               "valid_length": "--valid-length", "budget": "--budget"}  # fmt: skip
"""Options of `export` that a folder which `build` wrote has decided."""


def is_build(model: Path) -> bool:
    """Whether a model is a folder that `build` wrote; ConfigError for options that it has decided."""
    found = (model / "build.json").is_file()
    if found:
        refuse_given(ONLY_MODELS, "this folder's")
    return found


def toolchain_option(function: F) -> F:
    """Adds --toolchain."""
    return click.option(
        "--toolchain",
        type=click.Choice(["auto", "gcc", "clang", "zig"]),
        default="auto",
        help="What compiles; auto: the target's gcc if it is installed, else zig from PyPI.",
    )(function)


def emulator_option(function: F) -> F:
    """Adds --emulator."""
    return click.option(
        "--emulator",
        type=click.Choice(["auto", "qemu", "unicorn"]),
        default="auto",
        help="What runs the board's firmware; auto: QEMU if it is installed, else unicorn from PyPI.",
    )(function)


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


def quantize_settings(**given: Any) -> QuantizeSettings:
    """The quantizer's settings, from keys of the section [quantization]; raises ConfigError."""
    from pydantic import ValidationError

    from picoformer.config import QuantizationSection

    for key in ("percentile", "widen", "wide_weights"):
        if given[key] is not None and not math.isfinite(given[key]):
            raise ConfigError(f"--{key.replace('_', '-')} {given[key]}: give a finite number")
    try:
        return QuantizationSection(**given).settings()
    except ValidationError as error:
        first = error.errors()[0]
        reason = str(first.get("ctx", {}).get("error", first["msg"]))
        raise ConfigError(f"--{str(first['loc'][0]).replace('_', '-')}: {reason}") from None


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
