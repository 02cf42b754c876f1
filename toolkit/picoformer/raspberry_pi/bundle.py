"""A bundle: the folder that `picoformer pi package` writes, checked file by file before anything in it is believed."""

from __future__ import annotations

import mmap
import os
import re
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from picoformer.errors import DataError, ModelError
from picoformer.files import file_hash
from picoformer.raspberry_pi.json_fields import parse_json
from picoformer.raspberry_pi.manifest import FORMAT, Manifest, read_manifest

if TYPE_CHECKING:
    from picoformer.tokenizers import TextTokenizer

__all__ = ["DESCRIPTION", "FORMAT", "Bundle", "open_bundle"]

DESCRIPTION = "bundle.json"
MOST_DESCRIPTION = 1 << 20
MOST_LABELS = 1 << 20
ELSEWHERE = re.compile(rb"\x0a(?:\x08|\x88\x80*\x00)location")
"""How an ONNX file says that numbers of it lie in another file: the first field of an entry, "location"."""
AGAIN = "copy it again, or make it again with `picoformer pi package`"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are those that were packed."""

    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """What the model is called."""
        return self.manifest.name

    @property
    def task(self) -> str:
        """run, classify, embed or generate."""
        return self.manifest.task

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.folder / self.manifest.model

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; () where there are none."""
        classes = self.manifest.classify
        if classes is None or classes.labels is None:
            return ()
        path = self.folder / classes.labels
        try:
            return tuple(path.read_text("utf-8").splitlines())
        except UnicodeDecodeError:
            raise ModelError(f"{path}: is no UTF-8; {AGAIN}") from None

    @cached_property
    def tokenizer(self) -> TextTokenizer | None:
        """What reads and writes text; None where the bundle has none."""
        if self.manifest.tokenizer is None:
            return None
        from picoformer.tokenizers import load_text_tokenizer

        vocabulary = None if self.manifest.generate is None else self.manifest.generate.vocabulary
        try:
            return load_text_tokenizer(self.folder / self.manifest.tokenizer, vocabulary)
        except DataError as error:
            raise ModelError(str(error)) from None


def open_bundle(path: Path | str, check_hashes: bool = True) -> Bundle:
    """The bundle in a folder. Raises ModelError naming the file or the field that is not as it was packed.

    `check_hashes` False leaves out reading every byte, for a bundle that this machine has checked before; sizes are
    looked at all the same.
    """
    folder = Path(path)
    if folder.is_file():
        is_packed = folder.name.endswith((".tar.gz", ".tgz"))
        mend = f"unpack it (tar -xzf {folder.name})" if is_packed else "pack it with `picoformer pi package`"
        raise ModelError(f"{folder}: is a file and no bundle; {mend} and give the folder")
    description = folder / DESCRIPTION
    try:
        size = description.stat().st_size
        if size > MOST_DESCRIPTION:
            raise ModelError(f"{description}: {size} bytes are too many for a description; {AGAIN}")
        manifest = read_manifest(parse_json(description.read_bytes().decode("utf-8")))
    except FileNotFoundError:
        raise ModelError(
            f"{folder}: is no bundle (it has no {DESCRIPTION}); make one with `picoformer pi package`"
        ) from None
    except OSError as error:
        raise ModelError(f"{description}: cannot be read ({error.strerror}); {AGAIN}") from None
    except ValueError as error:
        raise ModelError(f"{description}: cannot be used ({error}); {AGAIN}") from None
    for name, record in manifest.files.items():
        _check(folder / name, record.bytes, record.sha256 if check_hashes else None)
    _check_whole(folder / manifest.model)
    if manifest.classify is not None and manifest.classify.labels is not None:
        size = manifest.files[manifest.classify.labels].bytes
        if size > MOST_LABELS:
            raise ModelError(f"{folder / manifest.classify.labels}: {size} bytes are too many for labels; {AGAIN}")
    return Bundle(folder, manifest)


def _check(path: Path, size: int, digest: str | None) -> None:
    """Raise ModelError unless a file is one of the folder's own, of this size and hash."""
    try:
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode):
            raise ModelError(f"{path}: is no file of the bundle's own (a link, or a folder); {AGAIN}")
        if found.st_size != size:
            raise ModelError(f"{path}: has {found.st_size} bytes, and {size} were packed; {AGAIN}")
        if digest is not None and file_hash(path) != digest:
            raise ModelError(f"{path}: is not the file that was packed (its SHA-256 is another); {AGAIN}")
    except FileNotFoundError:
        raise ModelError(f"{path}: is missing from the bundle; {AGAIN}") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); {AGAIN}") from None


def _check_whole(model: Path) -> None:
    """Raise ModelError for an ONNX file that would read numbers from other files, which nobody has checked."""
    try:
        with model.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = ELSEWHERE.search(data)
    except (OSError, ValueError):
        raise ModelError(f"{model}: cannot be read, or is empty; {AGAIN}") from None
    if found:
        raise ModelError(f"{model}: takes numbers out of other files, which a bundle has none of; pack it again")
