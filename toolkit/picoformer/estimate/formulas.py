"""What the cost of a call grows with: for each function the terms whose coefficients are fitted to counted runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from picoformer.backends.c.isa.layout import up

Sizes = Mapping[str, int]
Terms = Callable[[Sizes], list[float]]


def linear(s: Sizes) -> list[float]:
    """Products, padded as some kernels have them (pairs of rows, six rows, groups of eight outputs, words and vectors
    of inputs); the outputs; weights widened once for each block of rows; inputs arranged."""
    rows, n, k, block = s["rows"], s["n"], s["k"], s.get("block", 0)
    passes = math.ceil(rows / block) if block else 1
    twos, sixes = math.ceil(rows / 2), math.ceil(rows / 6)
    n2, n8, k4, vectors = up(n, 2), up(n, 8), up(k, 4), math.ceil(k / 16)
    return [
        rows * n * k,
        2 * twos * n2 * k4,
        sixes * n * k4,
        rows * n8 * vectors,
        n * twos * vectors,
        passes * n2 * k4,
        rows * n,
        rows * n8,
        twos * n2,
        sixes * n,
        rows * k4,
        rows * vectors,
        rows * k4 if k % 4 else 0,
        passes * n2,
        rows,
        passes,
        n,
        1,
    ]


def attention(s: Sizes) -> list[float]:
    """Products of all pairs of a query and a key it sees, the softmax of these, and keys and values made ready."""
    queries, keys, heads = s["queries"], s["keys"], s["heads"]
    width = up(s["head_size"], 4) + up(s["value_size"], 4)
    pairs = queries * keys - (queries * (queries - 1) / 2 if s.get("causal") else 0)
    fours = queries * up(keys, 4) - (queries * (queries - 1) / 2 if s.get("causal") else 0)
    own = s["kv_heads"]
    return [
        heads * pairs * width,
        heads * fours * width,
        heads * pairs * (s["head_size"] + s["value_size"]),
        heads * pairs,
        heads * queries * width,
        heads * queries,
        own * keys * width,
        heads * keys * width,
        heads,
        1,
    ]


def rows_of(*names: str) -> Terms:
    """Terms of work on each element of rows: `names` are those of the rows and of their width."""
    rows, width = names

    def terms(s: Sizes) -> list[float]:
        return [s[rows] * s[width], s[rows] * math.ceil(s[width] / 4), s[rows], 1]

    return terms


def elements(s: Sizes) -> list[float]:
    """Terms of work on each element."""
    return [s["elements"], 1]


def pairs_of_elements(s: Sizes) -> list[float]:
    """Terms of element-wise work with a second operand that may repeat or stretch."""
    return [s["count"], s["count"] / s["period"], s["count"] / s["inner"] if s["inner"] > 1 else 0, 1]


def mean(s: Sizes) -> list[float]:
    """Terms of a mean over the middle axis."""
    return [s["outer"] * s["length"] * s["inner"], s["outer"] * s["inner"], s["outer"], 1]


def blocks(s: Sizes) -> list[float]:
    """Terms of copies of blocks, words at a time or bytes."""
    return [s["blocks"] * s["bytes"], s["blocks"] * math.ceil(s["bytes"] / 16), s["blocks"], 1]


def moved(s: Sizes) -> list[float]:
    """Terms of a transposition, by the bytes of an element."""
    by_size = [s["elements"] if s["bytes each"] == size else 0 for size in (1, 2, 4)]
    return [*by_size, s["elements"] / s["innermost"], 1]


def inside(count: int, kernel: int, stride: int, dilation: int, before: int, size: int) -> float:
    """The share of the taps of an axis that are there, over all of its windows."""
    there = sum(0 <= place * stride + tap * dilation - before < size for place in range(count) for tap in range(kernel))
    return there / (count * kernel)


def _share(s: Sizes) -> float:
    high = inside(s["rows"], s["kernel_h"], s["stride_h"], s["dilation_h"], s["pad_top"], s["height"])
    return high * inside(s["columns"], s["kernel_w"], s["stride_w"], s["dilation_w"], s["pad_left"], s["width"])


def _whole(count: int, kernel: int, stride: int, dilation: int, before: int, size: int) -> float:
    """The share of the windows of an axis of which every tap is there."""
    first = (place * stride - before for place in range(count))
    return sum(start >= 0 and start + (kernel - 1) * dilation < size for start in first) / count


def patches(s: Sizes) -> list[float]:
    """Terms of windows lined up: lines of whole windows by words and single bytes, and bytes, runs and lines of those
    that reach outside or whose taps are apart."""
    places, lines, wide, share = s["places"], s["kernel_h"], s["kernel_w"] * s["channels"], _share(s)
    high = _whole(s["rows"], lines, s["stride_h"], s["dilation_h"], s["pad_top"], s["height"])
    whole = places * high * _whole(s["columns"], s["kernel_w"], s["stride_w"], 1, s["pad_left"], s["width"])
    whole = 0 if s["dilation_w"] > 1 else whole
    partly = places - whole
    copied = max(0, places * share - whole) * lines * wide
    runs = s["kernel_w"] if s["dilation_w"] > 1 else 1
    return [
        whole * lines * (wide // 4 if wide <= 32 else 0),
        whole * lines * (wide % 4 if wide <= 32 else 0),
        whole * lines * (wide if wide > 32 else 0),
        whole * lines,
        whole,
        copied,
        partly * lines * wide - copied,
        partly * lines * runs,
        partly,
        1,
    ]


def depthwise(s: Sizes) -> list[float]:
    """Terms of products, four channels at a time and one by one, taps that are not there, and what each sum takes."""
    places, fours, ones = s["places"], s["channels"] // 4, s["channels"] % 4
    taps, share = s["kernel_h"] * s["kernel_w"], _share(s)
    outside = places * (1 - share) * taps if s.get("zero_in", 1) else 0
    return [
        places * taps * share * fours,
        places * taps * share * ones,
        outside * s["channels"],
        places * s["kernel_h"] * (fours + ones),
        places * (fours + ones),
        places * s["channels"],
        places,
        1,
    ]


def pool(s: Sizes) -> list[float]:
    """Terms of the taps of windows that are there, by four channels, by single ones and on their own, of the results
    likewise, and of the windows."""
    places, taps = s["places"], s["kernel_h"] * s["kernel_w"] * _share(s)
    fours, ones = s["channels"] // 4, s["channels"] % 4
    return [
        places * taps * fours,
        places * taps * ones,
        places * taps,
        places * s["kernel_h"] * (fours + ones),
        places * (fours + ones),
        places * s["channels"],
        places,
        1,
    ]


FORMULAS: dict[str, Terms] = {
    "pf_absolute_": elements,
    "pf_add_": pairs_of_elements,
    "pf_attention_": attention,
    "pf_average_pool_": pool,
    "pf_celu_": elements,
    "pf_clip_": elements,
    "pf_copy_blocks": blocks,
    "pf_depthwise_": depthwise,
    "pf_elu_": elements,
    "pf_embedding_": rows_of("ids", "width"),
    "pf_error_function_": elements,
    "pf_exponential_": elements,
    "pf_gelu_": elements,
    "pf_hard_sigmoid_": elements,
    "pf_hard_swish_": elements,
    "pf_interpolate_": elements,
    "pf_layer_norm_": rows_of("rows", "width"),
    "pf_leaky_relu_": elements,
    "pf_linear_": linear,
    "pf_logarithm_": elements,
    "pf_max_pool_": pool,
    "pf_mish_": elements,
    "pf_mul_": pairs_of_elements,
    "pf_patches": patches,
    "pf_reciprocal_": elements,
    "pf_reduce_mean_": mean,
    "pf_relu_": elements,
    "pf_requantize_": elements,
    "pf_selu_": elements,
    "pf_sigmoid_": elements,
    "pf_silu_": elements,
    "pf_softmax_": rows_of("rows", "width"),
    "pf_softplus_": elements,
    "pf_softsign_": elements,
    "pf_square_root_": elements,
    "pf_swish_": elements,
    "pf_table_": elements,
    "pf_tanh_": elements,
    "pf_transpose": moved,
}
"""How a function's name starts → its terms; the longest start counts."""


def terms_of(function: str, sizes: Sizes) -> list[float] | None:
    """The terms of a call; None for a function without a formula, or one that lacks a size."""
    starts = [start for start in FORMULAS if function.startswith(start)]
    if not starts:
        return None
    try:
        return FORMULAS[max(starts, key=len)](sizes)
    except KeyError:
        return None
