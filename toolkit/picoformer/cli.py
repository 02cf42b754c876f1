"""The command line: one command per stage, no logic of its own."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from picoformer import __version__
from picoformer.errors import ConfigError, DeviceError, PicoformerError

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
ANY = click.Path(path_type=Path)
COUNT = click.IntRange(min=0)
SCHEMES = click.Choice(["int8", "float32"])
METHODS = click.Choice(["percentile", "minmax", "mse"])


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
            extra = "train" if error.name in ("torch", "safetensors", "sklearn") else "dev"
            click.echo(f"picoformer: {error.name} is not installed; pip install 'picoformer[{extra}]'", err=True)
        except (KeyboardInterrupt, click.Abort):
            click.echo("picoformer: stopped; nothing half-written is left", err=True)
            ctx.exit(130)
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


def _json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")(function)


def _shape_option(function: F) -> F:
    return click.option(
        "--shape", "shapes", multiple=True, metavar="NAME=1,64,16", help="Fix the dynamic axes of an input; repeatable."
    )(function)


def _quantize_options(function: F) -> F:
    for option in (
        click.option("--inputs-dtype", type=click.Choice(["int8", "int16"]), default="int8", show_default=True),
        click.option("--percentile", type=click.FloatRange(50, 100, min_open=True), default=99.99, show_default=True, help="For --method percentile."),
        click.option("--method", type=METHODS, default="percentile", show_default=True, help="How ranges are chosen."),
        click.option("--scheme", type=SCHEMES, default="int8", show_default=True),
        click.option("--calibration", type=FILE, help=".npz with samples of the model's inputs."),
        _shape_option,
    ):
        function = option(function)
    return function


def _shapes(texts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        if not name or not all(size.strip().isdecimal() and int(size) > 0 for size in sizes.split(",")):
            raise ConfigError(f"--shape {text}: write NAME=1,64,16 with whole numbers above 0")
        if name in shapes:
            raise ConfigError(f"--shape {text}: the shape of '{name}' is given twice; keep one")
        shapes[name] = tuple(int(size) for size in sizes.split(","))
    return shapes


def _settings(method: str, percentile: float, inputs_dtype: str) -> Any:
    from picoformer.config import QuantizationSection

    section = QuantizationSection(method=method, percentile=percentile, inputs=inputs_dtype)  # type: ignore[arg-type]
    return section.settings()


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int, float], None]]:
    """A progress bar on standard error for work of more than a moment; silent where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<34}"), BarColumn(30), TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def tick(label: str, done: int, total: int, loss: float) -> None:
            if label not in tasks:
                for task in tasks.values():
                    bar.update(task, visible=False)
                tasks[label] = bar.add_task(label, total=total, note="")
            note = f"loss {loss:.3f}" if loss else ""
            bar.update(tasks[label], completed=done, total=total, note=note, visible=True)

        yield tick


def _print(record: Any, as_json: bool, table: Callable[[], None]) -> None:
    if as_json:
        click.echo(json.dumps(record))
    else:
        table()


def _figures(record: dict[str, Any]) -> None:
    for key, value in record.items():
        if isinstance(value, dict):
            continue
        text = f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
        click.echo(f"  {key.replace('_', ' '):<26} {text}")


@main.command()
@click.argument("pipeline_file", type=FILE)
@click.option("--force", is_flag=True, help="Run every stage again.")
@_json_option
def run(pipeline_file: Path, force: bool, as_json: bool) -> None:
    """Run every stage of a pipeline file that is out of date, and print the report."""
    from picoformer.config import load_pipeline
    from picoformer.pipeline import run_pipeline
    from picoformer.reporting import print_report, read_report

    def announce(stage: str, state: str) -> None:
        if state != "done":
            click.echo(f"{stage:<10} {state}", err=True)

    pipeline = load_pipeline(pipeline_file)
    with _progress() as tick:
        out = run_pipeline(pipeline, tick, announce, force)
    report = read_report(out)
    _print(report.to_json(), as_json, lambda: print_report(report))


@main.command()
@click.argument("source")
@click.option("-o", "--output", type=FILE, required=True)
@click.option("--seed", type=COUNT, default=0, show_default=True)
@click.option("--test-fraction", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.2, show_default=True)
@_json_option
def dataset(source: str, output: Path, seed: int, test_fraction: float, as_json: bool) -> None:
    """Write a data set: SOURCE is digits, synthetic_signal, or an .npz that holds one."""
    from picoformer.stages import make_dataset

    figures = make_dataset(source, output, seed, test_fraction)
    _print(figures, as_json, lambda: _figures(figures))


