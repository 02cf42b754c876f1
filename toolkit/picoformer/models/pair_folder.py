"""Keeping an encoder-decoder that was trained here: a folder that `load_pair` reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch

from picoformer.errors import ModelError
from picoformer.files import atomic_write_bytes, atomic_write_text
from picoformer.models.encoder_decoder import EncoderDecoder
from picoformer.models.importers.imported import check_finite
from picoformer.models.importers.own_pair import KIND


def save_pair(model: EncoderDecoder, folder: Path, begin: int, eos: Sequence[int], pad: int) -> None:
    """Write config.json and model.safetensors (float32): `begin` is what the decoder is given first, `eos` what ends a
    text, `pad` what fills up a source. Raises ModelError for weights that are not finite, or a token that is none."""
    for name, token in (("begin", begin), ("pad", pad), *(("eos", token) for token in eos)):
        if not 0 <= token < model.config.vocab_size:
            raise ModelError(
                f"{name} = {token} is outside the vocabulary of {model.config.vocab_size}; give a token of it"
            )
    weights = {name: tensor.detach().float().contiguous() for name, tensor in model.weights().items()}
    for name, tensor in weights.items():
        check_finite(folder, name, tensor.numpy())
    record = {
        "model_type": KIND,
        "decoder_start_token_id": begin,
        "eos_token_id": list(eos),
        "pad_token_id": pad,
        "config": model.config.to_dict(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(folder / "model.safetensors", safetensors.torch.save(weights))
    atomic_write_text(folder / "config.json", json.dumps(record, indent=1) + "\n")
