"""Every file that a generated model needs to compile: its own, the operators it calls, the headers these include."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from picoformer.errors import ModelError
from picoformer.targets import resource_root

Role = Literal["public", "model", "private", "binary", "operator", "header"]
"""What a file is: a header that programs include, the model's C, its header for itself, constants in binary, the C of
an operator, a header that operators include."""

TEXT = ("picoformer/generate.h", "picoformer/tokenizer.h")
"""Headers of the firmware that a program includes to make a language model write."""

_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


@dataclass(frozen=True)
class SourceFile:
    """A file of a library. `name`: as C includes it, or its place in firmware/ (`picoformer/ops.h`, `ops/add.c`)."""

    origin: Path
    name: str
    role: Role

    @property
    def compiled(self) -> bool:
        """Whether a compiler is given it, rather than included by what it is given."""
        return self.name.endswith((".c", ".S"))


def collect(model_dir: Path) -> tuple[SourceFile, ...]:
    """The files behind the C that `write_c` left in `model_dir`, in the order in which they are listed everywhere.

    The wire's descriptor and main.c are not among them. Raises ModelError naming a file that is missing.
    """
    listing = model_dir / "sources.json"
    if not listing.is_file():
        raise ModelError(f"{listing} is missing; generate the C of the model again")
    listed, firmware = json.loads(listing.read_text("utf-8")), resource_root("firmware")
    prefix = str(listed["prefix"])
    own = [name for name in listed["model_sources"] if not name.endswith("_device.c")]
    is_text = f"{prefix}_decoder.c" in own
    public = [f"{prefix}{part}.h" for part in ("", "_decoder", "_tokenizer")]
    found = [SourceFile(model_dir / name, name, "public") for name in public if (model_dir / name).is_file()]
    if is_text:  # its header stands on these
        found += [SourceFile(firmware / "include" / name, name, "public") for name in TEXT]
    found += [SourceFile(model_dir / name, name, "model") for name in own]
    found.append(SourceFile(model_dir / f"{prefix}_weights.h", f"{prefix}_weights.h", "private"))
    if (model_dir / "weights.bin").is_file():
        found.append(SourceFile(model_dir / "weights.bin", "weights.bin", "binary"))
    found += [SourceFile(firmware / name, name, "operator") for name in listed["sources"]]
    for file in found:
        if not file.origin.is_file():
            raise ModelError(f"{file.origin} is missing; generate the C of the model again")
    return (*found, *sorted(_headers(found, firmware), key=lambda file: file.name))


def _headers(files: Iterable[SourceFile], firmware: Path) -> Iterator[SourceFile]:
    """What the files include, and what that includes, as far as it is not among them."""
    known = {file.name for file in files}
    waiting = [file for file in files if file.role != "binary"]
    while waiting:
        file = waiting.pop()
        for name in included(file):
            if name not in known:
                known.add(name)
                here = firmware / name
                header = SourceFile(here if here.is_file() else firmware / "include" / name, name, "header")
                waiting.append(header)
                yield header


def included(file: SourceFile) -> list[str]:
    """Names of the headers in quotes that a file includes, in order: of one beside it by its folder in firmware/."""
    folder = "" if "/" not in file.name else file.name.rpartition("/")[0] + "/"
    names = _INCLUDE.findall(file.origin.read_text("utf-8"))
    return [folder + name if (file.origin.parent / name).is_file() else name for name in names]
