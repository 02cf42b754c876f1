"""What operators mean: in float against torch and scipy; in integers within stated bounds of the float meaning."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special
from torch.nn import functional

from operator_case import ACTIVATIONS
from operator_cases import CASES, Case
from picoformer.ir.operator import LoweringError, Operand
from picoformer.ir.types import BLOCK, DType, QuantParams, TensorType
from picoformer.ops import (
    Activation,
    Add,
    Attention,
    Binary,
    Concat,
    Conv,
    Embedding,
    LayerNorm,
    Linear,
    LoweredAdd,
    LoweredAttention,
    LoweredAveragePool,
    LoweredCachedAttention,
    LoweredDepthwiseConv,
    LoweredEmbedding,
    LoweredExpertLinear,
    LoweredExpertWeights,
    LoweredInterpolatedTable,
    LoweredKvAppend,
    LoweredLayerNorm,
    LoweredLinear,
    LoweredMul,
    LoweredReduceMean,
    LoweredRelativeAttention,
    LoweredRequantize,
    LoweredRmsNorm,
    LoweredScaleRows,
    LoweredSoftmax,
    LoweredTopExperts,
    MatMul,
    Mul,
    ReduceMean,
    Reshape,
    RmsNorm,
    Slice,
    Softmax,
    Transpose,
    Unary,
    Where,
)

torch.set_num_threads(1)
RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]


def same(ours: np.ndarray, theirs: torch.Tensor | np.ndarray, tolerance: float = 2e-6) -> None:
    """Equal shapes, and close to a few roundings of single precision."""
    theirs = np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max(initial=0) <= tolerance * max(1.0, np.abs(theirs).max(initial=0))


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_linear(shape: tuple[int, ...], has_bias: bool) -> None:
    arrays = [floats(*shape), floats(5, 7), floats(5)][: 3 if has_bias else 2]
    same(Linear().compute(*arrays), functional.linear(*tensors(*arrays)))
    types = [TensorType(a.shape) for a in arrays]
    assert Linear().infer(types).shape == (*shape[:-1], 5)


@pytest.mark.parametrize("heads,size,value_size", [(1, 4, 4), (3, 5, 2)])
@pytest.mark.parametrize("samples", [(), (2,)])
@pytest.mark.parametrize("valid", [None, 0, 1, 6])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("queries", [4, 8])
def test_attention(
    heads: int, size: int, value_size: int, samples: tuple[int, ...], valid: int | None, causal: bool, group: int,
    queries: int,
) -> None:  # fmt: skip
    q, k, v = (
        floats(*samples, queries, group * heads * size),
        floats(*samples, 6, heads * size),
        floats(*samples, 6, heads * value_size),
    )
    op = Attention(group * heads, 0.7, causal, heads)
    inputs = [q, k, v]
    mask = torch.ones(queries, 6, dtype=torch.bool)
    if valid is not None:
        inputs.append(np.full(samples, valid, np.int32))
        mask[:, valid:] = False
    if causal:  # the last query sees the last key
        mask &= torch.ones(queries, 6).tril(6 - queries).bool()
    split = [
        t.unflatten(-1, (-1, n)).transpose(-2, -3)
        for t, n in zip(tensors(q, k, v), (size, size, value_size), strict=True)
    ]
    split[1:] = [t.repeat_interleave(group, -3) for t in split[1:]]
    expected = functional.scaled_dot_product_attention(*split, attn_mask=mask, scale=0.7)
    expected = expected.masked_fill(~mask.any(-1, keepdim=True), 0.0).transpose(-2, -3).flatten(-2)
    same(op.compute(*inputs), expected)
    types = [TensorType(a.shape[len(samples) :]) for a in (q, k, v)]
    assert op.infer(types).shape == expected.shape[len(samples) :]


def test_attention_valid_length_of_each_sample() -> None:
    q, k, v = floats(3, 4, 6), floats(3, 5, 6), floats(3, 5, 6)
    together = Attention(2, 0.5).compute(q, k, v, np.array([1, 5, 3], np.int32))
    for i, valid in enumerate((1, 5, 3)):
        same(together[i], Attention(2, 0.5).compute(q[i], k[i, :valid], v[i, :valid]))


@pytest.mark.parametrize("affine", [False, True])
def test_layer_norm(affine: bool) -> None:
    x, gain, bias = floats(2, 3, 8), floats(8), floats(8)
    expected = functional.layer_norm(*tensors(x), (8,), *(tensors(gain, bias) if affine else ()), eps=1e-3)
    same(LayerNorm(1e-3).compute(x, *((gain, bias) if affine else ())), expected)


@pytest.mark.parametrize(
    "function,reference",
    [
        ("relu", functional.relu),
        ("gelu", functional.gelu),
        ("gelu_tanh", lambda x: functional.gelu(x, approximate="tanh")),
        ("silu", functional.silu),
        ("tanh", torch.tanh),
        ("sigmoid", torch.sigmoid),
        ("absolute", torch.abs),
        ("celu", lambda x: functional.celu(x, 0.7)),
        ("clip", lambda x: torch.clip(x, -1.3, 6.0)),
        ("elu", lambda x: functional.elu(x, 0.8)),
        ("error_function", torch.erf),
        ("exponential", torch.exp),
        ("hard_sigmoid", lambda x: functional.relu6(0.2 * 6 * x + 3) / 6),
        ("hard_swish", functional.hardswish),
        ("leaky_relu", lambda x: functional.leaky_relu(x, 0.1)),
        ("logarithm", torch.log),
        ("mish", functional.mish),
        ("reciprocal", torch.reciprocal),
        ("selu", functional.selu),
        ("softplus", functional.softplus),
        ("softsign", functional.softsign),
        ("square_root", torch.sqrt),
        ("swish", lambda x: x * torch.sigmoid(1.702 * x)),
    ],
)
def test_activation(function: str, reference) -> None:
    x = np.linspace(-12, 12, 501).astype(np.float32)
    if function in ("logarithm", "reciprocal", "square_root"):
        x = x[x > 0]
    (op,) = (op for op in ACTIVATIONS if op.function == function)
    same(op.compute(x), reference(*tensors(x)))


def test_softmax() -> None:
    x = floats(3, 4, 9) * 20
    same(Softmax().compute(x), torch.softmax(*tensors(x), -1))


@pytest.mark.parametrize("axis", [-1, -2, -3])
@pytest.mark.parametrize("keep", [False, True])
def test_reduce_mean(axis: int, keep: bool) -> None:
    x = floats(3, 4, 5)
    same(ReduceMean(axis, keep).compute(x), tensors(x)[0].mean(axis, keepdim=keep))
    for valid in (0, 1, x.shape[axis]):
        expected = tensors(x)[0].narrow(axis, 0, max(valid, 1)).mean(axis, keepdim=keep) * (valid > 0)
        same(ReduceMean(axis, keep).compute(x[None], np.array([valid]))[0], expected)


def test_embedding() -> None:
    table, ids = floats(9, 4), np.array([[0, 8], [3, 3]], np.int32)
    same(Embedding().compute(ids, table), functional.embedding(*tensors(ids.astype(np.int64), table)))
    for bad in (-1, 9):
        with pytest.raises(IndexError, match="9 rows"):
            Embedding().compute(np.array([bad]), table)


def test_layout() -> None:
    x = floats(2, 3, 4)
    t = tensors(x)[0]
    same(Reshape((6, 4)).compute(x), t.reshape(6, 4), 0)
    same(Reshape((12,)).compute(x), t.reshape(2, 12), 0)  # a leading axis of samples stays
    same(Transpose((-1, -2)).compute(x), t.permute(0, 2, 1), 0)
    same(Transpose((-1, -3, -2)).compute(x), t.permute(2, 0, 1), 0)
    same(Slice(-1, 1, 4, 2).compute(x), t[..., 1:4:2], 0)
    same(Slice(-2, 2, 3, keep=False).compute(x), t[:, 2], 0)
    y = floats(2, 5, 4)
    same(Concat(-2).compute(x, y), torch.cat([t, *tensors(y)], -2), 0)
    z = floats(1, 4)
    same(Concat(-2).compute(z, x), torch.cat([tensors(z)[0].expand(2, 1, 4), t], -2), 0)


@pytest.mark.parametrize("has_bias", [False, True])
def test_conv_patches(has_bias: bool) -> None:
    x, weight, bias = floats(2, 3, 8, 6), floats(5, 3, 4, 2), floats(5)
    arrays = [x, weight, bias][: 3 if has_bias else 2]
    same(Conv().compute(*arrays), functional.conv2d(*tensors(*arrays), stride=(4, 2)))


@pytest.mark.parametrize(
    "function,reference",
    [
        ("sqrt", torch.sqrt),
        ("erf", torch.erf),
        ("exp", torch.exp),
        ("neg", torch.neg),
        ("reciprocal", torch.reciprocal),
    ],
)
def test_unary(function: str, reference) -> None:
    x = np.abs(floats(3, 5)) + np.float32(0.1)
    same(Unary(function).compute(x), reference(*tensors(x)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "function,reference", [("sub", torch.sub), ("div", torch.div), ("pow", torch.pow), ("less", torch.lt)]
)
def test_binary(function: str, reference) -> None:
    a, b = np.abs(floats(2, 3, 5)) + np.float32(0.1), np.abs(floats(5)) + np.float32(0.1)
    ours, theirs = Binary(function).compute(a, b), reference(*tensors(a, b))  # type: ignore[arg-type]
    assert ours.dtype == theirs.numpy().dtype
    same(ours.astype(np.float32), theirs.float())


def test_sums_products_and_choices() -> None:
    a, b = floats(2, 3, 5), floats(3, 1)
    same(Add().compute(a, b), torch.add(*tensors(a, b)))
    same(Mul().compute(a, b), torch.mul(*tensors(a, b)))
    same(MatMul().compute(a, floats(5, 4) * 0 + 1), tensors(a)[0] @ torch.ones(5, 4))
    same(Where().compute(a > 0, a, b), torch.where(tensors(a)[0] > 0, *tensors(a, b)))


# ---- integers against their own float meaning, in steps of the output


def short_factor_error(multiplier: np.ndarray) -> np.ndarray:
    """The most that a multiplier of 16 bits is off, see `short_factors`."""
    return np.maximum(8, multiplier.astype(np.float64) * 17 / 65536)


def bound(case: Case) -> np.ndarray | float:
    """How far the integer result may be from the float meaning, in steps: the rounding, and what each operator adds."""
    low = case.lowered
    if isinstance(low, LoweredTopExperts):
        return 0.0
    slack = 1e-3  # single-precision scales and results of the float meaning
    output = case.output.quant
    assert output is not None
    step = output.scale_array(2).astype(np.float64)
    match low:
        case LoweredLinear():  # half a step; the sum times what a multiplier is off, see short_factors
            weight = low.weight.astype(np.int64)
            if low.block_multiplier is not None:
                weight *= np.repeat(low.block_multiplier, BLOCK, axis=1)[:, : weight.shape[1]]
            acc = np.abs(case.activations[0].astype(np.int64) @ weight.T + low.bias)
            return 0.5 + acc * short_factor_error(low.multiplier) * 0.5**low.shift + 2 * slack
        case LoweredAdd():
            reach = (
                np.abs(case.activations[0].astype(np.float64) - 128).max()
                + np.abs(case.activations[1].astype(np.float64) - 128).max()
            )
            return 0.5 + reach * 0.5**low.shift / 2 + slack
        case LoweredMul():
            product = (case.activations[0].astype(np.float64) - low.zero_a) * (
                case.activations[1].astype(np.float64) - low.zero_b
            )
            return 0.5 + np.abs(product) * 0.5**low.shift / 2 + slack
        case LoweredRmsNorm():  # as LayerNorm
            unit = 0.5 + np.abs(case.activations[0].astype(np.float64) - low.zero_in) * 2.0**-33
            if low.gain is None:
                return unit + 2.0**-24 * np.abs(case.meaning() - low.zero_point) + slack
            normal = math.sqrt(low.width) * 2.0**low.fraction_bits
            gain = np.abs(low.gain) * 2.0**-low.shift
            return 0.5 + gain * unit + normal * 2.0**-low.shift / 2 + 2.0**-24 * 65536 + slack
        case LoweredExpertLinear():
            x, ids = case.activations
            n = case.output.width
            chosen = ids[:, low.slot, None] * n + np.arange(n)
            weight = low.linear.expanded_weight().astype(np.int64)[chosen]
            acc = np.abs((weight @ x.astype(np.int64)[:, :, None])[..., 0] + low.linear.bias[chosen])
            return 0.5 + acc * short_factor_error(low.linear.multiplier)[chosen] * 0.5**low.linear.shift + 2 * slack
        case LoweredScaleRows():
            product = np.abs(case.activations[0].astype(np.float64) - low.mul.zero_a) * 32768.0
            return 0.5 + product * 0.5**low.mul.shift / 2 + slack
        case LoweredExpertWeights():
            return 0.5 + exponent_bound(low.softmax.table, case.output.width) / output.scale[0] + slack
        case LoweredCachedAttention():
            v = case.activations[2].astype(np.float64) * case.inputs[2].type.quant.scale[0]  # type: ignore[union-attr]
            spread = (v.max(1) - v.min(1)).reshape(low.op.kv_heads, -1)
            spread = np.repeat(spread, low.op.heads // low.op.kv_heads, 0).reshape(-1)
            table = exponent_bound(low.table, v.shape[1], cached_score_error(low, case))
            dropped = 0.5 * (1 << low.value_shift) / low.table[0] * low_scale(case) if low.value_shift else 0.0
            size = np.abs(case.meaning())
            return 0.5 + spread / output.scale[0] * table + dropped + 2.0**-26 * size + slack
        case LoweredRelativeAttention():
            v = case.activations[2].astype(np.float64) * case.inputs[2].type.quant.scale[0]  # type: ignore[union-attr]
            spread = (v.max(0) - v.min(0)) / output.scale[0]
            table = exponent_bound(low.table, len(v), relative_score_error(low, case))
            dropped = 0.5 * (1 << low.value_shift) / low.table[0] * low_scale(case) if low.value_shift else 0.0
            return 0.5 + spread * table + dropped + 2.0**-26 * np.abs(case.meaning()) + slack
        case LoweredRequantize() | LoweredEmbedding() | LoweredKvAppend():
            return 0.5 + 2.0**16 * 0.5**low.shift / 2 + slack
        case LoweredDepthwiseConv():  # the multiplier: half a unit
            acc = low.op.sums(case.activations[0].astype(np.int64), low.weight.astype(np.int64), low.zero_in) + low.bias
            return 0.5 + np.abs(acc) * 0.5**low.shift / 2 + 2 * slack
        case LoweredReduceMean() | LoweredAveragePool():  # the reciprocal: 2^-26 of the result
            return 0.5 + 2.0**-26 * np.abs(case.meaning() - low.zero_point) + slack
        case LoweredInterpolatedTable():
            # half a step for each rounding, of the entries and of the line; (128 s)^2 / 8 of the curvature, and
            # 128 s / 4 of a bend between two entries
            assert low.input.quant is not None and isinstance(case.op, Activation)
            segment = 128 * low.input.quant.scale[0]
            if case.op.function in UNBOUNDED:
                return 1.0 + off_the_line(case) + slack
            curvature, bend = CURVES.get(case.op.function, (1.2, 0.0))
            return 1.0 + (curvature * segment**2 / 8 + bend * segment / 4) / output.scale[0] + slack
        case LoweredLayerNorm():
            # rounding of R where N = 32, of u, of the gain's multiplier; the reciprocal square root 2^-26 of the result
            x = case.activations[0].astype(np.float64)
            distance = np.abs(low.width * x - x.sum(-1, keepdims=True))
            unit = 0.5 + distance * 2.0**-33 + 2.0**-24 * np.abs(case.meaning() - low.zero_point)
            if low.gain is None:
                return unit + slack
            gain = np.abs(low.gain) * 2.0**-low.shift
            normal = math.sqrt(low.width) * 2.0**low.fraction_bits
            return 0.5 + gain * (0.5 + distance * 2.0**-33) + normal * 2.0**-low.shift / 2 + 2.0**-24 * 65536 + slack
        case LoweredSoftmax():  # every exponent is off by 1/128 at most: see exponent_bound
            return 0.5 + exponent_bound(low.table, case.activations[0].shape[-1]) / output.scale[0] + slack
        case LoweredAttention():
            v = case.activations[2].astype(np.float64)
            assert case.inputs[2].type.quant is not None
            scales = np.broadcast_to(case.inputs[2].type.quant.scale_array(1).astype(np.float64), v.shape[1:])
            scales, spread = (
                np.repeat(each.reshape(low.kv_heads, -1), low.heads // low.kv_heads, 0).reshape(-1)
                for each in (scales, (v.max(0) - v.min(0)) * scales)
            )
            size = np.abs(case.meaning())
            table = exponent_bound(low.table, len(v), score_error(low, case))
            dropped = 0.5 * (1 << low.value_drop) * scales / step.reshape(-1) if low.value_drop else 0.0
            return 0.5 + spread / step.reshape(-1) * table + dropped + 2.0**-26 * size + slack
        case _:
            return 0.5 + slack


CURVES = {"celu": (1 / 0.7, 0.0), "clip": (0.0, 1.0), "hard_sigmoid": (0.0, 0.2), "hard_swish": (1 / 3, 0.5),
          "leaky_relu": (0.0, 0.0), "relu": (0.0, 0.0), "selu": (1.77, 1.06), "softplus": (0.25, 1.0),
          "softsign": (2.0, 0.0)}  # fmt: skip
"""Function, with the parameters of ACTIVATIONS → the most of its second derivative, and of a change of slope (where the
output ends, too) but at 0, where an entry of the table is; of the others 1.2 (gelu at 0: 2 / sqrt(2 pi) = 0.8, tanh
0.77, mish 0.96, erf 0.97)."""
UNBOUNDED = ("exponential", "logarithm", "reciprocal", "square_root")
"""Functions whose slope grows beyond all bounds."""


def off_the_line(case: Case) -> np.ndarray:
    """How far a function is from the straight line between the ends of each segment, in steps, both clamped."""
    x, output = case.inputs[0].type, case.output.quant
    assert isinstance(case.op, Activation) and x.quant is not None and output is not None
    u = case.activations[0].astype(np.int64) + 32768
    with np.errstate(all="ignore"):
        points = (np.arange(0, 65537, 128) - 32768) * x.quant.scale[0]
        real = np.nan_to_num(case.op.real(points) / output.scale[0], nan=0.0, posinf=1e9, neginf=-1e9)
    steps = np.clip(real + output.zero_point, -32768, 32767)
    line = steps[u >> 7] + (steps[(u >> 7) + 1] - steps[u >> 7]) * (u & 127) / 128
    return np.abs(np.clip(line, case.output.dtype.minimum, case.output.dtype.maximum) - case.meaning())


def low_scale(case: Case) -> float:
    """Steps of the output to a step of a cached attention's values."""
    value, output = case.inputs[2].type.quant, case.output.quant
    assert value is not None and output is not None
    return value.scale[0] / output.scale[0]


