"""The tensors of a checkpoint, taken one by one: of the shape that the configuration asks for, none left over."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from picoformer.errors import ModelError

Array = NDArray[np.float32]


class Stored(Protocol):
    """A tensor in a file: its type, its shape, and a way to read it as float32."""

    @property
    def file(self) -> Path: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def read(self) -> Array: ...


class Tensors:
    """Tensors by name; all methods raise ModelError that names the tensor."""

    def __init__(self, path: Path, infos: Mapping[str, Stored]) -> None:
        self.path, self._infos = path, infos
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def take(self, name: str, *shape: int) -> Array:
        """A tensor of this shape, as float32. The shape is checked before anything is read."""
        if name not in self._infos:
            raise ModelError(f"{self.path}: tensor '{name}' is missing; get the checkpoint again")
        info = self._infos[name]
        if info.shape != shape:
            raise ModelError(f"{info.file}: tensor '{name}' has shape {info.shape}; config.json asks for {shape}")
        self._taken.add(name)
        return info.read()

    def linear(self, theirs: str, ours: str, outputs: int, inputs: int, bias: bool) -> dict[str, Array]:
        """The weight (outputs, inputs) and, with `bias`, the bias of a linear layer, under our name."""
        taken = {f"{ours}.weight": self.take(f"{theirs}.weight", outputs, inputs)}
        if bias:
            taken[f"{ours}.bias"] = self.take(f"{theirs}.bias", outputs)
        return taken

    def norm(self, theirs: str, ours: str, width: int, bias: bool = True) -> dict[str, Array]:
        """Gain and, in a LayerNorm, bias under our name."""
        parts = ("weight", "bias") if bias else ("weight",)
        return {f"{ours}.{part}": self.take(f"{theirs}.{part}", width) for part in parts}

    def head(self, table: Array, tied: bool) -> dict[str, Array]:
        """The head under our name, none where it is tied to the token `table`; a copy of the table may be there."""
        if not tied:
            return {"head.weight": self.take("lm_head.weight", *table.shape)}
        if "lm_head.weight" in self and not np.array_equal(self.take("lm_head.weight", *table.shape), table):
            raise ModelError(
                f"{self.path}: config.json ties the head to the token table, but 'lm_head.weight' differs from it; "
                "set tie_word_embeddings to false"
            )
        return {}

    def left(self) -> list[str]:
        """The tensors that nobody took."""
        return sorted(name for name in self._infos if name not in self._taken)

    def close(self, left_out: re.Pattern[str]) -> None:
        """Raise for tensors that nobody took, but those that `left_out` matches."""
        surplus = [name for name in self.left() if not left_out.search(name)]
        if surplus:
            raise ModelError(
                f"{self.path}: tensor '{surplus[0]}' is not part of what config.json describes ({len(surplus)} in all)"
            )
