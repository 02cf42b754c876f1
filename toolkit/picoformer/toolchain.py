"""Compiling C files in parallel with a cache by content, naming the first error."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from picoformer.compilers import Compiler
from picoformer.errors import ToolError
from picoformer.files import atomic_write_bytes, cache_root, content_hash

_SECONDS_PER_FILE = 300
_INCLUDES = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">\n]+)[">]', re.MULTILINE)


class CompilerFailure(ToolError):
    """A compiler or linker ended with an error; `output` is all it said."""

    def __init__(self, message: str, output: str) -> None:
        super().__init__(message)
        self.output = output


@dataclass(frozen=True)
class Unit:
    """One C or assembly file and its object's relative path in the build folder."""

    source: Path
    object: Path


def compile_units(
    compiler: Compiler,
    flags: Sequence[str],
    includes: Sequence[Path],
    units: Sequence[Unit],
    build: Path,
    jobs: int = 0,
) -> list[Path]:
    """Compile `units` into `build`; returns the objects' paths relative to it, in order.

    An object whose source, headers, flags and compiler were seen before comes from the cache; an operator includes no
    header of a model, so it serves any. Raises ToolError naming the first error line of the compiler.
    """
    base = "\0".join([compiler.version, *compiler.compile[1:], *flags])
    # The assembler knows only the older of the two options.
    arguments = [
        f"-fdebug-prefix-map={build.resolve()}=build",
        *flags,
        *(f"-I{folder.resolve()}" for folder in includes),
    ]
    for folder in (*includes, build):
        name = "build" if folder is build else folder.name
        arguments.append(f"-ffile-prefix-map={folder.resolve()}={name}")

    def one(unit: Unit) -> None:
        target = build / unit.object
        target.parent.mkdir(parents=True, exist_ok=True)
        source = unit.source.resolve()
        key = content_hash(f"{base}\0{unit.source.name}\0".encode() + _with_headers(source, includes))
        cached = cache_root() / "objects" / key[:2] / f"{key}.o"
        try:
            shutil.copyfile(cached, target)
            return
        except OSError:
            pass
        place = f"-ffile-prefix-map={source.parent}={source.parent.name}"
        command = [*compiler.compile, *arguments, place, "-c", str(source), "-o", str(unit.object)]
        run_tool(command, build, unit.source.name, compiler.environment)
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
            atomic_write_bytes(cached, target.read_bytes())

    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        for future in [pool.submit(one, unit) for unit in units]:
            future.result()
    return [unit.object for unit in units]


def _with_headers(source: Path, includes: Sequence[Path]) -> bytes:
    """A source and every header that it may take in from its folder or `includes`, each behind its name; the other
    headers belong to the compiler."""
    found: dict[Path, tuple[str, bytes]] = {}
    waiting = [(source.name, source)]
    while waiting:
        name, path = waiting.pop()
        if path in found:
            continue
        content = path.read_bytes()
        found[path] = name, content
        for mark, inner in _INCLUDES.findall(content.decode("utf-8", "replace")):
            folders = includes if mark == "<" else (path.parent, *includes)
            waiting += [(inner, (folder / inner).resolve()) for folder in folders if (folder / inner).is_file()][:1]
    return b"\0".join(name.encode() + b"\0" + content for name, content in sorted(found.values()))


def run_tool(command: Sequence[str], folder: Path, subject: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a compiler in `folder`, with `environment` added to ours; its standard output on success, CompilerFailure
    with its first error line otherwise."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            list(command),
            cwd=folder,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=_SECONDS_PER_FILE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{name} took over {_SECONDS_PER_FILE} s on {subject}") from error
    if done.returncode != 0:
        raise CompilerFailure(f"{name} failed on {subject}: {first_error(done.stderr)}", done.stderr)
    return done.stdout


def first_error(text: str) -> str:
    """The first line of a compiler's or linker's output that states an error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        if re.search(r"\berror\b|undefined reference|multiple definition|overflowed by|cannot find", line):
            return line
    return lines[-1] if lines else "no message"
