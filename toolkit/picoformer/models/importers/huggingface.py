"""A Hugging Face folder: config.json and safetensors, one file or several with an index, to an ImportedModel."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from picoformer.errors import ModelError
from picoformer.models.config import TransformerConfig
from picoformer.models.importers import bloom, falcon, gpt2, llama, mixtral
from picoformer.models.importers.imported import ImportedModel, Weights
from picoformer.models.importers.keys import Keys
from picoformer.models.importers.safetensors_file import read_header
from picoformer.models.importers.tensors import Tensors
from picoformer.models.weights import weight_shapes

Converter = Callable[[Keys, Tensors], tuple[TransformerConfig, Weights, str]]

FAMILIES: dict[str, Converter] = {
    "gpt2": gpt2.convert,
    "llama": llama.convert,
    "mistral": llama.convert,
    "qwen2": llama.convert,
    "falcon": falcon.convert,
    "bloom": bloom.convert,
    "mixtral": mixtral.convert,
}
"""model_type → what turns its keys and tensors into ours, with a note for people."""

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
MAX_JSON = 64 << 20
MAX_SHARDS = 10_000
LEFT_OUT = re.compile(r"(^|\.)(rotary_emb\.inv_freq|attn\.(bias|masked_bias))$")
"""Tensors of older files that are no weights: frequencies and causal masks."""


def load_folder(folder: Path) -> ImportedModel:
    """Raises ModelError for anything amiss: it names the file and the key or tensor."""
    opened = open_folder(folder, FAMILIES)
    kind, keys, tensors = opened.kind, opened.keys, opened.tensors
    config, weights, note = FAMILIES[kind](keys, tensors)
    keys.close()
    tensors.close(LEFT_OUT)
    check_weights(folder, config, weights)
    bos, eos = (opened.tokens(name, config.vocab_size) for name in ("bos_token_id", "eos_token_id"))
    shown = (f"{kind} from {folder.name}: {config.layers} layers of {config.d_model}, {opened.types}", note)
    source = "; ".join(part for part in shown if part)
    first = bos[0] if bos else None
    return ImportedModel(config, weights, kind, source, opened.sha256, find_tokenizer(folder), first, eos)


@dataclass(frozen=True)
class OpenedFolder:
    """A folder whose configuration and headers were read: what converters of families take."""

    kind: str
    keys: Keys
    tensors: Tensors
    generation: Keys | None
    """generation_config.json, where there is one."""
    files: tuple[Path, ...]
    """All that was read."""
    types: str
    """Of the tensors, for people."""

    def tokens(self, name: str, vocabulary: int) -> tuple[int, ...]:
        """The token ids under a key: generation_config.json goes before config.json."""
        found: tuple[int, ...] = ()
        for source in ((self.generation,) if self.generation else ()) + (self.keys,):
            found = found or source.tokens(name, vocabulary)
        return found

    @property
    def sha256(self) -> str:
        """Over all files that were read."""
        lines = "".join(f"{file.name} {file_digest(file)}\n" for file in self.files)
        return hashlib.sha256(lines.encode()).hexdigest()


def open_folder(folder: Path, families: Mapping[str, object]) -> OpenedFolder:
    """Raises ModelError for a folder that is damaged or of no family in `families`."""
    path = folder / "config.json"
    values = read_json(path)
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in families:
        raise ModelError(f"{path}: model_type = {kind!r} is not covered; known are {', '.join(families)}")
    files = _weight_files(folder)
    infos = {}
    for file, names in files.items():
        found, _ = read_header(file)
        for name in names or ():
            if name not in found:
                raise ModelError(f"{folder / INDEX}: says that '{name}' is in {file.name}, which lacks it")
        for name, info in found.items():
            if names is None or name in names:
                infos[name] = info
    generation = folder / "generation_config.json"
    extra = Keys(generation, read_json(generation)) if generation.is_file() else None
    read = [path, *([folder / INDEX] if None not in files.values() else []), *files, *([generation] if extra else [])]
    types = ", ".join(sorted({info.dtype for info in infos.values()}))
    return OpenedFolder(kind, Keys(path, values), Tensors(folder, infos), extra, tuple(read), types)


def find_tokenizer(folder: Path) -> Path | None:
    """The tokenizer in a folder."""
    for name in ("tokenizer.json", "tokenizer.model"):
        if (folder / name).is_file():
            return folder / name
    return None


def check_weights(path: Path, config: TransformerConfig, weights: dict[str, NDArray[Any]]) -> None:
    """Raise ModelError unless the names and shapes are those of `config`."""
    check_shapes(path, weight_shapes(config), weights)


def check_shapes(path: Path, expected: Mapping[str, tuple[int, ...]], weights: Mapping[str, NDArray[Any]]) -> None:
    """Raise ModelError unless `weights` have these names and shapes, and no others."""
    for name, shape in expected.items():
        found = weights[name].shape if name in weights else None
        if found != shape:
            raise ModelError(f"{path}: tensor '{name}' is {found or 'missing'}; its configuration asks for {shape}")
    if surplus := sorted(set(weights) - set(expected)):
        raise ModelError(f"{path}: tensor '{surplus[0]}' is not part of its configuration")


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """Each file to read, and the tensors that the index has in it; None for a single file, which is read whole."""
    single, index = folder / SINGLE, folder / INDEX
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
        if not plain or not name.endswith(".safetensors"):
            raise ModelError(f"{index}: '{tensor}' is in {name!r}; it must be a .safetensors file of the same folder")
        found = files.setdefault(folder / name, set())
        assert found is not None
        found.add(tensor)
    if len(files) > MAX_SHARDS:
        raise ModelError(f"{index}: names {len(files)} files; {MAX_SHARDS} are the most")
    for file in files:
        if not file.is_file():
            raise ModelError(f"{index}: names {file.name}, which is not there; get all files of the checkpoint")
    return dict(sorted(files.items()))


def read_json(path: Path) -> dict[str, Any]:
    """The object of a small JSON file; ModelError for what is none."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise ModelError(f"{path}: {path.stat().st_size} bytes; {MAX_JSON} are the most for such a file")
        values = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); give the folder of a checkpoint") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: is not JSON; get it again") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path}: is not a JSON object; get it again")
    return values
