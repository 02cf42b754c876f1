"""The emitters: operator by operator, the call that one step makes and the parameters it needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from picoformer.backends.c.decode_operators import (
    cached_attention,
    expert_linear,
    expert_weights,
    kv_append,
    position_ids,
    rms_norm,
    rope,
    scale_rows,
    take_row,
    top_experts,
)
from picoformer.backends.c.movement import broadcast, concat, has_rows, slice_axis, transpose
from picoformer.backends.c.site import Argument, Site
from picoformer.backends.c.windows import average_pool, depthwise, max_pool, patches
from picoformer.ir import DType
from picoformer.ir.operator import Array, Operator
from picoformer.ops import (
    Activation,
    Attention,
    LayerNorm,
    LoweredAdd,
    LoweredAttention,
    LoweredEmbedding,
    LoweredInterpolatedTable,
    LoweredLayerNorm,
    LoweredLinear,
    LoweredMul,
    LoweredReduceMean,
    LoweredRequantize,
    LoweredSoftmax,
    LoweredTable,
    ReduceMean,
)

Emitter = Callable[[Site], str]
"""Writes the C statements of one step, indented by eight."""


@dataclass(frozen=True)
class Unsupported:
    """Why an operator has no C, and what to do instead."""

    reason: str


@dataclass(frozen=True)
class Alias:
    """An operator that takes no step: its output is its input's bytes."""


def _int32(values: Array) -> Array:
    return np.asarray(values).astype(np.int32)


def linear(site: Site) -> str:
    """y = x · Wᵀ + b, and the activation or the sum with a residual that goes along."""
    x, w = site.types[0], site.types[1]
    n, k = w.shape
    rows = site.count(x.rows, "rows")
    low = site.lowered
    if not isinstance(low, LoweredLinear):
        if site.node.inputs[1] not in site.graph.constants:
            raise site.unsupported("its weight is computed; only a constant weight has an operator in C")
        bias = site.read(2) if len(site.types) > 2 else "NULL"
        p = site.struct("pf_linear_f32_params", weight=site.weight(1), bias=bias, n=n, k=k)
        return site.call("pf_linear_f32", p, site.read(0), site.write(), rows)
    is_wide = site.layout.is_wide(site.graph, site.node)
    wide = "_wide" if is_wide and low.weight_dtype is not DType.INT16 else ""
    is_int4, is_int16 = (low.weight_dtype is dtype for dtype in (DType.INT4, DType.INT16))
    if low.wide and not is_int16 and x.dtype is not DType.INT16:
        raise site.unsupported(f"a sum over its {k} inputs may pass 32 bits, and 8-bit inputs have no wide variant")
    blocks: dict[str, str] = {}
    if is_int4:
        note = "multiplier of each block of each row"
        multipliers = low.block_multiplier
        blocks["block_multiplier"] = "NULL" if multipliers is None else site.array("blocks", multipliers, note)
    then: dict[str, int | str] = {}
    before = ""
    for more in site.lowered_nodes[1:]:
        if isinstance(more, LoweredAdd):
            then, before = {"entries": "PF_RESIDUAL"}, _residual(site)
            continue
        assert isinstance(more, LoweredTable | LoweredInterpolatedTable)
        then = {"table": _table(site, site.step.nodes[1].op, more), "entries": len(more.table)}
    p = site.struct(
        {DType.INT4: "pf_linear_s4", DType.INT16: "pf_linear_w16"}.get(low.weight_dtype, "pf_linear"),
        weight=site.weight(1),
        **blocks,
        bias=site.array("bias", _int32(low.bias), "bias, the zero point of the input folded in"),
        factor=site.array("factor", low.factor, "factor of each output"),
        **then,
        n=n,
        k=k,
        shift=low.shift,
        zero_point=low.zero_point,
        headroom=low.headroom,
        block=site.layout.linear(x.dtype, w.dtype, is_wide).block(site.height or x.rows, k),
    )
    types = (*([w.dtype] if is_int4 or is_int16 else []), x.dtype, site.out.dtype)
    function = f"pf_linear{wide}{site.types_suffix(*types)}"
    return before + site.call(function, p, site.read(0), site.write(), rows, site.scratch(DType.INT32))


