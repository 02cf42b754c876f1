"""What a quantized graph computes, in float: every value rounded to its grid, run by the float executor.

This is fake quantization: it follows the integers closely enough to rank choices, and takes milliseconds a sample. The
last rounding of an operator is simulated, what happens inside one (numerators of a softmax, reciprocals) is not.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from picoformer.ir import DType, Graph, Node, TensorType
from picoformer.ir.operator import Array
from picoformer.ops.fixedpoint import dequantize
from picoformer.ops.rounded import Rounded
from picoformer.quantize.observe import RunFloat

EXACT_SQNR = 200.0
"""Decibels that stand for outputs without any error."""


def simulate(typed: Graph, exact: Mapping[str, Array | None] | None = None) -> Graph:
    """`typed`, a quantized graph, as a float one that rounds every value but those in `exact`.

    A value keeps its name; what was computed before the rounding is called `<name>/real`. Constants are what their
    integers stand for, or what stands in `exact` under their name.
    """
    exact = exact or {}
    types: dict[str, TensorType] = {}
    constants: dict[str, Array] = {}
    for name, value in typed.constants.items():
        quant, real = typed.types[name].quant, exact.get(name)
        rounded = value if quant is None else np.asarray(dequantize(value, quant))  # a scalar stays an array
        constants[name] = rounded if real is None else real
        types[name] = TensorType(value.shape, DType.FLOAT32 if quant is not None else typed.types[name].dtype)
    nodes: list[Node] = []
    inputs = []

    def place(name: str) -> str:
        """Where to compute `name`: under that name, or under another in front of its rounding."""
        type_ = typed.types[name]
        is_rounded = type_.quant is not None and name not in exact
        types[name] = TensorType(type_.shape, DType.FLOAT32 if type_.quant is not None else type_.dtype)
        if is_rounded:
            types[f"{name}/real"] = types[name]
        return f"{name}/real" if is_rounded else name

    def round_off(name: str) -> None:
        type_ = typed.types[name]
        if type_.quant is not None and name not in exact:
            nodes.append(Node(f"{name}/rounded", Rounded(type_.quant, type_.dtype), (f"{name}/real",), name))

    for name in typed.inputs:
        inputs.append(place(name))
        round_off(name)
    for node in typed.nodes:
        nodes.append(Node(node.name, node.op, node.inputs, place(node.output)))
        round_off(node.output)
    return Graph(typed.name, tuple(inputs), typed.outputs, tuple(nodes), types, constants)


class Simulation:
    """Outputs of variants of one quantized graph against the float ones; nodes that a variant shares with the base
    are run once."""

    def __init__(
        self, graph: Graph, inputs: Mapping[str, Array], run_float: RunFloat, base: Graph, centred: bool = False
    ) -> None:
        """graph: the float one. inputs: name → (samples, *shape). base: quantized, what variants are variants of.
        `centred` leaves the mean error of each output out, as the correction of biases will."""
        self._centred = centred
        self._graph = graph
        self._inputs = {name: inputs[name] for name in graph.inputs}
        self._run_float = run_float
        real = run_float(graph, self._inputs)
        # Caches are outputs only for the next run's sake: what is in them is felt in this one's already.
        self._wanted = {name: real[name].astype(np.float64) for name in graph.ports[1]}
        self.rebase(base)

    def rebase(self, base: Graph) -> None:
        """Let `base` be what the following variants are compared with."""
        self._base = simulate(base)
        self._values: dict[str, Array] = self._run_float(self._base, self._fed(self._base))
        self.base_noise = self._noise(self._values)

    def noise(self, typed: Graph, exact: str = "") -> float:
        """Mean over the outputs of Σ error² / Σ output², for a variant of the base; `exact` names a value or a constant
        that is not rounded in it."""
        variant = simulate(typed, {exact: self._real_constant(typed, exact)} if exact else None)
        changed = {name for name in variant.inputs if name not in self._base.inputs}
        nodes = []
        for node in variant.nodes:
            old = self._base.producers.get(node.output)
            if node != old or any(name in changed or self._differs(variant, name) for name in node.inputs):
                changed.add(node.output)
                nodes.append(node)
        fed = self._fed(variant)
        made = {node.output for node in nodes}
        read = dict.fromkeys(n for node in nodes for n in node.inputs if n not in variant.constants and n not in made)
        known = {name: fed[name] if name in fed else self._values[name] for name in read}
        outputs = tuple(name for name in self._wanted if name in made)
        part = variant.replace(nodes=nodes, inputs=tuple(read), outputs=outputs)
        found = self._run_float(part, known) if nodes else {}
        return self._noise({name: found.get(name, self._values.get(name, _NOTHING)) for name in self._wanted})

    def _real_constant(self, typed: Graph, name: str) -> Array | None:
        """The float constant that the constant `name` of `typed` was made from; None for what is no constant."""
        if name not in typed.constants:
            return None
        reader = typed.consumers[name][0]
        node = self._graph.producers[reader.output]
        while node.op.kind != reader.op.kind:  # a ReLU that the reader's own clamp took up
            node = self._graph.producers[node.inputs[0]]
        return self._graph.constants[node.inputs[reader.inputs.index(name)]]

    def _differs(self, variant: Graph, name: str) -> bool:
        if name not in variant.constants:
            return False
        old = self._base.constants.get(name)
        return old is None or not np.array_equal(old, variant.constants[name])

    def _fed(self, simulated: Graph) -> dict[str, Array]:
        return {name: self._inputs[name.removesuffix("/real")] for name in simulated.inputs}

    def _noise(self, values: Mapping[str, Array]) -> float:
        shares = []
        for name, wanted in self._wanted.items():
            error = values[name] - wanted
            if self._centred:
                error = error - error.mean(axis=0)
            shares.append(float(np.square(error).sum()) / max(float(np.square(wanted).sum()), 1e-30))
        return float(np.mean(shares))


_NOTHING: Array = np.zeros(0)


def decibels(noise: float) -> float:
    """Signal-to-noise ratio in dB of a share of noise."""
    return float(-10.0 * np.log10(max(noise, 10.0 ** (-EXACT_SQNR / 10.0))))
