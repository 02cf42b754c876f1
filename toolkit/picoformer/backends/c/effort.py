"""What calls cost in instructions, roughly: enough to tell a dear tiling from a cheap one, before anything is built."""

from __future__ import annotations

from picoformer.backends.c.flow import Flow
from picoformer.backends.c.isa.generic import GENERIC
from picoformer.backends.c.isa.layout import up
from picoformer.ir import Node
from picoformer.ops import Attention, CachedAttention, ExpertLinear, Linear, RelativeAttention, Window

_PER_ELEMENT = {"LayerNorm": 9.0, "RmsNorm": 9.0, "Softmax": 20.0, "Requantize": 6.0, "Activation": 6.0, "Patches": 2.5}
_PER_TAP = {"AveragePool": 7.0, "DepthwiseConv": 9.0, "MaxPool": 6.0}
"""For each element of the output and each tap of its window."""
_ANY_ELEMENT = 4.0
_PER_CALL = 120.0
"""Setting up an operator, and the way to it and back."""


def effort(flow: Flow, call: int) -> float:
    """Instructions of a call that computes all rows."""
    return _PER_CALL + sum(_of_node(flow, node) for node in flow.step(call).nodes)


def _of_node(flow: Flow, node: Node) -> float:
    graph, out = flow.graph, flow.graph.types[node.output]
    macs = node.op.macs([graph.types[name] for name in node.inputs], out)
    if isinstance(node.op, Linear):
        return flow.linear_layout(node).mac_instructions * macs
    if isinstance(node.op, Attention):
        return flow.layout.attention(graph.types[node.inputs[0]].dtype).mac_instructions * macs
    if isinstance(node.op, ExpertLinear):
        return GENERIC.linear_s8.mac_instructions * macs
    if isinstance(node.op, CachedAttention | RelativeAttention):
        return GENERIC.attention_head_s16.mac_instructions * macs
    if isinstance(node.op, Window) and node.op.kind in _PER_TAP:
        return _PER_TAP[node.op.kind] * node.op.taps * out.elements
    return _PER_ELEMENT.get(node.op.kind, _ANY_ELEMENT) * out.elements


def effort_by_tiles(flow: Flow, call: int, rows: int, height: int) -> float:
    """Instructions that a call takes more when its `rows` are computed `height` at a time."""
    heights = [height] * (rows // height) + ([rows % height] if rows % height else [])
    total = (len(heights) - 1) * _PER_CALL
    graph = flow.graph
    for node in flow.step(call).nodes:
        types = [graph.types[name] for name in node.inputs]
        together = 1
        if isinstance(node.op, Linear):
            linear, k = flow.linear_layout(node), types[0].width
            block = linear.block(height, k) or height
            more = sum(-(-part // block) for part in heights) - -(-rows // (linear.block(rows, k) or rows))
            total += max(0, more) * linear.reload_instructions * types[1].elements
            together = linear.rows
        elif isinstance(node.op, Attention):
            attention = flow.layout.attention(types[0].dtype)
            reload = attention.reload_instructions * (types[1].elements + types[2].elements)
            total += (len(heights) - 1) * reload
            together = attention.rows
        wasted = sum(up(part, together) for part in heights) - up(rows, together)
        total += wasted / rows * _of_node(flow, node)
    return total
