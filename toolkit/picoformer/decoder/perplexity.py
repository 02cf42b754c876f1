"""How well a language model foretells a text: bits a token and a character, of each of its forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.decoder.calibration import WINDOW, text_windows
from picoformer.decoder.generating import ModelOptions, Opened, open_model, read_tokens
from picoformer.decoder.sessions import DeviceSession, context_of, real_logits
from picoformer.decoder.writing import REFERENCE, open_text, reference_session
from picoformer.errors import ConfigError
from picoformer.generation.session import Session
from picoformer.ir import Graph
from picoformer.ir.operator import Array

Progress = Callable[[str, int, int], None]


def nats_of(logits: Array, token: int) -> float:
    """−ln of the probability that softmax gives `token`, of real logits (vocabulary,)."""
    values = logits.astype(np.float64)
    top = values.max()
    return float(top + math.log(np.exp(values - top).sum()) - values[token])


def text_nats(session: Session, graph: Graph, windows: Array, tick: Callable[[int], None]) -> float:
    """The sum over all tokens but the first of each window (n, length), fed one by one."""
    total = 0.0
    for index, window in enumerate(windows.tolist()):
        tick(index)
        for position in range(len(window) - 1):
            logits = session.decode(window[position : position + 1], position)
            total += nats_of(real_logits(graph, logits), window[position + 1])
    return total


def perplexity_files(
    model: Path, text: Path, options: ModelOptions, window: int, count: int, progress: Progress | None = None
) -> dict[str, Any]:
    """The record of `perplexity --json`: for the float model, the reference and a device the perplexity a token, and
    bits a character. Raises ConfigError without a tokenizer, DataError for a text too short."""
    opened = open_model(model, options, progress)
    if opened.tokenizer is None:
        raise ConfigError("a text needs a tokenizer; give --tokenizer")
    graph = opened.build.build.graph
    size = window or min(WINDOW, context_of(graph))
    if not 2 <= size <= context_of(graph):
        raise ConfigError(f"--window {size}: use 2 to {context_of(graph)}, the model's context")
    windows = text_windows(read_tokens(text, opened.tokenizer), size, count)
    characters = sum(len(opened.tokenizer.decode(row[1:])) for row in windows.tolist())
    tokens = windows.shape[0] * (size - 1)
    record: dict[str, Any] = {"windows": len(windows), "tokens": tokens, "characters": characters}
    for name, nats in _forms(opened, options, windows, progress):
        record[f"{name}_perplexity"] = math.exp(nats / tokens)
        record[f"{name}_bits_per_character"] = nats / math.log(2) / characters if characters else None
    return record


def _forms(
    opened: Opened, options: ModelOptions, windows: Array, progress: Progress | None
) -> Sequence[tuple[str, float]]:
    build = opened.build.build

    def ticker(name: str) -> Callable[[int], None]:
        return lambda done: progress(f"foretelling, {name}", done, len(windows)) if progress else None

    found = [
        ("float", text_nats(reference_session(build.float_graph), build.float_graph, windows, ticker("float model")))
    ]
    if build.manifest.scheme != "float32":
        found.append((REFERENCE, text_nats(reference_session(build.graph), build.graph, windows, ticker(REFERENCE))))
    if opened.where != REFERENCE:
        with open_text(opened.build, opened.where, options.port, options.emulator) as (device, _):
            session = DeviceSession(device.device, build.graph)
            found.append(("device", text_nats(session, build.graph, windows, ticker(opened.where or "device"))))
    return found
