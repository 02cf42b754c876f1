"""What stays takes up what goes: `out` and `down` are fitted by least squares to the sums they made before."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from picoformer.compress.covariance import damping, measure_covariances
from picoformer.compress.importance import branches, has_bias
from picoformer.compress.settings import PruneSettings
from picoformer.compress.shrink import Keep, kept_layers
from picoformer.models.transformer import LowRankLinear, Transformer


def reconstruct(model: Transformer, keep: Keep, x: NDArray[Any], settings: PruneSettings) -> Transformer:
    """A copy of `model` whose `out` and `down` make, from the heads and neurons that stay, as nearly as they can what
    they made of all: on samples `x` (n, *input), by least squares, without training.

    W' = W C[:, K] (C[K, K] + λ)^-1 with the covariance C of the inputs, and the bias takes up what the mean lost (the
    closed form of LeCun et al. 1990 and Hassibi et al. 1993 for whole columns); without a bias C is the second moment.
    Columns that go become zero.
    """
    fitted = copy.deepcopy(model).eval()
    sites: list[tuple[nn.Module, NDArray[np.bool_]]] = []
    for layer, (attention, feed_forward) in enumerate(branches(fitted)):
        if layer in kept_layers(model.config, keep):
            heads, neurons = np.repeat(keep.heads[layer], model.config.head_dim), keep.neurons[layer]
            sites += [(m, mask) for m, mask in ((attention.out, heads), (feed_forward.down, neurons)) if not mask.all()]
    found = measure_covariances(fitted, [module for module, _ in sites], x, settings)
    for (module, mask), (mean, covariance) in zip(sites, found, strict=True):
        _fit(module, mask, mean, covariance)
    return fitted


def _fit(module: nn.Module, mask: NDArray[np.bool_], mean: Tensor, covariance: Tensor) -> None:
    first, last = (module.reduce, module.expand) if isinstance(module, LowRankLinear) else (module, module)
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    if not has_bias(module):  # nothing takes up what the mean lost: the fit has to
        covariance = covariance + torch.outer(mean, mean)
    kept = torch.from_numpy(np.flatnonzero(mask))
    weight = first.weight.detach().double()
    inner = covariance[kept][:, kept]
    small = damping(covariance)
    outer = weight @ covariance[:, kept] + small * weight[:, kept]  # a weight is drawn to what it was, not to zero
    found = torch.zeros_like(weight)
    found[:, kept] = torch.linalg.solve(inner + small * torch.eye(len(kept), dtype=inner.dtype), outer.T).T
    lost = (weight - found) @ mean
    if last is not first:
        lost = last.weight.detach().double() @ lost
    with torch.no_grad():
        first.weight.copy_(found)
        if has_bias(module):
            last.bias.add_(lost.to(last.bias.dtype))
