"""The instruction counter: builds the QEMU plugin at first use and reads the counts it writes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from picoformer.emulator.interface import Instructions
from picoformer.files import cache_root, content_hash
from picoformer.toolchain import first_error

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
    compiler = next((path for name in ("gcc", "cc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        return (
            None,
            "the counting plugin needs a C compiler; get one with: sudo apt-get install gcc libc6-dev",
        )
    library.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=library.parent, prefix=".count.")
    os.close(handle)
    try:
        flags = ["-shared", "-fPIC", "-O2", "-fvisibility=hidden", f"-DPF_API={api}"]
        done = subprocess.run(
            [compiler, *flags, str(source), "-o", temporary],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode != 0:
            return None, f"the counting plugin does not compile: {first_error(done.stderr)}"
        Path(temporary).replace(library)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return library, ""


@lru_cache(maxsize=4)
def _qemu(program: str) -> tuple[int, bool]:
    """QEMU's major version, and whether it takes plugins."""

    def says(option: str) -> str:
        done = subprocess.run([program, option], capture_output=True, text=True, timeout=30, check=False)
        return done.stdout

    found = re.search(r"version (\d+)\.", says("--version"))
    return (int(found[1]) if found else 0), "\n-plugin " in says("-help")


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
