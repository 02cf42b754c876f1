"""A Hugging Face folder: config.json and safetensors, one file or several with an index, to an ImportedModel."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from picoformer.errors import ModelError
from picoformer.models.config import TransformerConfig
from picoformer.models.importers import bloom, falcon, gpt2, llama, mixtral
from picoformer.models.importers.folder import files_digest, find_tokenizer, read_json, read_tensors
from picoformer.models.importers.imported import ImportedModel, Weights
from picoformer.models.importers.keys import Keys
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
        return files_digest(self.files)


def open_folder(folder: Path, families: Mapping[str, object]) -> OpenedFolder:
    """Raises ModelError for a folder that is damaged or of no family in `families`."""
    path = folder / "config.json"
    values = read_json(path)
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in families:
        raise ModelError(f"{path}: model_type = {kind!r} is not covered; known are {', '.join(families)}")
    infos, files = read_tensors(folder)
    generation = folder / "generation_config.json"
    extra = Keys(generation, read_json(generation)) if generation.is_file() else None
    read = (path, *files, *([generation] if extra else []))
    types = ", ".join(sorted({info.dtype for info in infos.values()}))
    return OpenedFolder(kind, Keys(path, values), Tensors(folder, infos), extra, read, types)


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
