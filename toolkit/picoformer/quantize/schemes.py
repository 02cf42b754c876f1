"""The integer schemes by name: of which type weights and activations are."""

from __future__ import annotations

from dataclasses import dataclass

from picoformer.ir import DType


@dataclass(frozen=True)
class Scheme:
    """`weights` is the type of a Linear's weight; with `activations` INT8 values stay 16 bits wide where it pays."""

    weights: DType
    activations: DType


SCHEMES: dict[str, Scheme] = {
    "int8": Scheme(DType.INT8, DType.INT8),
    "int8x16": Scheme(DType.INT8, DType.INT16),
    "int4x8": Scheme(DType.INT4, DType.INT8),
    "int4x16": Scheme(DType.INT4, DType.INT16),
}
"""Every scheme but float32, by the name that commands and pipeline files use."""
