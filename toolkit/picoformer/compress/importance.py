"""How much a head, a neuron, a layer or a channel of the residual stream matters, by one of five measures."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from picoformer.compress.covariance import eliminate, measure_covariances
from picoformer.compress.settings import PruneSettings
from picoformer.compress.train import check_labels, use_threads
from picoformer.errors import ConfigError, PicoformerError
from picoformer.metrics import IGNORED
from picoformer.models.config import TransformerConfig
from picoformer.models.transformer import Attention, FeedForward, LowRankLinear, Transformer

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """Per layer heads (heads,) and neurons (d_ff,); layers (layers,) and width (d_model,), empty where not measured.

    float64; more is more important.
    """

    heads: tuple[Array, ...]
    neurons: tuple[Array, ...]
    layers: Array = field(default_factory=lambda: np.zeros(0))
    width: Array = field(default_factory=lambda: np.zeros(0))


def measure_importance(
    model: Transformer, x: NDArray[Any], y: NDArray[np.int64], settings: PruneSettings
) -> Importance:
    """By `settings.importance`, on the first `settings.samples` of `x` (n, *input) with labels `y`:

    - "taylor": |gradient * activation| of every head's context, every neuron's output and everything written to a
      channel, summed over a sample's rows; the first-order estimate of what the loss loses without it (Molchanov et
      al. 2017; for heads Michel et al. 2019): absolute value per sample, mean over samples.
    - "activation": root mean square of the activation times the norm of the weights that read it (Sun et al. 2023,
      Wanda; by whole columns).
    - "magnitude": norm of all weights that would go.
    - "reconstruction": the least error that its branch's output is left with, see `eliminate`; channels as by
      "activation".
    - "random": uniform, from `settings.seed`; what the others have to beat.

    A layer's is the mean loss without it less the mean loss with it, but for "random"; measured where layers may go.
    Raises DataError, ConfigError for a kind of model that cannot be pruned, and PicoformerError when it is not finite.
    """
    check_prunable(model.config)
    check_labels(model, x, y)
    count = min(settings.samples, len(x))
    x, y = x[:count], y[:count]
    training = model.training
    model.eval()
    try:
        with use_threads(settings.threads):
            if settings.importance == "random":
                return _random(model, settings)
            measure = {
                "taylor": _taylor,
                "activation": _activation,
                "magnitude": _magnitude,
                "reconstruction": _reconstruction,
            }[settings.importance]
            measured = measure(model, x, y, settings)
            layers = _layers(model, x, y, settings) if settings.layers_may_go else np.zeros(0)
    finally:
        model.train(training)
    found = dataclasses.replace(measured, layers=layers)
    if not all(np.isfinite(part).all() for part in (*found.heads, *found.neurons, found.layers, found.width)):
        raise PicoformerError("pruning found no finite importance; check the model and the data for NaN")
    return found


def check_prunable(config: TransformerConfig) -> None:
    """Raise ConfigError, naming the key, for a kind of model whose parts cannot be taken away one by one."""
    unset_keys = (
        ("experts", 0), ("parallel", 0), ("embedding_norm", False), ("alibi_slopes", ()), ("embedding_width", 0),
        ("shared_layers", ()), ("segments", 0), ("pooler", ""), ("head_dense", ""), ("tied_head_bias", False),
    )  # fmt: skip
    for key, unset in unset_keys:
        value = getattr(config, key)
        if value != unset:
            shown = f"{len(value)} entries" if isinstance(value, tuple) else value
            raise ConfigError(f"{key} = {shown}: models with it cannot be pruned; leave the pruning out")


def loss_of(model: Transformer, x: NDArray[Any], y: NDArray[np.int64]) -> Tensor:
    """Cross-entropy summed over all labels that are judged; summed, so that each sample's gradient is its own and not
    a share of the batch's."""
    logits = model(torch.from_numpy(x))
    labels = torch.from_numpy(y)
    return functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")


def batches(
    x: NDArray[Any], y: NDArray[np.int64], settings: PruneSettings
) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
    """`x` and `y` in pieces of `settings.batch`."""
    for start in range(0, len(x), settings.batch):
        yield x[start : start + settings.batch], y[start : start + settings.batch]


