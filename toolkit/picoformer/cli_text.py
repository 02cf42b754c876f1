"""The commands of language models: generate text, and say how well a model foretells one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from picoformer.cli_encoder import ONLY_ENCODER_FOLDERS, is_encoder_folder
from picoformer.cli_options import (
    ANY,
    COUNT,
    FILE,
    emulator_option,
    is_given,
    json_option,
    refuse_given,
    toolchain_option,
)
from picoformer.cli_output import notice, progress, show, show_figures
from picoformer.errors import ConfigError

DECODER_SCHEMES = click.Choice(["float32", "int8x16", "int4x16"])
"""Those in picoformer.decoder.quantize (a test compares them)."""

DECODER_SCHEME = "int8x16"
"""Where none is given."""
ONLY_PAIRS = {"source": "--source"}
"""Options of `build` that only encoder-decoders have a use for."""
ONLY_DECODERS = {"beams": "--beams", "block": "--block", "context": "--context", "tokenizer": "--tokenizer"}
"""Options of `build` and `export` that other models have no use for."""
ONLY_ENCODERS = {"shapes": "--shape", "valid_length": "--valid-length", "quantized": "--quantized", "tile": "--tile",
                 "equalization": "--equalization", "sample_file": "--inputs", "classes": "--classes",
                 **ONLY_ENCODER_FOLDERS}  # fmt: skip
"""Options of `build` and `export` that a language model has no use for."""

_DECODER_OPTIONS = (
    click.option("--beams", type=click.IntRange(1, 64), default=1, show_default=True, help="Beams of a search."),
    click.option("--block", type=click.IntRange(1, 1024), default=8, show_default=True,
                 help="Tokens of a prompt read together."),
    click.option("--context", type=COUNT, default=0, help="Tokens of prompt and text together; 0: all it knows."),
    click.option("--tokenizer", type=ANY, help="tokenizer.json, a SentencePiece model or llama2.c's tokenizer.bin."),
)  # fmt: skip


def is_decoder(model: Path, options: Mapping[str, Any]) -> bool:
    """Whether a model is a language model's checkpoint; ConfigError for options that do not go with what it is."""
    is_folder = model.is_dir() and not is_encoder_folder(model)
    found: bool = options["decoder"] or is_folder or model.suffix == ".bin"
    refuse_given(ONLY_ENCODERS if found else ONLY_DECODERS, "a language model's" if found else "this model's")
    return found


def is_pair(model: Path) -> bool:
    """Whether a folder's config.json says that it is an encoder-decoder; ConfigError for options of one elsewhere."""
    from picoformer.models.importers.load_pair import is_pair_folder

    found = is_pair_folder(model)
    if not found:
        refuse_given(ONLY_PAIRS, "this model's")
    return found


def decoder_options(function: Any) -> Any:
    """What `build` takes of a language model that is to write text."""
    for option in (
        *_DECODER_OPTIONS,
        click.option("--source", type=COUNT, default=0, help="Tokens of an encoder-decoder's source; 0: all it knows."),
        click.option("--decoder", is_flag=True, help="Of a .safetensors: build what writes text token by token."),
    ):
        function = option(function)
    return function


def model_options(function: Any) -> Any:
    """What says which model, in which numbers, and where it runs."""
    for option in (
        toolchain_option,
        emulator_option,
        click.option("--port", help="Serial port of a board that runs this build."),
        click.option("--target", help="Where it runs: a target, host, or reference (numpy); default: reference."),
        *_DECODER_OPTIONS,
        click.option("--calibration", type=FILE, help="A text to calibrate on; without one the model writes its own."),
        click.option("--scheme", type=DECODER_SCHEMES, default=DECODER_SCHEME, show_default=True, help="The numbers."),
    ):  # fmt: skip
        function = option(function)
    return function


