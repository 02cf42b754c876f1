"""Tensors of a file that torch.save wrote, loaded as weights only: whatever else is in it is refused, nothing runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from picoformer.errors import ModelError
from picoformer.models.importers.imported import check_finite

FLOATS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Types that are read, and what a safetensors file calls them."""


@dataclass(frozen=True)
class TorchTensor:
    """A tensor of the file, mapped into memory, not read yet."""

    file: Path
    name: str
    tensor: Any

    @property
    def dtype(self) -> str:
        """F32, F16, BF16, or torch's name of another type."""
        name = str(self.tensor.dtype).removeprefix("torch.")
        return FLOATS.get(name, name)

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.tensor.shape)

    def read(self) -> NDArray[np.float32]:
        """The tensor as float32. Raises ModelError for other types than floats and for numbers that are not finite."""
        if self.dtype not in FLOATS.values():
            raise ModelError(
                f"{self.file}: tensor '{self.name}' is {self.dtype}; save it as one of {', '.join(FLOATS)}"
            )
        result: NDArray[np.float32] = self.tensor.detach().float().contiguous().numpy()
        check_finite(self.file, self.name, result)
        return result


def read_torch(path: Path) -> dict[str, Any]:
    """Every tensor of a file by name. Raises ModelError for one that holds anything but tensors by name."""
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # of a damaged file torch raises whatever it stumbles over
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{path}: cannot be read as weights alone ({reason[:120]}); save it with safe_serialization=True"
        ) from error
    plain = isinstance(found, dict) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) and value.layout is torch.strided
        for name, value in found.items()
    )
    if not plain:
        raise ModelError(f"{path}: holds something else than tensors by name; save the model's state_dict")
    return {name: TorchTensor(path, name, value) for name, value in found.items()}
