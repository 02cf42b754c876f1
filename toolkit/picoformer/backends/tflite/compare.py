"""A .tflite file operator by operator against the integer definitions: on the interpreter's own inputs of each step.

So no difference is carried along: a row says what one operator does otherwise than the definition. Rows come twice: one
for each node of the graph, as a whole, and one for each builtin operator inside those that are decomposed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.backends.convolutions import inside_convolutions
from picoformer.backends.tflite.file import read_program
from picoformer.backends.tflite.operators import BUILTINS
from picoformer.backends.tflite.program import Program, Step, Tensor
from picoformer.backends.tflite.runtime import Runtime, TfliteSession, file_samples
from picoformer.backends.tflite.writer import TYPES, tensor_of
from picoformer.errors import ModelError
from picoformer.ir import DType, Graph, QuantParams, TensorType
from picoformer.ir.operator import Array, Operand, Operator
from picoformer.ops import Activation, Add, Mul, ReduceMean, Requantize, Softmax
from picoformer.ops.fixedpoint import dequantize, exact_matmul, quantize_multipliers, quantize_real, requantize

ACCUMULATING = frozenset(
    {
        "FULLY_CONNECTED", "BATCH_MATMUL", "ADD", "SUB", "MUL", "MEAN", "QUANTIZE", "RELU", "CONV_2D",
        "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D",
    }
)  # fmt: skip
"""Builtin operators that sum or scale and round once: never more than one step from the definition."""
ONE_STEP = frozenset({"Linear", "Add", "Mul", "ReduceMean", "Requantize", "DepthwiseConv", "AveragePool"})
"""The operators of the graph of which the same holds."""


@dataclass(frozen=True)
class Row:
    """What one operator gives. `equal`: the share of elements that are the definition's, `worst`: the largest
    difference in steps of the output's grid; for floats `worst` is the largest difference over the largest magnitude,
    and `equal` the share of those within 10^−6 of it. `node`: the graph's node that a builtin operator is part of, its
    own name for a row of the node itself; `dtype`: the element type of what it gives."""

    name: str
    operator: str
    node: str
    dtype: str
    equal: float
    worst: float
    elements: int

    def to_json(self) -> dict[str, Any]:
        """The row as plain values."""
        return vars(self).copy()


def compare_tflite(
    path: Path | bytes, graph: Graph, inputs: Mapping[str, Array], runtime: Runtime = "litert"
) -> list[Row]:
    """The rows of a file that was written of `graph`, over all samples of `inputs`, name → (samples, *shape).

    Reals are quantized on the file's grids. Raises ModelError for a file that does not hold the graph's values.
    """
    data = path if isinstance(path, bytes) else Path(path).read_bytes()
    program, _ = read_program(data, "the TFLite model" if isinstance(path, bytes) else str(path))
    _check(program, graph)
    session = TfliteSession(data, runtime, keep_all=True)
    kept = _run(program, session, file_samples(program, inputs))
    if graph.count and graph.count not in kept:
        kept[graph.count] = np.ones(len(next(iter(kept.values()))), np.int32)
    folded = inside_convolutions(graph)
    rows = []
    owner = ""
    for step in program.steps:
        owner = _owner(graph, program, step)
        if step.output not in graph.producers:
            rows.append(_row(step.output, step.operator, owner, program.tensors[step.output],
                             kept[step.output], _definition(program, step, kept)))  # fmt: skip
    for node in graph.nodes:
        expected = _node_meaning(graph, node.op, node.inputs, node.output, kept)
        if node.output in folded:  # inside a convolution: what it multiplies is cut from the image that it reads
            kept[node.output] = expected
            continue
        rows.append(_row(node.output, node.op.kind, node.output, program.tensors[node.output],
                         kept[node.output], expected))  # fmt: skip
    return rows


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One entry for each operator, of the graph and inside its nodes: how many rows and elements, the share that is
    equal, and the worst difference."""
    groups: dict[tuple[bool, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.name != row.node, row.operator), []).append(row)
    found = []
    for (is_inner, operator), members in sorted(groups.items()):
        elements = sum(row.elements for row in members)
        found.append(
            {
                "operator": operator,
                "inside": is_inner,
                "count": len(members),
                "elements": elements,
                "equal": sum(row.equal * row.elements for row in members) / max(elements, 1),
                "worst": max(row.worst for row in members),
            }
        )
    return found