def _residual(site: Site) -> str:
    """What brings a residual to where the sum with it is to lie: nothing, where it is written over."""
    assert site.step.residual is not None
    if site.plan.written(site.call_index).on == site.plan.read(site.call_index, site.step.residual).name:
        return ""
    source, target = site.read_value(site.step.residual), site.write()
    size = site.count(site.out.bytes, "bytes")
    return site.call("pf_copy_blocks", target, source, (1, "blocks"), size, size, size) + "\n"


def attention(site: Site) -> str:
    """softmax(q kᵀ) v of all heads, causal or not; leading dimensions are a loop."""
    q, k, v = site.types[:3]
    queries, keys = q.shape[-2], k.shape[-2]
    op, low = site.node.op, site.lowered
    assert isinstance(op, Attention)
    sizes = {
        "heads": op.heads,
        "kv_heads": op.kv_heads,
        "head_size": q.width // op.heads,
        "value_size": v.width // op.kv_heads,
    }
    if isinstance(low, LoweredAttention):
        p = site.struct(
            "pf_attention",
            score_multiplier=site.array("score_multiplier", _int32(low.score_multiplier), "score multiplier by head"),
            table=site.array("numerators", low.table.astype(np.uint16), "numerators of the softmax"),
            value_mantissa=site.array("value_mantissa", _int32(low.value_mantissa), "value mantissa by head"),
            value_exponent=site.array("value_exponent", _int32(low.value_exponent), "value exponent by head"),
            **sizes,
            score_shift=low.score_shift,
            query_drop=low.query_drop,
            key_drop=low.key_drop,
            value_drop=low.value_drop,
            causal=int(op.causal),
        )
        function, scratch = f"pf_attention{site.types_suffix(q.dtype, site.out.dtype)}", site.scratch(DType.INT32)
    else:
        p = site.struct("pf_attention_f32_params", scale=float(op.scale), **sizes, causal=int(op.causal))
        function, scratch = "pf_attention_f32", site.scratch(DType.FLOAT32)
    batch = math.prod(q.shape[:-2])
    pointers = [site.read(0), site.read(1), site.read(2), site.write()]
    strides = [queries * q.width, keys * k.width, keys * v.width, queries * site.out.width]
    if site.tiling is not None:
        return _attention_tile(site, function, p, op, scratch)
    tail: tuple[Argument, ...] = ((queries, "queries"), (keys, "keys"), (site.length(3, keys), "valid"), scratch)
    if batch == 1:
        return site.call(function, p, *pointers, *tail)
    pointers = [f"{pointer} + i * {stride}" for pointer, stride in zip(pointers, strides, strict=True)]
    loop = f"        for (int32_t i = 0; i < {batch}; i++)"
    return f"{loop}\n{site.call(function, p, *pointers, *tail, indent=12)}"


def _attention_tile(site: Site, function: str, p: str, op: Attention, scratch: str) -> str:
    """A tile of queries; a causal one ends with the last key that its last query sees."""
    q, k, v = site.types[:3]
    queries, keys = q.shape[-2], k.shape[-2]
    sample, row = "", "row"
    if math.prod(q.shape[:-2]) > 1:
        sample, row = f" + row / {queries}", f"row % {queries}"
    pointers = [site.read(1), site.read(2)]
    if sample:
        pointers = [f"{at}{sample} * {keys * type_.width}" for at, type_ in zip(pointers, (k, v), strict=True)]
    more = f" + {keys - queries}" if keys > queries else ""
    seen = f"{row} + rows{more}" if op.causal else str(keys)
    tail = (("rows", "queries"), (seen, "keys"), (site.length(3, seen), "valid"), scratch)
    return site.call(function, p, site.read(0), *pointers, site.write(), *tail)


def layer_norm(site: Site) -> str:
    """Each row normalized."""
    x = site.types[0]
    rows = site.count(x.rows, "rows")
    op, low = site.node.op, site.lowered
    assert isinstance(op, LayerNorm)
    if not isinstance(low, LoweredLayerNorm):
        gain, bias = (site.read(1), site.read(2)) if len(site.types) > 1 else ("NULL", "NULL")
        p = site.struct("pf_layer_norm_f32_params", gain=gain, bias=bias, width=x.width, epsilon=float(op.epsilon))
        return site.call("pf_layer_norm_f32", p, site.read(0), site.write(), rows)
    has_gain = low.gain is not None and low.offset is not None
    p = site.struct(
        "pf_layer_norm",
        epsilon=low.epsilon,
        gain=site.array("gain", _int32(low.gain)) if low.gain is not None else "NULL",
        offset=site.array("offset", low.offset.astype(np.int64)) if low.offset is not None else "NULL",
        width=low.width,
        mantissa=low.mantissa,
        exponent=low.exponent,
        shift=low.shift,
        zero_point=low.zero_point,
    )
    function = f"pf_layer_norm{'_gain' if has_gain else ''}{site.types_suffix(x.dtype, site.out.dtype)}"
    return site.call(function, p, site.read(0), site.write(), rows)


