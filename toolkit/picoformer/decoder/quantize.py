"""Quantizing a language model: on windows of text as one long block, then the same grids for a step of few tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from picoformer.decoder.graph import COUNT, LOGITS, POSITION, TOKENS, decoder_graph
from picoformer.errors import ConfigError, DataError, UnsupportedError
from picoformer.ir import Graph, Node, TensorType, verify
from picoformer.ir.operator import Array, LoweringError
from picoformer.metrics import IGNORED
from picoformer.models.config import TransformerConfig
from picoformer.ops import KvAppend, PositionIds, TakeRow
from picoformer.quantize import SCHEMES, QuantizeSettings, quantize
from picoformer.reference import lower_graph, run_float

if TYPE_CHECKING:
    from picoformer.compress.settings import QatSettings

DECODER_SCHEMES = ("float32", "int8x16", "int4x16")
"""Schemes that language models are built in: text takes 16-bit activations."""
WIDE_WEIGHTS = 0.25
"""Share of their bytes that constants may grow by for wider weights, where nothing else is said."""
WIDE_MACS = 500_000_000
"""Multiply-accumulates of a window up to which that is so: every weight is tried, which takes as many runs again."""


def window_inputs(graph: Graph, windows: Array) -> dict[str, Array]:
    """All inputs of a window graph for `windows` of tokens, (samples, window): from position 0, on empty caches."""
    samples, length = windows.shape
    counts = np.full(samples, length, np.int32)
    inputs: dict[str, Array] = {TOKENS: windows.astype(np.int32), POSITION: np.zeros(samples, np.int32), COUNT: counts}
    for before, _ in graph.states:
        shape = graph.types[before].shape
        inputs[before] = np.broadcast_to(np.zeros((), np.float32), (samples, *shape))
    return inputs


def window_graph(config: TransformerConfig, weights: Mapping[str, Array], window: int, context: int = 0) -> Graph:
    """The decoder that reads a window of text at once and says logits for every token of it."""
    return decoder_graph(config, weights, block=window, context=context, caches=window, every=True)


def quantize_decoder(
    config: TransformerConfig,
    weights: Mapping[str, Array],
    windows: Array,
    scheme: str,
    context: int = 0,
    settings: QuantizeSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
    training: QatSettings | None = None,
) -> Graph:
    """The window graph in an integer scheme, calibrated on `windows` of tokens (samples, window), int.

    With `training` its integers are then trained on the same windows, to say what the float model says and, by its
    `soft_weight`, what comes next.

    Raises ConfigError for another scheme, DataError for tokens that are none of the vocabulary, UnsupportedError naming
    a node that has no integer form.
    """
    if scheme not in DECODER_SCHEMES[1:]:
        raise ConfigError(f"scheme '{scheme}' is not for language models; use one of {', '.join(DECODER_SCHEMES)}")
    if windows.ndim != 2 or windows.shape[0] == 0 or windows.shape[1] < 2:
        raise DataError("calibration needs windows of two tokens or more; give a longer text")
    if windows.min() < 0 or windows.max() >= config.vocab_size:
        raise DataError(f"a token of the calibration text is outside the vocabulary of {config.vocab_size}")
    graph = window_graph(config, weights, windows.shape[1], context)
    chosen = SCHEMES[scheme]
    settings = dataclasses.replace(
        settings or QuantizeSettings(), activations=chosen.activations, weights=chosen.weights
    )
    if settings.wide_weights is None and settings.budget is None and graph.macs <= WIDE_MACS:
        settings = dataclasses.replace(settings, wide_weights=WIDE_WEIGHTS)
    inputs = window_inputs(graph, windows)
    try:
        typed = quantize(graph, inputs, run_float, settings, progress)
        if training is not None:
            typed = _trained(graph, typed, windows, training, progress)
        lower_graph(typed)
    except LoweringError as error:
        raise UnsupportedError(f"{error}; use scheme float32, or another model") from None
    return typed


def _trained(
    graph: Graph,
    typed: Graph,
    windows: Array,
    training: QatSettings,
    progress: Callable[[int, int], None] | None,
) -> Graph:
    from picoformer.compress.qat import train_quantized

    labels = np.full(windows.shape, IGNORED, np.int64)
    labels[:, :-1] = windows[:, 1:]
    tick = None if progress is None else lambda done, total, loss: progress(done, total)
    wanted = labels if training.soft_weight < 1.0 else None
    trained, _ = train_quantized(graph, typed, window_inputs(graph, windows), training, wanted, tick)
    return trained


def step_graph(window: Graph, block: int, context: int) -> Graph:
    """A window graph, float or quantized, as the decode step of up to `block` tokens with caches of `context` rows.

    Constants and grids stay; the logits are those of the last token of the block.
    """
    return _resized(window, block, context, every=False)


def every_token(step: Graph, window: int) -> Graph:
    """The inverse of `step_graph`: a decode step that reads `window` tokens at once, on caches of as many rows, and
    says logits for every one of them: what the step says to them one by one."""
    return _resized(step, window, window, every=True)


def _resized(graph: Graph, block: int, context: int, every: bool) -> Graph:
    """A decoder's graph for blocks of another size and caches of another length."""
    types = dict(graph.types)
    types[TOKENS] = dataclasses.replace(types[TOKENS], shape=(block,))
    nodes: list[Node] = []
    moved: dict[str, str] = {}
    for node in graph.nodes:
        node = dataclasses.replace(node, inputs=tuple(moved.get(name, name) for name in node.inputs))
        if isinstance(node.op, TakeRow) and every:
            moved[node.output] = node.inputs[0]
            continue
        if isinstance(node.op, KvAppend):
            before = node.inputs[0]
            shape = list(types[before].shape)
            shape[node.op.axis] = context
            types[before] = dataclasses.replace(types[before], shape=tuple(shape))
        if isinstance(node.op, PositionIds):
            node = dataclasses.replace(node, op=PositionIds(block))
        if node.output == LOGITS and not every and not isinstance(graph.producers[node.inputs[0]].op, TakeRow):
            node = _on_last_row(node, types, nodes)
        inferred = node.op.infer([types[name] for name in node.inputs])
        types[node.output] = dataclasses.replace(types[node.output], shape=inferred.shape)
        nodes.append(node)
    types = {name: type_ for name, type_ in types.items() if name not in moved}
    return verify(graph.replace(nodes=nodes, types=types))


def _on_last_row(head: Node, types: dict[str, TensorType], nodes: list[Node]) -> Node:
    """The head, reading one row: the last one that is there, which a node before it takes."""
    x = head.inputs[0]
    name = f"{x}.last"
    types[name] = dataclasses.replace(types[x], shape=(1, types[x].shape[-1]))
    nodes.append(Node(name, TakeRow(), (x, COUNT), name))
    return dataclasses.replace(head, inputs=(name, *head.inputs[1:]))
