"""Our own checkpoint: one safetensors file with the configuration as JSON, checked before it is believed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from picoformer.errors import ModelError
from picoformer.files import atomic_write_bytes
from picoformer.models.checkpoint_header import FORMAT, read_checkpoint_header
from picoformer.models.transformer import Transformer, build_unset


def save_checkpoint(model: Transformer, path: Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write weights (float32), configuration and `extra` (JSON types: accuracies, settings) to `path`,
    atomically.

    The same model and extra give the same bytes. Raises ModelError for weights that are not finite.
    """
    weights = {name: tensor.detach().float().contiguous() for name, tensor in model.state_dict().items()}
    for name, tensor in weights.items():
        _check_finite(path, name, tensor)
    # One entry only: safetensors writes its metadata map in no stable order.
    header = {"format": FORMAT, "config": model.config.to_dict(), "extra": dict(extra or {})}
    metadata = {"picoformer": json.dumps(header, sort_keys=True)}
    atomic_write_bytes(Path(path), safetensors.torch.save(weights, metadata=metadata))


def load_checkpoint(path: Path) -> tuple[Transformer, dict[str, Any]]:
    """The model (in eval mode) and the `extra` of `save_checkpoint`. Raises ModelError for anything amiss."""
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such file; train a model or give the path of a checkpoint")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            config, extra = read_checkpoint_header(path, file.metadata())
            expected = {name: tuple(tensor.shape) for name, tensor in build_unset(config).state_dict().items()}
            _check_names(path, set(file.keys()), set(expected))
            weights = {}
            for name, shape in expected.items():
                part = file.get_slice(name)
                found = tuple(part.get_shape())
                if found != shape:
                    raise ModelError(f"{path}: tensor '{name}' has shape {found}; its configuration asks for {shape}")
                if part.get_dtype() != "F32":
                    raise ModelError(f"{path}: tensor '{name}' is {part.get_dtype()}; save it as float32")
                weights[name] = file.get_tensor(name)
                _check_finite(path, name, weights[name])
    except safetensors.SafetensorError as error:
        reason = str(error).splitlines()[0] if str(error) else "unreadable"
        raise ModelError(f"{path}: not a safetensors file ({reason}); save the checkpoint again") from error
    model = Transformer(config, seed=None)
    model.load_state_dict(weights)
    return model.eval(), extra


def trained_tokenizer(extra: Mapping[str, Any]) -> str:
    """The SHA-256 of the tokenizer.json whose tokens a checkpoint was trained on, from its `extra`; "" if not known."""
    found = extra.get("tokenizer")
    return found if isinstance(found, str) else ""


def _check_names(path: Path, found: set[str], expected: set[str]) -> None:
    if missing := sorted(expected - found):
        raise ModelError(f"{path}: tensor '{missing[0]}' is missing ({len(missing)} in all); save the checkpoint again")
    if surplus := sorted(found - expected):
        raise ModelError(f"{path}: tensor {surplus[0]!r} is not part of its configuration; save the checkpoint again")


def _check_finite(path: Path, name: str, tensor: torch.Tensor) -> None:
    if not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise ModelError(f"{path}: tensor '{name}' holds {bad} NaN or infinite values; train again with a lower rate")
