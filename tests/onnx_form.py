"""A few nodes as a file and samples for them: what test_onnx_nodes.py asks onnxruntime about."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
from onnx.helper import make_node

from picoformer.ir.operator import Array

RANDOM = np.random.default_rng(7)


def numbers(*shape: int) -> Array:
    return RANDOM.normal(size=shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def int32(*values: int) -> Array:
    return np.array(values, np.int32)


def tables(rows: int, half: int) -> tuple[Array, Array]:
    """Cosines and sines of positions."""
    angles = np.arange(rows)[:, None] * 10.0 ** -np.arange(half)[None]
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


@dataclass(frozen=True)
class Form:
    """Nodes from `inputs` (float32, or of `integer_type` where `integers` has their range) to `outputs`: name → rank.

    `refused`: a part of the error that fusion ends with, where there is no operator for this.
    """

    nodes: list[onnx.NodeProto]
    inputs: dict[str, tuple[int, ...]]
    constants: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=lambda: {"y": 3})
    opset: int = 21
    integers: dict[str, tuple[int, int]] = field(default_factory=dict)
    integer_type: int = onnx.TensorProto.INT64
    refused: str = ""
    only_fused: bool = False
    """Minus infinity is a number in a graph as loaded, so that a row that sees nothing means something else there."""

    def save(self, path: Path) -> Path:
        """The file."""
        value = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            self.nodes,
            "form",
            [
                value(name, self.integer_type if name in self.integers else onnx.TensorProto.FLOAT, shape)
                for name, shape in self.inputs.items()
            ],
            [
                value(name, onnx.TensorProto.FLOAT, [f"{name}_{axis}" for axis in range(rank)])
                for name, rank in self.outputs.items()
            ],
            [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in self.constants.items()],
        )
        opsets = [onnx.helper.make_opsetid("", self.opset), onnx.helper.make_opsetid("com.microsoft", 1)]
        path.write_bytes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
        return path

    def samples(self, count: int = 2) -> dict[str, Array]:
        """Random inputs, samples along axis 0."""
        generator = np.random.default_rng(11)
        found = {}
        for name, shape in self.inputs.items():
            if name in self.integers:
                low, high = self.integers[name]
                kind = onnx.helper.tensor_dtype_to_np_dtype(self.integer_type)
                found[name] = generator.integers(low, high, (count, *shape)).astype(kind)
            else:
                found[name] = generator.normal(size=(count, *shape)).astype(np.float32)
        return found


def contrib(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return make_node(kind, inputs, outputs, domain="com.microsoft", **attributes)
