"""The commands that touch real boards: what is connected, and flashing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from picoformer.cli_options import ANY, json_option
from picoformer.cli_output import aligned, notice, progress, show

if TYPE_CHECKING:
    from picoformer.flashing import Flashing


class _Address(click.ParamType[int]):
    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = value if isinstance(value, int) else int(value, 0)
        except ValueError:
            self.fail(f"{value!r} is no address; write it as 0x08000000", param, ctx)
        if not 0 <= number < 1 << 32:
            self.fail(f"{value} is beyond 32 bits", param, ctx)
        return number


@click.command()
@click.argument("out", type=ANY)
@click.option("--port", default="", help="Serial port, folder of the board's drive, or id of a debug probe.")
@click.option("--target", default="", help="The board, where OUT does not say; a target's name or its TOML file.")
@click.option("--method", default="", help="Another way in than the board's first; `--dry-run` names them.")
@click.option("--address", type=_Address(), help="Where a .bin lies in memory, as 0x08000000.")
@click.option("--baud", type=click.IntRange(1200, 4_000_000), help="Of the serial line to the bootloader.")
@click.option(
    "--wiring", default="", help="STM32: what RTS and DTR press, as boot0=!rts,reset=dtr (! for an inverted line)."
)
@click.option("--all", "whole", is_flag=True, help="Our bootloader: send also what the board holds already.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and touch no board.")
@json_option
def flash(
    out: Path,
    port: str,
    target: str,
    method: str,
    address: int | None,
    baud: int | None,
    wiring: str,
    whole: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write firmware to a board, verify it, start it.

    OUT is the folder of a build, an ESP-IDF project, or a finished .elf, .hex, .uf2 or .bin of a vendor's SDK. An image
    that lies outside the board's memory, or is for another chip, is refused before anything is erased. Without --port
    the board is looked for.
    """
    from picoformer.flashing import Interrupted, Request, flash_files

    request = Request(out, port, target, method, address, baud or 0, wiring, whole)
    try:
        with progress() as tick:
            done = flash_files(request, dry_run, lambda what, n, total: tick(what, n, total, 0.0), notice)
    except Interrupted as error:
        click.echo(f"picoformer: {error}", err=True)
        raise click.exceptions.Exit(130) from None
    show(done.to_json(), as_json, lambda: _print(done))


@click.command()
@json_option
def devices(as_json: bool) -> None:
    """List what is connected: ports, drives, debug probes.

    With what board each is, and the targets that it can be flashed as.
    """
    from picoformer.flash.devices import look

    record = look().to_json()
    show(record, as_json, lambda: click.echo("\n".join(_device_lines(record))))


COMMANDS = (devices, flash)


def _print(done: Flashing) -> None:
    image, outcome = done.job.image, done.outcome
    others = done.job.target.flasher.others if done.job.target.flasher else []
    click.echo(f"{image.source} for {done.job.target.name}, {image.size:,} bytes, by {done.method}")
    if outcome is None:
        for step in done.steps:
            click.echo(f"  {step}")
        if others:
            click.echo(f"other ways: {', '.join(f'--method {other}' for other in others)}")
        return
    for label, text in (
        ("board", outcome.found),
        ("erased", f"{outcome.erased:,} bytes" if outcome.erased else ""),
        ("written", f"{outcome.written:,} bytes"),
        ("verified", outcome.verified or "no"),
        ("started", "yes" if outcome.started else "no: press reset"),
        *(("note", note) for note in outcome.notes),
        ("next", done.next),
    ):
        if text:
            click.echo(f"  {label:<10} {text}")


def _device_lines(record: Mapping[str, Any]) -> list[str]:
    rows = []
    for port in record["ports"]:
        rows.append(("port", port["device"], port["usb"] or "-", port["serial_number"] or "-", port["name"] or "-",
                     ", ".join(port["targets"]) or "-"))  # fmt: skip
    for drive in record["drives"]:
        rows.append(("drive", drive["folder"], drive["board"] or "-", "-", drive["name"],
                     ", ".join(drive["targets"]) or "-"))  # fmt: skip
    for probe in record["probes"]:
        rows.append(("probe", probe["unique_id"], "-", "-", probe["name"], probe["chip"] or "-"))
    if not rows:
        lines = ["nothing is connected: no serial port, no board's drive, no debug probe"]
    else:
        lines = aligned([("what", "where", "id", "serial number", "board", "targets"), *rows])
    return [*lines, *record["notes"]]
