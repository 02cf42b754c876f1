"""Collecting the tensors and steps of one TFLite model: names, constants, and grids that calibration has to find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from picoformer.backends.tflite.operators import BUILTINS, micro_runs
from picoformer.backends.tflite.program import Step, Tensor
from picoformer.errors import UnsupportedError
from picoformer.ir import DType, Graph, Node, QuantParams, TensorType, fresh_name
from picoformer.ir.operator import Array
from picoformer.ops import Requantize
from picoformer.ops.fixedpoint import quantize_real

Gelu = Literal["auto", "table", "operator", "decomposed"]
GELU_FORMS: tuple[str, ...] = get_args(Gelu)

TYPES = {"int8": DType.INT8, "int16": DType.INT16}
"""Numpy's name of an integer type of real numbers → the type."""
ALWAYS: dict[str, dict[str, Any]] = {"ADD": {"potScaleInt16": False}, "SUB": {"potScaleInt16": False}}
"""Options that hold for all values here: int16 scales are no powers of two."""
LOWEST = -1e30
"""Score of a key that takes no part, where scores are floats."""


@dataclass(frozen=True)
class Rule:
    """What an open grid must be like. `margin`: how far below all that is seen its range reaches; `is_square`: its
    values grow by the square of what others do; `is_lowest`: the constant below every other value of its grid;
    `follows`: the tensor whose integers it has, on a grid without a zero point; `root_of`: the tensor of whose integers
    it is the reciprocal root."""

    margin: float = 0.0
    is_square: bool = False
    is_lowest: bool = False
    follows: str = ""
    root_of: str = ""


ANY = Rule()
"""Nothing but the range that is seen."""


@dataclass(frozen=True)
class Entry:
    """A tensor while the model is collected. `real`: a constant's numbers; `is_open`: its grid is still to be found, by
    `rule`."""

    tensor: Tensor
    real: Array | None = None
    is_open: bool = False
    rule: Rule = ANY


