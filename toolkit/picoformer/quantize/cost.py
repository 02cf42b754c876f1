"""What a choice of types costs on the device: multiply-accumulates on 16 bits, bytes of RAM, bytes of constants.

A model of the cost, so that the quantizer can weigh choices without a target: the memory planner and the linked ELF
have the last word.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from picoformer.ir import DType, Graph, Lowered
from picoformer.ir.operator import Array
from picoformer.ops import (
    Activation,
    Add,
    Attention,
    CachedAttention,
    DepthwiseConv,
    Embedding,
    ExpertLinear,
    KvAppend,
    LayerNorm,
    Linear,
    Mul,
    Patches,
    RelativeAttention,
    Requantize,
    Reshape,
    RmsNorm,
    Rope,
    ScaleRows,
)
from picoformer.quantize.rounding import is_tied

IN_PLACE = (Activation, Add, KvAppend, LayerNorm, Mul, Requantize, RmsNorm, Rope, ScaleRows)
"""Operators that may write over an operand that is no longer needed and as large."""

ATTENTIONS = (Attention, CachedAttention, RelativeAttention)

PATCHES_ALIVE = 16
"""Windows of an image that are lined up at a time, roughly."""


def wide_macs(typed: Graph) -> int:
    """Multiply-accumulates of one inference that read an int16 activation of more than one row."""
    total = 0
    for node in typed.nodes:
        read = [typed.types[name] for name in node.inputs]
        if isinstance(node.op, (Linear, DepthwiseConv, ExpertLinear, *ATTENTIONS)):
            operands = read[: 3 if isinstance(node.op, ATTENTIONS) else 1]
            wide = any(t.dtype is DType.INT16 and t.rows > 1 for t in operands)
            total += wide * node.op.macs(read, typed.types[node.output])
    return total


def live_peak(typed: Graph) -> int:
    """Most bytes of values alive at any one step, inputs included; a Reshape is the value it reads."""
    root: dict[str, str] = {}
    for node in typed.nodes:
        if isinstance(node.op, Reshape):
            root[node.output] = root.get(node.inputs[0], node.inputs[0])
    steps = [node for node in typed.nodes if not isinstance(node.op, Reshape)]
    last = {root.get(name, name): len(steps) for name in typed.outputs}
    for index, node in enumerate(steps):
        for name in typed.activations(node):
            last[root.get(name, name)] = max(index, last.get(root.get(name, name), index))
    live = {root.get(name, name) for name in typed.inputs}
    sizes = {name: type_.bytes for name, type_ in typed.types.items()}
    for node in steps:
        if isinstance(node.op, Patches):  # cut a few at a time, as they are read
            rows = typed.types[node.output].rows
            sizes[node.output] = sizes[node.output] * min(rows, PATCHES_ALIVE) // rows
    peak = sum(sizes[name] for name in live)
    for index, node in enumerate(steps):
        size = sizes[node.output]
        dying = {root.get(name, name) for name in typed.activations(node)}
        dying = {name for name in dying if last[name] == index}
        reused = isinstance(node.op, IN_PLACE) and any(sizes[name] >= size for name in dying)
        peak = max(peak, sum(sizes[name] for name in live) + (0 if reused else size))
        live = (live - dying) | {node.output}
    return peak


def constant_bytes(typed: Graph, refined: bool = False) -> int:
    """Bytes of flash that the constants of a quantized graph take: weights, biases, multipliers and tables, equal ones
    once. What the C adds to it, a struct a step and filling of odd sizes, is below one per cent as a rule.

    `refined`: what they take at most once `refine` has given each Linear a weight and a bias of its own.
    """
    found: dict[tuple[str, bytes], int] = {}
    for node in typed.nodes:
        lowered = node.op.lower(typed.operands(node), typed.types[node.output])
        kept_apart: tuple[str, ...] = ()
        if isinstance(node.op, Linear):
            kept_apart = ("weight", "block_multiplier", "gain")  # the last is not on the device
            weight = typed.constants[node.inputs[1]]
            tied = is_tied(typed, node.inputs[1])
            owner = node.name if refined and not tied else node.inputs[1]
            found[f"weight of {owner}", weight.tobytes()] = typed.types[node.inputs[1]].bytes
        if isinstance(node.op, ExpertLinear):
            kept_apart = ("weight", "block_multiplier")
            name = node.inputs[2]
            found[f"weight of {name}", typed.constants[name].tobytes()] = typed.types[name].bytes
        if isinstance(node.op, Embedding):  # a table that a Linear reads too is there once
            kept_apart = ("table",)
            table = typed.constants[node.inputs[1]]
            found[f"weight of {node.inputs[1]}", table.tobytes()] = table.nbytes
        for field, value in _arrays(lowered):
            if field not in kept_apart:
                is_own = refined and isinstance(node.op, Linear) and field == "bias"
                found[f"bias of {node.name}" if is_own else str(value.dtype), value.tobytes()] = value.nbytes
    return sum(found.values())


def _arrays(lowered: Lowered) -> Iterator[tuple[str, Array]]:
    """The arrays of an integer form by field, those of the forms inside it too."""
    for field in dataclasses.fields(lowered):  # type: ignore[arg-type]
        value = getattr(lowered, field.name)
        if isinstance(value, Lowered):
            yield from _arrays(value)
        elif isinstance(value, np.ndarray):
            yield field.name, value