def cached_score_error(low: LoweredCachedAttention, case: Case) -> float:
    """The same for a cached attention: half a unit of each query that lost bits times what it meets; the rounding of a
    slope and of its product; half a unit of the multiplier."""
    keys = np.abs(case.activations[1].astype(np.float64))
    error = keys.reshape(len(keys), low.op.kv_heads, -1).sum(-1).max() / 2 if low.query_drop else 0.0
    if low.slope_multiplier is not None:
        error += 0.5 + len(keys) / 512
    unit = low.score_multiplier * 0.5**low.score_shift
    distance = min(2.0**32, 1024 / unit)
    return float(2 * error * unit + distance * 0.5**low.score_shift / 2) / 64


def relative_score_error(low: LoweredRelativeAttention, case: Case) -> float:
    """As `score_error`, and half a unit for the bias of each score."""
    size = case.activations[0].shape[-1] // low.op.heads
    meets = [
        np.abs(x.astype(np.float64)).reshape(-1, size).sum(1).max() * 0.5**drop
        for x, drop in zip(case.activations[:2], (low.query_drop, low.key_drop), strict=True)
    ]
    error = 0.5 + (size / 4 if low.query_drop and low.key_drop else 0.0)
    error += sum(met / 2 for met, drop in zip(meets, (low.key_drop, low.query_drop), strict=True) if drop)
    unit = low.score_multiplier * 0.5**low.score_shift
    distance = min(2.0**32, 1024 / unit)
    return float(2 * error * unit + distance * 0.5**low.score_shift / 2) / 64


