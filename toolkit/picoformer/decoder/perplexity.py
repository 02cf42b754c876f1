"""How well a language model foretells a text: bits a token and a character, of each of its forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.decoder.calibration import WINDOW, text_windows
from picoformer.decoder.generating import ModelOptions, Opened, open_model
from picoformer.decoder.judging import foretold_nats, nats_of
from picoformer.decoder.opening import read_tokens
from picoformer.decoder.sessions import DeviceSession, context_of, real_logits
from picoformer.decoder.writing import REFERENCE, open_text
from picoformer.errors import ConfigError
from picoformer.generation.session import Session
from picoformer.ir import Graph
from picoformer.ir.operator import Array

Progress = Callable[[str, int, int], None]


def device_nats(session: Session, graph: Graph, windows: Array, wanted: Array, tick: Callable[[int], None]) -> Array:
    """−ln of the probability of each token `wanted` (n, length) behind those of `windows` (n, length), which the device
    gets one by one: float64 (n, length)."""
    found = np.zeros(wanted.shape)
    for index, window in enumerate(windows.tolist()):
        tick(index)
        for position, token in enumerate(window):
            logits = real_logits(graph, session.decode([token], position))
            found[index, position] = nats_of(logits, wanted[index, position])
    return found


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
    whole = read_tokens(text, opened.tokenizer)
    windows = text_windows(whole, size, count)
    characters = sum(len(opened.tokenizer.decode(row[1:])) for row in windows.tolist())
    tokens = windows.shape[0] * (size - 1)
    record: dict[str, Any] = {"windows": len(windows), "tokens": tokens, "characters": characters}
    record["share_of_text"] = windows.size / len(whole)
    for name, nats in _forms(opened, options, windows, progress):
        record[f"{name}_perplexity"] = math.exp(nats / tokens)
        record[f"{name}_bits_per_character"] = nats / math.log(2) / characters if characters else None
    return record


def _forms(
    opened: Opened, options: ModelOptions, windows: Array, progress: Progress | None
) -> Sequence[tuple[str, float]]:
    build = opened.build.build
    given, wanted = windows[:, :-1], windows[:, 1:]

    def ticker(name: str) -> Callable[[int], None]:
        return lambda done: progress(f"foretelling, {name}", done, len(windows)) if progress else None

    found = [("float", foretold_nats(build.float_graph, given, wanted, ticker("float model")))]
    if build.manifest.scheme != "float32":
        found.append((REFERENCE, foretold_nats(build.graph, given, wanted, ticker(REFERENCE))))
    if opened.where != REFERENCE:
        with open_text(opened.build, opened.where, options.port, options.emulator) as (device, _):
            session = DeviceSession(device.device, build.graph)
            tick = ticker(opened.where or "device")
            found.append(("device", device_nats(session, build.graph, given, wanted, tick)))
    return [(name, float(nats.sum())) for name, nats in found]
