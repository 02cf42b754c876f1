"""This very picoformer as a wheel, written without a build tool: from a checkout or from where it is installed."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import zipfile
from pathlib import Path

import picoformer
from picoformer.errors import ToolError

_FOLDER = Path(picoformer.__file__).resolve().parent
_LEFT_OUT = {"__pycache__", "_data"}
"""Compiled files, and the firmware's sources: nothing on a Raspberry Pi asks for them."""
_DATE = (2020, 1, 1, 0, 0, 0)


def wheel_name() -> str:
    """What the file is called."""
    return f"picoformer-{picoformer.__version__}-py3-none-any.whl"


@functools.cache
def wheel_bytes(package: Path = _FOLDER) -> bytes:
    """The wheel (the Binary Distribution Format of packaging.python.org); the same sources give the same bytes."""
    files = {
        f"picoformer/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and not _LEFT_OUT & set(path.relative_to(package).parts)
    }
    if "picoformer/cli.py" not in files:
        raise ToolError(f"{package}: is not where picoformer's own files lie; install it from a folder, not an archive")
    information = f"picoformer-{picoformer.__version__}.dist-info"
    files[f"{information}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: picoformer\nVersion: {picoformer.__version__}\n"
        "License: Apache-2.0\nRequires-Python: >=3.11\n"
    ).encode()
    files[f"{information}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: picoformer\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{information}/entry_points.txt"] = b"[console_scripts]\npicoformer = picoformer.cli:main\n"
    if (text := _license(package)) is not None:
        files[f"{information}/LICENSE"] = text
    record = f"{information}/RECORD"
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _license(package: Path) -> bytes | None:
    """The license's text, which lies elsewhere in a checkout."""
    for path in (package / "_data" / "LICENSE", package.parents[1] / "LICENSE"):
        if path.is_file():
            return path.read_bytes()
    return None


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
