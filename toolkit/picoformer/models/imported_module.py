"""An imported model in torch: as a Transformer, and beside `transformers` on the same tokens."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from picoformer.errors import ModelError
from picoformer.models.importers import ImportedEncoder, ImportedModel
from picoformer.models.importers.huggingface import FAMILIES
from picoformer.models.transformer import Transformer


def build_module(imported: ImportedModel | ImportedEncoder) -> Transformer:
    """The model in torch, in eval mode; it trains, and `save_checkpoint` writes it, like any other."""
    model = Transformer(imported.config, seed=None)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in imported.weights.items()}, strict=True)
    return model.eval()


def check_against_transformers(path: Path, imported: ImportedModel, tokens: int = 64) -> float | None:
    """The largest difference between our logits and those of `transformers` for the Hugging Face folder `path`, over
    random tokens in float32; None where transformers is not installed or `path` is no such folder.

    Raises ModelError when transformers cannot load the folder. No code from the folder is run.
    """
    if imported.family not in FAMILIES or importlib.util.find_spec("transformers") is None:
        return None
    from transformers import AutoModelForCausalLM

    theirs: Any
    count = min(tokens, imported.config.sequence)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, imported.config.vocab_size, (1, count)))
    try:
        theirs = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )
        if hasattr(theirs, "set_experts_implementation"):
            theirs.set_experts_implementation("eager")  # the faster ones ask for widths that are multiples of 4
        with torch.no_grad():
            wanted = theirs.eval()(ids, use_cache=False).logits
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path}: transformers cannot run it ({reason})") from error
    with torch.no_grad():
        found = build_module(imported)(ids)
    return float((found - wanted).abs().max())
