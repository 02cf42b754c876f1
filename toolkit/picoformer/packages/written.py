"""What an export wrote into a folder, kept in the model's card: so that another export deletes nobody else's work."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from picoformer.files import atomic_write_text, file_hash

CARD = "model_card.json"
"""The file by which a package is known again; "files" in it has the SHA-256 of every other one."""


def sign(folder: Path) -> None:
    """Write into a package's card what files it has."""
    card = json.loads((folder / CARD).read_text("utf-8"))
    card["files"] = {name: file_hash(folder / name) for name in _names(folder) if name != CARD}
    atomic_write_text(folder / CARD, json.dumps(card, indent=1) + "\n")


def strange_file(folder: Path) -> str:
    """One file of a folder that is not as an export wrote it, and why, in words; nothing where all are."""
    try:
        known = dict(json.loads((folder / CARD).read_text("utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return "holds other files than those of an export"
    for name in _names(folder):
        if name != CARD and name not in known:
            return f"holds {name}, which no export wrote"
        if name != CARD and known[name] != file_hash(folder / name):
            return f"holds {name}, which was changed since it was exported"
    return ""


def is_archive(path: Path) -> bool:
    """Whether a file is a package in an archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(Path(name).name == CARD for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
