"""Sequences that a language model writes: the targets of sequence-level distillation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from picoformer.compress.loop import use_threads
from picoformer.compress.settings import DistillSettings
from picoformer.errors import ConfigError, DataError
from picoformer.metrics import IGNORED
from picoformer.models.config import TransformerConfig
from picoformer.models.transformer import Transformer

BATCH = 64


def generate(
    model: Transformer, prompts: NDArray[np.int64], length: int, temperature: float = 1.0, seed: int = 0
) -> NDArray[np.int64]:
    """Continue prompts (n, p) of token ids to `length` tokens each: (n, length), the prompts first.

    Each token is drawn from softmax(logits / temperature), or is the likeliest for 0. Past its longest input the model
    sees the last tokens only. Raises ConfigError for a model that is no language model.
    """
    config = model.config
    _require_language_model(config)
    if prompts.ndim != 2 or not 1 <= prompts.shape[1] <= length:
        raise DataError(f"prompts are {prompts.shape}; give (n, p) with p from 1 to {length}")
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    training = model.training
    model.eval()
    parts = []
    with torch.no_grad():
        for start in range(0, len(prompts), BATCH):
            tokens = torch.from_numpy(prompts[start : start + BATCH]).to(device)
            while tokens.shape[1] < length:
                logits = model(tokens[:, -config.sequence :])[:, -1].float()
                if temperature:
                    following = torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator)
                else:
                    following = logits.argmax(dim=-1, keepdim=True)
                tokens = torch.cat((tokens, following), dim=1)
            parts.append(tokens.cpu().numpy())
    model.train(training)
    sequences: NDArray[np.int64] = np.concatenate(parts) if parts else np.empty((0, length), np.int64)
    return sequences


def sequence_targets(
    teacher: Transformer, x: NDArray[Any], settings: DistillSettings
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Samples that the teacher wrote (Kim and Rush 2016): x and y (sequence_samples, rows), y the tokens one on.

    Each begins with `sequence_prompt` tokens of a training sample x (n, rows), chosen by the seed; rows that stand for
    these are IGNORED. Raises ConfigError for settings or a teacher that do not fit.
    """
    _require_language_model(teacher.config)
    rows = x.shape[1]
    if settings.sequence_prompt > rows:
        raise ConfigError(f"sequence_prompt = {settings.sequence_prompt}, but samples have {rows} tokens; lower it")
    rng = np.random.default_rng([settings.seed, 3])
    chosen = rng.integers(0, len(x), settings.sequence_samples)
    prompts = x[chosen, : settings.sequence_prompt]
    with use_threads(settings.threads):
        written = generate(teacher, prompts, rows + 1, settings.sequence_temperature, settings.seed)
    y = written[:, 1:].copy()
    y[:, : settings.sequence_prompt - 1] = IGNORED
    return np.ascontiguousarray(written[:, :-1]), y


def _require_language_model(config: TransformerConfig) -> None:
    if not (config.causal and config.pooling == "none" and config.classes == config.vocab_size > 0):
        raise ConfigError(
            "sequences are written by a language model (causal, pooling 'none', classes = vocab_size), which this "
            "teacher is not; set sequence_samples = 0"
        )
