"""What a training draws its batches from: arrays, augmented afresh or in frozen views, with a teacher's outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from picoformer.metrics import IGNORED

Augment = Callable[[NDArray[Any], np.random.Generator], NDArray[Any]]
Targets = Callable[[NDArray[np.int64], int], dict[str, Tensor]]
"""Indices of samples and the view -> what the teacher said to them, samples along axis 0."""


class Samples:
    """Samples (n, *input) in one or several views, labels (n, ...), and what a loss wants beside them.

    With several views, epoch e sees view e mod their number.
    """

    def __init__(
        self,
        views: NDArray[Any] | Sequence[NDArray[Any]],
        labels: NDArray[Any],
        augment: Augment | None = None,
        targets: Targets | None = None,
    ) -> None:
        self.views = [views] if isinstance(views, np.ndarray) else list(views)
        self.labels, self.augment, self.targets = labels, augment, targets

    def __len__(self) -> int:
        return len(self.labels)

    def take(
        self, chosen: NDArray[np.int64], epoch: int, rng: np.random.Generator | None, share: slice = slice(None)
    ) -> tuple[Any, ...]:
        """Inputs, labels and, where there are targets, those: of the samples `share` of `chosen`.

        A batch is augmented as a whole whatever the share, so that the numbers drawn do not depend on the number of
        processes; without `rng` it is not augmented.
        """
        view, mine = epoch % len(self.views), chosen[share]
        if self.augment is None or rng is None:
            inputs = self.views[view][mine]
        else:
            inputs = self.augment(self.views[view][chosen], rng)[share]
        batch = (torch.from_numpy(np.ascontiguousarray(inputs)), torch.from_numpy(self.labels[mine]))
        return batch if self.targets is None else (*batch, self.targets(mine, view))

    def weight(self, chosen: NDArray[np.int64]) -> float:
        """How many labels of these samples are judged: a mean over two parts of a batch weights each by that."""
        if self.labels.ndim < 2:
            return float(len(chosen))
        return float((self.labels[chosen] != IGNORED).sum())

    def digest(self) -> str:
        """The SHA-256 of inputs and labels, and of how they are augmented, by name."""
        augmented = "" if self.augment is None else getattr(self.augment, "__qualname__", type(self.augment).__name__)
        return hashlib.sha256(f"{hash_arrays([*self.views, self.labels])} {augmented}".encode()).hexdigest()


def hash_arrays(arrays: Sequence[NDArray[Any]]) -> str:
    """The SHA-256 of arrays: types, shapes and bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data.cast("B"))
    return digest.hexdigest()


def frozen_views(x: NDArray[Any], augment: Augment, count: int, seed: int) -> list[NDArray[Any]]:
    """`count` augmented copies of samples x (n, *input), the first one as it is; the same seed gives the same ones."""
    rng = np.random.default_rng([seed, 1])
    return [x, *(np.ascontiguousarray(augment(x, rng)) for _ in range(count - 1))]
