"""The forms of C that a model is exported in: who writes each, and whose kernels it takes where nobody says."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from picoformer.errors import ConfigError
from picoformer.files import atomic_folder, atomic_write_bytes
from picoformer.packages.arduino import write_arduino
from picoformer.packages.arrays import write_arrays
from picoformer.packages.cmake import write_cmake
from picoformer.packages.cmsis_pack import write_cmsis_pack
from picoformer.packages.description import Package
from picoformer.packages.esp_idf import write_esp_idf
from picoformer.packages.pages import runs_anywhere
from picoformer.packages.platformio import write_platformio
from picoformer.packages.single import write_single
from picoformer.packages.written import sign
from picoformer.packages.zephyr import write_zephyr
from picoformer.targets import Target, load_target

GENERIC = "generic"
"""In place of a target's name: kernels in plain C for any core with 32-bit integers."""


@dataclass(frozen=True)
class Form:
    """One form: `write` fills an empty folder with a package; `target`: whose kernels it takes by default."""

    write: Callable[[Package, Path], None]
    target: str
    what: str
    has_binary: bool = True
    """Whether the constants of a large model may lie in a binary file."""
    cores: tuple[str, ...] = ("",)
    """How the architectures begin whose kernels it can hold, beside plain C."""


FORMS: dict[str, Form] = {
    "c": Form(write_cmake, GENERIC, "library with CMakeLists.txt"),
    "c-arrays": Form(write_arrays, GENERIC, "constants as C arrays"),
    "c-single": Form(write_single, GENERIC, "one .c and one .h", has_binary=False),
    "arduino": Form(write_arduino, GENERIC, "Arduino library"),
    "platformio": Form(write_platformio, GENERIC, "PlatformIO library"),
    "esp-idf": Form(write_esp_idf, "esp32-c3", "ESP-IDF component", cores=("rv32", "xtensa")),
    "zephyr": Form(write_zephyr, GENERIC, "Zephyr module"),
    "cmsis-pack": Form(write_cmsis_pack, GENERIC, "folder for a CMSIS pack", cores=("armv",)),
}
"""What --format may say beside ONNX and the like; cli_options.py repeats the names (a test compares them)."""


def board_of(form: str, target: str | None) -> Target:
    """The target that `target`, "generic" or (None) the form's default names."""
    name = target or FORMS[form].target
    if name != GENERIC:
        board = load_target(name)
        if not runs_anywhere(board) and not board.architecture.startswith(FORMS[form].cores):
            raise ConfigError(
                f"--target {name}: {form} is not for the core {board.architecture}; take another, or leave it out"
            )
        return board
    return load_target("host").model_copy(
        update={"name": GENERIC, "isa": [GENERIC], "description": "any core, plain C"}
    )


def write_package(package: Package, out: Path) -> None:
    """Write a package as the folder `out`, or where its name ends in .zip as an archive with one folder in it.

    The same package gives the same bytes: no time of day is in them. Nothing half-written is left.
    """
    writer = FORMS[package.form].write
    if out.suffix != ".zip":
        with atomic_folder(out) as folder:
            writer(package, folder)
            sign(folder)
        return
    import io
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / package.prefix
        folder.mkdir()
        writer(package, folder)
        sign(folder)
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                entry = zipfile.ZipInfo(path.relative_to(place).as_posix(), (1980, 1, 1, 0, 0, 0))
                entry.create_system, entry.external_attr = 3, 0o100644 << 16
                archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    atomic_write_bytes(out, stream.getvalue())
