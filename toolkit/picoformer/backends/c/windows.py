"""Emitters of the operators on windows: patches of an image, depthwise convolutions, pools."""

from __future__ import annotations

import math

import numpy as np

from picoformer.backends.c.site import Argument, Site
from picoformer.ops import (
    AveragePool,
    LoweredAveragePool,
    LoweredDepthwiseConv,
    LoweredPatches,
    MaxPool,
    Window,
)


def _window(site: Site, bytes_each: int = 1) -> str:
    """Address of the pf_window of a step; `bytes_each`: what a channel counts as."""
    op, x = site.node.op, site.types[0]
    assert isinstance(op, Window)
    height, width, channels = x.shape[-3:]
    rows, columns = op.places(x)[-2:]
    return site.struct(
        "pf_window",
        "window",
        height=height,
        width=width,
        channels=channels * bytes_each,
        kernel_h=op.kernel[0],
        kernel_w=op.kernel[1],
        stride_h=op.strides[0],
        stride_w=op.strides[1],
        dilation_h=op.dilations[0],
        dilation_w=op.dilations[1],
        pad_top=op.pads[0],
        pad_left=op.pads[1],
        rows=rows,
        columns=columns,
    )


def _places(site: Site) -> tuple[Argument, Argument]:
    """The first window that a call computes, and how many."""
    if site.tiling is not None:
        return "row", ("rows", "places")
    return (0, "first"), (math.prod(site.out.shape[:-1]), "places")


def patches(site: Site) -> str:
    """The taps of each window in a row."""
    low, x = site.lowered, site.types[0]
    fill = low.zero_point if isinstance(low, LoweredPatches) else 0
    window = _window(site, x.dtype.bytes)
    return site.call("pf_patches", window, site.write(), site.read(0), (fill, "fill"), *_places(site))


def depthwise(site: Site) -> str:
    """Each channel with its own kernel."""
    low = site.lowered
    if not isinstance(low, LoweredDepthwiseConv):
        if any(name not in site.graph.constants for name in site.node.inputs[1:]):
            raise site.unsupported("its weight is computed; only a constant weight has an operator in C")
        bias = site.read(2) if len(site.types) > 2 else "NULL"
        p = site.struct("pf_depthwise_f32_params", weight=site.read(1), bias=bias)
        return site.call("pf_depthwise_f32", p, _window(site), site.read(0), site.write(), *_places(site))
    p = site.struct(
        "pf_depthwise",
        weight=site.read(1),
        bias=site.array("bias", np.asarray(low.bias, np.int32), "bias, the zero point of the input folded in"),
        multiplier=site.array("multiplier", np.asarray(low.multiplier, np.int32), "multiplier of each channel"),
        shift=low.shift,
        zero_in=low.zero_in,
        zero_point=low.zero_point,
    )
    function = f"pf_depthwise{site.types_suffix(site.types[0].dtype, site.out.dtype)}"
    return site.call(function, p, _window(site), site.read(0), site.write(), *_places(site))


def max_pool(site: Site) -> str:
    """The largest entry of each window."""
    assert isinstance(site.node.op, MaxPool)
    function = f"pf_max_pool{site.types_suffix(site.out.dtype)}"
    return site.call(function, _window(site), site.read(0), site.write(), *_places(site))


def average_pool(site: Site) -> str:
    """The mean of each window."""
    op, low = site.node.op, site.lowered
    assert isinstance(op, AveragePool)
    if not isinstance(low, LoweredAveragePool):
        pad: Argument = (int(op.include_pad), "include_pad")
        return site.call("pf_average_pool_f32", _window(site), site.read(0), site.write(), pad, *_places(site))
    p = site.struct(
        "pf_average_pool",
        mantissa=low.mantissa,
        exponent=low.exponent,
        zero_in=low.zero_in,
        zero_point=low.zero_point,
        include_pad=int(op.include_pad),
    )
    function = f"pf_average_pool{site.types_suffix(site.types[0].dtype, site.out.dtype)}"
    return site.call(function, p, _window(site), site.read(0), site.write(), *_places(site))
