"""Structured pruning: drop the heads and neurons that matter least, for a model that is smaller and dense."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from picoformer.compress.count import count_macs, count_parameters, count_weights
from picoformer.compress.settings import PruneSettings
from picoformer.compress.train import check_labels, use_threads
from picoformer.errors import DataError, PicoformerError
from picoformer.models.config import PROJECTIONS
from picoformer.models.transformer import Attention, FeedForward, Transformer

Masks = tuple[NDArray[np.bool_], ...]


@dataclass(frozen=True)
class Importance:
    """First-order Taylor importance, one array per layer: heads (heads,), neurons (d_ff,); float64, >= 0."""

    heads: tuple[NDArray[np.float64], ...]
    neurons: tuple[NDArray[np.float64], ...]


@dataclass(frozen=True)
class Keep:
    """True for what stays, one mask per layer."""

    heads: Masks
    neurons: Masks


@dataclass(frozen=True)
class PruneReport:
    """Sizes before and after; heads and neurons per layer."""

    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    heads_before: tuple[int, ...]
    heads_after: tuple[int, ...]
    neurons_before: tuple[int, ...]
    neurons_after: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}


def prune(
    model: Transformer, x: NDArray[Any], y: NDArray[np.int64], settings: PruneSettings
) -> tuple[Transformer, PruneReport]:
    """A smaller dense model, chosen with samples `x` (n, *input) and labels `y` (n,), and what changed;
    `model` stays.

    Recover its accuracy with `train` or `distill`. Raises DataError and PicoformerError.
    """
    importance = measure_importance(model, x, y, settings)
    smaller = shrink(model, choose(importance, settings))
    before, after = model.config, smaller.config
    return smaller, PruneReport(
        parameters_before=count_parameters(before),
        parameters_after=count_parameters(after),
        macs_before=count_macs(before),
        macs_after=count_macs(after),
        heads_before=before.heads,
        heads_after=after.heads,
        neurons_before=before.d_ff,
        neurons_after=after.d_ff,
    )


def measure_importance(
    model: Transformer, x: NDArray[Any], y: NDArray[np.int64], settings: PruneSettings
) -> Importance:
    """|gradient * activation| of every head's context and every neuron's output, summed over a sample's rows.

    The first-order estimate of what the loss loses without it (Molchanov et al. 2017; for heads Michel et al.
    2019): absolute value per sample, mean over samples. Raises DataError, and PicoformerError when it is not
    finite.
    """
    check_labels(model, x, y)
    config = model.config
    heads = [np.zeros(count) for count in config.heads]
    neurons = [np.zeros(count) for count in config.d_ff]
    samples = min(settings.samples, len(x))
    training = model.training
    model.eval()
    with use_threads(settings.threads), _capture(model) as captured, torch.enable_grad():
        for start in range(0, samples, settings.batch):
            stop = min(start + settings.batch, samples)
            captured.clear()
            logits = model(torch.from_numpy(x[start:stop]))
            # Summed, so that each sample's gradient is its own and not a share of the batch's.
            loss = functional.cross_entropy(logits, torch.from_numpy(y[start:stop]), reduction="sum")
            gradients = torch.autograd.grad(loss, captured)
            products = [(a * g).detach().double().sum(dim=1) for a, g in zip(captured, gradients, strict=True)]
            for layer in range(config.layers):
                per_head = products[2 * layer].reshape(-1, config.heads[layer], config.head_dim).sum(dim=-1)
                heads[layer] += per_head.abs().sum(dim=0).numpy() / samples
                neurons[layer] += products[2 * layer + 1].abs().sum(dim=0).numpy() / samples
    model.train(training)
    if not all(np.isfinite(part).all() for part in (*heads, *neurons)):
        raise PicoformerError("pruning found no finite importance; check the model and the data for NaN")
    return Importance(tuple(heads), tuple(neurons))


def choose(importance: Importance, settings: PruneSettings) -> Keep:
    """The masks of what stays: the most important, at least one head and one neuron per layer."""
    by_layer = settings.ranking == "layer"
    return Keep(
        heads=_rank(importance.heads, settings.head_fraction, by_layer, multiple=1),
        neurons=_rank(importance.neurons, settings.neuron_fraction, by_layer, settings.neuron_multiple),
    )


def shrink(model: Transformer, keep: Keep) -> Transformer:
    """A dense model (eval mode) with only the kept heads and neurons; its output is that of `masked(model,
    keep)`.

    A pair of low rank that would now be larger than one matrix is multiplied out. Raises DataError for masks that do
    not fit or leave a layer empty.
    """
    config = model.config
    for key, masks, counts in (("heads", keep.heads, config.heads), ("neurons", keep.neurons, config.d_ff)):
        if tuple(mask.shape for mask in masks) != tuple((count,) for count in counts):
            raise DataError(f"{key} masks do not fit the model's {counts}; give one boolean per {key[:-1]} and layer")
        if not all(mask.any() for mask in masks):
            raise DataError(f"{key} masks leave a layer empty; keep at least one")
    smaller_config = dataclasses.replace(
        config,
        heads=tuple(int(mask.sum()) for mask in keep.heads),
        d_ff=tuple(int(mask.sum()) for mask in keep.neurons),
        ranks=(),
    )
    weights = dict(model.state_dict())
    ranks = [[config.rank(layer, projection) for projection in PROJECTIONS] for layer in range(config.layers)]
    for layer in range(config.layers):
        columns = torch.from_numpy(np.flatnonzero(np.repeat(keep.heads[layer], config.head_dim)))
        rows = torch.from_numpy(np.flatnonzero(keep.neurons[layer]))
        attention, feed_forward = f"layers.{layer}.attention", f"layers.{layer}.feed_forward"
        for name, kept in (
            (f"{attention}.query", columns),
            (f"{attention}.key", columns),
            (f"{attention}.value", columns),
            (f"{feed_forward}.up", rows),
        ):
            last = f"{name}.expand" if f"{name}.expand.weight" in weights else name
            for part in ("weight", "bias"):
                weights[f"{last}.{part}"] = weights[f"{last}.{part}"][kept]
        for name, kept in ((f"{attention}.out", columns), (f"{feed_forward}.down", rows)):
            first = f"{name}.reduce" if f"{name}.reduce.weight" in weights else name
            weights[f"{first}.weight"] = weights[f"{first}.weight"][:, kept]
        for index, projection in enumerate(PROJECTIONS):
            inputs, outputs = smaller_config.projection_shape(layer, projection)
            rank = ranks[layer][index]
            if rank and count_weights(inputs, outputs, rank) >= count_weights(inputs, outputs, 0):
                name = f"{feed_forward if projection in ('up', 'down') else attention}.{projection}"
                _multiply_out(weights, name)
                ranks[layer][index] = 0
    smaller_config = dataclasses.replace(smaller_config, ranks=tuple(map(tuple, ranks)))
    dtype = next(model.parameters()).dtype
    smaller = Transformer(smaller_config, seed=None).to(dtype)
    smaller.load_state_dict(weights)
    return smaller.eval()


def _multiply_out(weights: dict[str, Tensor], name: str) -> None:
    """Make a pair one matrix again: with fewer heads or neurons around it, the pair would be the larger."""
    reduce, expand = weights.pop(f"{name}.reduce.weight"), weights.pop(f"{name}.expand.weight")
    weights[f"{name}.weight"] = expand @ reduce
    weights[f"{name}.bias"] = weights.pop(f"{name}.expand.bias")


@contextlib.contextmanager
def masked(model: Transformer, keep: Keep) -> Iterator[Transformer]:
    """`model` with the outputs of dropped heads and neurons set to zero, inside the block."""
    handles = []
    dtype = next(model.parameters()).dtype
    for layer, (attention, feed_forward) in enumerate(_branches(model)):
        head_mask = torch.from_numpy(np.repeat(keep.heads[layer], model.config.head_dim)).to(dtype)
        neuron_mask = torch.from_numpy(keep.neurons[layer]).to(dtype)
        for module, mask in ((attention.out, head_mask), (feed_forward.down, neuron_mask)):
            handles.append(module.register_forward_pre_hook(lambda _module, inputs, mask=mask: (inputs[0] * mask,)))
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def _rank(scores: tuple[NDArray[np.float64], ...], fraction: float, by_layer: bool, multiple: int) -> Masks:
    if by_layer:
        kept = [len(part) - int(fraction * len(part) + 1e-9) for part in scores]
    else:
        # Layers differ in the scale of their scores; the layer's norm is divided out (Molchanov et al. 2017).
        scaled = [part / max(float(np.linalg.norm(part)), 1e-30) for part in scores]
        order = np.argsort(np.concatenate(scaled), kind="stable")
        dropped = order[: int(fraction * len(order) + 1e-9)]
        layer_of = np.repeat(np.arange(len(scores)), [len(part) for part in scores])
        kept = [len(part) - int((layer_of[dropped] == layer).sum()) for layer, part in enumerate(scores)]
    masks = []
    for part, count in zip(scores, kept, strict=True):
        count = min(len(part), -(-max(1, count) // multiple) * multiple)
        mask = np.zeros(len(part), dtype=np.bool_)
        mask[np.argsort(-part, kind="stable")[:count]] = True
        masks.append(mask)
    return tuple(masks)


@contextlib.contextmanager
def _capture(model: Transformer) -> Iterator[list[Tensor]]:
    """The inputs of every `out` and `down`, layer by layer: contexts of heads, outputs of neurons."""
    captured: list[Tensor] = []

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        captured.append(inputs[0])

    handles = [
        module.register_forward_pre_hook(hook)
        for attention, feed_forward in _branches(model)
        for module in (attention.out, feed_forward.down)
    ]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def _branches(model: Transformer) -> Iterator[tuple[Attention, FeedForward]]:
    for layer in model.layers:
        attention, feed_forward = layer.attention, layer.feed_forward
        assert isinstance(attention, Attention) and isinstance(feed_forward, FeedForward)
        yield attention, feed_forward
