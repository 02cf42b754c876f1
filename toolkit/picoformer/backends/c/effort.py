"""What calls cost in instructions, roughly: enough to tell a dear tiling from a cheap one, before anything is built."""

from __future__ import annotations

from picoformer.backends.c.flow import Flow
from picoformer.ops import Attention, Linear

_PER_MAC = 1.0
_PER_ELEMENT = {"LayerNorm": 10.0, "Softmax": 20.0, "Requantize": 6.0, "Activation": 6.0}
_ANY_ELEMENT = 4.0
_PER_CALL = 100.0
"""Setting up an operator, and the way to it and back."""


def effort(flow: Flow, call: int) -> float:
    """Instructions of a call that computes all rows."""
    graph, total = flow.graph, _PER_CALL
    for node in flow.step(call).nodes:
        out = graph.types[node.output]
        macs = node.op.macs([graph.types[name] for name in node.inputs], out)
        total += _PER_MAC * macs if macs else _PER_ELEMENT.get(node.op.kind, _ANY_ELEMENT) * out.elements
    return total


def effort_by_tiles(flow: Flow, call: int, rows: int, height: int) -> float:
    """Instructions that a call takes more when its `rows` are computed `height` at a time."""
    tiles = -(-rows // height)
    total = (tiles - 1) * _PER_CALL
    graph = flow.graph
    for node in flow.step(call).nodes:
        types = [graph.types[name] for name in node.inputs]
        if isinstance(node.op, Linear):
            kernel = flow.linear_layout(node)
            k = types[0].width

            def blocks(count: int, k: int = k) -> int:
                return -(-count // (kernel.block(count, k) or count))  # noqa: B023

            more = tiles * blocks(height) - blocks(rows)
            total += max(0, more) * kernel.reload_instructions * types[1].elements
        elif isinstance(node.op, Attention):
            kernels = flow.layout.attention(types[0].dtype)
            total += (tiles - 1) * kernels.reload_instructions * (types[1].elements + types[2].elements)
    return total