def branches(model: Transformer) -> Iterator[tuple[Attention, FeedForward]]:
    """The two branches of every layer."""
    for layer in model.layers:
        attention, feed_forward = layer.attention, layer.feed_forward
        assert isinstance(attention, Attention) and isinstance(feed_forward, FeedForward)
        yield attention, feed_forward


def first_matrices(feed_forward: FeedForward) -> tuple[nn.Module, ...]:
    """The linear layers that read a feed-forward's input."""
    return (feed_forward.up, feed_forward.gate) if feed_forward.gated else (feed_forward.up,)


def whole_matrix(module: nn.Module) -> Tensor:
    """The matrix (outputs, inputs) of a linear layer, a pair of low rank multiplied out."""
    if isinstance(module, LowRankLinear):
        return module.expand.weight.detach() @ module.reduce.weight.detach()
    assert isinstance(module, nn.Linear)
    return module.weight.detach()


def has_bias(module: nn.Module) -> bool:
    """Whether a linear layer, or the last of a pair of low rank, adds a bias."""
    return getattr(module.expand if isinstance(module, LowRankLinear) else module, "bias", None) is not None


@contextlib.contextmanager
def _capture(inputs_of: Iterable[nn.Module], outputs_of: Iterable[nn.Module] = ()) -> Iterator[list[Tensor]]:
    """Inputs and outputs of modules, in the order in which they run."""
    captured: list[Tensor] = []
    before = [m.register_forward_pre_hook(lambda _m, inputs: captured.append(inputs[0])) for m in inputs_of]
    after = [m.register_forward_hook(lambda _m, _i, output: captured.append(output)) for m in outputs_of]
    try:
        yield captured
    finally:
        for handle in (*before, *after):
            handle.remove()


def _sources(model: Transformer) -> list[nn.Module]:
    """Modules whose outputs are the residual stream, or added to it where nothing norms it after."""
    found: list[nn.Module] = [model.embedding]
    for layer in model.layers:
        pre = ("attention", "feed_forward") if model.config.norm_position == "pre" else ()
        found += [getattr(layer, name) for name in pre or ("attention_norm", "feed_forward_norm")]
    return found


def _taylor(model: Transformer, x: NDArray[Any], y: NDArray[np.int64], settings: PruneSettings) -> Importance:
    config = model.config
    parts = [module for pair in branches(model) for module in (pair[0].out, pair[1].down)]
    sums = [np.zeros(1)] * (2 * config.layers)
    width = np.zeros(config.d_model)
    for inputs, labels in batches(x, y, settings):
        with _capture(parts) as read, _capture((), _sources(model)) as written, torch.enable_grad():
            loss = loss_of(model, inputs, labels)
            gradients = torch.autograd.grad(loss, [*read, *written])
        products = [(a * g).detach().double().sum(dim=1) for a, g in zip([*read, *written], gradients, strict=True)]
        for index, product in enumerate(products[: len(read)]):
            if index % 2 == 0:  # a head is one gate: its columns are summed before the absolute value
                product = product.reshape(len(product), -1, config.head_dim).sum(dim=-1)
            sums[index] = sums[index] + product.abs().sum(dim=0).numpy() / len(x)
        width += torch.stack(products[len(read) :]).sum(dim=0).abs().sum(dim=0).numpy() / len(x)
    return Importance(tuple(sums[0::2]), tuple(sums[1::2]), width=width)


def _activation(model: Transformer, x: NDArray[Any], y: NDArray[np.int64], settings: PruneSettings) -> Importance:
    config = model.config
    parts = [module for pair in branches(model) for module in (pair[0].out, pair[1].down)]
    readers = _readers(model)
    sums = [np.zeros(1)] * len(parts)
    width = np.zeros(config.d_model)
    for inputs, _ in batches(x, y, settings):
        with torch.no_grad(), _capture(parts) as read, _capture(module for module, _ in readers) as stream:
            model(torch.from_numpy(inputs))
        for index, values in enumerate(read):
            sums[index] = sums[index] + _squares(values) / len(x)
        for values, (_, weight) in zip(stream, readers, strict=True):
            width += _squares(values) / len(x) * weight
    scores = [square * _squares(whole_matrix(module)) for square, module in zip(sums, parts, strict=True)]
    return _norms(model, scores[0::2], scores[1::2], width)


