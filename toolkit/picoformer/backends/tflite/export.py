"""A graph as a .tflite file, written without a converter: float, or with the integers of a quantized graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from picoformer.backends.convolutions import inside_convolutions
from picoformer.backends.tflite.emitters import EMITTERS, Unsupported
from picoformer.backends.tflite.file import program_bytes
from picoformer.backends.tflite.grids import settle
from picoformer.backends.tflite.program import Program
from picoformer.backends.tflite.windows import convolution
from picoformer.backends.tflite.writer import Gelu, TfliteWriter
from picoformer.errors import UnsupportedError
from picoformer.files import atomic_write_bytes
from picoformer.ir import Graph
from picoformer.ir.operator import Array
from picoformer.ops import Linear

HEADROOM = 1.5
"""How far int16 ranges inside an operator reach beyond what the samples show."""


def export_tflite(
    graph: Graph, path: Path, metadata: Mapping[str, str], samples: Iterable[Mapping[str, Array]] = (),
    gelu: Gelu = "auto", any_operator: bool = False,
) -> Program:  # fmt: skip
    """Write `graph` to `path`, atomically; the same arguments give the same bytes. See `tflite_program`."""
    program = tflite_program(graph, samples, gelu, any_operator)
    atomic_write_bytes(Path(path), program_bytes(program, metadata))
    return program


def tflite_program(
    graph: Graph, samples: Iterable[Mapping[str, Array]] = (), gelu: Gelu = "auto", any_operator: bool = False
) -> Program:
    """`graph` in builtin operators of TFLite: those that TFLite Micro runs, unless `any_operator`.

    Its real numbers are all float32, all int8 or all int16, one grid a value (weights: one a row). `samples`: runs,
    value name → real numbers (*shape), of every value of the float graph; a quantized graph takes from them the ranges
    of what lies inside its operators.
    `gelu`: how GELU and SiLU are written (see `tflite_emitters`). Raises UnsupportedError naming the node that TFLite
    cannot say, and what would mend it.
    """
    writer = TfliteWriter(graph, gelu, any_operator)
    folded = inside_convolutions(graph)
    for node in graph.nodes:
        writer.node = node
        if node.output in folded:
            continue
        if isinstance(node.op, Linear) and node.inputs[0] in folded:
            convolution(graph.producers[node.inputs[0]], writer, node, node.op, node.output)
            continue
        emitter = EMITTERS.get(type(node.op), Unsupported("it has no emitter"))
        if isinstance(emitter, Unsupported):
            raise UnsupportedError(f"node '{node.name}' ({node.op.kind}) cannot be written as TFLite: {emitter.reason}")
        emitter(writer, node, node.op, node.output)
    for name in graph.outputs:
        if name not in graph.producers:
            raise UnsupportedError(f"output '{name}' is computed by no node: a TFLite file cannot return it unchanged")
    return settle(writer, samples, HEADROOM)
