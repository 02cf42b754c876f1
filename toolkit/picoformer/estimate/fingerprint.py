"""What a cost table was measured on: a hash of the sources that decide what a core's calls take, comments left out."""

from __future__ import annotations

import ast
import hashlib
import re
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from picoformer.backends.c.sources import BESIDE
from picoformer.estimate.formulas import FORMULAS
from picoformer.targets import resource_root

_PACKAGE = Path(__file__).resolve().parents[1]
_CALLS = (
    "backends/c/operators.py",
    "backends/c/movement.py",
    "backends/c/windows.py",
    "backends/c/fuse.py",
    "backends/c/isa/choice.py",
)
"""Which function a step calls, and with which sizes."""
_ISA = "backends/c/isa"
_UNMEASURED = "relative_attention*"
"""Operators that no table has measured, and that change nothing in what the others take."""
_PROBES = 16
_C_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_PYTHON_COMMENT = re.compile(r"(^|  )# .*$", re.MULTILINE)
_INCLUDES = re.compile(r'^#include "((?:picoformer/)?[\w.]+)"', re.MULTILINE)
_LAYOUTS = re.compile(r"^from picoformer\.backends\.c\.isa\.(\w+) import", re.MULTILINE)


@lru_cache(maxsize=16)
def kernels_fingerprint(isa: tuple[str, ...]) -> str:
    """Sixteen hexadecimal digits that change with the operators, with the kernels and layouts of the instruction sets
    `isa`, and with how they are called; comments, docstrings and white space do not count."""
    firmware, digest = resource_root("firmware"), hashlib.sha256()
    shared = set((firmware / "ops").glob("*.[ch]")) - set((firmware / "ops").glob(_UNMEASURED))
    for path in sorted(_with_headers(firmware, shared | _kernels(firmware / "kernels", isa))):
        _add(digest, path.relative_to(firmware).as_posix(), _c(path.read_text("utf-8")))
    for name in sorted({*_CALLS, *_layouts(isa)}):
        _add(digest, name, _python((_PACKAGE / name).read_text("utf-8")))
    for start, formula in sorted(FORMULAS.items()):
        _add(digest, start, repr([formula(_Sizes(seed)) for seed in range(_PROBES)]))
    return digest.hexdigest()[:16]


class _Sizes(dict[str, int]):
    """Made-up sizes by any name; every second one has none of those that a formula can do without. By these a formula
    is known for what it computes, not for how it is written."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def __missing__(self, name: str) -> int:
        return 1 + zlib.crc32(f"{self.seed} {name}".encode()) % 8

    def get(self, name: str, default: Any = None) -> Any:
        return default if self.seed % 2 else self[name]


def _kernels(folder: Path, isa: Sequence[str]) -> set[Path]:
    """The kernel files that a target takes, and what they share."""
    found: set[Path] = set()
    taken: set[str] = set()
    for name in isa:
        beside = {file for shared in BESIDE.values() for file in shared}
        names = {path.name for path in (folder / name).glob("*.c")} - taken - beside
        taken |= names
        files = [f"kernels/{name}/{file}" for file in names]
        starts = [start for start in BESIDE if any(file.startswith(start) for file in files)]
        files += [f"kernels/{name}/{file}" for start in starts for file in BESIDE[start]]
        found |= {path for file in files if (path := folder.parent / file).is_file()}
    return found


def _with_headers(firmware: Path, files: set[Path]) -> set[Path]:
    """The files and all headers of ours that they include: those beside them, and the public ones that they reach."""
    found: set[Path] = set()
    todo = list(files)
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            for name in _INCLUDES.findall(path.read_text("utf-8")):
                header = firmware / "include" / name if "/" in name else path.with_name(name)
                todo += [header] if header.is_file() else []
    return found


def _add(digest: hashlib._Hash, name: str, text: str) -> None:
    digest.update(f"{name}\n{text}\n".encode())


def _c(source: str) -> str:
    """C without comments, its white space folded."""
    return " ".join(_C_COMMENT.sub(" ", source).split())


def _python(source: str) -> str:
    """Python without comments and docstrings, its white space folded."""
    lines = source.splitlines()
    for first, last in _strings(ast.parse(source)):
        lines[first - 1 : last] = [""] * (last - first + 1)
    return " ".join(_PYTHON_COMMENT.sub("", "\n".join(lines)).split())


def _strings(tree: ast.AST) -> Iterator[tuple[int, int]]:
    """First and last line of every string that is a statement of its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.end_lineno or node.lineno


def _layouts(isa: Sequence[str]) -> set[str]:
    """The files that describe the layouts of instruction sets, and those that they build on."""
    found: set[str] = set()
    todo = [f"{_ISA}/{name}.py" for name in isa if (_PACKAGE / _ISA / f"{name}.py").is_file()]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [f"{_ISA}/{other}.py" for other in _LAYOUTS.findall((_PACKAGE / name).read_text("utf-8"))]
    return found
