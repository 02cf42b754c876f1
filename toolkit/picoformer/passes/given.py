"""The end of a quantized file's way through the passes: a float graph, and beside it what the file says of integers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from picoformer.ir import DType, Graph, Node, TensorType, verify
from picoformer.ir.operator import Array
from picoformer.ops import Activation, Add, LayerNorm, Linear, Requantize
from picoformer.ops.rounded import Dequantized, Given, Rounded


def split_given(graph: Graph) -> tuple[Graph, Given]:
    """(the graph of the dequantized model, the grids and integers it was given).

    Where a grid starts at zero, it takes the place of a ReLU that the file's quantizer has left out: it stands again.

    A value that is rounded before anybody reads it is on that grid, under its own name. One that is read on several
    grids, or as it is, keeps a Requantize for each; it has then no grid of its own. A graph without grids stays as it
    is.
    """
    values: dict[str, TensorType] = {}
    constants: dict[str, tuple[TensorType, Array]] = {}
    sources: dict[str, Rounded] = {}
    renamed: dict[str, str] = {}
    types, floats = dict(graph.types), dict(graph.constants)
    nodes: list[Node] = []

    def final(name: str) -> str:
        while name in renamed:
            name = renamed[name]
        return name

    for node in graph.nodes:
        if isinstance(node.op, Dequantized):
            steps = graph.constants[node.inputs[0]]
            constants[node.output] = (TensorType(steps.shape, node.op.dtype, node.op.quant), steps)
            floats[node.output] = np.asarray(node.op.compute(steps), np.float32)
        elif isinstance(node.op, Rounded):
            x = node.inputs[0]
            alone = len(graph.consumers[x]) == 1 and x not in graph.outputs and final(x) not in values
            is_output, is_input = node.output in graph.outputs, x in graph.inputs
            made = graph.producers.get(x)
            clips = _clips(node.op, values.get(final(x)), made)
            if clips:
                name = node.output
                nodes.append(Node(node.name, Activation("relu"), node.inputs, name))
            elif alone and not (is_output and is_input):
                names = [node.output] if is_output else [x] if is_input else [x, node.output, *_free(node.op, types)]
                name = min(names, key=len)  # quantizers and passes append to names
                types[name] = types[x]
                renamed.update({other: name for other in (x, node.output) if other != name})
            else:
                name = node.output
                nodes.append(Node(node.name, Requantize(), node.inputs, name))
            values[name] = TensorType(types[x].shape, node.op.dtype, node.op.quant)
            sources[name] = node.op
        else:
            nodes.append(node)
    nodes = [Node(n.name, n.op, tuple(map(final, n.inputs)), final(n.output)) for n in nodes]
    used = {name for node in nodes for name in (*node.inputs, node.output)} | set(graph.inputs) | set(graph.outputs)
    values = {final(name): type_ for name, type_ in values.items()}
    split = graph.replace(
        nodes=nodes,
        types={name: TensorType(types[name].shape, _plain(types[name].dtype)) for name in types if name in used},
        constants={name: value for name, value in floats.items() if name in used},
    )
    return verify(split), Given(values, constants, {final(name): op for name, op in sources.items()})


def _clips(rounded: Rounded, before: TensorType | None, made: Node | None) -> bool:
    """Whether a grid without negative numbers is the ReLU of what may be negative: of a sum, or on another grid."""
    if rounded.quant.axis is not None or rounded.quant.zero_point != rounded.dtype.minimum:
        return False
    if before is not None:
        return before.quant is not None and before.quant.zero_point != before.dtype.minimum
    return made is not None and isinstance(made.op, Linear | Add | LayerNorm)


def _free(rounded: Rounded, types: Mapping[str, TensorType]) -> list[str]:
    """What the file calls the value behind its integers, where no value is called so."""
    return [rounded.called] if rounded.called and rounded.called not in types else []


def _plain(dtype: DType) -> DType:
    """The type of a float graph's value: only masks and ids are no floats."""
    return dtype if dtype in (DType.BOOL, DType.INT32) else DType.FLOAT32