_TEXT_OPTIONS = (
    click.option("--prompt", help="Text to continue."),
    click.option("--prompt-ids", metavar="5,17", help="Token ids to continue, in place of a text."),
    click.option(
        "--tokens", type=click.IntRange(1, 65536), default=128, show_default=True, help="Most tokens to write."
    ),
    click.option("--greedy", is_flag=True, help="Always take the likeliest token."),
    click.option("--temperature", type=float, default=1.0, show_default=True, help="Flattens or sharpens the choice."),
    click.option("--top-k", type=COUNT, default=0, help="Choose among so many likeliest tokens; 0: all."),
    click.option("--top-p", type=float, default=1.0, help="Choose among the likeliest that make up this share."),
    click.option("--min-p", type=float, default=0.0, help="Choose among those at least this likely, to the likeliest."),
    click.option("--repetition-penalty", type=float, default=1.0, help="Above 1 makes what was there less likely."),
    click.option("--seed", type=int, default=0, help="Same seed, same text, on every machine."),
    click.option("--length-penalty", type=float, default=1.0, help="Of beam search: above 0 prefers longer texts."),
    click.option(
        "--early-stopping",
        type=click.Choice(["false", "true", "never"]),
        default="false",
        help="Of beam search: when it ends.",
    ),
    click.option("--stop", "stops", multiple=True, help="End where this text appears; repeatable."),
    click.option("--stop-ids", metavar="1,2", help="End at these tokens; default: the model's end of text."),
)


def text_options(function: Any) -> Any:
    """What to continue, how to choose tokens, and when to end: the fields of generation.request.TextRequest."""
    for option in reversed(_TEXT_OPTIONS):
        function = option(function)
    return function


@click.command()
@click.argument("model", type=ANY)
@text_options
@model_options
@json_option
def generate(model: Path, as_json: bool, **options: Any) -> None:
    """Write text with a language model, here or on a board.

    MODEL is a checkpoint (a Hugging Face folder, a llama2.c .bin, a .safetensors of picoformer) or the folder of a
    build. The same flags and the same seed give the same text on every machine.
    """  # fmt: skip
    from picoformer.decoder.generating import GenerateOptions, generate_files

    def emit(text: str) -> None:
        click.echo(text, nl=False)
        sys.stdout.flush()

    chosen = GenerateOptions(
        **{
            **options,
            "prompt_ids": token_ids("--prompt-ids", options["prompt_ids"]),
            "stop_ids": token_ids("--stop-ids", options["stop_ids"]),
            "given": given_options(options),
        }
    )
    with progress() as tick:
        record = generate_files(
            model, chosen, None if as_json else emit, lambda what, done, total: tick(what, done, total, 0.0), notice
        )

    def figures() -> None:
        click.echo()
        for title, figure in generation_rows(record):
            click.echo(f"  {title:<26} {figure}")

    show(record, as_json, figures)


def generation_rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What `generate` says below its text: figures that were measured, and one reason where no instruction was."""
    rows = []
    for key, value in record.items():
        title = key.replace("_", " ")
        if isinstance(value, dict):
            title, value = f"{title.removesuffix(' bytes')}, bytes", value["total"]
        if value is None or key in ("tokens", "text", "texts"):
            continue
        if key == "instructions_uncounted":
            title, value = "instructions", f"not counted: {value}"
        elif isinstance(value, float):
            value = f"{value:,.{1 if key == 'tokens_per_second' else 0}f}"
        rows.append((title, f"{value:,}" if isinstance(value, int) else str(value)))
    return rows


@click.command()
@click.argument("model", type=ANY)
@click.option("--text", "text", type=FILE, required=True, help="The text to foretell, UTF-8.")
@click.option("--window", type=COUNT, default=0, help="Tokens of a window; 0: 128, or the context if that is less.")
@click.option("--windows", type=click.IntRange(1), default=32, show_default=True, help="Windows, evenly over the text.")
@model_options
@json_option
def perplexity(model: Path, text: Path, window: int, windows: int, as_json: bool, **options: Any) -> None:
    """Say how well a language model foretells a text.

    Perplexity a token and bits a character, of the float model and of the one that was quantized, on the reference and,
    with --target, on a device. MODEL as for `generate`.
    """
    from picoformer.decoder.generating import ModelOptions
    from picoformer.decoder.perplexity import perplexity_files

    chosen = ModelOptions(**options, given=given_options(options))
    with progress() as tick:
        record = perplexity_files(
            model, text, chosen, window, windows, lambda what, done, total: tick(what, done, total, 0.0)
        )
    show(record, as_json, lambda: show_figures(record))


def given_options(options: Mapping[str, Any]) -> frozenset[str]:
    """Which of the running command's options stand on its command line."""
    return frozenset(name for name in options if is_given(name))


def token_ids(
    option: str, text: str | None, what: str = "token ids with commas between, 5,17"
) -> tuple[int, ...] | None:
    """The token ids of an option, `5,17`, or `what` else its numbers are; ConfigError for other text."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"{option} {text}: write {what}")
    return tuple(int(part) for part in parts)


COMMANDS = (generate, perplexity)
