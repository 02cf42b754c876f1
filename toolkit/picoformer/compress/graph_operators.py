"""What each operator of a graph computes in torch, its internal rounding included where the device has one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from picoformer.compress import graph_windows
from picoformer.compress.fake_quantize import HALF_EVEN, round_straight
from picoformer.ir import Lowered, Operator, TensorType
from picoformer.ops import (
    Activation,
    Add,
    Attention,
    AveragePool,
    CachedAttention,
    Concat,
    DepthwiseConv,
    Embedding,
    ExpertLinear,
    ExpertWeights,
    KvAppend,
    LayerNorm,
    Linear,
    LoweredAttention,
    LoweredCachedAttention,
    LoweredExpertWeights,
    LoweredInterpolatedTable,
    LoweredLinear,
    LoweredRelativeAttention,
    LoweredSoftmax,
    MaxPool,
    Mul,
    Patches,
    PositionIds,
    ReduceMean,
    RelativeAttention,
    Requantize,
    Reshape,
    RmsNorm,
    Rope,
    ScaleRows,
    Slice,
    Softmax,
    TakeRow,
    TopExperts,
    Transpose,
)
from picoformer.ops.activation import SEGMENT_BITS
from picoformer.ops.attention import EXP_STEP

Array = np.ndarray[Any, Any]

ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "absolute": torch.abs,
    "celu": functional.celu,
    "clip": torch.clip,
    "elu": functional.elu,
    "error_function": torch.erf,
    "exponential": torch.exp,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "hard_sigmoid": lambda x, slope, middle: torch.clip(slope * x + middle, 0.0, 1.0),
    "hard_swish": functional.hardswish,
    "leaky_relu": functional.leaky_relu,
    "logarithm": torch.log,
    "mish": functional.mish,
    "reciprocal": torch.reciprocal,
    "relu": torch.relu,
    "selu": lambda x, alpha, gamma: gamma * functional.elu(x, alpha),
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "square_root": torch.sqrt,
    "swish": lambda x, rate: x * torch.sigmoid(rate * x),
    "tanh": torch.tanh,
}
"""The functions of an Activation, with their parameters behind x."""


def _activation(op: Activation, inputs: list[Tensor], step: Lowered | None) -> Tensor:
    y = ACTIVATIONS[op.function](inputs[0], *op.parameters)
    if not isinstance(step, LoweredInterpolatedTable):
        return y  # an int8 input has a table entry of its own, which is this, rounded
    return y + (_interpolated(inputs[0].detach(), step) - y.detach())


def _interpolated(x: Tensor, step: LoweredInterpolatedTable) -> Tensor:
    """What an int16 activation reads between the entries of its table: no gradient goes through."""
    position = torch.round(x / _scale(step.input)).long() - step.input.dtype.minimum
    index, fraction = position >> SEGMENT_BITS, position & ((1 << SEGMENT_BITS) - 1)
    table = torch.from_numpy(step.table.astype(np.int64)).to(x.device)
    low = table[index]
    rise = ((table[index + 1] - low) * fraction + (1 << (SEGMENT_BITS - 1))) >> SEGMENT_BITS
    assert step.output.quant is not None
    return (low + rise - step.output.quant.zero_point) * _scale(step.output)


def _scale(type_: TensorType) -> float:
    assert type_.quant is not None
    return type_.quant.per_tensor_scale


def _narrow(x: Tensor, type_: TensorType, drop: int) -> Tensor:
    """The value without its low bits, as the device's attention reads it; integers first, for the sake of ties."""
    if drop == 0:
        return x
    assert type_.quant is not None
    scale = torch.from_numpy(type_.quant.scale_array(x.ndim)).to(x)
    steps = round_straight(x / scale, type_.dtype.minimum, type_.dtype.maximum)
    kept = round_straight(steps / 2**drop, type_.dtype.minimum, type_.dtype.maximum)
    result: Tensor = kept * 2**drop * scale
    return result