class TfliteWriter:
    """Tensors and steps in the order they are written; every graph value under its own name.

    `base` is the element type of real numbers: float32, int8 or int16. Every value is computed once for made-up inputs
    as it is written, which gives the shapes. `inputs` are the graph's but for the count of a block's rows: a step has
    one. Grids of values inside an operator stay open: see `tflite_grids.settle`.
    """

    def __init__(self, graph: Graph, gelu: Gelu = "auto", any_operator: bool = False) -> None:
        self.graph = graph
        self.gelu, self.any_operator = gelu, any_operator
        self.base = base_type(graph)
        self.node = Node("", Requantize(), (), "")
        """The node that is being written."""
        self.entries: dict[str, Entry] = {}
        self.steps: list[Step] = []
        self._taken = set(graph.types)
        self._shared: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._values: dict[str, Array] = {}
        self.inputs = tuple(name for name in graph.inputs if name != graph.count)
        for name in self.inputs:
            tensor = tensor_of(name, graph.types[name])
            is_plain = tensor.dtype in ("int32", "bool")
            self._add(Entry(tensor), np.full(tensor.shape, 0 if is_plain else 0.5, tensor.dtype if is_plain else float))

    @property
    def is_float(self) -> bool:
        """Whether the model computes on floats."""
        return self.base == "float32"

    @property
    def wide(self) -> str:
        """The type of real numbers inside an operator that 8 bits would be too few for."""
        return "float32" if self.is_float else "int16"

    def fresh(self, wish: str) -> str:
        """A name not yet used: `wish`, else `wish_1`, `wish_2` …"""
        name = fresh_name(wish, self._taken)
        self._taken.add(name)
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self.entries[name].tensor.shape

    def dtype(self, name: str) -> str:
        """The element type of a tensor."""
        return self.entries[name].tensor.dtype

    def read(self, name: str) -> str:
        """The tensor of a graph value; a constant is written when it is first read."""
        if name not in self.entries:
            type_, data = self.graph.types[name], self.graph.constants[name]
            tensor = replace(tensor_of(name, type_), data=np.asarray(data))
            self._add(Entry(tensor), tensor.real)
        return name

    def emit(
        self, operator: str, inputs: Sequence[str], output: str, dtype: str = "", grid: QuantParams | None = None,
        rule: Rule = ANY, **options: Any,
    ) -> str:  # fmt: skip
        """Append a step that computes `output`; returns `output`. Its type is the graph's for a graph value, else
        `dtype`, by default that of real numbers; its grid likewise, by default an open one that
        `rule` finds."""
        options = {**ALWAYS.get(operator, {}), **options}
        with np.errstate(all="ignore"):
            value = BUILTINS[operator].meaning(options, [self._values[name] for name in inputs])
        if output in self.graph.types:
            entry = Entry(tensor_of(output, self.graph.types[output]))
        else:
            kind = str(value.dtype) if value.dtype.kind in "bi" else dtype or self.base
            is_open = kind in ("int8", "int16") and grid is None
            tensor = Tensor(output, value.shape, kind, grid)
            entry = Entry(tensor, None, is_open, rule)
        if entry.tensor.shape != value.shape:
            raise AssertionError(f"{output}: {operator} gives {value.shape}, not {entry.tensor.shape}")
        self._refuse(operator, inputs)
        self._add(entry, value)
        self.steps.append(Step(operator, tuple(inputs), output, options))
        return output

    def part(
        self, operator: str, inputs: Sequence[str], of: Node, dtype: str = "", grid: QuantParams | None = None,
        rule: Rule = ANY, **options: Any,
    ) -> str:  # fmt: skip
        """Append a step whose result is an inner value of graph node `of`; returns the name given to it."""
        output = self.fresh(f"{of.output}/{operator.lower()}")
        return self.emit(operator, inputs, output, dtype, grid, rule, **options)

    def numbers(self, of: Node, wish: str, value: object) -> str:
        """A constant of counts, axes or sizes, int32; stored once however often it is asked for."""
        return self._constant(f"{of.output}/{wish}", np.asarray(value, np.int32), None)

    def booleans(self, of: Node, wish: str, value: Array) -> str:
        """A constant of truth values."""
        return self._constant(f"{of.output}/{wish}", np.asarray(value, np.bool_), None)

    def floats(self, of: Node, wish: str, value: Array) -> str:
        """A constant that is float32 in a quantized model too."""
        return self._constant(f"{of.output}/{wish}", np.asarray(value, np.float32), None)

    def integers(self, of: Node, wish: str, value: Array, grid: QuantParams) -> str:
        """A constant of integers on a grid; stored once however often it is asked for."""
        return self._constant(f"{of.output}/{wish}", value, grid)

    def real(self, of: Node, wish: str, value: object, dtype: str = "", grid: QuantParams | None = None) -> str:
        """A constant of real numbers in the type of the others, its grid found later unless given."""
        name, kind = self.fresh(f"{of.output}/{wish}"), dtype or self.base
        number = np.atleast_1d(np.asarray(value, np.float32))
        data = number if kind == "float32" else None if grid is None else quantize_real(number, grid, TYPES[kind])
        self._add(Entry(Tensor(name, number.shape, kind, grid, data), number, data is None), number)
        return name

    def lowest(self, of: Node, dtype: str) -> str:
        """A constant below every value of the tensors it stands among."""
        name = self.fresh(f"{of.output}/lowest")
        number = np.full(1, LOWEST, np.float32)
        tensor = Tensor(name, (1,), dtype, None, number if dtype == "float32" else None)
        self._add(Entry(tensor, number, dtype != "float32", Rule(is_lowest=True)), number)
        return name

    def widened(self, x: str, of: Node, shifts: bool = False) -> str:
        """An int8 value as int16; `x` itself where it is one. With `shifts` all of it may be moved by one number.

        CAST and a sum, as TensorFlow's QUANTIZE does not widen: int16 has no zero point, so a cast moves what has one.
        """
        if self.dtype(x) == "int16":
            return x
        wide = self.part("CAST", [x], of, "int16", rule=Rule(follows=x), inDataType="int8", outDataType="int16")
        grid = self.entries[x].tensor.grid
        if shifts or grid is None or grid.zero_point == 0:
            return wide
        scale = grid.per_tensor_scale
        same = QuantParams((scale,))
        offset = self.real(of, "zero_point", -scale * grid.zero_point, "int16", same)
        return self.part("ADD", [wide, offset], of, "int16", same)

    def _constant(self, wish: str, value: Array, grid: QuantParams | None) -> str:
        key = (f"{value.dtype.str}{grid}", value.shape, value.tobytes())
        if key not in self._shared:
            tensor = Tensor(self.fresh(wish), value.shape, str(value.dtype), grid, value)
            self._shared[key] = tensor.name
            self._add(Entry(tensor), tensor.real)
        return self._shared[key]

    def _refuse(self, operator: str, inputs: Sequence[str]) -> None:
        of = self.node
        first = self.entries[inputs[0]].tensor.dtype
        if not self.any_operator and not micro_runs(operator, first):
            raise UnsupportedError(
                f"node '{of.name}' ({of.op.kind}) cannot be written as TFLite: TFLite Micro has no {operator} for "
                f"{first}; use --any-operator, or write the model otherwise"
            )

    def _add(self, entry: Entry, value: Array) -> None:
        self.entries[entry.tensor.name] = entry
        self._values[entry.tensor.name] = value.astype(np.float64) if value.dtype.kind == "f" else value


def base_type(graph: Graph) -> str:
    """The one type that the graph's real numbers have; raises UnsupportedError naming a value of another."""
    names = [*graph.inputs, *(node.output for node in graph.nodes)]
    kinds: dict[str, str] = {}
    for name in names:
        type_ = graph.types[name]
        if type_.quant is not None or type_.dtype is DType.FLOAT32:
            kinds.setdefault(type_.dtype.numpy.name, name)
    if len(kinds) > 1:
        (first, a), (second, b) = list(kinds.items())[:2]
        raise UnsupportedError(f"'{a}' is {first} and '{b}' {second}: TFLite takes one type for all; calibrate for it")
    return next(iter(kinds), "float32")


def tensor_of(name: str, type_: TensorType) -> Tensor:
    """The tensor of a graph value; raises UnsupportedError for types that TFLite does not have."""
    if type_.quant is not None and type_.quant.block_multipliers:
        raise UnsupportedError(f"'{name}' has block multipliers, TFLite weights none; use int8 weights")
    if type_.dtype is DType.INT4:
        raise UnsupportedError(f"'{name}' is int4; TFLite is written with int8 weights")
    return Tensor(name, type_.shape, type_.dtype.numpy.name, type_.quant)


def unsupported(node: Node, what: str, mend: str) -> UnsupportedError:
    """The error for a node that TFLite cannot say: what is in the way, and what to do about it."""
    return UnsupportedError(f"node '{node.name}' ({node.op.kind}) cannot be written as TFLite: {what}; {mend}")