def score_error(low: LoweredAttention, case: Case) -> float:
    """What an int16 attention adds to d below: half a unit of each query and key that lost bits, times what it meets,
    for both scores of a distance; and half a unit of the multiplier times the largest distance that still has a weight.
    In natural units, of the head where it is largest."""
    if low.query.dtype is DType.INT8:
        return 0.0
    size = case.activations[0].shape[-1] // low.heads
    meets = [
        np.abs(x.astype(np.float64)).reshape(-1, size).sum(1).max() * 0.5**drop
        for x, drop in zip(case.activations[:2], (low.query_drop, low.key_drop), strict=True)
    ]
    error = size / 4 if low.query_drop and low.key_drop else 0.0
    error += sum(met / 2 for met, drop in zip(meets, (low.key_drop, low.query_drop), strict=True) if drop)
    unit = low.score_multiplier.astype(np.float64) * 0.5**low.score_shift
    distance = np.minimum(2.0**31, 1024 / unit)
    return float((2 * error * unit + distance * 0.5**low.score_shift / 2).max()) / 64


def exponent_bound(table: np.ndarray, width: int, error: float = 0.0) -> float:
    """How much of the spread of the values a mean weighted by numerators may move.

    Distances are rounded to 1/64, so each weight is off by a factor in [e^-d, e^d], d = 1/128 (+ `error`): a mean of
    two groups, one at e^d and one at e^-d, moves by tanh(d/2) of their distance at most. Each numerator is also
    rounded, by half a unit or, past the last entry, by that entry; against their sum, which the largest alone bounds
    from below.
    """
    return math.tanh(1 / 256 + error / 2) + width * (0.5 + float(table[-1])) / float(table[0])