def _check(program: Program, graph: Graph) -> None:
    folded = inside_convolutions(graph)
    computed = (node.output for node in graph.nodes if node.output not in folded)
    for name in (*(n for n in graph.inputs if n != graph.count), *computed):
        wanted = tensor_of(name, graph.types[name])
        found = program.tensors.get(name)
        if found is None or (found.shape, found.dtype, found.grid) != (wanted.shape, wanted.dtype, wanted.grid):
            raise ModelError(f"the TFLite file holds no '{name}' as this graph has it: it was written of another")


def _run(program: Program, session: TfliteSession, samples: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Every tensor that is no constant, (samples, *shape)."""
    names = [*program.inputs, *(step.output for step in program.steps)]
    kept: dict[str, list[Array]] = {name: [] for name in names}
    for sample in samples:
        session.run(sample)
        for name in names:
            value = sample[name] if name in sample else session.value(name)
            kept[name].append(np.array(value).reshape(program.tensors[name].shape))
    return {name: np.stack(values) for name, values in kept.items()}


def _owner(graph: Graph, program: Program, step: Step) -> str:
    """The node whose name an inner value begins with: the longest, as names may begin with others' names."""
    if step.output in graph.producers:
        return step.output
    return max((n for n in graph.producers if step.output.startswith(f"{n}/")), key=len, default="")


def _row(name: str, operator: str, node: str, tensor: Tensor, found: Array, expected: Array) -> Row:
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    if tensor.dtype == "float32":
        difference /= max(float(np.abs(expected).max(initial=0)), 1e-30)
        equal = float((difference <= 1e-6).mean()) if difference.size else 1.0
    else:
        equal = float((difference == 0).mean()) if difference.size else 1.0
    return Row(name, operator, node, tensor.dtype, equal, float(difference.max(initial=0)), int(found.size))


def _node_meaning(graph: Graph, op: Operator, names: Sequence[str], output: str, kept: Mapping[str, Array]) -> Array:
    """The integer definition of a node where it has one, its float meaning else."""
    given = [kept[name] for name in names if name in kept]
    type_ = graph.types[output]
    if type_.quant is not None or type_.dtype is DType.INT32:
        return op.lower([graph.operand(name) for name in names], type_).execute(*given)
    return op.compute(*(kept[name] if name in kept else graph.constants[name] for name in names))


def _definition(program: Program, step: Step, kept: Mapping[str, Array]) -> Array:
    """What a builtin operator gives by our integers; by its meaning on real numbers, rounded once, where it is a table,
    and exactly where it moves or compares."""
    output = program.tensors[step.output]
    tensors = [program.tensors[name] for name in step.inputs]
    values = [kept[name] if name in kept else np.asarray(program.tensors[name].data) for name in step.inputs]
    if output.grid is not None and all(t.grid is not None for t in tensors[:1]):
        lowered = _LOWERED.get(step.operator)
        if lowered is not None:
            return lowered(tensors, values, output, step)
    if step.operator == "CAST":
        return values[0].astype(output.dtype)
    moved = BUILTINS[step.operator].moves
    real = [
        dequantize(v, t.grid) if t.grid is not None and output.grid is not None and not tensors[moved] else v
        for v, t in zip(values, tensors, strict=True)
    ]
    results = [BUILTINS[step.operator].meaning(step.options, row) for row in _rows(step, kept, real)]
    result = np.stack(results)
    if output.grid is not None and not tensors[moved]:
        return quantize_real(result, output.grid, TYPES[output.dtype])
    return result.astype(output.dtype)


def _rows(step: Step, kept: Mapping[str, Array], values: list[Array]) -> list[list[Array]]:
    """The operands of each sample: operators whose options count axes know no samples."""
    count = len(next(iter(kept.values())))
    return [[v[i] if n in kept else v for n, v in zip(step.inputs, values, strict=True)] for i in range(count)]


def _type(tensor: Tensor) -> TensorType:
    return TensorType(tensor.shape, TYPES[tensor.dtype], tensor.grid)


def _by(op: Callable[[Step, list[Tensor], list[Array]], Operator]) -> Callable[..., Array]:
    """A builtin operator that is one of ours."""

    def run(tensors: list[Tensor], values: list[Array], output: Tensor, step: Step) -> Array:
        used = [t for t in tensors if t.grid is not None]
        operands = [Operand(_type(t), None) for t in used]
        given = [v for v, t in zip(values, tensors, strict=True) if t.grid is not None]
        return op(step, tensors, values).lower(operands, _type(output)).execute(*_aligned(given, used))

    return run


def _aligned(values: list[Array], tensors: list[Tensor]) -> list[Array]:
    """Operands with the same number of axes behind the samples, so that they broadcast."""
    rank = max(len(t.shape) for t in tensors)
    return [
        v.reshape(v.shape[: v.ndim - len(t.shape)] + (1,) * (rank - len(t.shape)) + t.shape)
        for v, t in zip(values, tensors, strict=True)
    ]


def _difference(tensors: list[Tensor], values: list[Array], output: Tensor, step: Step) -> Array:
    """a − b as a + (−b): what is negated is int64, so that −(−32768) is no fault."""
    a, b = (_type(t) for t in tensors)
    lowered = Add().lower([Operand(a), Operand(b)], _type(output))
    assert a.quant is not None and b.quant is not None
    negated = 2 * b.quant.zero_point - values[1].astype(np.int64)
    return lowered.execute(*_aligned([values[0], negated], tensors))


def _product(tensors: list[Tensor], values: list[Array], output: Tensor, step: Step) -> Array:
    """Exact sums of products, requantized once; BATCH_MATMUL, whose operands are both computed."""
    a, b = (v.astype(np.int64) - _grid(t).zero_point for v, t in zip(values, tensors, strict=True))
    sums = exact_matmul(a, np.swapaxes(b, -1, -2) if step.options["adjY"] else b)
    scale = _grid(tensors[0]).per_tensor_scale * _grid(tensors[1]).per_tensor_scale / _grid(output).per_tensor_scale
    multipliers, shift = quantize_multipliers(np.array([scale]))
    return requantize(sums, int(multipliers[0]), shift, _grid(output).zero_point, TYPES[output.dtype])


def _grid(tensor: Tensor) -> QuantParams:
    assert tensor.grid is not None
    return tensor.grid


def _mean_of(step: Step, tensors: list[Tensor], values: list[Array]) -> Operator:
    (axis,) = (int(a) for a in values[1])
    return ReduceMean(axis - len(tensors[0].shape), bool(step.options["keepDims"]))


def _softmax(tensors: list[Tensor], values: list[Array], output: Tensor, step: Step) -> Array:
    """Our softmax on the grid of x·beta."""
    grid = _grid(tensors[0])
    scaled = QuantParams((grid.per_tensor_scale * step.options["beta"],), grid.zero_point)
    type_ = TensorType(tensors[0].shape, TYPES[tensors[0].dtype], scaled)
    return Softmax().lower([Operand(type_)], _type(output)).execute(values[0])


_LOWERED: dict[str, Callable[[list[Tensor], list[Array], Tensor, Step], Array]] = {
    "ADD": _by(lambda step, tensors, values: Add()),
    "BATCH_MATMUL": _product,
    "MEAN": _by(_mean_of),
    "MUL": _by(lambda step, tensors, values: Mul()),
    "QUANTIZE": _by(lambda step, tensors, values: Requantize()),
    "RELU": _by(lambda step, tensors, values: Activation("relu")),
    "SOFTMAX": _softmax,
    "SUB": _difference,
}
"""Builtin operators whose integers are defined here. FULLY_CONNECTED is a node of the graph, never inside one."""
