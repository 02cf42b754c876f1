"""The emitters of a decode step: norms without a mean, rotations, caches, mixtures of experts."""

from __future__ import annotations

import numpy as np

from picoformer.backends.c.isa.layout import up
from picoformer.backends.c.site import Argument, Site
from picoformer.ir import DType
from picoformer.ops import (
    CachedAttention,
    ExpertLinear,
    KvAppend,
    LoweredCachedAttention,
    LoweredExpertLinear,
    LoweredExpertWeights,
    LoweredKvAppend,
    LoweredRmsNorm,
    LoweredRope,
    LoweredScaleRows,
    RmsNorm,
    Rope,
    ScaleRows,
    TopExperts,
)

_RETURN = "return "
"""In front of a call whose status is the step's."""


def _number(site: Site, index: int, word: str) -> Argument:
    """The one integer that input `index` holds, as an argument."""
    return f"*{site.read(index)}", word


def _position(site: Site, index: int) -> Argument:
    """The position of the first row that the call computes."""
    first = f"*{site.read(index)}"
    return (f"{first} + row" if site.tiling else first), "position"


def rms_norm(site: Site) -> str:
    """Each row over its root mean square."""
    x, op, low = site.types[0], site.node.op, site.lowered
    assert isinstance(op, RmsNorm)
    rows = site.count(x.rows, "rows")
    if not isinstance(low, LoweredRmsNorm):
        gain = site.read(1) if len(site.types) > 1 else "NULL"
        p = site.struct("pf_rms_norm_f32_params", gain=gain, width=x.width, epsilon=float(op.epsilon))
        return site.call("pf_rms_norm_f32", p, site.read(0), site.write(), rows)
    p = site.struct(
        "pf_rms_norm",
        epsilon=low.epsilon,
        gain="NULL" if low.gain is None else site.array("gain", low.gain.astype(np.int32)),
        width=low.width,
        mantissa=low.mantissa,
        exponent=low.exponent,
        shift=low.shift,
        zero_in=low.zero_in,
        zero_point=low.zero_point,
    )
    function = f"pf_rms_norm{site.types_suffix(x.dtype, site.out.dtype)}"
    return site.call(function, p, site.read(0), site.write(), rows)


def position_ids(site: Site) -> str:
    """The positions of the block's rows."""
    rows = site.count(site.out.elements, "rows")
    return site.call("pf_position_ids", site.write(), _position(site, 0), rows)


