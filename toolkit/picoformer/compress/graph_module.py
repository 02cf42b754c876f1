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
    Constant,
    FakeQuantize,
    QuantizedBias,
    QuantizedConstant,
    RealConstant,
)
from picoformer.compress.graph_operators import COMPUTE, MOVES
from picoformer.errors import UnsupportedError
from picoformer.ir import DType, Graph, Lowered, Node, verify
from picoformer.ops import Activation, DepthwiseConv, ExpertLinear, Linear

Array = np.ndarray[Any, Any]


class GraphModule(nn.Module):
    """Executes `graph` in torch. A float graph computes its float meaning. In a quantized one every value is rounded
    to its grid (see `FakeQuantize`) and every constant trains on its own, from what its integers stand for.

    Raises UnsupportedError naming a node that torch has no form of, LoweringError for scales that do not fit together.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        is_integer = any(type_.quant is not None for type_ in graph.types.values())
        self._steps: list[Lowered | None] = []
        known: set[str] = set()
        self._keys = {name: f"{index}_{name.replace('.', '_')}" for index, name in enumerate(graph.types)}
        self.constants, self.grids = nn.ModuleDict(), nn.ModuleDict()
        for name in graph.inputs:
            if graph.types[name].quant is not None:
                self.grids[self._keys[name]] = FakeQuantize(graph.types[name], HALF_EVEN)
        for node in graph.nodes:
            if type(node.op) not in COMPUTE:
                raise UnsupportedError(f"node '{node.name}' ({node.op.kind}): cannot be trained; leave training out")
            for index, name in enumerate(node.inputs):
                if name in graph.constants and name not in known:
                    known.add(name)
                    self._add_constant(node, index, name)
            type_ = graph.types[node.output]
            self._steps.append(node.op.lower(graph.operands(node), type_) if is_integer else None)
            if type_.quant is not None and not isinstance(node.op, MOVES):
                ties = HALF_EVEN if isinstance(node.op, Activation) else HALF_UP  # a table is made at compile time
                self.grids[self._keys[node.output]] = FakeQuantize(type_, ties)

    def _add_constant(self, node: Node, index: int, name: str) -> None:
        type_, value = self.graph.types[name], self.graph.constants[name]
        if type_.dtype is DType.INT32 and isinstance(node.op, Linear | ExpertLinear | DepthwiseConv):
            weight, x = (self.graph.types[node.inputs[operand]] for operand in (index - 1, 0))
            assert weight.quant is not None
            self.constants[self._keys[name]] = QuantizedBias(value, weight.quant, x)
        elif type_.quant is not None:
            self.constants[self._keys[name]] = QuantizedConstant(value, type_)
        elif type_.dtype is DType.FLOAT32:
            self.constants[self._keys[name]] = RealConstant(value)
        else:
            self.register_buffer(f"fixed_{self._keys[name]}", torch.tensor(value))

    def _operand(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        if name in values:
            return values[name]
        key = self._keys[name]
        result: Tensor = self.constants[key]() if key in self.constants else self.get_buffer(f"fixed_{key}")
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
            operands = [self._operand(name, values) for name in node.inputs]
            result = COMPUTE[type(node.op)](node.op, operands, self._steps[index])
            result = result.reshape(-1, *self.graph.types[node.output].shape)
            key = self._keys[node.output]
            values[node.output] = self.grids[key](result) if key in self.grids else result
            for name in set(node.inputs) & values.keys():
                if last_use[name] == index and name not in kept:
                    del values[name]
        return {name: values[name] for name in kept}

    def settle(self, amount: float) -> None:
        """Move every quantized weight by this share of the way to the integer it stands for."""
        with torch.no_grad():
            for module in self.constants.values():
                if isinstance(module, QuantizedConstant):
                    module.real.add_(module.steps() - module.real, alpha=amount)

    def trained_graph(self) -> Graph:
        """The graph with its constants as they are now: for a quantized one the very integers that `forward` used."""
        constants = dict(self.graph.constants)
        for name, value in constants.items():
            key, dtype = self._keys[name], self.graph.types[name].dtype.numpy
            if key in self.constants:
                module = self.constants[key]
                assert isinstance(module, Constant)
                constants[name] = np.asarray(module.value(), dtype).reshape(value.shape)
        return verify(self.graph.replace(constants=constants))
