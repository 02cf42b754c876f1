"""Writing files so that a reader never sees half of one: a temporary name first, then a rename; by one process.

And where those lie that are kept between runs."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from picoformer.errors import ConfigError


def cache_root() -> Path:
    """Where built things are kept between runs: $PICOFORMER_CACHE, else the XDG cache folder."""
    if override := os.environ.get("PICOFORMER_CACHE"):
        return Path(override)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "picoformer"


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` under a temporary name in the same folder, then rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def refuse_unwritable(path: Path) -> None:
    """Raise ConfigError where no file can be written at `path`; asked before the work that it is to hold. Leaves no
    trace."""
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({folder}: {error.strerror}); give another place") from None


def atomic_write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path` atomically."""
    atomic_write_bytes(path, text.encode("utf-8"))


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write numpy arrays as an .npz, atomically; the same arrays give the same bytes."""
    import numpy as np

    stream = io.BytesIO()
    np.savez(stream, **arrays)
    atomic_write_bytes(path, stream.getvalue())


def is_first_process() -> bool:
    """Whether this process writes results and speaks: the only one, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def several_processes() -> bool:
    """Whether torchrun (or another launcher) started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1") or 1) > 1


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; on success it replaces `path`, on any failure it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Named before it is made: an interrupt that comes with its making finds it inside the block.
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    try:
        temporary.mkdir(mode=0o755)
        yield temporary
        if path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
            os.replace(path, old / path.name)
            os.replace(temporary, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def content_hash(data: bytes) -> str:
    """The SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def file_hash(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def refuse_inputs(out: Path, reads: Iterable[Path | None]) -> None:
    """Raise ConfigError when `out` is one of the files that are read to make it."""
    for path in reads:
        if path is not None and out.resolve() == path.resolve():
            raise ConfigError(f"{out}: is read for this and would be lost; give another name")
