"""The commands on data with the device at hand: evaluate a build on labelled samples, record samples from a board."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from picoformer.cli_options import COUNT, FILE, FOLDER, emulator_option, json_option, toolchain_option
from picoformer.cli_output import progress, show, show_figures
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


@click.command()
@click.option(
    "-o", "--output", type=FILE, required=True, help="The .npz of windows (with --csv: of readings) to write."
)
@click.option("--label", required=True, help="What is recorded: the class that the samples belong to.")
@click.option("--port", help="Serial port of a board that runs firmware of `capture-firmware`.")
@click.option("--baud", type=click.IntRange(min=1), default=115200, show_default=True, help="Of the port.")
@click.option("--firmware", type=FOLDER, help="A folder of `capture-firmware`, to run in its emulator instead.")
@click.option("--seconds", type=float, default=10.0, show_default=True, help="How long to record.")
@click.option("--window", type=COUNT, default=0, help="Readings of a sample; 0: each reading is a sample.")
@click.option("--stride", type=COUNT, default=0, help="Readings from one window to the next; 0: as many as it has.")
@click.option("--rate", type=float, help="Readings a second, where it shall be less than the sensor's usual rate.")
@click.option(
    "--setting", type=click.IntRange(0, 255), default=0, help="The sensor's range or mode, by its own numbers."
)
@click.option("--input", "input_name", default="x", show_default=True, help="The model's input: the array's name.")
@click.option("--append", is_flag=True, help="Add to the file, if it is there.")
@click.option("--csv", "as_csv", is_flag=True, help="Write a row for each reading: time, channels, label.")
@click.option("--countdown", type=COUNT, help="Seconds to get ready; 3 on a terminal, else 0.")
@json_option
def capture(
    output: Path,
    port: str | None,
    baud: int,
    firmware: Path | None,
    countdown: int | None,
    rate: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Record labelled samples from a board.

    Writes what the sensor says, in its units, with the label; --append adds another label, or more of one. Windows in
    which a reading is missing are dropped and counted, never closed up. Ctrl-C ends a recording and keeps it. The file
    goes into --calibration, verify --inputs, evaluate --data, and [data] source of a pipeline.
    """
    from picoformer.capture_screen import CaptureScreen, print_capture
    from picoformer.capturing import CaptureOptions, as_rate, capture_files, open_capture_device

    chosen = CaptureOptions(rate=None if rate is None else as_rate(rate), **options)
    chosen.check()
    screen = CaptureScreen(chosen.label, (3 if sys.stderr.isatty() else 0) if countdown is None else countdown)
    with open_capture_device(port, baud, firmware) as device:
        try:
            record = capture_files(device, output, chosen, screen.begin, screen.watch)
        finally:
            screen.end()
    show(record, as_json, lambda: print_capture(record))
    if record["stopped"]:
        sys.exit(130)


@click.command(name="capture-firmware")
@click.argument("sensor", type=FILE)
@click.option("--target", required=True, help="A target's name or its TOML file.")
@toolchain_option
@click.option("-o", "--output", type=FOLDER, required=True, help="The folder to write.")
@json_option
def capture_firmware(sensor: Path, target: str, toolchain: str, output: Path, as_json: bool) -> None:
    """Build firmware that records a sensor.

    SENSOR is one C file that defines `pf_sensor_here` (picoformer/sensor.h); examples/capture has one that is computed
    and one that is a chip's own.
    """
    from picoformer.capture_firmware import build_capture_firmware, capture_firmware_record
    from picoformer.targets import load_target

    build = build_capture_firmware(sensor, load_target(target), output, toolchain=toolchain)
    record = capture_firmware_record(build, sensor, output)
    show(record, as_json, lambda: show_figures(record))


COMMANDS = (evaluate, capture, capture_firmware)
