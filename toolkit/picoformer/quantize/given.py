"""From a float graph and the grids of its file to a typed graph: nothing that the file says is chosen anew.

A value without a grid becomes int16 over all that its operands can make of it, or, with calibration data, over what was
seen of it. Where an operator has no integer form on the file's grids, a finer int16 value stands between.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from picoformer.errors import DataError
from picoformer.ir import DType, Graph, Node, QuantParams, TensorType, verify
from picoformer.ir.operator import Array, LoweringError
from picoformer.ops import (
    Activation,
    Add,
    Attention,
    Concat,
    Embedding,
    LayerNorm,
    Linear,
    Mul,
    ReduceMean,
    Requantize,
    Softmax,
)
from picoformer.ops.rounded import Given
from picoformer.quantize.calibrate import symmetric
from picoformer.quantize.grids import LAYOUT
from picoformer.quantize.observe import Observation, RunFloat, observe
from picoformer.quantize.ptq import QuantizeSettings, TypedBuilder

FINER = 128.0
"""A step of the int8 grid in steps of the int16 one that stands in for it: −255 to 255 of them fit, any zero point."""


def has_activations(graph: Graph, given: Given) -> bool:
    """Whether the file says how activations are quantized; else only weights are given, and the rest is calibrated."""
    return any(name in given.values for node in graph.nodes for name in (*graph.inputs, node.output))


def quantize_given(
    graph: Graph,
    given: Given,
    calibration: Mapping[str, Array] | None = None,
    run_float: RunFloat | None = None,
    settings: QuantizeSettings | None = None,
) -> Graph:
    """The typed graph of a model whose file brings its grids.

    graph: that of the dequantized model. `calibration`: input name → (samples, *shape), for values that the file left
    out; without it a value gets the range that its operands allow. Raises DataError naming an input without a grid,
    LoweringError naming a node that has no integer form on the file's grids.
    """
    seen: Mapping[str, Observation] = {}
    if calibration and run_float is not None:
        seen = observe(graph, calibration, run_float)
    return verify(_GivenBuilder(graph, given, seen, settings or QuantizeSettings()).build())


class _GivenBuilder(TypedBuilder):
    """Walks the float graph as the quantizer does, with the grids and integers of the file."""

    def __init__(self, graph: Graph, given: Given, seen: Mapping[str, Observation], settings: QuantizeSettings) -> None:
        types = {name: self._input_type(graph, name, given, seen, settings) for name in graph.inputs}
        super().__init__(graph, seen, types, replace(settings, given=given.constants), {})
        self.given = given

    @staticmethod
    def _input_type(
        graph: Graph, name: str, given: Given, seen: Mapping[str, Observation], settings: QuantizeSettings
    ) -> TensorType:
        type_ = graph.types[name]
        if name in given.values or type_.dtype is not DType.FLOAT32:
            return given.values.get(name, type_)
        if name not in seen:
            raise DataError(
                f"{graph.name}: input '{name}' has no grid in the file; give --calibration with samples of it, or let "
                f"the quantizer put a QuantizeLinear behind it"
            )
        return TensorType(type_.shape, DType.INT16, symmetric(settings.headroom * seen[name].largest, DType.INT16))

    def build(self) -> Graph:
        clipped = {node.inputs[0]: node for node in self.graph.nodes if self._is_clip(node)}
        for node in self.graph.nodes:
            if node.inputs and clipped.get(node.inputs[0]) is node:
                continue
            if node.output in clipped:
                node = replace(node, output=clipped[node.output].output)
            self.assigned[node.output] = self.given.values.get(node.output) or self._own_type(node)
            names = [self._operand(node, index, name) for index, name in enumerate(node.inputs)]
            if isinstance(node.op, Linear):
                try:
                    names = self._linear_constants(node, names)
                except ValueError as error:
                    raise LoweringError(f"node '{node.name}' (Linear): {error}") from None
            wanted, written = self.assigned[node.output], self._written_type(node, names)
            self.types[node.output] = wanted
            output = node.output if written == wanted else self.graph.fresh_name(f"{node.output}_finer", self.types)
            self.types[output] = written
            self.nodes.append(Node(node.name, node.op, tuple(names), output))
            if output != node.output:
                self.nodes.append(Node(f"{node.name}/grid", Requantize(), (output,), node.output))
        return self.graph.replace(nodes=self.nodes, types=self.types, constants=self.constants)

    def _is_clip(self, node: Node) -> bool:
        """A ReLU that the grid of its result is: what computes its operand, which has no grid, saturates there."""
        wanted = self.given.values.get(node.output)
        if wanted is None or wanted.quant is None or node.op != Activation("relu"):
            return False
        alone = node.inputs[0] not in self.given.values and self.graph.is_used_once(node.inputs[0])
        return alone and node.inputs[0] in self.graph.producers and wanted.quant.zero_point == wanted.dtype.minimum

    def _operand(self, node: Node, index: int, name: str) -> str:
        """The name under which `node` reads this operand: a finer value, an integer constant, or the value itself."""
        if name in self.graph.constants:
            if isinstance(node.op, Linear):
                return name
            return self._constant(node, index, name)
        type_ = self.types[name]
        if isinstance(node.op, Attention) and index < 3:
            read = [self.types[operand] for operand in node.inputs[:3]]
            if not all(t.dtype is DType.INT8 and t.quant is not None and t.quant.zero_point == 0 for t in read):
                return name if type_.dtype is DType.INT16 else self._finer(name)
        if isinstance(node.op, Concat):
            target = self.assigned[node.output]
            if (type_.dtype, type_.quant) != (target.dtype, target.quant):
                return self._moved(name, f"{node.output}_part{index}", target)
        return name

    def _finer(self, name: str) -> str:
        """`name` as int16 with zero point 0, exactly."""
        type_ = self.types[name]
        assert type_.quant is not None
        return self._moved(name, f"{name}_finer", _finer_type(type_, type_.quant))

    def _moved(self, name: str, wish: str, target: TensorType) -> str:
        """A Requantize of `name` to the grid of `target`, made once."""
        type_ = TensorType(self.types[name].shape, target.dtype, target.quant)
        bridge = next((n.output for n in self.nodes if isinstance(n.op, Requantize) and n.inputs == (name,)
                       and self.types[n.output] == type_), None)  # fmt: skip
        if bridge is None:
            bridge = self.graph.fresh_name(wish, self.types)
            self.types[bridge] = type_
            self.nodes.append(Node(bridge, Requantize(), (name,), bridge))
        return bridge

    def _written_type(self, node: Node, names: list[str]) -> TensorType:
        """The type that the operator itself can write: the wanted one as a rule."""
        wanted = self.assigned[node.output]
        if isinstance(node.op, LAYOUT):
            first = next(self.types[name] for name in names if name not in self.constants)
            return TensorType(wanted.shape, first.dtype, first.quant)
        if isinstance(node.op, Attention) and wanted.quant is not None and wanted.quant.zero_point:
            return _finer_type(wanted, wanted.quant)
        return wanted

    def _own_type(self, node: Node) -> TensorType:
        """The type of a value that the file leaves out."""
        float_type = self.graph.types[node.output]
        if float_type.dtype is not DType.FLOAT32:
            return float_type
        if isinstance(node.op, LAYOUT):
            read = [self.types[name] for name in node.inputs if name not in self.graph.constants]
            widest = max(read, key=lambda type_: type_.dtype.bits)
            return TensorType(float_type.shape, widest.dtype, widest.quant)
        if isinstance(node.op, Softmax):
            return TensorType(float_type.shape, DType.INT16, QuantParams((2.0**-15,)))
        if node.output in self.seen:
            largest = self.settings.headroom * self.seen[node.output].largest
        else:
            largest = self._largest(node)
        return TensorType(float_type.shape, DType.INT16, symmetric(largest, DType.INT16))

    def _largest(self, node: Node) -> float:
        """The largest magnitude that the operator can give on the grids of its operands."""
        reads = [self._reach(name) for name in node.inputs if self.graph.types[name].dtype is DType.FLOAT32]
        if isinstance(node.op, Activation):
            low, high = self._range_of(node.inputs[0])
            return float(np.abs(node.op.real(np.linspace(low, high, 1025))).max())
        if isinstance(node.op, Add):
            return sum(reads)
        if isinstance(node.op, Mul):
            return math.prod(reads)
        if isinstance(node.op, LayerNorm):
            gain, bias = reads[1:] if len(reads) == 3 else (1.0, 0.0)
            return math.sqrt(self.graph.types[node.output].width) * gain + bias
        if isinstance(node.op, Attention):
            return reads[2]
        if isinstance(node.op, Embedding | ReduceMean):
            return reads[-1]
        if isinstance(node.op, Linear):
            weight = np.abs(self.graph.constants[node.inputs[1]].astype(np.float64)).sum(axis=1)
            shift = np.abs(self.graph.constants[node.inputs[2]]) if len(node.inputs) > 2 else np.zeros(1)
            return float((weight * reads[0] + shift).max())
        if isinstance(node.op, Requantize):
            return reads[0]
        raise DataError(
            f"{self.graph.name}: value '{node.output}' ({node.op.kind}) has no grid in the file; give --calibration"
        )

    def _range_of(self, name: str) -> tuple[float, float]:
        """(low, high) of all that the integers of a value can stand for."""
        type_ = self.types[name]
        assert type_.quant is not None
        ends = np.array([type_.dtype.minimum, type_.dtype.maximum], np.float64) - type_.quant.zero_point
        scale = max(type_.quant.scale)
        return float(ends[0] * scale), float(ends[1] * scale)

    def _reach(self, name: str) -> float:
        if name in self.graph.constants:
            return float(np.abs(self.graph.constants[name]).max(initial=0.0))
        return max(map(abs, self._range_of(name)))


def _finer_type(type_: TensorType, quant: QuantParams) -> TensorType:
    """The int16 type with zero point 0 that holds each number of an int8 one exactly."""
    return TensorType(type_.shape, DType.INT16, QuantParams(tuple(s / FINER for s in quant.scale), 0, quant.axis))
