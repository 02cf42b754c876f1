"""A library for PlatformIO: library.json, include/ and src/, and an example that is a project of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path

from picoformer import __version__
from picoformer.packages.description import Package
from picoformer.packages.layout import EXACT, entry_header, example_name, lay_example, lay_pages, lay_sources, lay_texts

LONGEST_DESCRIPTION = 255


def write_platformio(package: Package, folder: Path) -> None:
    """The form "platformio"."""
    lay_sources(package, folder)
    example = folder / "examples" / example_name(package)
    lay_example(package, example / "src", "main.c")
    lay_texts(example, {"platformio.ini": _project(package)})
    lay_texts(folder, {"library.json": json.dumps(_manifest(package), indent=2) + "\n"})
    lay_pages(package, folder, _use(package))


def library_name(package: Package) -> str:
    """The prefix, with single dashes: a name may have no other marks there."""
    return re.sub("_+", "-", package.prefix.strip("_"))


def _manifest(package: Package) -> dict[str, object]:
    name = example_name(package)
    files = ["platformio.ini", "src/main.c"] + ([] if package.is_text else ["src/sample.h"])
    description = f"{package.title}, a transformer in plain C; {package.draft.arena_bytes:,} bytes of RAM"
    return {
        "name": library_name(package),
        "version": __version__,
        "description": description[:LONGEST_DESCRIPTION],
        "keywords": ["transformer", "inference", "quantized"],
        "frameworks": "*",
        "platforms": "*",
        "headers": [entry_header(package)],
        "examples": [{"name": name, "base": f"examples/{name}", "files": files}],
        "build": {"includeDir": "include", "srcDir": "src", "flags": [EXACT]},
    }


def _project(package: Package) -> str:
    return f"""; The example on this machine: pio run -d examples/{example_name(package)} -t exec
; For a board, put its platform, board and framework in place of these two lines.
[env:native]
platform = native
lib_deps = symlink://../..
build_flags = -std=c99 -O2
"""


def _use(package: Package) -> str:
    return f"""## Use

In the `platformio.ini` of your project, with the path of this folder:

    lib_deps = symlink:///path/to/{package.prefix}

then `#include "{entry_header(package)}"`. The example on this machine, from this folder:

    pio run -d examples/{example_name(package)} -t exec
"""
