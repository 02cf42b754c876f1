"""The emitters of what reads a source beside a block: attention for the rows that are there, and that of distances."""

from __future__ import annotations

import numpy as np

from picoformer.backends.c import operators
from picoformer.backends.c.operators import Alias, Emitter, Unsupported
from picoformer.backends.c.site import Argument, Site
from picoformer.ir import DType
from picoformer.ops import Attention, LoweredRelativeAttention, RelativeAttention


def attention(site: Site) -> str:
    """As `operators.attention`; in a block only for the queries that are there."""
    q = site.types[0]
    code = operators.attention(site)
    if site.tiling is not None or site.rows is None or q.rank != 2:
        return code
    assert isinstance(site.node.op, Attention)
    whole, there = f"{q.shape[-2]} /* queries */", "rows /* queries */"
    assert code.count(whole) == 1
    return code.replace(whole, there)


def relative_attention(site: Site) -> str:
    """softmax(q kᵀ + bias of the distance) v of all heads."""
    q, k, v = site.types[:3]
    op, low = site.node.op, site.lowered
    assert isinstance(op, RelativeAttention)
    if q.rank != 2:
        raise site.unsupported(f"its queries {q} are several blocks; only one has an operator in C")
    buckets = site.array("buckets", np.array(op.buckets, np.uint8), "bucket of each distance")
    sizes = {
        "heads": op.heads,
        "head_size": q.width // op.heads,
        "value_size": v.width // op.heads,
        "positions": k.shape[-2],
        "reach": op.reach,
        "causal": int(op.causal),
    }
    if isinstance(low, LoweredRelativeAttention):
        note = "bias of each bucket and head, in steps of a score"
        p = site.struct(
            "pf_relative_attention",
            table=site.array("numerators", low.table.astype(np.uint16), "numerators of the softmax"),
            buckets=buckets,
            bias=site.array("bias", low.bias, note),
            **sizes,
            query_drop=low.query_drop,
            key_drop=low.key_drop,
            score_multiplier=low.score_multiplier,
            score_shift=low.score_shift,
            value_shift=low.value_shift,
            value_mantissa=low.value_mantissa,
            value_exponent=low.value_exponent,
        )
        function, scratch = "pf_relative_attention_s16", site.scratch(DType.INT32)
    else:
        p = site.struct(
            "pf_relative_attention_f32_params", buckets=buckets, bias=site.read(3), scale=float(op.scale), **sizes
        )
        function, scratch = "pf_relative_attention_f32", site.scratch(DType.FLOAT32)
    number: Argument = (f"*{site.read(4)}", "position")
    if not op.causal:
        number = (site.length(4, k.shape[-2]), "valid")
    pointers = (site.read(0), site.read(1), site.read(2), site.write())
    return site.call(function, p, *pointers, number, site.count(q.rows, "rows"), scratch, prefix="return ")


EMITTERS: dict[str, Emitter | Alias | Unsupported] = {
    **operators.EMITTERS,
    "Attention": attention,
    "RelativeAttention": relative_attention,
}
"""Every operator of `picoformer.ops.OPERATORS`. What stands here and not in operators.py is called as no cost table has
measured it."""
