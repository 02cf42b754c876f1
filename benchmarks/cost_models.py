"""The models that cost formulas are fitted to: small encoders of many shapes, and operators, side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from picoformer.importing import import_model
from picoformer.ir import Graph, Node, TensorType
from picoformer.ir.operator import Operator
from picoformer.models.config import TransformerConfig
from picoformer.models.export import export_onnx
from picoformer.models.transformer import Transformer
from picoformer.ops import (
    Activation,
    Add,
    AveragePool,
    DepthwiseConv,
    MaxPool,
    Mul,
    Patches,
    Slice,
    Softmax,
    Transpose,
)


def _encoder(heads: int, d_ff: int, d_model: int, **keys: object) -> TransformerConfig:
    return TransformerConfig.uniform(layers=1, heads=heads, d_ff=d_ff, d_model=d_model, **keys)


SHAPES = {
    "tiny": _encoder(2, 64, 32, sequence=24, input_size=10, classes=5),
    "reference": _encoder(4, 160, 64, sequence=48, input_size=16, classes=6),
    "silu": _encoder(3, 96, 48, sequence=17, input_size=9, classes=7, activation="silu", norm_position="post"),
    "text": _encoder(
        5, 100, 40, sequence=33, vocab_size=50, classes=50, activation="gelu_tanh", causal=True, pooling="none"
    ),
    "one head": _encoder(1, 64, 32, sequence=96, input_size=20, classes=4, activation="relu"),
    "wide": _encoder(4, 256, 128, sequence=16, input_size=12, classes=12),
    "shared keys": _encoder(4, 48, 32, sequence=49, input_size=10, classes=10, kv_heads=2),
    "image": _encoder(
        2, 72, 36, image=(1, 12, 12), patch=(4, 4), classes=10, cls_token=True, pooling="cls", activation="relu"
    ),
    "feed-forward": _encoder(2, 320, 80, sequence=8, input_size=40, classes=3, positions="sinusoidal"),
    "long": _encoder(3, 24, 24, sequence=128, input_size=6, classes=2, causal=True),
    "causal": _encoder(4, 40, 64, sequence=40, input_size=8, classes=2, causal=True, activation="gelu_tanh"),
    "short": _encoder(2, 30, 20, sequence=12, vocab_size=30, classes=3, causal=True, activation="silu"),
}
"""Widths, lengths and heads that are multiples of 2, 3, 4, 5, 8 and of nothing; every activation and every norm."""


def float_graphs(names: Sequence[str] = tuple(SHAPES)) -> dict[str, Graph]:
    """The fused float graph of each shape; weights from fixed seeds, norms with gains other than 1."""
    graphs = {}
    with tempfile.TemporaryDirectory() as scratch:
        for seed, (name, config) in enumerate(SHAPES.items()):
            if name not in names:
                continue
            path, model = Path(scratch) / "model.onnx", Transformer(config, seed=seed)
            with torch.no_grad():
                for parameter, weight in model.named_parameters():
                    if "norm" in parameter:
                        weight.add_(0.2 * torch.randn_like(weight))
            export_onnx(model, path)
            graphs[name] = import_model(path)
    return graphs


def operators(rows: int, width: int) -> Graph:
    """Operators that the encoders have not, each on an input of its own, (rows, width)."""
    half = rows // 2
    ops: dict[str, Operator] = {
        "softmax": Softmax(),
        "tanh": Activation("tanh"),
        "sigmoid": Activation("sigmoid"),
        "transpose": Transpose((-1, -2)),
        "slice": Slice(-2, 1, half, 1),
        "columns": Slice(-1, 0, width // 2, 1),
        "every second": Slice(-2, 0, rows, 2),
        "sum": Add(),
        "product": Mul(),
    }
    types: dict[str, TensorType] = {}
    nodes, inputs = [], []
    for name, op in ops.items():
        wanted = 2 if isinstance(op, Add | Mul) else 1
        operands = tuple(f"{name} {index}" for index in range(wanted))
        types |= {operand: TensorType((rows, width)) for operand in operands}
        types[name] = op.infer([types[operand] for operand in operands])
        # An activation follows, so that the value is not an output and therefore not 16 bits wide.
        types[f"{name} relu"] = types[name]
        nodes += [Node(name, op, operands, name), Node(f"{name} relu", Activation("relu"), (name,), f"{name} relu")]
        inputs += operands
    return Graph("operators", tuple(inputs), tuple(f"{name} relu" for name in ops), tuple(nodes), types)


def windows(side: int, channels: int) -> Graph:
    """Operators on windows of an image (side, side, channels), each on an input of its own; an activation follows,
    or the result is an output, which has 16 bits."""
    image = TensorType((1, side, side, channels))
    around = ((1, 1), (1, 1), (1, 1, 1, 1))
    ops: dict[str, Operator] = {
        "patches": Patches((3, 3), *around),
        "patches of every second": Patches((3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
        "patches apart": Patches((1, 3), (1, 1), (1, 2), (0, 2, 0, 2)),
        "depthwise": DepthwiseConv((3, 3), *around),
        "depthwise of every second": DepthwiseConv((3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
        "depthwise line": DepthwiseConv((1, 5)),
        "depthwise to 16 bits": DepthwiseConv((3, 3), *around),
        "largest": MaxPool((2, 2), (2, 2)),
        "largest of nine": MaxPool((3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
        "average": AveragePool((2, 2), (2, 2)),
        "average of nine": AveragePool((3, 3), *around),
        "average to 16 bits": AveragePool((2, 2)),
    }
    random = np.random.default_rng(side)
    types: dict[str, TensorType] = {}
    constants: dict[str, np.ndarray] = {}
    nodes, inputs, outputs = [], [], []
    for name, op in ops.items():
        types[f"{name} image"] = image
        operands = [f"{name} image"]
        if isinstance(op, DepthwiseConv):
            for part, shape in (("weight", (op.taps, channels)), ("bias", (channels,))):
                operands.append(f"{name} {part}")
                constants[operands[-1]] = random.normal(0, 0.5, shape).astype(np.float32)
                types[operands[-1]] = TensorType(shape)
        types[name] = op.infer([types[operand] for operand in operands])
        nodes.append(Node(name, op, tuple(operands), name))
        outputs.append(name)
        if not name.endswith("16 bits"):
            outputs[-1] = f"{name} relu"
            types[outputs[-1]] = types[name]
            nodes.append(Node(outputs[-1], Activation("relu"), (name,), outputs[-1]))
        inputs.append(operands[0])
    return Graph("windows", tuple(inputs), tuple(outputs), tuple(nodes), types, constants)


def side_by_side(graphs: dict[str, Graph], name: str) -> Graph:
    """One graph that computes all of `graphs`, each with inputs and outputs of its own."""
    parts = [_renamed(graph, f"{index}.") for index, graph in enumerate(graphs.values())]
    return Graph(
        name,
        tuple(value for part in parts for value in part.inputs),
        tuple(value for part in parts for value in part.outputs),
        tuple(node for part in parts for node in part.nodes),
        {value: type_ for part in parts for value, type_ in part.types.items()},
        {value: array for part in parts for value, array in part.constants.items()},
    )


def _renamed(graph: Graph, prefix: str) -> Graph:
    def new(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(prefix + name for name in names)

    return replace(
        graph,
        inputs=new(graph.inputs),
        outputs=new(graph.outputs),
        nodes=tuple(Node(prefix + n.name, n.op, new(n.inputs), prefix + n.output) for n in graph.nodes),
        types={prefix + name: type_ for name, type_ in graph.types.items()},
        constants={prefix + name: np.asarray(array) for name, array in graph.constants.items()},
    )