def _table(site: Site, op: Operator, low: LoweredTable | LoweredInterpolatedTable) -> str:
    """The symbol of an activation's table."""
    assert isinstance(op, Activation)
    dtype = site.out.dtype if isinstance(low, LoweredTable) else DType.INT16
    return site.array("table", low.table.astype(dtype.numpy), f"{op.function} of every input")


def activation(site: Site) -> str:
    """A function of each element: a table for integers."""
    x, count = site.types[0], site.count(site.out.elements, "elements")
    op, low = site.node.op, site.lowered
    assert isinstance(op, Activation)
    if low is None:
        if not op.parameters:
            return site.call(f"pf_{op.function}_f32", site.read(0), site.write(), count)
        values = site.array("parameters", np.array(op.parameters, np.float32), f"parameters of {op.function}")
        return site.call(f"pf_{op.function}_f32", values, site.read(0), site.write(), count)
    assert isinstance(low, LoweredTable | LoweredInterpolatedTable)
    name, table = "pf_table" if isinstance(low, LoweredTable) else "pf_interpolate", _table(site, op, low)
    return site.call(f"{name}{site.types_suffix(x.dtype, site.out.dtype)}", table, site.read(0), site.write(), count)


def add(site: Site) -> str:
    """a + b"""
    shape, (first, second) = broadcast(site)
    a, b = site.types[first], site.types[second]
    low = site.lowered
    pointers = (site.read(first), site.read(second, has_rows(site, second)), site.write())
    if not isinstance(low, LoweredAdd):
        return site.call("pf_add_f32", shape, *pointers)
    if low.is_plain and {a.dtype, b.dtype, site.out.dtype} == {DType.INT16}:
        return site.call("pf_add_plain_s16", shape, *pointers)
    factors = (low.multiplier_a, low.multiplier_b)
    p = site.struct(
        "pf_add",
        offset=low.offset,
        multiplier_a=factors[first],
        multiplier_b=factors[second],
        shift=low.shift,
    )
    return site.call(f"pf_add{site.types_suffix(a.dtype, b.dtype, site.out.dtype)}", p, shape, *pointers)


def mul(site: Site) -> str:
    """a · b"""
    shape, (first, second) = broadcast(site)
    a, b = site.types[first], site.types[second]
    low = site.lowered
    pointers = (site.read(first), site.read(second, has_rows(site, second)), site.write())
    if not isinstance(low, LoweredMul):
        return site.call("pf_mul_f32", shape, *pointers)
    zeros = (low.zero_a, low.zero_b)
    p = site.struct(
        "pf_mul",
        multiplier=low.multiplier,
        shift=low.shift,
        zero_a=zeros[first],
        zero_b=zeros[second],
        zero_point=low.zero_point,
    )
    return site.call(f"pf_mul{site.types_suffix(a.dtype, b.dtype, site.out.dtype)}", p, shape, *pointers)


def requantize(site: Site) -> str:
    """The same number on another grid; a copy in a float graph."""
    x, low = site.types[0], site.lowered
    if not isinstance(low, LoweredRequantize):
        size = site.count(x.bytes, "bytes")
        one = ((1, "block"), size, size, size)
        return site.call("pf_copy_blocks", site.write(), site.read(0), *one)
    p = site.struct(
        "pf_requantize",
        multiplier=low.multiplier,
        shift=low.shift,
        zero_in=low.zero_in,
        zero_point=low.zero_point,
    )
    function = f"pf_requantize{site.types_suffix(x.dtype, site.out.dtype)}"
    return site.call(function, p, site.read(0), site.write(), site.count(x.elements, "elements"))


