"""The command line: one command per stage, no logic of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from picoformer import __version__
from picoformer.cli_bootloader import bootloader, bootloader_options, chosen_target
from picoformer.cli_data import COMMANDS as DATA_COMMANDS
from picoformer.cli_device import COMMANDS as DEVICE_COMMANDS
from picoformer.cli_encoder import encoder_options, is_encoder_folder, opened_model
from picoformer.cli_estimate import estimate_options, fits_options, inspect_on_target, list_fitting
from picoformer.cli_export import export
from picoformer.cli_flash import COMMANDS as BOARD_COMMANDS
from picoformer.cli_onnx import COMMANDS as ONNX_COMMANDS
from picoformer.cli_options import (
    ANY,
    COUNT,
    FILE,
    FOLDER,
    emulator_option,
    is_given,
    json_option,
    missing_extra,
    quantize_options,
    quantize_or_text_options,
    quantized_option,
    read_shapes,
    shape_option,
    tile_option,
    toolchain_option,
    valid_length_option,
)
from picoformer.cli_output import notice, progress, show, show_figures
from picoformer.cli_pi import pi
from picoformer.cli_pi_host import COMMANDS as PI_HOST_COMMANDS
from picoformer.cli_text import COMMANDS as TEXT_COMMANDS
from picoformer.cli_text import DECODER_SCHEME, decoder_options, is_decoder, is_pair
from picoformer.cli_training import COMMANDS as TRAINING_COMMANDS
from picoformer.cli_translate import COMMANDS as TRANSLATE_COMMANDS
from picoformer.errors import DeviceError, ModelError, PicoformerError


class _Group(click.Group):
    """Turns errors that are the input's fault into one line and exit code 1; a traceback only with --debug."""

    def invoke(self, ctx: click.Context) -> Any:
        if ctx.params.get("debug"):
            return super().invoke(ctx)
        try:
            return super().invoke(ctx)
        except PicoformerError as error:
            click.echo(f"picoformer: {' '.join(str(error).split())}", err=True)
        except ModuleNotFoundError as error:
            extra = missing_extra(str(error.name), ctx.invoked_subcommand)
            click.echo(f"picoformer: {error.name} is not installed; pip install 'picoformer[{extra}]'", err=True)
        except (KeyboardInterrupt, click.Abort):
            click.echo("picoformer: stopped; nothing half-written is left", err=True)
            exec("")  # an interrupt inside an exec of text, as imports do, is remembered as unhandled until the next
            ctx.exit(130)
        except BrokenPipeError:
            raise  # whoever read the output has enough; click ends without a word
        except OSError as error:
            click.echo(f"picoformer: {error.filename or 'file system'}: {error.strerror or error}", err=True)
        except MemoryError:
            click.echo("picoformer: out of memory; the model or the data is too large for this machine", err=True)
        except click.exceptions.ClickException:
            raise
        except (click.exceptions.Exit, SystemExit):
            raise
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            click.echo(f"picoformer: a fault of this program ({what}); `picoformer --debug` shows where", err=True)
        ctx.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="picoformer")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def main(debug: bool) -> None:
    """Take a trained transformer, make it small, and turn it into verified microcontroller firmware."""


@main.command()
@click.argument("pipeline_file", type=FILE)
@click.option("--force", is_flag=True, help="Run every stage again.")
@toolchain_option
@emulator_option
@json_option
def run(pipeline_file: Path, force: bool, toolchain: str, emulator: str, as_json: bool) -> None:
    """Run every stage of a pipeline that is out of date.

    The stages, their settings and the output folder are in PIPELINE_FILE (TOML). Prints the report at the end.
    """
    from picoformer.config import load_pipeline
    from picoformer.pipeline import run_pipeline
    from picoformer.reporting import print_report, read_report

    def announce(stage: str, state: str) -> None:
        if state != "done":
            click.echo(f"{stage:<10} {state}", err=True)

    pipeline = load_pipeline(pipeline_file)
    with progress() as tick:
        out = run_pipeline(pipeline, tick, announce, force, toolchain, emulator)
    report = read_report(out)
    show(report.to_json(), as_json, lambda: print_report(report))


for command in (
    export, bootloader, *TRAINING_COMMANDS, *TEXT_COMMANDS, *TRANSLATE_COMMANDS, *ONNX_COMMANDS, *DATA_COMMANDS,
    *DEVICE_COMMANDS, *BOARD_COMMANDS, pi,
):  # fmt: skip
    main.add_command(command)
for command in PI_HOST_COMMANDS:
    pi.add_command(command)


