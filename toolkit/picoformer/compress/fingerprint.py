"""What a module's weights are, told by a hash."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn


class Digest(Protocol):
    """A hash that takes bytes, as hashlib makes them."""

    def update(self, data: bytes, /) -> object:
        """Take more bytes."""


def add_weights(digest: Digest, module: nn.Module) -> None:
    """Take in name, type, shape and bytes of every tensor of a module's state."""
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