def epsilon_effect(case: Case) -> np.ndarray | float:
    """LayerNorm's integer epsilon is rounded: its factor differs from the real one by half the relative change of V."""
    low = case.lowered
    if isinstance(low, LoweredRmsNorm):
        return rms_epsilon_effect(case, low)
    if not isinstance(low, LoweredLayerNorm):
        return 0.0
    x = case.activations[0].astype(np.float64)
    squares = low.width * (x * x).sum(-1, keepdims=True) - x.sum(-1, keepdims=True) ** 2
    assert isinstance(case.op, LayerNorm) and low.input.quant is not None
    real = case.op.epsilon * low.width**2 / low.input.quant.scale[0] ** 2
    factor = np.abs(np.sqrt((squares + real) / np.maximum(squares + low.epsilon, 1)) - 1)
    distance = np.abs((low.width * x - x.sum(-1, keepdims=True)) / np.sqrt(squares + real))
    gain = (
        1 / case.output.quant.scale[0]
        if low.gain is None
        else np.abs(low.gain) * 2.0 ** (low.fraction_bits - low.shift)
    )  # type: ignore[union-attr]
    return distance * gain * factor


def rms_epsilon_effect(case: Case, low: LoweredRmsNorm) -> np.ndarray:
    """The same for RmsNorm."""
    d = case.activations[0].astype(np.float64) - low.zero_in
    squares = (d * d).sum(-1, keepdims=True)
    assert isinstance(case.op, RmsNorm) and low.input.quant is not None and case.output.quant is not None
    real = case.op.epsilon * low.width / low.input.quant.scale[0] ** 2
    factor = np.abs(np.sqrt((squares + real) / np.maximum(squares + low.epsilon, 1)) - 1)
    normal = np.abs(d * math.sqrt(low.width) / np.sqrt(squares + real))
    gain = np.abs(low.gain) * 2.0 ** (low.fraction_bits - low.shift) if low.gain is not None else None
    return normal * (1 / case.output.quant.scale[0] if gain is None else gain) * factor


