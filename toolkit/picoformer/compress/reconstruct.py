"""What stays takes up what goes: `out` and `down` are fitted by least squares to the sums they made before."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from picoformer.compress.importance import branches
from picoformer.compress.settings import PruneSettings
from picoformer.compress.shrink import Keep, kept_layers
from picoformer.compress.train import use_threads
from picoformer.models.transformer import LowRankLinear, Transformer

DAMPING = 1e-3
"""Share of the mean second moment of the inputs that keeps the fit's weights small."""


def reconstruct(model: Transformer, keep: Keep, x: NDArray[Any], settings: PruneSettings) -> Transformer:
    """A copy of `model` whose `out` and `down` make, from the heads and neurons that stay, as nearly as they can what
    they made of all: on samples `x` (n, *input), by least squares, without training.

    W' = W C[:, K] (C[K, K] + λ)^-1 with the covariance C of the inputs, and the bias takes up what the mean lost (the
    closed form of LeCun et al. 1990 and Hassibi et al. 1993 for whole columns). Columns that go become zero.
    """
    fitted = copy.deepcopy(model).eval()
    sites: list[tuple[nn.Module, NDArray[np.bool_]]] = []
    for layer, (attention, feed_forward) in enumerate(branches(fitted)):
        if layer in kept_layers(model.config, keep):
            heads, neurons = np.repeat(keep.heads[layer], model.config.head_dim), keep.neurons[layer]
            sites += [(m, mask) for m, mask in ((attention.out, heads), (feed_forward.down, neurons)) if not mask.all()]
    sums = [torch.zeros(0)] * len(sites)
    moments = [torch.zeros(0)] * len(sites)
    rows = [0] * len(sites)

    def watch(index: int) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0].detach().double().flatten(0, -2)
            sums[index] = values.sum(dim=0) + (sums[index] if rows[index] else 0)
            moments[index] = values.T @ values + (moments[index] if rows[index] else 0)
            rows[index] += len(values)

        return hook

    handles = [module.register_forward_pre_hook(watch(index)) for index, (module, _) in enumerate(sites)]
    try:
        with use_threads(settings.threads), torch.no_grad():
            count = min(settings.samples, len(x))
            for start in range(0, count, settings.batch):
                fitted(torch.from_numpy(x[start : min(start + settings.batch, count)]))
    finally:
        for handle in handles:
            handle.remove()
    for index, (module, mask) in enumerate(sites):
        mean = sums[index] / rows[index]
        _fit(module, mask, mean, moments[index] / rows[index] - torch.outer(mean, mean))
    return fitted


def _fit(module: nn.Module, mask: NDArray[np.bool_], mean: Tensor, covariance: Tensor) -> None:
    first, last = (module.reduce, module.expand) if isinstance(module, LowRankLinear) else (module, module)
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    kept = torch.from_numpy(np.flatnonzero(mask))
    weight = first.weight.detach().double()
    inner = covariance[kept][:, kept]
    damping = DAMPING * covariance.diagonal().mean().clamp_min(1e-30)
    outer = weight @ covariance[:, kept] + damping * weight[:, kept]  # a weight is drawn to what it was, not to zero
    found = torch.zeros_like(weight)
    found[:, kept] = torch.linalg.solve(inner + damping * torch.eye(len(kept), dtype=inner.dtype), outer.T).T
    lost = (weight - found) @ mean
    if last is not first:
        lost = last.weight.detach().double() @ lost
    with torch.no_grad():
        first.weight.copy_(found)
        last.bias.add_(lost.to(last.bias.dtype))
