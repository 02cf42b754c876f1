"""Text to calibrate on: windows of one that is given, or, where none is, of what the model itself writes."""

from __future__ import annotations

import numpy as np

from picoformer.decoder.graph import LOGITS, decoder_graph
from picoformer.decoder.sessions import block_inputs
from picoformer.errors import DataError
from picoformer.ir.operator import Array
from picoformer.models.importers import ImportedModel
from picoformer.reference.session import float_session

SAMPLES, WINDOW = 16, 128
"""Windows of calibration text, and tokens of each where the context has so many."""


def text_windows(tokens: Array, window: int, samples: int = 64) -> Array:
    """Windows of a text's tokens, evenly over all of it: int32 (samples or fewer, window). Raises DataError for a text
    shorter than one window."""
    if len(tokens) < window:
        raise DataError(f"the text has {len(tokens)} tokens, fewer than a window of {window}; give a longer one")
    count = min(samples, len(tokens) // window)
    starts = np.linspace(0, len(tokens) - window, count).astype(int)
    return np.stack([tokens[start : start + window] for start in starts]).astype(np.int32)


def written_windows(model: ImportedModel, window: int, samples: int = SAMPLES, seed: int = 0) -> Array:
    """What the float model writes by itself, drawn at temperature 1 from its first token on: int32 (samples, window).

    It sees there what it will see as it generates, and no data is needed (Liu et al. 2023, LLM-QAT). The first token is
    the model's own beginning of text where it has one, else any.
    """
    config = model.config
    graph = decoder_graph(config, model.weights, block=1, context=window)
    session = float_session(graph, samples)
    chance = np.random.default_rng(seed)
    first = np.full(samples, model.bos) if model.bos is not None else chance.integers(0, config.vocab_size, samples)
    tokens = np.empty((samples, window), np.int32)
    tokens[:, 0] = first
    for position in range(window - 1):
        inputs = block_inputs([0], position)
        inputs["tokens"] = tokens[:, position : position + 1]
        logits = session.run(inputs)[LOGITS].reshape(samples, -1).astype(np.float64)
        weight = np.exp(logits - logits.max(axis=1, keepdims=True)).cumsum(axis=1)
        drawn = chance.random((samples, 1)) * weight[:, -1:]
        tokens[:, position + 1] = np.minimum((weight <= drawn).sum(axis=1), config.vocab_size - 1)
    return tokens
