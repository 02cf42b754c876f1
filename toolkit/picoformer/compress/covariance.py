"""What the inputs of a linear layer have in common: how well some of them stand in for the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from picoformer.compress.settings import PruneSettings
from picoformer.compress.train import use_threads
from picoformer.models.transformer import Transformer

DAMPING = 1e-3
"""Share of the mean variance of the inputs that is added to each, so that a fit's weights stay small."""


def measure_covariances(
    model: Transformer, modules: Sequence[nn.Module], x: NDArray[Any], settings: PruneSettings
) -> list[tuple[Tensor, Tensor]]:
    """Of the inputs of each module over samples `x` (n, *input) and rows: mean (inputs,), covariance (inputs, inputs),
    both float64."""
    found: list[tuple[Tensor, Tensor, int]] = [(torch.zeros(()), torch.zeros(()), 0) for _ in modules]

    def watch(index: int) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0].detach().double().flatten(0, -2)
            total, moment, rows = found[index]
            found[index] = total + values.sum(dim=0), moment + values.T @ values, rows + len(values)

        return hook

    handles = [module.register_forward_pre_hook(watch(index)) for index, module in enumerate(modules)]
    try:
        with use_threads(settings.threads), torch.no_grad():
            count = min(settings.samples, len(x))
            for start in range(0, count, settings.batch):
                model(torch.from_numpy(x[start : min(start + settings.batch, count)]))
    finally:
        for handle in handles:
            handle.remove()
    means = [total / rows for total, _, rows in found]
    return [
        (mean, moment / rows - torch.outer(mean, mean)) for mean, (_, moment, rows) in zip(means, found, strict=True)
    ]


def damping(covariance: Tensor) -> Tensor:
    """What is added to the variance of every input."""
    return DAMPING * covariance.diagonal().mean().clamp_min(1e-30)


def eliminate(weight: Tensor, covariance: Tensor, size: int) -> NDArray[np.float64]:
    """The importance of each group of `size` inputs, (inputs / size,), by taking one group away after the other.

    Each time the group goes whose loss costs the outputs of `weight` (outputs, inputs) the least mean square once the
    others have taken up what they can: tr(W_g (C^-1_gg)^-1 W_g^T), the rest then fitted anew (Hassibi et al. 1993, for
    groups of columns Kurtic et al. 2023). That error is its importance, and never less than that of one gone before.
    """
    count = len(covariance)
    weight = weight.double().clone()
    inverse = torch.linalg.inv(covariance + damping(covariance) * torch.eye(count, dtype=torch.float64))
    left = np.ones(count // size, np.bool_)
    scores, worst = np.zeros(count // size), 0.0
    for _ in range(len(left)):
        errors = np.where(left, _errors(weight, inverse, size), np.inf)
        group = int(errors.argmin())
        worst = max(worst, float(errors[group]))
        scores[group], left[group] = worst, False
        columns = slice(group * size, (group + 1) * size)
        moved = torch.linalg.solve(inverse[columns, columns], inverse[columns])
        weight -= weight[:, columns] @ moved
        inverse -= inverse[:, columns] @ moved
        inverse[columns], inverse[:, columns] = 0.0, 0.0  # rounding aside, they are
        inverse[columns, columns] = torch.eye(size, dtype=torch.float64)
    return scores


def _errors(weight: Tensor, inverse: Tensor, size: int) -> NDArray[np.float64]:
    if size == 1:
        result: NDArray[np.float64] = (weight.square().sum(dim=0) / inverse.diagonal()).numpy()
        return result
    groups = range(0, len(inverse), size)
    blocks = torch.stack([inverse[g : g + size, g : g + size] for g in groups])
    parts = weight.T.reshape(-1, size, len(weight))  # (groups, size, outputs)
    result = (parts * torch.linalg.solve(blocks, parts)).sum(dim=(1, 2)).numpy()
    return result