def take_row(site: Site) -> str:
    """The last real row."""
    x = site.types[0]
    sizes = (_number(site, 1, "count"), (x.shape[-2], "rows"), (x.bytes // x.rows, "bytes"))
    if x.rank > 2 and x.rows != x.shape[-2]:
        raise site.unsupported(f"its input {x} is several blocks; only one has an operator in C")
    return site.call("pf_take_row", site.write(), site.read(0), *sizes, prefix=_RETURN)


def rope(site: Site) -> str:
    """Pairs turned by their position."""
    x, table, op = site.types[0], site.types[1], site.node.op
    assert isinstance(op, Rope)
    if x.rows != x.shape[-2]:
        raise site.unsupported(f"its input {x} is several blocks; only one has an operator in C")
    is_integer = isinstance(site.lowered, LoweredRope)
    p = site.struct(
        "pf_rope" if is_integer else "pf_rope_f32_params",
        rotations=_constant(site, 1, "its rotations are computed"),
        positions=table.shape[0],
        heads=op.heads,
        head_size=x.width // op.heads,
        rotary=op.rotary_dim,
        interleaved=int(op.interleaved),
    )
    arguments = (site.read(0), site.write(), _position(site, 2), site.count(x.rows, "rows"))
    return site.call("pf_rope_s16" if is_integer else "pf_rope_f32", p, *arguments, prefix=_RETURN)


def _constant(site: Site, index: int, otherwise: str) -> str:
    if site.node.inputs[index] not in site.graph.constants:
        raise site.unsupported(f"{otherwise}; only a constant has an operator in C")
    return site.read(index)


def kv_append(site: Site) -> str:
    """New rows into a cache; the rest of the cache has to be there, so it is copied where it lies elsewhere."""
    cache, rows, op, low = site.types[0], site.types[1], site.node.op, site.lowered
    assert isinstance(op, KvAppend)
    if cache.rank != 2:
        raise site.unsupported(f"its cache {cache} is several; only one has an operator in C")
    width, block = rows.width, rows.shape[-2]
    sizes = {"transposed": int(op.transposed), "positions": cache.elements // width, "width": width, "block": block}
    if isinstance(low, LoweredKvAppend):
        fields = {"multiplier": low.multiplier, "shift": low.shift, "zero_in": low.zero_in, "bits": low.bits}
        p = site.struct("pf_kv_append", **fields, **sizes)
        function = f"pf_kv_append{site.types_suffix(rows.dtype, cache.dtype)}"
    else:
        p, function = site.struct("pf_kv_append_f32_params", **sizes), "pf_kv_append_f32"
    numbers = (_number(site, 2, "position"), _number(site, 3, "count"))
    call = site.call(function, p, site.read(1), site.write(), *numbers, prefix=_RETURN)
    if site.read(0) == site.write():
        return call
    whole = ((1, "block"), *((cache.bytes, word) for word in ("bytes", "to", "from")))
    return f"{site.call('pf_copy_blocks', site.write(), site.read(0), *whole)}\n{call}"


def cached_attention(site: Site) -> str:
    """softmax(q kᵀ) v of all heads against the caches."""
    q, k, v = site.types[:3]
    op, low = site.node.op, site.lowered
    assert isinstance(op, CachedAttention)
    if q.rank != 2:
        raise site.unsupported(f"its queries {q} are several blocks; only one has an operator in C")
    sizes = {
        "heads": op.heads,
        "kv_heads": op.kv_heads,
        "head_size": q.width // op.heads,
        "value_size": v.shape[-2] // op.kv_heads,
        "positions": k.shape[-2],
    }
    if isinstance(low, LoweredCachedAttention):
        slopes = low.slope_multiplier
        note = "slope of each head, in 2^-8 of a score"
        p = site.struct(
            "pf_cached_attention",
            table=site.array("numerators", low.table.astype(np.uint16), "numerators of the softmax"),
            slope_multiplier="NULL" if slopes is None else site.array("slopes", slopes, note),
            **sizes,
            query_drop=low.query_drop,
            score_multiplier=low.score_multiplier,
            score_shift=low.score_shift,
            value_shift=low.value_shift,
            value_mantissa=low.value_mantissa,
            value_exponent=low.value_exponent,
        )
        function = f"pf_cached_attention{site.types_suffix(k.dtype, v.dtype, site.out.dtype)}"
        scratch = site.scratch(DType.INT32)
    else:
        note = "slope of each head" + (", over the scale" if op.bfloat16 else "")
        slope = site.array("slopes", op.slope_units.astype(np.float32), note) if op.slopes else "NULL"
        rounded = {"scale": float(op.scale), "bfloat16": int(op.bfloat16)}
        p = site.struct("pf_cached_attention_f32_params", slopes=slope, **rounded, **sizes)
        function, scratch = "pf_cached_attention_f32", site.scratch(DType.FLOAT32)
    pointers = [site.read(0), site.read(1), site.read(2), site.write()]
    tail = (_position(site, 3), site.count(q.rows, "rows"), scratch)
    return site.call(function, p, *pointers, *tail, prefix=_RETURN)


def top_experts(site: Site) -> str:
    """The largest logits of each row."""
    x, op = site.types[0], site.node.op
    assert isinstance(op, TopExperts)
    sizes = (site.count(x.rows, "rows"), (x.width, "experts"), (op.k, "chosen"))
    return site.call(f"pf_top_experts{site.types_suffix(x.dtype)}", site.read(0), site.write(), *sizes)


def expert_weights(site: Site) -> str:
    """Softmax of the chosen logits."""
    x, ids, low = site.types[0], site.types[1], site.lowered
    rows, pointers = site.count(x.rows, "rows"), (site.read(0), site.read(1), site.write())
    if not isinstance(low, LoweredExpertWeights):
        sizes = ((x.width, "experts"), (ids.width, "chosen"))
        return site.call("pf_expert_weights_f32", *pointers, rows, *sizes, prefix=_RETURN)
    p = site.struct(
        "pf_expert_weights",
        table=site.array("numerators", low.softmax.table.astype(np.uint16), "numerators of the softmax"),
        experts=x.width,
        chosen=ids.width,
        multiplier=low.softmax.multiplier,
        shift=low.softmax.shift,
        mantissa=low.softmax.mantissa,
        exponent=low.softmax.exponent,
    )
    function = f"pf_expert_weights{site.types_suffix(x.dtype, site.out.dtype)}"
    return site.call(function, p, *pointers, rows, prefix=_RETURN)


def expert_linear(site: Site) -> str:
    """A linear layer whose weight each row chooses."""
    x, ids, w = site.types[:3]
    op, low = site.node.op, site.lowered
    assert isinstance(op, ExpertLinear)
    n, k, rows = site.out.width, x.width, site.count(x.rows, "rows")
    choice = {"experts": op.experts, "chosen": ids.width, "slot": op.slot}
    pointers = (site.read(0), site.read(1), site.write())
    if not isinstance(low, LoweredExpertLinear):
        weight = _constant(site, 2, "its weight is computed")
        bias = site.read(3) if len(site.types) > 3 else "NULL"
        experts = site.struct("pf_experts", "experts", **choice, weight_bytes=4 * n * k)
        linear = site.struct("pf_linear_f32_params", weight=weight, bias=bias, n=n, k=k)
        return site.call("pf_expert_linear_f32", experts, linear, *pointers, rows, prefix=_RETURN)
    each, is_int4 = low.linear, low.linear.weight_dtype is DType.INT4
    if each.wide and x.dtype is not DType.INT16:
        raise site.unsupported(f"a sum over its {k} inputs may pass 32 bits, and 8-bit inputs have no wide variant")
    layout = site.layout.linear(x.dtype, w.dtype, each.wide)
    parts = [layout.pack_weight(part) for part in each.weight.reshape(op.experts, n, k)]
    size = up(parts[0].nbytes, 16)
    packed = np.zeros((op.experts, size // parts[0].itemsize), parts[0].dtype)
    packed[:, : parts[0].size] = parts
    blocks: dict[str, str] = {}
    if is_int4:
        multipliers = each.block_multiplier
        note = "multiplier of each block of each row"
        blocks["block_multiplier"] = "NULL" if multipliers is None else site.array("blocks", multipliers, note)
    experts = site.struct("pf_experts", "experts", **choice, weight_bytes=size)
    p = site.struct(
        "pf_linear_s4" if is_int4 else "pf_linear",
        weight=site.array("weight", packed, f"weights of {op.experts} experts, {layout.weight_order}"),
        **blocks,
        bias=site.array("bias", each.bias.astype(np.int32), "bias, the zero point of the input folded in"),
        factor=site.array("factor", each.factor, "multiplier of each output"),
        table="NULL",
        entries=0,
        n=n,
        k=k,
        shift=each.shift,
        zero_point=each.zero_point,
        headroom=each.headroom,
        block=layout.block(1, k),
    )
    types = (*([w.dtype] if is_int4 else []), x.dtype, site.out.dtype)
    function = f"pf_expert_linear{'_wide' if each.wide else ''}{site.types_suffix(*types)}"
    return site.call(function, experts, p, *pointers, rows, site.scratch(DType.INT32), prefix=_RETURN)


def scale_rows(site: Site) -> str:
    """Each row times its weight."""
    x, weights, op, low = site.types[0], site.types[1], site.node.op, site.lowered
    assert isinstance(op, ScaleRows)
    pointers, rows = (site.read(0), site.read(1), site.write()), site.count(x.rows, "rows")
    if not isinstance(low, LoweredScaleRows):
        sizes = ((x.width, "width"), (weights.width, "chosen"), (op.slot, "slot"))
        return site.call("pf_scale_rows_f32", *pointers, rows, *sizes)
    p = site.struct(
        "pf_scale_rows",
        multiplier=low.mul.multiplier,
        shift=low.mul.shift,
        zero_a=low.mul.zero_a,
        zero_point=low.mul.zero_point,
        width=x.width,
        chosen=weights.width,
        slot=op.slot,
    )
    return site.call(f"pf_scale_rows{site.types_suffix(x.dtype, site.out.dtype)}", p, *pointers, rows)