def _section(pipeline_file: Path, key: str) -> Any:
    from picoformer.config import load_pipeline

    pipeline = load_pipeline(pipeline_file)
    if getattr(pipeline.file, key) is None:
        raise ConfigError(f"{pipeline_file}: has no section [{key}]; add it")
    return pipeline.file


def _config_option(function: F) -> F:
    return click.option("--config", type=FILE, required=True, help="Pipeline TOML whose sections are the settings.")(
        function
    )


@main.command()
@click.argument("data", type=FILE)
@_config_option
@click.option("-o", "--output", type=FILE, required=True)
@_json_option
def train(data: Path, config: Path, output: Path, as_json: bool) -> None:
    """Train the model of [teacher] from scratch on a data set."""
    from picoformer.compress.settings import TrainSettings
    from picoformer.stages import train_model

    file = _section(config, "teacher")
    settings = file.teacher_training or TrainSettings()
    with _progress() as tick:
        figures = train_model(data, file.teacher, settings, output, file.data.augment, tick)
    _print(figures, as_json, lambda: _figures(figures))


@main.command()
@click.argument("teacher", type=FILE)
@click.argument("data", type=FILE)
@_config_option
@click.option("-o", "--output", type=FILE, required=True)
@_json_option
def distill(teacher: Path, data: Path, config: Path, output: Path, as_json: bool) -> None:
    """Distill the checkpoint TEACHER into the model of [student]."""
    from picoformer.compress.settings import DistillSettings
    from picoformer.stages import distill_model

    file = _section(config, "student")
    settings = file.distillation or DistillSettings()
    with _progress() as tick:
        figures = distill_model(teacher, data, file.student, settings, output, file.data.augment, tick)
    _print(figures, as_json, lambda: _figures(figures))


@main.command()
@click.argument("checkpoint", type=FILE)
@click.argument("data", type=FILE)
@_config_option
@click.option("--teacher", type=FILE, help="Recover by distillation from this checkpoint.")
@click.option("-o", "--output", type=FILE, required=True)
@_json_option
def prune(checkpoint: Path, data: Path, config: Path, teacher: Path | None, output: Path, as_json: bool) -> None:
    """Drop the attention heads and neurons that matter least ([pruning]), then recover ([recovery])."""
    from picoformer.stages import prune_model

    file = _section(config, "pruning")
    with _progress() as tick:
        figures = prune_model(checkpoint, data, file.pruning, output, file.recovery, teacher, file.data.augment, tick)
    _print(figures, as_json, lambda: _figures(figures))


@main.command()
@click.argument("model", type=FILE)
@_quantize_options
@click.option("-o", "--output", type=FOLDER, required=True, help="Folder for graph.json and graph.npz.")
@_json_option
def quantize(
    model: Path,
    shapes: tuple[str, ...],
    calibration: Path | None,
    scheme: str,
    method: str,
    percentile: float,
    inputs_dtype: str,
    output: Path,
    as_json: bool,
) -> None:
    """Quantize an ONNX file and say how well each tensor keeps its float values."""
    from picoformer.exporting import quantize_files
    from picoformer.reporting import print_quality

    settings = _settings(method, percentile, inputs_dtype)
    with _progress() as tick:
        record = quantize_files(model, calibration, scheme, output, settings, _shapes(shapes), tick)
    _print(record, as_json, lambda: print_quality(record))


@main.command()
@click.argument("model", type=FILE)
@_quantize_options
@click.option("--format", "form", type=click.Choice(["onnx", "c"]), default="onnx", show_default=True)
@click.option("--target", default="host", show_default=True, help="For --format c: whose instruction set.")
@click.option("--prefix", default="model", show_default=True, help="Start of every C symbol and file name.")
@click.option("-o", "--output", type=ANY, required=True, help="An .onnx file, or a folder for C sources.")
@_json_option
def export(
    model: Path,
    shapes: tuple[str, ...],
    calibration: Path | None,
    scheme: str,
    method: str,
    percentile: float,
    inputs_dtype: str,
    form: str,
    target: str,
    prefix: str,
    output: Path,
    as_json: bool,
) -> None:
    """Export an ONNX file or a checkpoint: float or quantized ONNX, or the C library."""
    from picoformer.exporting import export_files

    settings = _settings(method, percentile, inputs_dtype)
    with _progress() as tick:
        record = export_files(model, calibration, scheme, form, target, prefix, output, settings, _shapes(shapes), tick)
    _print(record, as_json, lambda: _figures(record))


