"""A Hugging Face folder: config.json and safetensors, one file or several with an index, to an ImportedModel."""

from __future__ import annotations

import re
from collections.abc import Callable
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
    path = folder / "config.json"
    values = read_json(path)
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ModelError(f"{path}: model_type = {kind!r} is not covered; known are {', '.join(FAMILIES)}")
    keys = Keys(path, values)
    infos, files = read_tensors(folder)
    tensors = Tensors(folder, infos)
    config, weights, note = FAMILIES[kind](keys, tensors)
    keys.close()
    tensors.close(LEFT_OUT)
    check_weights(folder, config, weights)
    bos, eos, extra = _ends(folder, keys, config.vocab_size)
    read = [path, *files, *extra]
    parts = ", ".join(sorted({info.dtype for info in infos.values()}))
    shown = (f"{kind} from {folder.name}: {config.layers} layers of {config.d_model}, {parts}", note)
    source = "; ".join(part for part in shown if part)
    return ImportedModel(config, weights, kind, source, files_digest(read), find_tokenizer(folder), bos, eos)


def check_weights(path: Path, config: TransformerConfig, weights: dict[str, NDArray[Any]]) -> None:
    """Raise ModelError unless the names and shapes are those of `config`."""
    expected = weight_shapes(config)
    for name, shape in expected.items():
        found = weights[name].shape if name in weights else None
        if found != shape:
            raise ModelError(f"{path}: tensor '{name}' is {found or 'missing'}; its configuration asks for {shape}")
    if surplus := sorted(set(weights) - set(expected)):
        raise ModelError(f"{path}: tensor '{surplus[0]}' is not part of its configuration")


def _ends(folder: Path, keys: Keys, vocabulary: int) -> tuple[int | None, tuple[int, ...], list[Path]]:
    """First token, last tokens, and what was read for them: generation_config.json goes before config.json."""
    path = folder / "generation_config.json"
    sources = [Keys(path, read_json(path))] if path.is_file() else []
    bos: tuple[int, ...] = ()
    eos: tuple[int, ...] = ()
    for source in (*sources, keys):
        bos, eos = bos or source.tokens("bos_token_id", vocabulary), eos or source.tokens("eos_token_id", vocabulary)
    return (bos[0] if bos else None), eos, [source.path for source in sources]
