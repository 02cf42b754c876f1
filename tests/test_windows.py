"""Patches, depthwise convolutions and pools: against torch, in C against their definition, float and moved bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from c_library import Guarded, Library
from graphs import Builder
from picoformer.ir.operator import Array, LoweringError, Operand
from picoformer.ir.types import DType, QuantParams, TensorType
from picoformer.ops import Activation, AveragePool, Conv, DepthwiseConv, Linear, MaxPool, Patches, Window
from picoformer.ops.fixedpoint import dequantize
from picoformer.quantize import QuantizeSettings, quantize
from picoformer.reference import lower_graph, run_float, run_integer
from window_cases import SIZES, Sizes, window_of

DTYPES = [np.int8, np.int16, np.float32]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library.build(tmp_path_factory.mktemp("operators"), "gcc")


def drawn(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def first(x: Array) -> torch.Tensor:
    """An image (H, W, C), or several, as torch has them."""
    return torch.tensor(np.moveaxis(x if x.ndim == 4 else x[None], -1, 1))


def last(y: torch.Tensor, like: Array) -> Array:
    found = np.moveaxis(y.numpy(), 1, -1)
    return found if like.ndim == 4 else found[0]


def padded(x: Array, pads: tuple[int, ...], fill: float) -> torch.Tensor:
    top, left, bottom, right = pads
    return functional.pad(first(x), (left, right, top, bottom), value=fill)


@pytest.mark.parametrize("sizes", SIZES)
def test_windows_agree_with_torch(sizes: Sizes) -> None:
    shape, kernel, strides, dilations, pads = sizes
    x, c = drawn(0, *shape), shape[-1]
    taps = kernel[0] * kernel[1]
    weight, bias = drawn(1, taps, c), drawn(2, c)
    own = torch.tensor(weight.T.reshape(c, 1, *kernel))
    y = functional.conv2d(padded(x, pads, 0), own, torch.tensor(bias), strides, 0, dilations, c)
    np.testing.assert_allclose(DepthwiseConv(*sizes[1:]).compute(x, weight, bias), last(y, x), atol=2e-6)
    y = functional.max_pool2d(padded(x, pads, -np.inf), kernel, strides, 0, dilations)
    np.testing.assert_array_equal(MaxPool(*sizes[1:]).compute(x), last(y, x))
    ones = functional.conv2d(padded(x, pads, 0), torch.ones(c, 1, *kernel), None, strides, 0, dilations, c)
    there = functional.conv2d(padded(x * 0 + 1, pads, 0), torch.ones(c, 1, *kernel), None, strides, 0, dilations, c)
    np.testing.assert_allclose(AveragePool(*sizes[1:]).compute(x), last(ones / there, x), atol=2e-6)
    counted = AveragePool(*sizes[1:], include_pad=True)
    np.testing.assert_allclose(counted.compute(x), last(ones / taps, x), atol=2e-6)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("strides,dilations,pads", [((1, 1), (1, 1), (1, 1, 1, 1)), ((2, 1), (1, 2), (0, 2, 0, 2))])
def test_a_convolution_is_patches_and_a_linear(
    groups: int, strides: tuple[int, int], dilations: tuple[int, int], pads: tuple[int, int, int, int]
) -> None:
    x, weight, bias = drawn(0, 2, 6, 7, 8), drawn(1, 9, 6 // groups, 3, 3), drawn(2, 9)
    op = Conv(strides, dilations, pads, groups)
    wanted = functional.conv2d(*map(torch.tensor, (x, weight, bias)), strides, pads[:2], dilations, groups)
    np.testing.assert_allclose(op.compute(x, weight, bias), wanted.numpy(), atol=5e-6)
    if groups == 1:
        rows = op.window(weight.shape).compute(np.moveaxis(x, 1, -1))
        y = Linear().compute(rows, weight.transpose(0, 2, 3, 1).reshape(9, -1), bias)
        np.testing.assert_allclose(np.moveaxis(y, -1, 1), wanted.numpy(), atol=5e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES)
def test_patches_in_c(sizes: Sizes, dtype: type, library: Library) -> None:
    """The very bytes of the definition, in two turns as tiles compute them; bytes that are not there are the fill."""
    op, fill = Patches(*sizes[1:]), -17 if dtype is np.int8 else 0
    size = np.dtype(dtype).itemsize
    x = np.random.default_rng(0).integers(1, 100, sizes[0]).astype(dtype)
    expected = op.lined_up(x, fill)
    y = Guarded(expected.shape, dtype)
    rows = y.array.reshape(-1, expected.shape[-1])
    cut = len(rows) // 2
    for begin, end in ((0, cut), (cut, len(rows))):
        if begin < end:
            library.call("pf_patches", window_of(library, op, x, size), rows[begin:end], x, fill, begin, end - begin)
    np.testing.assert_array_equal(y.value, expected)


@pytest.mark.parametrize("sizes", SIZES)
def test_windows_in_float_c(sizes: Sizes, library: Library) -> None:
    x, c = drawn(0, *sizes[0]), sizes[0][-1]
    weight, bias = drawn(1, sizes[1][0] * sizes[1][1], c), drawn(2, c)

    def run(name: str, op: Window, before: tuple[object, ...], after: tuple[object, ...], expected: Array) -> None:
        y = Guarded(expected.shape, np.float32)
        places = expected.size // c
        library.call(name, *before, window_of(library, op, x), x, y.array, *after, 0, places)
        np.testing.assert_allclose(y.value, expected, rtol=0, atol=2e-6 * np.abs(expected).max())

    deep = DepthwiseConv(*sizes[1:])
    for own in (bias, None):
        p = library.structure("pf_depthwise_f32_params", weight=weight, bias=own)
        run("pf_depthwise_f32", deep, (p,), (), deep.compute(x, weight, *([] if own is None else [own])))
    run("pf_max_pool_f32", MaxPool(*sizes[1:]), (), (), MaxPool(*sizes[1:]).compute(x))
    for include in (False, True):
        op = AveragePool(*sizes[1:], include_pad=include)
        run("pf_average_pool_f32", op, (), (int(include),), op.compute(x))


def test_what_does_not_fit_is_refused() -> None:
    image = TensorType((4, 4, 2))
    for op, message in (
        (Patches((5, 1)), "no window"),
        (MaxPool((2, 2), pads=(2, 0, 0, 0)), "holds no entry"),
        (AveragePool((1, 1), pads=(0, 0, 0, 1)), "holds no entry"),
    ):
        with pytest.raises(ValueError, match=message):
            op.infer([image])
    with pytest.raises(ValueError, match="kernel"):
        Patches((0, 1))
    with pytest.raises(ValueError, match="is no image"):
        Patches((1, 1)).infer([TensorType((4, 4))])
    with pytest.raises(ValueError, match="one number for each of 4 taps"):
        DepthwiseConv((2, 2)).infer([image, TensorType((3, 2))])
    int8 = TensorType((4, 4, 2), DType.INT8, QuantParams((0.1,), 3))
    other = TensorType((3, 3, 8), DType.INT8, QuantParams((0.2,), 3))
    for op in (Patches((2, 2)), MaxPool((2, 2))):
        with pytest.raises(LoweringError, match="different grids"):
            op.lower([Operand(int8)], other)


def test_a_depthwise_bias_takes_up_the_mean_error() -> None:
    b = Builder("deep", seed=3)
    x = b.input("x", 6, 6, 5)
    deep = DepthwiseConv((3, 3), pads=(1, 1, 1, 1))
    weight, bias = b.constant("weight", shape=(9, 5)), b.constant("bias", shape=(5,), spread=0.1)
    y = b.node(deep, x, weight, bias, name="deep")
    graph = b.graph(b.node(Activation("relu"), y, name="y"))
    b.constants["weight"][1:], b.constants["weight"][0] = 0.025, 8.0  # the others are less than half a step of it
    samples = {"x": np.abs(b.random.normal(0.5, 0.2, (40, 6, 6, 5))).astype(np.float32)}
    wanted = run_float(graph, samples)["deep"].mean(axis=(0, 1, 2))
    errors = []
    for corrected in (False, True):
        settings = QuantizeSettings(bias_correction=corrected, rounding="nearest", widen=0.0)
        typed = quantize(graph, samples, run_float, settings)
        grid = typed.types["deep"].quant
        assert grid is not None
        found = dequantize(run_integer(lower_graph(typed), samples)["deep"], grid).mean(axis=(0, 1, 2))
        errors.append(np.abs(found - wanted).max() / grid.scale[0])
    assert errors[1] < 0.2 < errors[0]
