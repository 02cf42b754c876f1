"""The operators on windows of an image in torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from picoformer.ir import Lowered
from picoformer.ops import AveragePool, DepthwiseConv, MaxPool, Patches, Window


def _windows(op: Window, x: Tensor, fill: float) -> Tensor:
    """(…, R, Q, C, kernel height, kernel width) of (…, H, W, C)."""
    top, left, bottom, right = op.pads
    x = functional.pad(x, (0, 0, left, right, top, bottom), value=fill)
    high, wide = (d * (k - 1) + 1 for d, k in zip(op.dilations, op.kernel, strict=True))
    found = x.unfold(-3, high, op.strides[0]).unfold(-3, wide, op.strides[1])
    return found[..., :: op.dilations[0], :: op.dilations[1]]


def patches(op: Patches, inputs: list[Tensor], step: Lowered | None) -> Tensor:
    """Each window in a row."""
    return _windows(op, inputs[0], 0.0).movedim(-3, -1).flatten(-3)


def depthwise(op: DepthwiseConv, inputs: list[Tensor], step: Lowered | None) -> Tensor:
    """The sum over each window of its entries times the weight."""
    x, weight, *bias = inputs
    y = torch.einsum("...cij,ijc->...c", _windows(op, x, 0.0), weight.reshape(*op.kernel, -1))
    return y + bias[0] if bias else y


def max_pool(op: MaxPool, inputs: list[Tensor], step: Lowered | None) -> Tensor:
    """The largest entry of each window."""
    return _windows(op, inputs[0], -math.inf).amax((-2, -1))


def average_pool(op: AveragePool, inputs: list[Tensor], step: Lowered | None) -> Tensor:
    """The mean of each window."""
    total = _windows(op, inputs[0], 0.0).sum((-2, -1))
    if op.include_pad:
        return total / op.taps
    inside = op.inside(inputs[0].shape[-3], inputs[0].shape[-2])
    return total / torch.as_tensor(inside[..., None], dtype=total.dtype, device=total.device)
