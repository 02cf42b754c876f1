"""One stage of a pipeline, and when it must run again: its key, the record of its last run, what its files hold."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picoformer.files import atomic_write_text, file_hash

Announce = Callable[[str, str], None]
"""Stage, and what becomes of it: "running", "unchanged" or "done"."""


@dataclass(frozen=True)
class Stage:
    """One step: it runs again when its settings, its inputs, its code, or its own outputs have changed."""

    name: str
    run: Callable[[], dict[str, Any]]
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    settings: object
    code: str


def run_stage(stage: Stage, record: Path, key: str, announce: Announce | None) -> dict[str, Any]:
    """Run a stage and keep what it gave in `record`, under the `key` of what it was run on."""
    if announce:
        announce(stage.name, "running")
    record.unlink(missing_ok=True)
    figures = stage.run()
    outputs = {str(path): content(path) for path in stage.outputs}
    kept = {"key": key, "outputs": outputs, "figures": figures}
    atomic_write_text(record, json.dumps(kept, indent=1) + "\n")
    if announce:
        announce(stage.name, "done")
    return figures


def known_figures(record: Path, key: str, stage: Stage) -> dict[str, Any] | None:
    """The figures of an earlier run of the same stage whose outputs are still as it left them."""
    try:
        kept = json.loads(record.read_text("utf-8"))
        if kept["key"] != key or set(kept["outputs"]) != {str(path) for path in stage.outputs}:
            return None
        if any(content(Path(path)) != digest for path, digest in kept["outputs"].items()):
            return None
        figures: dict[str, Any] = kept["figures"]
        return figures
    except (OSError, ValueError, KeyError, TypeError):
        return None


def key_of(stage: Stage) -> str:
    """The SHA-256 of all that decides what a stage leaves."""
    settings = json.dumps(stage.settings, sort_keys=True, default=_plain)
    parts = [stage.name, settings, stage.code, *(content(path) for path in stage.inputs)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{value!r} is no setting")


def content(path: Path) -> str:
    """The SHA-256 of a file, or of a folder's files and their names; of nothing when it is not there."""
    if path.is_file():
        return file_hash(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else ():
        digest.update(f"{file.relative_to(path)}\0{file_hash(file)}\n".encode())
    return digest.hexdigest()


def code_hash(rooms: tuple[str, ...]) -> str:
    """The SHA-256 of this package's own files in `rooms`, or of all of them, C sources and targets included."""
    from picoformer.targets import resource_root

    package = Path(__file__).parent
    roots = [package / room for room in rooms] or [
        package,
        resource_root("firmware"),
        resource_root("targets"),
    ]
    digest = hashlib.sha256()
    for root in roots:
        if not root.exists():
            raise FileNotFoundError(f"{root}: a room of the pipeline's stages that is not there")
        files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
        for file in files:
            if "__pycache__" not in file.parts:
                digest.update(f"{file.name}\0{file_hash(file)}\n".encode())
    return digest.hexdigest()