def _magnitude(model: Transformer, _x: NDArray[Any], _y: NDArray[np.int64], _s: PruneSettings) -> Importance:
    config = model.config
    heads, neurons = [], []
    width = sum((weight for _, weight in _readers(model)), np.zeros(config.d_model))
    for attention, feed_forward in branches(model):
        query, key, value = (_squares(whole_matrix(m).T) for m in (attention.query, attention.key, attention.value))
        shared = (key + value).reshape(attention.kv_heads, -1)
        spread = np.repeat(shared, attention.heads // attention.kv_heads, axis=0).reshape(-1)
        heads.append(query + spread + _squares(whole_matrix(attention.out)))
        read = sum(_squares(whole_matrix(module).T) for module in first_matrices(feed_forward))
        neurons.append(read + _squares(whole_matrix(feed_forward.down)))
        width += _squares(whole_matrix(attention.out).T) + _squares(whole_matrix(feed_forward.down).T)
    return _norms(model, heads, neurons, width)


def _reconstruction(model: Transformer, x: NDArray[Any], y: NDArray[np.int64], settings: PruneSettings) -> Importance:
    parts = [module for pair in branches(model) for module in (pair[0].out, pair[1].down)]
    found = measure_covariances(model, parts, x, settings)
    scores = [
        eliminate(
            whole_matrix(module),
            covariance if has_bias(module) else covariance + torch.outer(mean, mean),  # nothing takes up a mean
            1 if index % 2 else model.config.head_dim,
        )
        for index, (module, (mean, covariance)) in enumerate(zip(parts, found, strict=True))
    ]
    width = _activation(model, x, y, settings).width if settings.width_fraction else np.zeros(0)
    return Importance(tuple(scores[0::2]), tuple(scores[1::2]), width=width)


def _norms(model: Transformer, heads: list[Array], neurons: list[Array], width: Array) -> Importance:
    """From squares, those of heads by column."""
    counts = model.config.heads
    by_head = [part.reshape(count, -1).sum(axis=1) for part, count in zip(heads, counts, strict=True)]
    return Importance(tuple(map(np.sqrt, by_head)), tuple(map(np.sqrt, neurons)), width=np.sqrt(width))


def _random(model: Transformer, settings: PruneSettings) -> Importance:
    rng, config = np.random.default_rng(settings.seed), model.config
    heads, neurons = (tuple(rng.random(count) for count in counts) for counts in (config.heads, config.d_ff))
    return Importance(heads, neurons, rng.random(config.layers), rng.random(config.d_model))


def _layers(model: Transformer, x: NDArray[Any], y: NDArray[np.int64], settings: PruneSettings) -> Array:
    """The mean loss with each layer left out, less the mean loss of the whole model."""

    def mean_loss() -> float:
        with torch.no_grad():
            return sum(float(loss_of(model, *part)) for part in batches(x, y, settings)) / int((y != IGNORED).sum())

    whole, found = mean_loss(), []
    for layer in model.layers:
        handle = layer.register_forward_hook(lambda _module, inputs, _output: inputs[0])
        try:
            found.append(mean_loss() - whole)
        finally:
            handle.remove()
    return np.array(found)


def _readers(model: Transformer) -> list[tuple[nn.Module, Array]]:
    """Modules that take the residual stream, in the order in which they run, and for each channel the square of the
    weights that read it there."""
    found: list[tuple[nn.Module, Array]] = []
    for attention, feed_forward in branches(model):
        weights = (_squares(whole_matrix(m)) for m in (attention.query, attention.key, attention.value))
        found += [(attention, sum(weights, np.zeros(model.config.d_model)))]
        weights = (_squares(whole_matrix(module)) for module in first_matrices(feed_forward))
        found += [(feed_forward, sum(weights, np.zeros(model.config.d_model)))]
    if model.config.classes and not model.config.tied_head:
        found.append((model.head, _squares(model.head.weight.detach())))
    return found


def _squares(values: Tensor) -> Array:
    """Sums of squares over all axes but the last."""
    result: Array = values.detach().double().flatten(0, -2).square().sum(dim=0).numpy()
    return result
