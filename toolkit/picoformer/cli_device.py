"""Commands on a device that runs already."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from picoformer.cli_options import FOLDER, emulator_option, json_option

if TYPE_CHECKING:
    from picoformer.link.monitor import Event


@click.command()
@click.argument("folder", type=FOLDER, metavar="[OUT]", required=False)
@click.option("--port", help="Serial port of a board (/dev/ttyACM0, COM3, socket://host:port).")
@click.option("--target", help="Without a port: what runs here, host or the build's own. With one: whose baud it has.")
@click.option("--baud", type=click.IntRange(50, 10_000_000), help="In place of the target's; default 115200.")
@click.option("--seconds", type=click.FloatRange(min=0.1), help="End after so long; default: at Ctrl-C.")
@click.option("--timestamps", is_flag=True, help="Begin each line with the seconds since the start.")
@emulator_option
@json_option
def monitor(
    folder: Path | None,
    port: str | None,
    target: str | None,
    baud: int | None,
    seconds: float | None,
    timestamps: bool,
    emulator: str,
    as_json: bool,
) -> None:
    """Show what a board says, until Ctrl-C.

    Its log, a fault with the function it happened in (give the build folder OUT for the names), and text that other
    code prints. A board that is unplugged or reset is waited for. Without --port the build in OUT runs in its emulator.
    With --json each line is an object of its own: seconds, kind (log, text, fault, bytes, port), text.
    """
    from picoformer.monitoring import monitor_device

    with contextlib.suppress(KeyboardInterrupt):
        _print(monitor_device(folder, port, target, baud, seconds, emulator), timestamps, as_json)


def _print(events: Iterator[Event], timestamps: bool, as_json: bool) -> None:
    for event in events:
        if as_json:
            click.echo(json.dumps({"seconds": round(event.seconds, 3), "kind": event.kind, "text": event.text}))
            continue
        text = event.text if event.kind in ("log", "text") else f"[{event.kind}] {event.text}"
        click.echo(f"{event.seconds:10.3f}  {text}" if timestamps else text)


COMMANDS = (monitor,)
"""What the command line takes from here."""