@pytest.mark.parametrize("symbol", CASES)
def test_integers_stay_within_their_bound(symbol: str) -> None:
    for case in CASES[symbol]():
        error = np.abs(case.expected - case.meaning())
        allowed = bound(case) + epsilon_effect(case)
        assert (error <= allowed).all(), f"{case.note}: {np.max(error - allowed):.3f} steps past its bound"


@pytest.mark.parametrize("symbol", [s for s in CASES if "layer_norm" in s])
def test_layer_norm_is_within_one_step(symbol: str) -> None:
    for case in CASES[symbol]():
        excess = np.abs(case.expected - case.meaning()) - epsilon_effect(case)
        assert excess.max() <= 1.0, case.note


@pytest.mark.parametrize("symbol", [s for s in CASES if s.startswith(("pf_softmax_s", "pf_attention_s"))])
def test_softmax_and_attention_are_within_one_step_of_int8(symbol: str) -> None:
    """Numerators have 15 bits and exponents are 1/64 apart: an int16 result is that good too, not 256 times better.
    Where scores reach thousands, a unit of an int16 query that lost bits is worth as much as a whole weight; only the
    bound of the test above holds there."""
    for case in CASES[symbol]():
        if symbol.startswith("pf_attention_s16") and "saturated" in case.note:
            continue
        steps = 256.0 if symbol.endswith("s16") else 1.0
        assert np.abs(case.expected - case.meaning()).max() <= steps, case.note