def _attention(op: Attention, inputs: list[Tensor], step: Lowered | None) -> Tensor:
    if isinstance(step, LoweredAttention):
        types, drops = (step.query, step.key, step.value), (step.query_drop, step.key_drop, step.value_drop)
        inputs = [*map(_narrow, inputs[:3], types, drops), *inputs[3:]]
    q = _split_heads(inputs[0], op.heads)
    k, v = (_split_heads(x, op.kv_heads).repeat_interleave(op.heads // op.kv_heads, dim=-3) for x in inputs[1:3])
    scores = (q @ k.transpose(-1, -2)) * op.scale
    hidden: Tensor | None = None
    queries, keys = scores.shape[-2:]
    if op.causal:
        row = torch.arange(queries, device=q.device)
        hidden = torch.arange(keys, device=q.device) > row[:, None] + (keys - queries)
    if len(inputs) > 3:
        padding = _past(inputs[3], keys).reshape(-1, *([1] * (scores.ndim - 2)), keys)
        hidden = padding if hidden is None else hidden | padding
    table = step.table if isinstance(step, LoweredAttention) else None
    return _merge_heads(_probabilities(scores, hidden, table) @ v)


def _softmax(op: Softmax, inputs: list[Tensor], step: Lowered | None) -> Tensor:
    return _probabilities(inputs[0], None, step.table if isinstance(step, LoweredSoftmax) else None)


def _probabilities(scores: Tensor, hidden: Tensor | None, table: Array | None) -> Tensor:
    """The softmax of the last axis, `hidden` entries left out; a row with nothing else is zero.

    With the device's `table` of numerators the distance to the largest score is rounded to its entries, and what is
    read there to its integers.
    """
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    top = scores.amax(dim=-1, keepdim=True).detach()
    distance = torch.where(torch.isfinite(top), top, 0.0) - scores
    if table is None:
        p = torch.exp(-distance)
    else:
        largest = int(table[0])
        distance = round_straight(distance / EXP_STEP, 0, len(table) - 1) * EXP_STEP
        p = round_straight(torch.exp(-distance) * largest, 0, largest, HALF_EVEN)
    if hidden is not None:
        p = p.masked_fill(hidden, 0.0)
    total = p.sum(dim=-1, keepdim=True)
    return p / torch.where(total == 0, 1.0, total)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """(…, S, H·D) → (…, H, S, D)."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads).transpose(-3, -2)


def _merge_heads(x: Tensor) -> Tensor:
    """(…, H, S, D) → (…, S, H·D)."""
    x = x.transpose(-3, -2)
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def _past(lengths: Tensor, size: int) -> Tensor:
    """(samples, size) True at and past each sample's valid length."""
    return torch.arange(size, device=lengths.device) >= lengths.reshape(-1, 1)


def _layer_norm(op: LayerNorm, inputs: list[Tensor], step: Lowered | None) -> Tensor:
    x, *affine = inputs
    gain, bias = affine or (None, None)
    return functional.layer_norm(x, x.shape[-1:], gain, bias, op.epsilon)


def _reduce_mean(op: ReduceMean, inputs: list[Tensor], step: Lowered | None) -> Tensor:
    x = inputs[0]
    if len(inputs) == 1:
        return x.mean(dim=op.axis, keepdim=op.keep)
    size = x.shape[op.axis]
    invalid = _past(inputs[1], size)
    behind = -op.axis - 1
    invalid = invalid.reshape(len(invalid), *([1] * (x.ndim - 2 - behind)), size, *([1] * behind))
    count = (~invalid).sum(dim=op.axis, keepdim=True).clamp(min=1)
    y = x.masked_fill(invalid, 0.0).sum(dim=op.axis, keepdim=True) / count
    return y if op.keep else y.squeeze(op.axis)


def _slice(op: Slice, inputs: list[Tensor], step: Lowered | None) -> Tensor:
    axis = op.axis + inputs[0].ndim
    index: list[slice | int] = [slice(None)] * inputs[0].ndim
    index[axis] = slice(op.start, op.stop, op.step) if op.keep else op.start
    return inputs[0][tuple(index)]


def _transpose(op: Transpose, inputs: list[Tensor], step: Lowered | None) -> Tensor:
    x = inputs[0]
    return x.permute(*range(x.ndim - len(op.permutation)), *(axis + x.ndim for axis in op.permutation))


def _reshape(op: Reshape, inputs: list[Tensor], step: Lowered | None) -> Tensor:
    return inputs[0].reshape(inputs[0].numel() // math.prod(op.shape), *op.shape)


def _concat(op: Concat, inputs: list[Tensor], step: Lowered | None) -> Tensor:
    rank = max(x.ndim for x in inputs)
    samples = next(x.shape[0] for x in inputs if x.ndim == rank)
    return torch.cat([x if x.ndim == rank else x.expand(samples, *x.shape) for x in inputs], dim=op.axis)


def _rms_norm(op: RmsNorm, inputs: list[Tensor], step: Lowered | None) -> Tensor:
    x, *gain = inputs
    y = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + op.epsilon)
    return y * gain[0] if gain else y


def _positions(position: Tensor, rows: int) -> Tensor:
    """(samples, rows): the position of each row of a block."""
    return position.reshape(-1, 1).long() + torch.arange(rows, device=position.device)


def _rope(op: Rope, inputs: list[Tensor], step: Lowered | None) -> Tensor:
    x, table, position = inputs
    rows = table[_positions(position, x.shape[-2])]
    pairs = rows.reshape(*rows.shape[:-1], 1, -1, 2)
    c, s = pairs[..., 0], pairs[..., 1]
    heads = x.reshape(*x.shape[:-1], op.heads, -1)
    turning, rest = heads[..., : op.rotary_dim], heads[..., op.rotary_dim :]
    if op.interleaved:
        a, b = turning[..., 0::2], turning[..., 1::2]
        turned = torch.stack([a * c - b * s, a * s + b * c], dim=-1).flatten(-2)
    else:
        a, b = turning.chunk(2, dim=-1)
        turned = torch.cat([a * c - b * s, a * s + b * c], dim=-1)
    return torch.cat([turned, rest], dim=-1).flatten(-2)


def _kv_append(op: KvAppend, inputs: list[Tensor], step: Lowered | None) -> Tensor:
    cache, rows, position, count = inputs
    entries = cache.transpose(-1, -2) if op.transposed else cache
    index = torch.arange(entries.shape[-2], device=rows.device) - position.reshape(-1, 1)
    taken = (index >= 0) & (index < count.reshape(-1, 1))
    source = index.clamp(0, rows.shape[-2] - 1).unsqueeze(-1).expand(-1, -1, rows.shape[-1])
    merged = torch.where(taken.unsqueeze(-1), torch.gather(rows, -2, source), entries)
    return merged.transpose(-1, -2) if op.transposed else merged


def _cached_attention(op: CachedAttention, inputs: list[Tensor], step: Lowered | None) -> Tensor:
    query, keys, values, position = inputs
    if isinstance(step, LoweredCachedAttention):
        query = _narrow(query, step.query, step.query_drop)
    q = _split_heads(query, op.heads)
    readers = op.heads // op.kv_heads
    k, v = (_split_heads(x, op.kv_heads).repeat_interleave(readers, dim=-3) for x in (keys, values.transpose(-1, -2)))
    scores = (q @ k.transpose(-1, -2)) * op.scale
    entries = torch.arange(k.shape[-2], device=q.device)
    if op.slopes:
        scores = scores + torch.from_numpy(op.bias(k.shape[-2])[:, None, :]).to(scores)
    hidden = entries > _positions(position, q.shape[-2])[:, None, :, None]
    table = step.table if isinstance(step, LoweredCachedAttention) else None
    return _merge_heads(_probabilities(scores, hidden, table) @ v)


def _relative_attention(op: RelativeAttention, inputs: list[Tensor], step: Lowered | None) -> Tensor:
    query, keys, values, bias, number = inputs
    table = None
    if isinstance(step, LoweredRelativeAttention):
        table = step.table
        query, keys = _narrow(query, step.query, step.query_drop), _narrow(keys, step.key, step.key_drop)
    q, k, v = (_split_heads(x, op.heads) for x in (query, keys, values))
    rows, entries = q.shape[-2], torch.arange(k.shape[-2], device=q.device)
    places = _positions(number if op.causal else torch.zeros_like(number), rows)
    distance = (entries - places[..., None]).clamp(-op.reach, 0 if op.causal else op.reach) + op.reach
    buckets = torch.tensor(op.buckets, device=q.device)[distance]
    scores = (q @ k.transpose(-1, -2)) * op.scale + bias[buckets].movedim(-1, -3)
    hidden = entries > places[:, None, :, None] if op.causal else _past(number, len(entries))[:, None, None]
    return _merge_heads(_probabilities(scores, hidden, table) @ v)


def _take_row(op: TakeRow, inputs: list[Tensor], step: Lowered | None) -> Tensor:
    x, count = inputs
    last = (count.long() - 1).reshape(-1, *([1] * (x.ndim - 1)))
    return torch.gather(x, -2, last.expand(*x.shape[:-2], 1, x.shape[-1]))


def _expert_weights(op: ExpertWeights, inputs: list[Tensor], step: Lowered | None) -> Tensor:
    chosen = torch.gather(inputs[0], -1, inputs[1].long())
    return _probabilities(chosen, None, step.softmax.table if isinstance(step, LoweredExpertWeights) else None)


def _expert_linear(op: ExpertLinear, inputs: list[Tensor], step: Lowered | None) -> Tensor:
    """Each expert on the rows that chose it."""
    x, ids, weight, *bias = inputs
    own = [part.reshape(op.experts, -1, *part.shape[1:]) for part in (weight, *bias)]
    chosen = ids[..., op.slot]
    y = x.new_zeros(*x.shape[:-1], own[0].shape[1])
    for expert in range(op.experts):
        rows = chosen == expert
        y[rows] = functional.linear(x[rows], *(part[expert] for part in own))
    return y


Compute = Callable[[Any, list[Tensor], Lowered | None], Tensor]
"""Operator, operands (samples, *shape) or, if constant, (*shape), its integer form if any → (samples, *shape)."""


def _linear(op: Operator, inputs: list[Tensor], step: Lowered | None) -> Tensor:
    """With the multipliers that the device has for its outputs."""
    y = functional.linear(*inputs)
    return y * torch.as_tensor(step.gain, dtype=y.dtype, device=y.device) if isinstance(step, LoweredLinear) else y


COMPUTE: dict[type[Operator], Compute] = {
    Activation: _activation,
    Add: lambda op, inputs, _: inputs[0] + inputs[1],
    Attention: _attention,
    AveragePool: graph_windows.average_pool,
    CachedAttention: _cached_attention,
    Concat: _concat,
    DepthwiseConv: graph_windows.depthwise,
    Embedding: lambda op, inputs, _: functional.embedding(inputs[0], inputs[1]),
    ExpertLinear: _expert_linear,
    ExpertWeights: _expert_weights,
    KvAppend: _kv_append,
    LayerNorm: _layer_norm,
    Linear: _linear,
    MaxPool: graph_windows.max_pool,
    Mul: lambda op, inputs, _: inputs[0] * inputs[1],
    Patches: graph_windows.patches,
    PositionIds: lambda op, inputs, _: _positions(inputs[0], op.rows),
    ReduceMean: _reduce_mean,
    RelativeAttention: _relative_attention,
    Requantize: lambda op, inputs, _: inputs[0],
    Reshape: _reshape,
    RmsNorm: _rms_norm,
    Rope: _rope,
    ScaleRows: lambda op, inputs, _: inputs[0] * inputs[1][..., op.slot, None],
    Slice: _slice,
    Softmax: _softmax,
    TakeRow: _take_row,
    TopExperts: lambda op, inputs, _: inputs[0].argsort(dim=-1, descending=True, stable=True)[..., : op.k],
    Transpose: _transpose,
}  # fmt: skip
"""Every operator that can be trained. Those that files spell larger ones out with are fused before."""

MOVES: tuple[type[Operator], ...] = (Concat, MaxPool, Patches, Reshape, Slice, TakeRow, Transpose)
"""Operators whose output is on their input's grid already: rounding it again would change nothing."""