@main.command()
@click.argument("model", type=FILE)
@_quantize_options
@click.option("--target", required=True, help="A target's name or its TOML file.")
@click.option("--prefix", default="model", show_default=True, help="Start of every C symbol and file name.")
@click.option("--valid-length", is_flag=True, help="Add an input for the number of rows that are not padding.")
@click.option("-o", "--output", type=FOLDER, required=True)
@_json_option
def build(
    model: Path,
    shapes: tuple[str, ...],
    calibration: Path | None,
    scheme: str,
    method: str,
    percentile: float,
    inputs_dtype: str,
    target: str,
    prefix: str,
    valid_length: bool,
    output: Path,
    as_json: bool,
) -> None:
    """Build firmware from an ONNX file: C sources, host program, and ELF for the target."""
    from picoformer.build_folder import build_files
    from picoformer.reporting import build_record, print_build
    from picoformer.targets import load_target

    board = load_target(target)
    settings = _settings(method, percentile, inputs_dtype)
    with _progress() as tick:
        made = build_files(
            model, calibration, scheme, board, output, prefix, settings, _shapes(shapes), valid_length,
            progress=lambda what, done, total: tick(what, done, total, 0.0),
        )  # fmt: skip
    record = build_record(made, board)
    _print(record, as_json, lambda: print_build(record))


@main.command()
@click.argument("folder", type=FOLDER)
@click.option("--inputs", type=FILE, required=True, help='.npz of samples; an array "labels" gives accuracy.')
@click.option("--port", help="Serial port of a board that runs this build, in place of the emulator.")
@click.option("--checkpoint", type=FILE, help="Put the torch model of this checkpoint in front of the chain.")
@click.option("--samples", type=COUNT, default=0, help="Use only the first so many samples.")
@_json_option
def verify(folder: Path, inputs: Path, port: str | None, checkpoint: Path | None, samples: int, as_json: bool) -> None:
    """Run the parity chain on a build: float model first, device last. Exit code 1 when a link does not hold."""
    from picoformer.reporting import print_verification
    from picoformer.verification import verify_files

    with _progress() as tick:
        found = verify_files(folder, inputs, port, checkpoint, samples, tick)
    record = found.to_json()
    _print(record, as_json, lambda: print_verification(record, folder))
    if not found.report.passed:
        raise DeviceError(f"parity does not hold: {found.report.failures[0]}")


@main.command()
@click.argument("folder", type=FOLDER)
@click.option("--inputs", type=FILE, required=True, help=".npz of samples.")
@click.option("-o", "--output", type=FILE, help="Write the outputs as real numbers to this .npz.")
@click.option("--samples", type=COUNT, default=0, help="Use only the first so many samples.")
@_json_option
def emulate(folder: Path, inputs: Path, output: Path | None, samples: int, as_json: bool) -> None:
    """Run a build's firmware in the target's emulator: outputs, instructions, stack."""
    from picoformer.exporting import emulate_files

    with _progress() as tick:
        record = emulate_files(folder, inputs, output, samples, tick)
    _print(record, as_json, lambda: _figures(record))


@main.command()
@click.argument("folder", type=FOLDER)
@_json_option
def report(folder: Path, as_json: bool) -> None:
    """Print the report of a finished pipeline run (its output FOLDER holds report.html, the same as a page)."""
    from picoformer.reporting import print_report, read_report

    record = read_report(folder)
    _print(record.to_json(), as_json, lambda: print_report(record))


@main.command()
@click.argument("model", type=FILE)
@_shape_option
@_json_option
def inspect(model: Path, shapes: tuple[str, ...], as_json: bool) -> None:
    """Show what an ONNX file becomes: operators, shapes, parameters, multiply-accumulates."""
    from picoformer.exporting import inspect_file
    from picoformer.reporting import print_inspection

    record = inspect_file(model, _shapes(shapes))
    _print(record, as_json, lambda: print_inspection(record))


@main.command()
@_json_option
def targets(as_json: bool) -> None:
    """List the targets."""
    from picoformer.targets import list_targets, load_target

    found = [load_target(name) for name in list_targets()]
    record = [{"name": t.name, "description": t.description, "cpu": t.cpu, "isa": list(t.isa)} for t in found]
    table = "\n".join(f"{t.name:<16} {t.description}" for t in found)
    _print(record, as_json, lambda: click.echo(table))


@main.command()
@_json_option
def doctor(as_json: bool) -> None:
    """Show which tools are there, what each missing one would give, and the command that brings it."""
    from picoformer.doctor import examine

    found = examine()
    record = [vars(tool) for tool in found]

    def table() -> None:
        for tool in found:
            click.echo(f"{'found  ' if tool.found else 'MISSING'} {tool.name:<20} {tool.found or tool.purpose}")
            if not tool.found:
                click.echo(f"{'':8}{'':20} {tool.mend}")

    _print(record, as_json, table)
    if any(tool.required and not tool.found for tool in found):
        sys.exit(1)


if __name__ == "__main__":
    main()
