"""The command line's part for boards with a resident bootloader: building it, and building for the room behind it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from picoformer.cli_options import FOLDER, json_option, toolchain_option
from picoformer.cli_output import show
from picoformer.errors import ConfigError

if TYPE_CHECKING:
    from picoformer.targets import Target

F = TypeVar("F", bound=Callable[..., Any])


def bootloader_options(function: F) -> F:
    """Adds --bootloader and --image-version."""
    for option in (
        click.option("--image-version", type=click.IntRange(0, (1 << 32) - 1),
                     help="A number that the image says of itself; with --bootloader."),
        click.option("--bootloader", "has_bootloader", is_flag=True,
                     help="Link for the room behind the target's bootloader, and write firmware.img."),
    ):  # fmt: skip
        function = option(function)
    return function


def chosen_target(name: str, has_bootloader: bool, image_version: int | None) -> Target:
    """The target of a command with `bootloader_options`."""
    from picoformer.bootloader import behind_bootloader
    from picoformer.targets import load_target

    target = load_target(name)
    if has_bootloader:
        return behind_bootloader(target, image_version or 0)
    if image_version is not None:
        raise ConfigError("--image-version is of an image for a bootloader; say --bootloader too")
    return target


@click.command()
@click.option("--target", required=True, help="A target's name or its TOML file.")
@toolchain_option
@click.option("-o", "--output", type=FOLDER, required=True, help="The folder to write into.")
@json_option
def bootloader(target: str, toolchain: str, output: Path, as_json: bool) -> None:
    """Build a board's resident bootloader.

    Writes bootloader.elf, .hex and .bin, which a debugger or the board's drive puts on it once. From then on `flash`
    brings in what was built with --bootloader, over the serial port that verify uses.
    """
    from picoformer.bootloader import build_bootloader
    from picoformer.targets import load_target

    board = load_target(target)
    built = build_bootloader(board, output, toolchain=toolchain)
    record = {
        "target": built.target,
        "elf": str(built.elf),
        "hex": str(built.hex),
        "bin": str(built.bin),
        "flash_bytes": built.flash_bytes,
        "reserved_bytes": built.reserved_bytes,
        "ram_bytes": built.ram_bytes,
    }

    def table() -> None:
        click.echo(f"bootloader of {built.target} in {output}: bootloader.elf, .hex, .bin")
        click.echo(f"  flash, bytes        {built.flash_bytes:>8,} of {built.reserved_bytes:,} reserved")
        click.echo(f"  RAM, bytes          {built.ram_bytes:>8,} while it runs; the firmware has all of it after")

    show(record, as_json, table)
