"""How well a decoder foretells text, a window at a time, and where its text parts from that of the float model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.decoder.graph import LOGITS
from picoformer.decoder.quantize import every_token, window_inputs
from picoformer.decoder.sessions import ReferenceSession, real_logits
from picoformer.ir import Graph
from picoformer.ir.operator import Array
from picoformer.reference import lower_graph, run_float, run_integer
from picoformer.reference.session import float_session

BATCH_LOGITS = 1 << 20
"""Windows are computed together up to so many logits."""


def foretold_nats(graph: Graph, windows: Array, wanted: Array, tick: Callable[[int], None] | None = None) -> Array:
    """−ln of the probability that a decode step gives each token `wanted` (n, length) behind those of `windows`
    (n, length), int: float64 (n, length).

    A step is run on a whole window at once, which gives the logits that it gives token by token.
    """
    whole = every_token(graph, windows.shape[1])
    lowered = None if graph.types[LOGITS].quant is None else lower_graph(whole)
    found = []
    size = max(1, BATCH_LOGITS // (windows.shape[1] * graph.types[LOGITS].width))
    for start in range(0, len(windows), size):
        if tick:
            tick(start)
        inputs = window_inputs(whole, windows[start : start + size])
        values = run_float(whole, inputs) if lowered is None else run_integer(lowered, inputs)
        found.append(nats_of(real_logits(graph, values[LOGITS]), wanted[start : start + size]))
    return np.concatenate(found)


def nats_of(logits: Array, wanted: Array) -> Array:
    """−ln of the probability that softmax gives each token `wanted` (…), of real logits (…, vocabulary)."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(shifted, np.asarray(wanted, np.int64)[..., None], axis=-1)[..., 0]
    found: Array = np.log(np.exp(shifted).sum(axis=-1)) - chosen
    return found


@dataclass(frozen=True)
class Parting:
    """Up to where a greedy text is what the float model would write: `tokens` of it. `margin`: by how much the float
    model's best logit there is above the second best, `behind` by how much above that of the token that was written;
    both None for a text that is the float model's to its end."""

    tokens: int
    margin: float | None = None
    behind: float | None = None


def parting(float_graph: Graph, prompt: Sequence[int], written: Sequence[int]) -> Parting:
    """The first token of a greedy text that the float model would not have written there."""
    session = ReferenceSession(float_session(float_graph))
    logits = session.decode(prompt, 0)
    for index, token in enumerate(written):
        first, second = np.sort(logits)[::-1][:2]
        if int(np.argmax(logits)) != token:
            return Parting(index, float(first - second), float(first - logits[token]))
        if index + 1 < len(written):
            logits = session.decode([token], len(prompt) + index)
    return Parting(len(written))