@main.command()
@click.argument("model", type=ANY)
@quantize_options
@encoder_options
@valid_length_option
@click.option("-o", "--output", type=FOLDER, required=True, help="The folder to write; build takes it.")
@json_option
def quantize(
    model: Path,
    shapes: tuple[str, ...],
    calibration: Path | None,
    scheme: str,
    settings: Any,
    valid_length: bool,
    output: Path,
    as_json: bool,
    **encoder: Any,
) -> None:
    """Quantize a model and show what each tensor loses.

    MODEL is an ONNX file, a checkpoint (.safetensors) or the Hugging Face folder of an encoder.
    """
    from picoformer.exporting import quantize_files
    from picoformer.reporting import print_quality

    with opened_model(model, encoder) as (file, is_folder), progress() as tick:
        record = quantize_files(
            file, calibration, scheme, output, settings, read_shapes(shapes), tick, valid_length and not is_folder
        )
    show(record, as_json, lambda: print_quality(record))


@main.command()
@click.argument("model", type=ANY)
@quantize_or_text_options
@decoder_options
@encoder_options
@click.option("--target", required=True, help="A target's name or its TOML file.")
@click.option("--prefix", default="model", show_default=True, help="Start of every C symbol and file name.")
@valid_length_option
@quantized_option
@tile_option
@toolchain_option
@bootloader_options
@click.option("-o", "--output", type=FOLDER, required=True, help="The folder to write.")
@json_option
def build(
    model: Path,
    shapes: tuple[str, ...],
    calibration: Path | None,
    scheme: str,
    settings: Any,
    target: str,
    prefix: str,
    valid_length: bool,
    quantized: Path | None,
    tile: str,
    toolchain: str,
    has_bootloader: bool,
    image_version: int | None,
    output: Path,
    as_json: bool,
    **decoder: Any,
) -> None:
    """Build firmware: C sources, host program, ELF for the target.

    MODEL is an ONNX file, a checkpoint (.safetensors) or the Hugging Face folder of an encoder. A language model that
    is to write text, token by token, is a Hugging Face folder, a llama2.c .bin, or a .safetensors with --decoder;
    its calibration is a text or an .npz of tokens, and without one the model writes its own. The OUTPUT folder is
    replaced as a whole, or left alone when something goes wrong.
    """
    from picoformer.build_folder import build_files
    from picoformer.reporting import build_record, print_build

    board = chosen_target(target, has_bootloader, image_version)
    if is_decoder(model, decoder):
        scheme = scheme if is_given("scheme") else DECODER_SCHEME
        given = {
            "model": model, "target": board, "out": output, "scheme": scheme, "calibration": calibration,
            "settings": settings, "prefix": prefix, "toolchain": toolchain, "options": decoder,
        }  # fmt: skip
        with progress() as tick:
            written = _build_text(given, is_pair(model), lambda what, done, total: tick(what, done, total, 0.0))
        record = {**build_record(written.build, board), **written.record.figures()}
        show(record, as_json, lambda: print_build(record))
        return
    with opened_model(model, decoder) as (file, is_folder), progress() as tick:
        made = build_files(
            file, calibration, scheme, board, output, prefix, settings, read_shapes(shapes),
            valid_length and not is_folder,
            progress=lambda what, done, total: tick(what, done, total, 0.0), quantized=quantized,
            toolchain=toolchain, tile=tile,
        )  # fmt: skip
    record = build_record(made, board)
    show(record, as_json, lambda: print_build(record))


def _build_text(given: dict[str, Any], pair: bool, tick: Any) -> Any:
    """The build of a language model, or of an encoder-decoder."""
    if pair:
        from picoformer.encoder_decoder.build import build_pair_files

        return build_pair_files(**given, progress=tick)
    from picoformer.decoder.build_command import build_decoder_files

    return build_decoder_files(**given, progress=tick, told=notice)


@main.command()
@click.argument("folder", type=FOLDER)
@click.option("--inputs", type=FILE, required=True,
              help='.npz of samples; an array "labels" gives accuracy. Of a language model an array "tokens" of ids, '
              "(texts, length).")  # fmt: skip
@click.option("--port", help="Serial port of a board that runs this build, in place of the emulator.")
@click.option("--checkpoint", type=FILE, help="Put the torch model of this checkpoint in front of the chain.")
@click.option("--samples", type=COUNT, default=0, help="Use only the first so many samples; 0: all.")
@click.option("--min-sqnr", type=float, default=10.0, show_default=True, help="Least SQNR in dB, float to device.")
@emulator_option
@json_option
def verify(
    folder: Path,
    inputs: Path,
    port: str | None,
    checkpoint: Path | None,
    samples: int,
    min_sqnr: float,
    emulator: str,
    as_json: bool,
) -> None:
    """Check that a build computes what the model computes.

    Runs every form of the model on the same samples, float model first, device last. Integer forms must be equal and
    the last one no further from the float model than --min-sqnr: the exit code is 1 when a link does not hold, and the
    first step, tensor and element that differ are named.
    """
    from picoformer.decoder.build import is_decoder
    from picoformer.reporting import print_verification
    from picoformer.verification import verify_files

    with progress() as tick:
        if is_decoder(folder):
            from picoformer.decoder.verify import verify_decoder_files

            found = verify_decoder_files(folder, inputs, port, samples, tick, min_sqnr, emulator)
        else:
            found = verify_files(folder, inputs, port, checkpoint, samples, tick, min_sqnr, emulator)
    record = found.to_json()
    show(record, as_json, lambda: print_verification(record, folder))
    if not found.report.passed:
        raise DeviceError(f"parity does not hold: {found.report.failures[0]}")


