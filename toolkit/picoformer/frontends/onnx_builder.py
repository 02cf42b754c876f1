"""Growing a Graph node by node from ONNX: constants folded on the way, names kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper

from picoformer.errors import ModelError, UnsupportedError
from picoformer.frontends.onnx_integers import Steps
from picoformer.frontends.onnx_load import check_finite
from picoformer.ir import DType, Graph, Node, Operator, TensorType, fresh_name
from picoformer.ir.operator import Array
from picoformer.ops import Reshape
from picoformer.ops.rounded import Dequantized, Rounded
from picoformer.ops.spelled import spelled_type


class GraphBuilder:
    """The graph so far. ONNX value names are used as they are; a value that equals another is an alias of it."""

    def __init__(self, path: Path, taken: set[str], opset: int, read: set[str]) -> None:
        self.path = path
        self.opset = opset
        self._read = read
        self.nodes: list[Node] = []
        self.types: dict[str, TensorType] = {}
        self.known: dict[str, Array] = {}
        """Values that are constant, as the file stores them."""
        self.integers: dict[str, Steps] = {}
        """Of the known values those that the file stores as integers, with their scales."""
        self.protos: dict[str, onnx.NodeProto] = {}
        """Value → the node of the file that computes it."""
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        """Value → the nodes of the file that read it."""
        self.regridded: dict[str, None] = {}
        """Values whose grid is not the file's: 16 bits with a zero point are made symmetric."""
        self.called: dict[str, str] = {}
        """Tensor of integers → what the file calls the real numbers that it stands for."""
        self._constants: dict[str, Array] = {}
        self._aliases: dict[str, str] = {}
        self._taken = set(taken)
        self._node_names: set[str] = set()

    def resolve(self, name: str) -> str:
        """The value that `name` stands for."""
        while name in self._aliases:
            name = self._aliases[name]
        return name

    def alias(self, name: str, source: str) -> None:
        """Let `name` stand for `source`."""
        source = self.resolve(source)
        if source in self.known:
            self.known[name] = self.known[source]
        else:
            self._aliases[name] = source

    def is_read(self, name: str) -> bool:
        """True when a node or an output of the file reads `name`."""
        return name in self._read

    def fresh(self, wish: str) -> str:
        """A value name that the file does not use."""
        name = fresh_name(wish, self._taken)
        self._taken.add(name)
        return name

    def constant(self, array: Array, wish: str) -> str:
        """A constant that the file does not have."""
        name = self.fresh(wish)
        self.known[name] = array
        return name

    def type_of(self, name: str) -> TensorType:
        """Type of a value, constant or not; raises ModelError when the file uses it before computing it."""
        name = self.resolve(name)
        if name in self.types:
            return self.types[name]
        if name in self.known:
            value = self._stored(name)
            dtypes = {"f": DType.FLOAT32, "b": DType.BOOL}
            return TensorType(value.shape, dtypes.get(value.dtype.kind, DType.INT32))
        raise ModelError(f"{self.path}: value '{name}' is read before it is computed; export the model again")

    def is_there(self, name: str) -> bool:
        """True when the value is known or computed by a node so far."""
        name = self.resolve(name)
        return name in self.types or name in self.known

    def is_constant(self, name: str) -> bool:
        """True when the value is known now."""
        return self.resolve(name) in self.known

    def _stored(self, name: str) -> Array:
        """A constant in the types a Graph has: float32, int32, bool; minus infinity as the lowest float32."""
        value = self.known[name]
        if value.dtype == np.bool_:
            return value
        if value.dtype.kind in "iu":
            if value.size and (value.min() < -(1 << 31) or value.max() >= 1 << 31):
                value = np.clip(value, -(1 << 31), (1 << 31) - 1)
            return value.astype(np.int32)
        with np.errstate(over="ignore"):
            value = np.asarray(value, np.float32)
        check_finite(self.path, name, value)
        if np.isposinf(value).any():
            raise ModelError(f"{self.path}: tensor '{name}' holds infinity; train or export the model again")
        limit = np.float32(np.finfo(np.float32).max)
        clipped: Array = np.clip(value, -limit, limit)
        return clipped

    def add(self, name: str, op: Operator, inputs: list[str], output: str) -> str:
        """Append `output = op(inputs)`, or compute it at once when every input is constant."""
        names = [self.resolve(x) for x in inputs]
        try:
            type_ = spelled_type(op, [self.type_of(x) for x in names])
        except ValueError as error:
            raise ModelError(f"{self.path}: node '{name}' ({op.kind}), output '{output}': {error}") from None
        if all(x in self.known for x in names):
            with np.errstate(all="ignore"):
                result = np.asarray(op.compute(*(self._stored(x) for x in names)))
            self.known[output] = result.reshape(type_.shape)
            return output
        for x in names:
            if x in self.known and x not in self._constants:
                self._constants[x] = np.ascontiguousarray(self._stored(x)).reshape(self.known[x].shape)
                self.types[x] = self.type_of(x)
        label = fresh_name(name or output, self._node_names)
        self._node_names.add(label)
        self.nodes.append(Node(label, op, tuple(names), output))
        self.types[output] = type_
        return output

    def dequantized(self, wish: str, value: Array, type_: TensorType) -> str:
        """Integers of the file, typed, as a value that no pass takes for a constant it may compute with."""
        stored, name = self.fresh(f"{wish}_integers"), self.fresh(wish)
        self._constants[stored], self.types[stored] = np.ascontiguousarray(value), type_
        assert type_.quant is not None
        self.nodes.append(Node(name, Dequantized(type_.quant, type_.dtype), (stored,), name))
        self.types[name] = TensorType(type_.shape)
        return name

    def build(self, graph_name: str, inputs: list[str], outputs: list[str]) -> Graph:
        """The finished graph; outputs keep their names even where they equal another value."""
        for output in outputs:
            source = self.resolve(output)
            if not self.is_there(source):
                raise ModelError(f"{self.path}: output '{output}' is never computed; export the model again")
            if source in self.known:
                raise ModelError(f"{self.path}: output '{output}' does not depend on the inputs; export again")
            if source != output:
                del self._aliases[output]
                self.add(output, Reshape(self.type_of(source).shape), [source], output)
        nodes = [
            Node(n.name, replace(n.op, called=self.called.get(n.op.source, "")), n.inputs, n.output)
            if isinstance(n.op, Rounded)
            else n
            for n in self.nodes
        ]
        return Graph(graph_name, tuple(inputs), tuple(outputs), tuple(nodes), self.types, self._constants)