def test_attention_on_gaussian_scores_is_far_better_than_its_worst_case() -> None:
    """Scores of standard deviation 3 over 64 keys: the error of the table is noise, some 50 dB below the result."""
    rng = np.random.default_rng(3)
    q, k, v = (np.clip(np.rint(rng.normal(0, 40, (64, 16))), -128, 127).astype(np.int8) for _ in range(3))
    types = [TensorType((64, 16), DType.INT8, QuantParams((s,))) for s in (3**0.5 / 40, 3**0.5 / 40, 0.025)]
    out = TensorType((64, 16), DType.INT16, QuantParams((0.025 / 256,)))
    case = Case("gaussian", Attention(1, 0.25), tuple(map(Operand, types)), out, (q, k, v))
    wanted = case.meaning()
    noise = 10 * np.log10((wanted**2).mean() / ((case.expected - wanted) ** 2).mean())
    assert noise > 40


def test_attention_leaves_keys_out_whatever_they_hold() -> None:
    """Keys past the valid length do not count, however large their scores and the score's multiplier."""
    q, k, v = (np.full(s, 127, np.int8) for s in ((3, 4), (5, 4), (5, 4)))
    k[3:] = -128
    v[:3] = [[1], [2], [3]]
    types = [TensorType(a.shape, DType.INT8, QuantParams((s,))) for a, s in ((q, 1.7), (k, 1.9), (v, 1.0))]
    inputs = (*map(Operand, types), Operand(TensorType((), DType.INT32)))
    lowered = Attention(1, 1.0).lower(inputs, TensorType((3, 4), DType.INT8, QuantParams((1.0,))))
    for valid, expected in ((0, 0), (1, 1), (3, 2)):
        assert (lowered.execute(q, k, v, np.int32(valid)) == expected).all()
        both = lowered.execute(np.stack([q, q]), np.stack([k, k]), np.stack([v, v]), np.array([valid, 1]))
        assert (both[0] == expected).all() and (both[1] == 1).all()


def _norm(scale: float, width: int) -> None:
    x = Operand(TensorType((1, width), DType.INT16, QuantParams((1.0,))))
    LayerNorm(1e-5).lower((x,), TensorType((1, width), DType.INT16, QuantParams((scale,))))


def _soft(scale: float) -> None:
    x = Operand(TensorType((1, 8), DType.INT8, QuantParams((1.0,))))
    Softmax().lower((x,), TensorType((1, 8), DType.INT8, QuantParams((scale,))))


@pytest.mark.parametrize(
    "lower,message",
    [
        (lambda: _norm(1e-8, 64), "too small for a norm"),
        (lambda: _soft(1e12), "does not suit"),
        (lambda: _soft(1e-12), "does not suit"),
    ],
)
def test_scales_that_would_overflow_are_refused(lower, message: str) -> None:
    with pytest.raises(LoweringError, match=message):
        lower()


def test_erf_agrees_with_scipy() -> None:
    x = np.linspace(-4, 4, 101).astype(np.float32)
    same(Unary("erf").compute(x), special.erf(x))
