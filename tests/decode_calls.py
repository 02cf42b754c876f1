"""The calls of a decode step's operators, as tests make them: fields of a lowered operator to C arguments."""

from __future__ import annotations

from typing import Any

import numpy as np

import relative_cases
import window_cases
from picoformer.backends.c.isa.layout import up
from picoformer.ir.operator import Array, Lowered
from picoformer.ir.types import DType
from picoformer.ops import (
    LoweredAveragePool,
    LoweredCachedAttention,
    LoweredDepthwiseConv,
    LoweredExpertLinear,
    LoweredExpertWeights,
    LoweredKvAppend,
    LoweredMaxPool,
    LoweredRelativeAttention,
    LoweredRmsNorm,
    LoweredRope,
    LoweredScaleRows,
    LoweredTopExperts,
)

OK = 0


def call(library: Any, lowered: Lowered, x: Array, activations: tuple[Array, ...], y: Array) -> str:
    """Make the call that computes `lowered` into `y`; `x` is the first activation, or `y` itself. Its symbol."""
    rest = [np.ascontiguousarray(value) for value in activations[1:]]
    match lowered:
        case LoweredRmsNorm():
            name = f"pf_rms_norm_{_names(lowered.input, lowered.output)}"
            library.call(name, library.structure("pf_rms_norm", lowered), x, y, x.size // lowered.width)
        case LoweredRope():
            name, op = "pf_rope_s16", lowered.op
            sizes = {"heads": op.heads, "head_size": x.shape[-1] // op.heads, "rotary": op.rotary_dim}
            p = library.structure(
                "pf_rope",
                rotations=lowered.rotations,
                positions=len(lowered.rotations),
                interleaved=int(op.interleaved),
                **sizes,
            )
            assert library.call(name, p, x, y, int(activations[1]), len(x)) == OK
        case LoweredKvAppend():
            name = f"pf_kv_append_{_names(lowered.rows, lowered.output)}"
            p = library.structure("pf_kv_append", lowered, **cache_sizes(lowered))
            assert library.call(name, p, rest[0], y, int(activations[2]), int(activations[3])) == OK
        case LoweredCachedAttention():
            name = f"pf_cached_attention_{_names(lowered.key, lowered.value, lowered.output)}"
            sizes = attention_sizes(lowered)
            p = library.structure("pf_cached_attention", lowered, **sizes)
            layout = library.layout.cached_attention(lowered.key.dtype)
            size = layout.scratch_bytes(sizes["positions"], sizes["head_size"], sizes["value_size"])
            with library.scratch(size) as scratch:
                status = library.call(name, p, x, rest[0], rest[1], y, int(activations[3]), len(x), scratch)
            assert status == OK
        case LoweredTopExperts():
            name = f"pf_top_experts_{_names(lowered.input)}"
            library.call(name, x, y, len(x), x.shape[-1], lowered.k)
        case LoweredExpertWeights():
            name = f"pf_expert_weights_{_names(lowered.input, lowered.output)}"
            sizes = {"experts": x.shape[-1], "chosen": y.shape[-1]}
            p = library.structure("pf_expert_weights", lowered.softmax, **sizes)
            assert library.call(name, p, x, rest[0], y, len(x)) == OK
        case LoweredExpertLinear():
            name = _expert_linear(library, lowered, x, rest[0], y)
        case LoweredScaleRows():
            name = f"pf_scale_rows_{_names(lowered.input, lowered.output)}"
            sizes = {"width": x.shape[-1], "chosen": rest[0].shape[-1], "slot": lowered.slot}
            p = library.structure("pf_scale_rows", lowered.mul, **sizes)
            library.call(name, p, x, rest[0], y, len(x))
        case LoweredRelativeAttention():
            name = relative_cases.call(library, lowered, activations, x, y)
        case LoweredDepthwiseConv() | LoweredMaxPool() | LoweredAveragePool():
            name = window_cases.call(library, lowered, x, y)
        case _:
            raise AssertionError(f"{type(lowered).__name__} has no C function")
    return name


def cache_sizes(lowered: LoweredKvAppend) -> dict[str, int]:
    """What a pf_kv_append says of shapes."""
    block, width = lowered.rows.shape
    positions = lowered.cache.elements // width
    return {"transposed": int(lowered.op.transposed), "positions": positions, "width": width, "block": block}


def attention_sizes(lowered: LoweredCachedAttention) -> dict[str, int]:
    """What a pf_cached_attention says of shapes."""
    op = lowered.op
    return {
        "heads": op.heads,
        "kv_heads": op.kv_heads,
        "head_size": lowered.query.width // op.heads,
        "value_size": lowered.value.shape[-2] // op.kv_heads,
        "positions": lowered.key.shape[-2],
    }


def _expert_linear(library: Any, lowered: LoweredExpertLinear, x: Array, ids: Array, y: Array) -> str:
    low, n, k = lowered.linear, y.shape[-1], x.shape[-1]
    is_int4 = low.weight_dtype is DType.INT4
    kind = f"{'wide_' if low.wide else ''}{'s4_' if is_int4 else ''}"
    name = f"pf_expert_linear_{kind}{_names(lowered.input, lowered.output)}"
    layout = library.layout.linear(lowered.input.dtype, low.weight_dtype, low.wide)
    parts = [layout.pack_weight(part) for part in low.weight.reshape(lowered.experts, n, k)]
    size = up(parts[0].nbytes, 16)
    weight = np.zeros((lowered.experts, size), np.uint8)
    weight[:, : parts[0].nbytes] = [part.view(np.uint8) for part in parts]
    weight = weight if is_int4 else weight.view(np.int8)
    experts = library.structure(
        "pf_experts", experts=lowered.experts, chosen=ids.shape[-1], slot=lowered.slot, weight_bytes=size
    )
    p = library.structure(
        "pf_linear_s4" if is_int4 else "pf_linear", low, n=n, k=k, weight=weight, block=layout.block(1, k), table=None,
        entries=0,
    )  # fmt: skip
    with library.scratch(layout.scratch_bytes(1, k)) as scratch:
        status = library.call(name, experts, p, x, ids, y, len(x), scratch)
    assert status == OK
    return name


def _names(*types: Any) -> str:
    return "_".join(type_.dtype.value for type_ in types)
