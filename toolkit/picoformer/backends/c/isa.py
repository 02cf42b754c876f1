"""The one place that states what an instruction set wants: weight packing, activation layout, scratch sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from picoformer.errors import ConfigError
from picoformer.ir import Graph, Node
from picoformer.ir.operator import Array


@dataclass(frozen=True)
class Layout:
    """How one instruction set's kernels want their data. Activations are row-major everywhere."""

    isa: str
    weight_order: str
    """How a weight lies in memory, in words, for the comment above it."""

    def pack_weight(self, weight: Array) -> Array:
        """The (n, k) weight of a Linear as its kernel reads it, flat."""
        return weight.reshape(-1)

    def scratch_bytes(self, graph: Graph, node: Node) -> int:
        """Bytes of arena a step needs for itself while it runs: one 4-byte word per key of an attention."""
        return 4 * graph.types[node.inputs[1]].shape[-2] if node.op.kind == "Attention" else 0


LAYOUTS: dict[str, Layout] = {"generic": Layout("generic", "row by row")}
"""Instruction set → its layout; every name a target's `isa` list may hold."""


def layout_of(target_isa: Sequence[str]) -> Layout:
    """The layout of the first instruction set of a target's list; ConfigError for one that is not known."""
    for name in target_isa:
        if name not in LAYOUTS:
            raise ConfigError(f"instruction set '{name}' is not known; use one of {', '.join(LAYOUTS)}")
    if not target_isa:
        raise ConfigError("the list of instruction sets is empty; give at least 'generic'")
    return LAYOUTS[target_isa[0]]
