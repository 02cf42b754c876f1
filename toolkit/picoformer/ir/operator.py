"""What an operator must say of itself: its shape rule, its float meaning, and its integer meaning."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from picoformer.ir.types import TensorType

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Operand:
    """One input of a node: its type and, where it is known at compile time, its value."""

    type: TensorType
    constant: Array | None = None


class Lowered(abc.ABC):
    """An operator bound to quantized types: every multiplier, shift and table it needs, and what it computes.

    `execute` is the definition of the integer result; the C code reproduces it byte for byte from the same fields.
    """

    @abc.abstractmethod
    def execute(self, *activations: Array) -> Array:
        """Integer result for the inputs that are not constants, in order; arrays may have extra leading axes."""


@dataclass(frozen=True)
class Operator(abc.ABC):
    """Base of the operators. Subclasses are frozen dataclasses whose fields are the typed attributes."""

    kind: ClassVar[str] = ""
    """Stable name of the operator in files and reports."""
    keeps_rows: ClassVar[bool] = True
    """Whether row r of the output belongs to row r of a block; not so where an operator takes one row of it, or keeps
    them in a cache."""
    makes_rows: ClassVar[bool] = False
    """Whether the output has the rows of a block though no operand has: it is made from the block's position."""

    @abc.abstractmethod
    def infer(self, inputs: Sequence[TensorType]) -> TensorType:
        """Float type of the output; raises ValueError saying which input has which wrong shape."""

    @abc.abstractmethod
    def compute(self, *inputs: Array) -> Array:
        """Float meaning. Arrays may carry extra leading axes (samples); axis attributes count from the end."""

    def lower(self, inputs: Sequence[Operand], output: TensorType) -> Lowered:
        """Bind to quantized types; raises NotImplementedError for operators that only exist before fusion."""
        raise NotImplementedError(f"{self.kind} has no integer meaning")

    def macs(self, inputs: Sequence[TensorType], output: TensorType) -> int:
        """Multiply-accumulates of one inference (matrix products only, the usual convention)."""
        return 0

    def attributes(self) -> dict[str, object]:
        """Attribute name → value, for files and reports."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


class LoweringError(ValueError):
    """Quantized types that an operator cannot be bound to; the message says which and why."""
