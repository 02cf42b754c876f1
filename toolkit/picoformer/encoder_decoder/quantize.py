"""Quantizing an encoder-decoder: sources and texts side by side through both of its parts, as one graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from picoformer.decoder.graph import COUNT, POSITION, TOKENS
from picoformer.decoder.quantize import DECODER_SCHEMES, WIDE_MACS, WIDE_WEIGHTS, step_graph
from picoformer.encoder_decoder.graph import SOURCE, SOURCE_LENGTH, Sizes, pair_graph
from picoformer.errors import ConfigError, DataError, UnsupportedError
from picoformer.ir import Graph
from picoformer.ir.operator import Array, LoweringError
from picoformer.models.importers.imported_pair import ImportedPair
from picoformer.quantize import SCHEMES, QuantizeSettings, quantize
from picoformer.reference import lower_graph, run_float

SAMPLES, WINDOW = 64, 64
"""Pairs to calibrate on at most, and tokens of each text."""


@dataclass(frozen=True)
class Pairs:
    """Sources (samples, source) with their lengths (samples,), and the texts behind them (samples, window), int32."""

    source: Array
    lengths: Array
    target: Array

    @classmethod
    def of(cls, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], model: ImportedPair, sizes: Sizes) -> Pairs:
        """Pairs of token ids, the texts without what they begin with; longer ones are cut, shorter ones filled up with
        the last token. Raises DataError for tokens that the model does not have, or no pair."""
        if not pairs:
            raise DataError("there is no pair to calibrate on; give one at least")
        chosen = [pairs[i] for i in np.linspace(0, len(pairs) - 1, min(SAMPLES, len(pairs))).astype(int)]
        for index, (source, target) in enumerate(chosen):
            for what, ids, vocabulary in (
                ("source", source, model.config.encoder.vocab_size), ("text", target, model.config.vocab_size)
            ):  # fmt: skip
                if not len(ids) or min(ids) < 0 or max(ids) >= vocabulary:
                    raise DataError(f"the {what} of pair {index} is empty or has a token outside 0 to {vocabulary - 1}")
        longest = max(len(target) for _, target in chosen) + len(model.begin)
        window = max(2, min(sizes.context, WINDOW, longest))
        sources = np.full((len(chosen), sizes.source), model.pad, np.int32)
        targets = np.zeros((len(chosen), window), np.int32)
        lengths = np.zeros(len(chosen), np.int32)
        for row, (source, target) in enumerate(chosen):
            lengths[row] = min(len(source), sizes.source)
            sources[row, : lengths[row]] = source[: sizes.source]
            text = [*model.begin, *target][:window]
            targets[row] = [*text, *[text[-1]] * (window - len(text))]
        return cls(sources, lengths, targets)


def window_inputs(graph: Graph, pairs: Pairs) -> dict[str, Array]:
    """All inputs of a graph for whole texts: from position 0, on empty caches."""
    samples, length = pairs.target.shape
    inputs: dict[str, Array] = {
        SOURCE: pairs.source,
        SOURCE_LENGTH: pairs.lengths,
        TOKENS: pairs.target,
        POSITION: np.zeros(samples, np.int32),
        COUNT: np.full(samples, length, np.int32),
    }
    for before, _ in graph.states:
        inputs[before] = np.broadcast_to(np.zeros((), np.float32), (samples, *graph.types[before].shape))
    return inputs


def quantize_pair(
    model: ImportedPair,
    pairs: Pairs,
    scheme: str,
    sizes: Sizes,
    settings: QuantizeSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Graph:
    """The graph of an encoder-decoder in an integer scheme, calibrated on pairs, for blocks of `sizes`.

    Raises ConfigError for another scheme, UnsupportedError naming a node that has no integer form.
    """
    if scheme not in DECODER_SCHEMES[1:]:
        raise ConfigError(f"scheme '{scheme}' is not for text; use one of {', '.join(DECODER_SCHEMES)}")
    window = pairs.target.shape[1]
    whole = dataclasses.replace(sizes, block=window, caches=window)
    graph = pair_graph(model.config, model.weights, whole, every=True)
    chosen = SCHEMES[scheme]
    settings = dataclasses.replace(
        settings or QuantizeSettings(), activations=chosen.activations, weights=chosen.weights
    )
    if settings.wide_weights is None and settings.budget is None and graph.macs <= WIDE_MACS:
        settings = dataclasses.replace(settings, wide_weights=WIDE_WEIGHTS)
    try:
        typed = quantize(graph, window_inputs(graph, pairs), run_float, settings, progress)
        lower_graph(typed)
    except LoweringError as error:
        raise UnsupportedError(f"{error}; use scheme float32, or another model") from None
    return step_graph(typed, sizes.block, sizes.context)
