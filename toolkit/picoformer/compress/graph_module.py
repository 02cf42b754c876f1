"""A graph as a torch module: the float model to learn from, and the quantized one to train, on its own grids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from picoformer.compress.fake_quantize import (
    HALF_EVEN,
    HALF_UP,
    FakeQuantize,
    QuantizedBias,
    QuantizedConstant,
    RealConstant,
)
from picoformer.compress.graph_operators import COMPUTE, MOVES
from picoformer.errors import UnsupportedError
from picoformer.ir import DType, Graph, Lowered, Node, QuantParams, TensorType, verify
from picoformer.ops import Activation, Linear

Array = np.ndarray[Any, Any]


class GraphModule(nn.Module):
    """Executes `graph` in torch. A float graph computes its float meaning. In a quantized one every value is rounded
    to its grid (see `FakeQuantize`) and every constant trains on its own.

    `real`: the constants of a quantized graph as real numbers, by the names the graph has for them; those left out
    start at what their integers stand for. Raises UnsupportedError naming a node that torch has no form of.
    """

    def __init__(self, graph: Graph, real: Mapping[str, Array] | None = None, learns_scale: bool = False) -> None:
        super().__init__()
        self.graph = graph
        is_integer = any(type_.quant is not None for type_ in graph.types.values())
        self._steps: list[Lowered | None] = []
        self._fixed: dict[str, Tensor] = {}
        self._keys = {name: f"{index}_{name.replace('.', '_')}" for index, name in enumerate(graph.types)}
        self.constants, self.grids = nn.ModuleDict(), nn.ModuleDict()
        for name in graph.inputs:
            if graph.types[name].quant is not None:
                self.grids[self._keys[name]] = FakeQuantize(graph.types[name], HALF_EVEN)
        for node in graph.nodes:
            if type(node.op) not in COMPUTE:
                raise UnsupportedError(f"node '{node.name}' ({node.op.kind}): cannot be trained; build without training")
            for index, name in enumerate(node.inputs):
                if name in graph.constants and self._keys[name] not in self.constants and name not in self._fixed:
                    self._add_constant(node, index, name, (real or {}).get(name), learns_scale)
            type_ = graph.types[node.output]
            self._steps.append(node.op.lower(graph.operands(node), type_) if is_integer else None)
            if type_.quant is not None and not isinstance(node.op, MOVES):
                ties = HALF_EVEN if isinstance(node.op, Activation) else HALF_UP  # a table is made at compile time
                self.grids[self._keys[node.output]] = FakeQuantize(type_, ties)

    def _add_constant(self, node: Node, index: int, name: str, real: Array | None, learns_scale: bool) -> None:
        type_, value = self.graph.types[name], self.graph.constants[name]
        is_weight = isinstance(node.op, Linear)
        module: nn.Module
        if is_weight and index == 2 and type_.dtype is DType.INT32:
            weight, input_type = self._weight(node), self.graph.types[node.inputs[0]]
            assert input_type.quant is not None
            scale = weight.start.numpy().astype(np.float64).reshape(-1) * input_type.quant.per_tensor_scale
            module = QuantizedBias(value * scale if real is None else real, weight, input_type)
        elif type_.quant is not None:
            quant = type_.quant
            start = (value.astype(np.float64) - quant.zero_point) * quant.scale_array(type_.rank)
            module = QuantizedConstant(start if real is None else real, type_, learns_scale and is_weight)
        elif type_.dtype is DType.FLOAT32:
            module = RealConstant(value if real is None else real)
        else:
            self._fixed[name] = torch.from_numpy(np.array(value))
            return
        self.constants[self._keys[name]] = module

    def _weight(self, node: Node) -> QuantizedConstant:
        module = self.constants[self._keys[node.inputs[1]]]
        assert isinstance(module, QuantizedConstant)
        return module

    def _operand(self, node: Node, name: str, values: Mapping[str, Tensor]) -> Tensor:
        if name in values:
            return values[name]
        if name in self._fixed:
            return self._fixed[name]
        module = self.constants[self._keys[name]]
        result: Tensor = module(self._weight(node)) if isinstance(module, QuantizedBias) else module()
        return result

    def forward(self, inputs: Mapping[str, Tensor], wanted: Iterable[str] | None = None) -> dict[str, Tensor]:
        """The values `wanted` (the graph's outputs unless told) for `inputs`, all name → (samples, *shape)."""
        values: dict[str, Tensor] = {}
        for name in self.graph.inputs:
            key = self._keys[name]
            values[name] = self.grids[key](inputs[name]) if key in self.grids else inputs[name]
        last_use = {name: index for index, node in enumerate(self.graph.nodes) for name in node.inputs}
        kept = set(self.graph.outputs if wanted is None else wanted)
        for index, node in enumerate(self.graph.nodes):
            operands = [self._operand(node, name, values) for name in node.inputs]
            result = COMPUTE[type(node.op)](node.op, operands, self._steps[index])
            result = result.reshape(-1, *self.graph.types[node.output].shape)
            key = self._keys[node.output]
            values[node.output] = self.grids[key](result) if key in self.grids else result
            for name in set(node.inputs) & values.keys():
                if last_use[name] == index and name not in kept:
                    del values[name]
        return {name: values[name] for name in kept}

    def trained_graph(self) -> Graph:
        """The graph with its constants as they are now: for a quantized one the very integers that `forward` used."""
        types, constants = dict(self.graph.types), dict(self.graph.constants)
        with torch.no_grad():
            for node in self.graph.nodes:
                for name in node.inputs:
                    if name not in self.graph.constants or name in self._fixed:
                        continue
                    module, type_ = self.constants[self._keys[name]], self.graph.types[name]
                    if isinstance(module, QuantizedConstant):
                        assert type_.quant is not None
                        integers = module.steps().numpy() + type_.quant.zero_point
                        constants[name] = np.asarray(integers, type_.dtype.numpy)
                        types[name] = _with_scale(type_, module.scale.numpy()) if module.growth is not None else type_
                    elif isinstance(module, QuantizedBias):
                        weight = self._weight(node)
                        constants[name] = module.steps(weight).numpy().astype(np.int32)
                        if type_.quant is not None:
                            grid = weight.scale.numpy().astype(np.float64) * module.input_scale
                            types[name] = _with_scale(type_, np.broadcast_to(grid.reshape(-1), type_.shape))
                    else:
                        constants[name] = module().numpy().astype(np.float32)
        return verify(self.graph.replace(types=types, constants=constants))


def _with_scale(type_: TensorType, scale: Array) -> TensorType:
    assert type_.quant is not None
    quant = QuantParams(tuple(float(s) for s in scale.reshape(-1)), type_.quant.zero_point, type_.quant.axis)
    return TensorType(type_.shape, type_.dtype, quant)
