"""Where a package's files lie: public headers in one folder, all that is compiled in another, the example beside."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from picoformer.files import atomic_write_text
from picoformer.packages.description import Package
from picoformer.packages.example import example_files
from picoformer.packages.pages import pages

INCLUDE, SOURCE = "include", "src"
EXACT = "-ffp-contract=off"
"""What a float model's figures hold with: no multiplication and addition in one rounding."""


def lay_sources(package: Package, folder: Path, include: str = INCLUDE, source: str = SOURCE) -> None:
    """Copy every file that compiles or is included; headers for programs into `include`, the rest into `source`, where
    each lies under its name in firmware/."""
    for file in package.files:
        place = folder / (include if file.role == "public" else source) / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.origin, place)


def lay_example(package: Package, folder: Path, program: str, form: str = "c") -> None:
    """Write the example into `folder`, its program under the name `program`."""
    files = example_files(package, form)
    lay_texts(folder, {program if name == "program" else name: text for name, text in files.items()})


def lay_pages(package: Package, folder: Path, use: str, intro: str = "") -> None:
    """Write what every package says of itself."""
    lay_texts(folder, pages(package, use, intro))


def lay_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Write files by their names under `folder`."""
    for name, text in texts.items():
        atomic_write_text(folder / name, text)


def compiled_paths(package: Package, before: str = f"{SOURCE}/") -> list[str]:
    """The files that a compiler is given, as paths in the package."""
    return [before + name for name in package.compiled()]


def example_name(package: Package) -> str:
    """What the example does, as the name of its folder."""
    return "write_text" if package.is_text else "predict"


def entry_header(package: Package) -> str:
    """The header that a program begins with."""
    return f"{package.prefix}_decoder.h" if package.is_text else f"{package.prefix}.h"