class NodeReader:
    """One ONNX node and the graph it goes into: attributes, constant inputs, and adding operators in its name."""

    def __init__(self, node: onnx.NodeProto, builder: GraphBuilder) -> None:
        self.node = node
        self.builder = builder
        self.opset = builder.opset
        self.inputs = list(node.input)
        self.output = node.output[0]
        self._attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def attribute(self, name: str, default: Any) -> Any:
        """Value of an attribute, strings decoded."""
        value = self._attributes.get(name, default)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    def has_input(self, index: int) -> bool:
        """True when the optional input is there."""
        return len(self.inputs) > index and self.inputs[index] != ""

    def array(self, index: int) -> Array:
        """Value of an input that has to be constant."""
        name = self.builder.resolve(self.inputs[index])
        if name not in self.builder.known:
            raise self.unsupported(f"input '{name}' is not constant", "export with static shapes and fixed weights")
        return self.builder.known[name]

    def integers(self, index: int) -> list[int]:
        """Value of a constant input as a list of ints."""
        return [int(x) for x in np.asarray(self.array(index)).reshape(-1)]

    def axes(self, index: int) -> list[int] | None:
        """Axes given as input `index` (newer opsets) or as attribute; None when neither is there."""
        if self.has_input(index):
            return self.integers(index)
        axes = self.attribute("axes", None)
        return None if axes is None else [int(a) for a in axes]

    def type(self, index: int = 0) -> TensorType:
        """Type of an input."""
        return self.builder.type_of(self.inputs[index])

    def axis(self, axis: int, rank: int) -> int:
        """`axis` counted from the end; raises ModelError when there is no such axis."""
        if not -rank <= axis < rank:
            raise ModelError(f"{self.builder.path}: node '{self.label}' names axis {axis} of a value of rank {rank}")
        return axis - rank if axis >= 0 else axis

    @property
    def label(self) -> str:
        """The node's name, or its output's."""
        return self.node.name or self.output

    def unsupported(self, why: str, mend: str) -> UnsupportedError:
        """The error for a form of the operator that is not covered."""
        return UnsupportedError(
            f"{self.builder.path}: node '{self.label}' ({self.node.op_type}, output '{self.output}'): {why}; {mend}"
        )

    def step(self, op: Operator, inputs: list[str], role: str) -> str:
        """Add an operator on the way to the node's output; `role` ends its name."""
        return self.builder.add(self.label, op, inputs, self.builder.fresh(f"{self.output}_{role}"))

    def finish(self, op: Operator, inputs: list[str], output: str | None = None) -> None:
        """Add the operator that computes the node's output."""
        self.builder.add(self.label, op, inputs, self.output if output is None else output)

    def give(self, value: str) -> None:
        """Let the node's output be `value`: the last step that was made takes its name, another value an alias."""
        last = self.builder.nodes[-1] if self.builder.nodes else None
        if last is not None and last.output == value and value.startswith(f"{self.output}_"):
            self.builder.nodes.pop()
            self.builder.types.pop(value)
            self.finish(last.op, list(last.inputs))
        else:
            self.builder.alias(self.output, value)

    def constant(self, array: Array, role: str) -> str:
        """A constant of the node's own; `role` ends its name."""
        return self.builder.constant(array, f"{self.output}_{role}")

    def reshaped(self, name: str, shape: tuple[int, ...], role: str) -> str:
        """`name`, or a Reshape of it when it has another shape."""
        return name if self.builder.type_of(name).shape == shape else self.step(Reshape(shape), [name], role)

    def aligned(self, names: list[str]) -> list[str]:
        """The operands with leading 1s, so that all but the constants have the rank of the broadcast result."""
        rank = max(self.builder.type_of(name).rank for name in names)
        result = []
        for name in names:
            shape = self.builder.type_of(name).shape
            padded = (1,) * (rank - len(shape)) + shape
            result.append(name if self.builder.is_constant(name) else self.reshaped(name, padded, "aligned"))
        return result


Converter = Callable[[NodeReader], None]
"""What turns a node of the file into operators of the graph."""
