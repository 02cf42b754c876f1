"""Reading quantization parameters off a type, with the error an operator owes when they are missing or unfit."""

from __future__ import annotations

from typing import Any

import numpy as np

from picoformer.ir.operator import LoweringError
from picoformer.ir.types import QuantParams, TensorType


def quant_of(type_: TensorType) -> QuantParams:
    """The parameters of a quantized value; raises LoweringError for a float one."""
    if type_.quant is None or not type_.dtype.is_integer:
        raise LoweringError(f"{type_} is not quantized")
    return type_.quant


def scale_of(type_: TensorType) -> float:
    """The one scale of a per-tensor quantized value."""
    quant = quant_of(type_)
    if quant.axis is not None:
        raise LoweringError(f"{type_} has a scale per channel where one per tensor is needed")
    return quant.scale[0]


def symmetric_scales(type_: TensorType, heads: int) -> np.ndarray[Any, Any]:
    """Scales per head, float64 (heads,), of a value (…, heads·D) whose zero point is 0 and whose scale is one per
    tensor or per channel and equal inside each head."""
    quant = quant_of(type_)
    if quant.zero_point != 0 or quant.axis not in (None, -1):
        raise LoweringError(f"{type_} of an attention is symmetric, with scales along the last axis if several")
    scales = np.broadcast_to(np.asarray(quant.scale, np.float64), (type_.shape[-1],)).reshape(heads, -1)
    if (scales != scales[:, :1]).any():
        raise LoweringError(f"{type_} has different scales inside one head")
    return scales[:, 0].copy()