def embedding(site: Site) -> str:
    """Rows of a table by ids; an id outside it is the step's error."""
    ids, table = site.types[:2]
    rows, width = table.shape
    low = site.lowered
    if isinstance(low, LoweredEmbedding):
        p = site.struct(
            "pf_embedding_w16" if table.dtype is DType.INT16 else "pf_embedding",
            table=site.table(1) if table.dtype is DType.INT8 else site.read(1),
            multiplier=site.array("multiplier", _int32(low.multiplier), "multiplier of each row"),
            rows=rows,
            width=width,
            shift=low.shift,
            zero_point=low.zero_point,
        )
        types = (table.dtype, site.out.dtype) if table.dtype is DType.INT16 else (site.out.dtype,)
        function = f"pf_embedding{site.types_suffix(*types)}"
    else:
        if site.node.inputs[1] not in site.graph.constants:
            raise site.unsupported("its table is computed; only a constant table has an operator in C")
        p = site.struct("pf_embedding_f32_params", table=site.read(1), rows=rows, width=width)
        function = "pf_embedding_f32"
    return site.call(function, p, site.read(0), site.write(), site.count(ids.elements, "ids"), prefix="return ")


def reduce_mean(site: Site) -> str:
    """The mean over one axis."""
    x = site.types[0]
    op, low = site.node.op, site.lowered
    assert isinstance(op, ReduceMean)
    axis = op.axis + x.rank
    outer, length, inner = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    valid = (site.length(1, length), "valid")
    if not isinstance(low, LoweredReduceMean):
        sizes = ((outer, "outer"), (length, "length"), (inner, "inner"))
        return site.call("pf_reduce_mean_f32", site.read(0), site.write(), *sizes, valid)
    p = site.struct(
        "pf_reduce_mean",
        mantissa=low.mantissa,
        exponent=low.exponent,
        zero_in=low.zero_in,
        zero_point=low.zero_point,
        outer=outer,
        length=length,
        inner=inner,
    )
    function = f"pf_reduce_mean{site.types_suffix(x.dtype, site.out.dtype)}"
    return site.call(function, p, site.read(0), site.write(), valid)


def softmax(site: Site) -> str:
    """Softmax of each row."""
    x, low = site.types[0], site.lowered
    rows = site.count(x.rows, "rows")
    if not isinstance(low, LoweredSoftmax):
        return site.call("pf_softmax_f32", site.read(0), site.write(), rows, (x.width, "width"))
    p = site.struct(
        "pf_softmax",
        table=site.array("numerators", low.table.astype(np.uint16), "numerators of the softmax"),
        width=x.width,
        multiplier=low.multiplier,
        shift=low.shift,
        mantissa=low.mantissa,
        exponent=low.exponent,
        zero_point=low.zero_point,
    )
    return site.call(f"pf_softmax{site.types_suffix(x.dtype, site.out.dtype)}", p, site.read(0), site.write(), rows)


_FUSE = "fusion left it in the graph: it has a float meaning only; write the model with the operator it is part of"

EMITTERS: dict[str, Emitter | Alias | Unsupported] = {
    "Activation": activation,
    "Add": add,
    "Attention": attention,
    "AveragePool": average_pool,
    "Binary": Unsupported(_FUSE),
    "CachedAttention": cached_attention,
    "Concat": concat,
    "Conv": Unsupported("convolutions become Linear and DepthwiseConv in the passes; this one was left in the graph"),
    "DepthwiseConv": depthwise,
    "Embedding": embedding,
    "ExpertLinear": expert_linear,
    "ExpertWeights": expert_weights,
    "KvAppend": kv_append,
    "LayerNorm": layer_norm,
    "Linear": linear,
    "MatMul": Unsupported("a product of two computed tensors outside attention has no operator in C"),
    "MaxPool": max_pool,
    "Mul": mul,
    "Patches": patches,
    "PositionIds": position_ids,
    "ReduceMean": reduce_mean,
    "Requantize": requantize,
    "Reshape": Alias(),
    "RmsNorm": rms_norm,
    "Rope": rope,
    "ScaleRows": scale_rows,
    "Slice": slice_axis,
    "Softmax": softmax,
    "TakeRow": take_row,
    "TopExperts": top_experts,
    "Transpose": transpose,
    "Unary": Unsupported(_FUSE),
    "Where": Unsupported("masks become the valid length of an attention; this one was left in the graph"),
}
"""Every operator whose calls the cost tables know; `source_operators.EMITTERS` is of all."""

FUSED: dict[str, Emitter] = {"Linear+Activation": linear, "Linear+Add": linear}
"""The emitters of steps of several nodes, by `Step.kind`."""