@main.command()
@click.argument("folder", type=FOLDER)
@click.option("--inputs", type=FILE, required=True, help=".npz of samples.")
@click.option("-o", "--output", type=FILE, help="Write the outputs as real numbers to this .npz.")
@click.option("--samples", type=COUNT, default=0, help="Use only the first so many samples.")
@emulator_option
@json_option
def emulate(folder: Path, inputs: Path, output: Path | None, samples: int, emulator: str, as_json: bool) -> None:
    """Run a build's firmware in its emulator.

    Gives outputs, instructions per inference, and the stack it took.
    """
    from picoformer.exporting import emulate_files

    with progress() as tick:
        record = emulate_files(folder, inputs, output, samples, tick, emulator)
    show(record, as_json, lambda: show_figures(record))


@main.command()
@click.argument("folder", type=FOLDER)
@json_option
def report(folder: Path, as_json: bool) -> None:
    """Print the report of a finished pipeline run.

    FOLDER is the run's output folder; its report.html says the same as a page.
    """
    from picoformer.reporting import print_report, read_report

    record = read_report(folder)
    show(record.to_json(), as_json, lambda: print_report(record))


@main.command()
@click.argument("model", type=ANY)
@shape_option
@encoder_options
@estimate_options
@tile_option
@toolchain_option
@json_option
def inspect(
    model: Path,
    shapes: tuple[str, ...],
    target: str | None,
    scheme: str,
    calibration: Path | None,
    tile: str,
    toolchain: str,
    as_json: bool,
    **encoder: Any,
) -> None:
    """Show a model's operators, or what it takes on a board.

    With their shapes, parameters and multiply-accumulates, and of an ONNX file what becomes of each of its nodes, also
    where one is refused: the exit code is 1 then. MODEL is an ONNX file, a checkpoint (.safetensors) or the Hugging
    Face folder of an encoder; of the folder of a build or of `quantize`, show what each tensor was rounded to and
    what that costs. With --target estimate flash, RAM, instructions and time without compiling anything: the exit
    code is 1 when the model does not fit.
    """
    from picoformer.decoder.build import is_decoder

    is_text = is_decoder(model) or (model / "config.json").is_file() or (model.suffix == ".bin" and model.is_file())
    if is_text and not is_encoder_folder(model):
        raise ModelError(f"{model}: is a language model; `build` says what it takes on a board, `verify` shows a build")
    if model.is_dir() and not is_encoder_folder(model) and target is None:
        _inspect_folder(model, as_json)
        return
    with opened_model(model, encoder) as (file, _):
        if target is not None:
            inspect_on_target(file, target, scheme, calibration, read_shapes(shapes), as_json, tile, toolchain)
            return
        from picoformer.exporting import inspect_file
        from picoformer.reporting import print_inspection

        record = inspect_file(file, read_shapes(shapes))
        show(record, as_json, lambda: print_inspection(record))
        if "unsupported" in record and "parts" not in record:
            raise PicoformerError(record["unsupported"])


def _inspect_folder(folder: Path, as_json: bool) -> None:
    """What each tensor of a quantized build was rounded to."""
    from picoformer.quantization_report import print_quantization, read_quantization

    chosen = read_quantization(folder)
    if chosen is None:
        raise ModelError(f"{folder}: has no quantization.json; give a model, or the folder of a quantized build")
    show(chosen, as_json, lambda: print_quantization(chosen))


@main.command()
@fits_options
@encoder_options
@json_option
def targets(
    fits: Path | None, scheme: str, shapes: tuple[str, ...], toolchain: str, as_json: bool, **encoder: Any
) -> None:
    """List boards and emulated machines, or those a model fits.

    With core, clock, memory, instruction sets, and what runs a build without the board.
    """
    if fits is not None:
        with opened_model(fits, encoder) as (file, _):
            list_fitting(file, scheme, read_shapes(shapes), toolchain, as_json)
        return
    from picoformer.reporting import print_targets, target_record
    from picoformer.targets import list_targets, load_target

    record = [target_record(load_target(name)) for name in list_targets()]
    show(record, as_json, lambda: print_targets(record))


@main.command()
@json_option
def doctor(as_json: bool) -> None:
    """Show which tools are there, and what builds and runs here.

    Also how to get the rest, and which compiler and emulator each target gets.
    Exit code 1 when no board's firmware can be built and run here.
    """
    from picoformer.doctor import examine

    found = examine()

    def table() -> None:
        for tool in found.tools:
            click.echo(f"{'found  ' if tool.found else 'MISSING'} {tool.name:<20} {tool.found or tool.purpose}")
            if not tool.found:
                click.echo(f"{'':8}{'':20} {tool.mend}")
        click.echo()
        for line in found.summary:
            click.echo(line)

    show(found.to_json(), as_json, table)
    if not found.is_ready:
        sys.exit(1)


if __name__ == "__main__":
    main()
