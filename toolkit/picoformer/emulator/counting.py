"""The instruction counter: builds the QEMU plugin at first use and reads the counts it writes."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from picoformer.compilers import PACKAGES, choose_compiler
from picoformer.emulator.interface import Block, Instructions, Region
from picoformer.errors import ToolError
from picoformer.files import atomic_write_bytes, cache_root, content_hash
from picoformer.targets import load_target
from picoformer.toolchain import run_tool

_RECORD = 8
_FIRST_WITH_API_2 = 9  # QEMU's major version


def plugin_for(qemu: str) -> tuple[Path | None, str]:
    """The plugin for this QEMU, built if need be; or None and the reason why there is none."""
    major, has_plugins = _qemu(qemu)
    if not has_plugins:
        return None, "this QEMU was built without plugins"
    source = Path(__file__).with_name("count_plugin.c")
    api = 2 if major >= _FIRST_WITH_API_2 else 1
    key = content_hash(source.read_bytes() + f"api {api} {os.uname().machine}".encode())
    library = cache_root() / "plugins" / f"count-{key[:16]}.so"
    if library.is_file():
        return library, ""
    try:
        compiler = choose_compiler(load_target("host"))
    except ToolError:
        return None, f"the counting plugin needs a C compiler; get one with: sudo apt-get install {PACKAGES['gcc']}"
    flags = ["-shared", "-fPIC", "-O2", "-fvisibility=hidden", f"-DPF_API={api}"]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / library.name
        try:
            run_tool(
                [*compiler.compile, *flags, str(source), "-o", str(made)],
                Path(folder),
                source.name,
                compiler.environment,
            )
        except ToolError as error:
            return None, f"the counting plugin does not compile: {error}"
        atomic_write_bytes(library, made.read_bytes())
    return library, ""


@lru_cache(maxsize=4)
def _qemu(program: str) -> tuple[int, bool]:
    """QEMU's major version, and whether it takes plugins."""
    found = re.search(r"QEMU (\d+)\.", qemu_version(program))
    return (int(found[1]) if found else 0), "\n-plugin " in _says(program, "-help")


@lru_cache(maxsize=4)
def qemu_version(program: str) -> str:
    """ "QEMU 7.2.22"; "QEMU" when it does not say."""
    found = re.search(r"version (\d[\w.]*)", _says(program, "--version"))
    return f"QEMU {found[1]}" if found else "QEMU"


def _says(program: str, option: str) -> str:
    return subprocess.run([program, option], capture_output=True, text=True, timeout=30, check=False).stdout


def read_counts(path: Path, steps: int) -> Instructions | None:
    """The last run's counts: one record for init and one for each of its `steps` steps; None when there are
    fewer."""
    wanted = (steps + 1) * _RECORD
    if steps == 0 or not path.is_file() or path.stat().st_size < wanted:
        return None
    with path.open("rb") as stream:
        stream.seek(-wanted, os.SEEK_END)
        data = stream.read(wanted)
    values = [int.from_bytes(data[i : i + _RECORD], "little") for i in range(0, wanted, _RECORD)]
    return Instructions(sum(values), values[0], tuple(values[1:]))


def read_last(path: Path) -> int | None:
    """What the last counted call took; None before one."""
    if not path.is_file() or path.stat().st_size < _RECORD:
        return None
    with path.open("rb") as stream:
        stream.seek(-_RECORD, os.SEEK_END)
        return int.from_bytes(stream.read(_RECORD), "little")


def read_profile(path: Path, steps: int) -> tuple[Region, ...] | None:
    """What init and each of the last run's `steps` steps executed; None when fewer regions were profiled."""
    import numpy as np

    if steps == 0 or not path.is_file():
        return None
    numbers = np.fromfile(path, "<u8")
    regions, at = [], 0
    while at < len(numbers):
        rows = numbers[at + 2 : at + 2 + 4 * int(numbers[at])].reshape(-1, 4).tolist()
        regions.append(Region(tuple(Block(*row) for row in rows), int(numbers[at + 1])))
        at += 2 + 4 * len(rows)
    return tuple(regions[-steps - 1 :]) if len(regions) > steps else None
