"""The commands on data with the device at hand: evaluate a build on labelled samples, record samples from a board."""

from __future__ import annotations

from pathlib import Path

import click

from picoformer.cli_options import COUNT, FILE, FOLDER, emulator_option, json_option
from picoformer.cli_output import progress, show
from picoformer.errors import DeviceError


@click.command()
@click.argument("folder", type=FOLDER)
@click.option(
    "--data",
    type=FILE,
    required=True,
    help='.npz of the model\'s inputs with an array "labels", or a data set of `picoformer dataset`.',
)
@click.option("--port", help="Serial port of a board that runs this build, in place of the emulator.")
@click.option("--host", "on_host", is_flag=True, help="Run the build's program for this machine instead.")
@click.option("--samples", type=COUNT, default=0, help="Use only the first so many samples; 0: all.")
@click.option("-o", "--output", type=FILE, help="Write outputs, predictions and figures of every sample to this .npz.")
@click.option("--resume", type=FILE, help="Go on behind the samples in this file of predictions.")
@emulator_option
@json_option
def evaluate(
    folder: Path,
    data: Path,
    port: str | None,
    on_host: bool,
    samples: int,
    output: Path | None,
    resume: Path | None,
    emulator: str,
    as_json: bool,
) -> None:
    """Measure a build's accuracy on the device itself.

    Sends every labelled sample through the firmware, on a board with --port, else in the emulator: accuracy, recall and
    precision of every class, what was taken for what, latencies, stack. The exit code is 1 when an output is not the
    integer reference's. A board that was reset or a line that broke gets the sample again; what was done by then is in
    the OUTPUT file, and --resume goes on with it.
    """
    from picoformer.evaluation import evaluate_files
    from picoformer.evaluation_table import print_evaluation

    with progress("accuracy") as tick:
        found = evaluate_files(folder, data, port, on_host, samples, output, resume, tick, emulator)
    record = found.to_json()
    show(record, as_json, lambda: print_evaluation(record))
    if found.first_difference is not None:
        differ = len(found.runs) - int(found.equal.sum())
        raise DeviceError(
            f"{differ} of {len(found.runs)} samples are not the integer reference's, the first is sample "
            f"{found.first_difference}; `picoformer verify` names the step"
        )


COMMANDS = (evaluate,)
