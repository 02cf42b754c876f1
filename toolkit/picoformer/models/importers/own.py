"""Our own checkpoint of a causal language model, read without torch."""

from __future__ import annotations

from pathlib import Path

from picoformer.errors import ModelError
from picoformer.models.checkpoint_header import read_checkpoint_header
from picoformer.models.importers.folder import file_digest, find_tokenizer
from picoformer.models.importers.imported import ImportedModel
from picoformer.models.importers.safetensors_file import read_header
from picoformer.models.weights import weight_shapes


def load_own(path: Path) -> ImportedModel:
    """The model of a file that `save_checkpoint` wrote. Low-rank pairs stay pairs, as `config.ranks` says.

    Raises ModelError for a file that is not ours, is damaged, or is no causal language model.
    """
    infos, metadata = read_header(path)
    config, _ = read_checkpoint_header(path, metadata)
    writes = config.causal and config.pooling == "none" and config.classes == config.vocab_size > 0
    if not writes or config.cls_token:
        raise ModelError(
            f"{path}: is no language model (causal, pooling 'none', classes = vocab_size, no cls_token); give one that "
            "foretells tokens"
        )
    weights = {}
    for name, shape in weight_shapes(config).items():
        if name not in infos:
            raise ModelError(f"{path}: tensor '{name}' is missing; save the checkpoint again")
        if infos[name].shape != shape:
            raise ModelError(
                f"{path}: tensor '{name}' has shape {infos[name].shape}; its configuration asks for {shape}"
            )
        weights[name] = infos[name].read()
    if surplus := sorted(set(infos) - set(weights)):
        raise ModelError(f"{path}: tensor {surplus[0]!r} is not part of its configuration; save the checkpoint again")
    source = f"picoformer from {path.name}: {config.layers} layers of {config.d_model}"
    return ImportedModel(
        config, weights, "picoformer", source, file_digest(path), find_tokenizer(path.parent), None, ()
    )
