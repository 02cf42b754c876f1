"""The files of a checkpoint's folder: JSON, weights in one file or several with an index, tokenizer, their digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from picoformer.errors import ModelError
from picoformer.models.importers.safetensors_file import read_header
from picoformer.models.importers.tensors import Stored
from picoformer.models.importers.torch_file import read_torch

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
TORCH_INDEX, TORCH_SINGLE = "pytorch_model.bin.index.json", "pytorch_model.bin"
MAX_JSON = 64 << 20
MAX_SHARDS = 10_000


def read_tensors(folder: Path, with_torch: bool = False) -> tuple[dict[str, Stored], list[Path]]:
    """(every tensor by name, the files that were read, the index among them). `with_torch`: also of torch's .bin files,
    which are loaded as weights only: nothing in them runs.

    Raises ModelError for files that are missing, cut off, or not what the index says of them.
    """
    single, index = folder / SINGLE, folder / INDEX
    torch_files = folder / TORCH_SINGLE, folder / TORCH_INDEX
    if with_torch and not (single.is_file() or index.is_file()) and any(file.is_file() for file in torch_files):
        single, index = torch_files
    files = _weight_files(folder, single, index)
    found: dict[str, Stored] = {}
    for file, names in files.items():
        tensors: dict[str, Stored] = dict(read_header(file)[0]) if file.suffix == ".safetensors" else read_torch(file)
        for name in names or ():
            if name not in tensors:
                raise ModelError(f"{index}: says that '{name}' is in {file.name}, which lacks it")
        found |= {name: info for name, info in tensors.items() if names is None or name in names}
    return found, [*([] if None in files.values() else [index]), *files]


def _weight_files(folder: Path, single: Path, index: Path) -> dict[Path, set[str] | None]:
    """Each file to read, and the tensors that the index has in it; None for a single file, which is read whole."""
    if single.is_file():
        return {single: None}
    if not index.is_file():
        others = sorted(file.name for file in folder.glob("*.bin"))
        mend = (
            f"only {others[0]}; save it with safe_serialization=True" if others else "give the folder of a checkpoint"
        )
        raise ModelError(f"{folder}: has neither {SINGLE} nor {INDEX}; {mend}")
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ModelError(f"{index}: lacks 'weight_map', which says which tensor is in which file; get it again")
    files: dict[Path, set[str] | None] = {}
    for tensor, name in names.items():
        plain = isinstance(name, str) and name and not set(name) & set("/\\:\0") and name not in (".", "..")
        if not plain or not name.endswith(single.suffix):
            raise ModelError(
                f"{index}: '{tensor}' is in {name!r}; it must be a {single.suffix} file of the same folder"
            )
        found = files.setdefault(folder / name, set())
        assert found is not None
        found.add(tensor)
    if len(files) > MAX_SHARDS:
        raise ModelError(f"{index}: names {len(files)} files; {MAX_SHARDS} are the most")
    for file in files:
        if not file.is_file():
            raise ModelError(f"{index}: names {file.name}, which is not there; get all files of the checkpoint")
    return dict(sorted(files.items()))


def find_tokenizer(folder: Path) -> Path | None:
    """The tokenizer in a folder."""
    for name in ("tokenizer.json", "tokenizer.model"):
        if (folder / name).is_file():
            return folder / name
    return None


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_digest(files: Sequence[Path]) -> str:
    """The SHA-256 over the names and contents of files."""
    lines = "".join(f"{file.name} {file_digest(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ModelError, naming the file, for one that cannot be read or is none."""
    values = read_json_value(path)
    if not isinstance(values, dict):
        raise ModelError(f"{path}: is not a JSON object; get it again")
    return values


def read_json_value(path: Path) -> Any:
    """As `read_json`, of any kind."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise ModelError(f"{path}: {path.stat().st_size} bytes; {MAX_JSON} are the most for such a file")
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); give the folder of a checkpoint") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: is not JSON; get it again") from error
