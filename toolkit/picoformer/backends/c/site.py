"""What one step's emitter works with: pointers to its operands, the arrays and parameters it adds, its calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from picoformer.backends.c.isa import Layout
from picoformer.backends.c.literals import C_TYPES, LINE, float_literal
from picoformer.backends.c.names import Names, identifier
from picoformer.backends.c.plan import MemoryPlan, scratch_name
from picoformer.backends.c.rows import row_wise
from picoformer.backends.c.schedule import Step, Tiling
from picoformer.errors import UnsupportedError
from picoformer.ir import DType, Graph, Lowered, Node, TensorType
from picoformer.ir.operator import Array

Scalar = int | float | str
Argument = str | tuple[str | int, str]
"""An argument of a C call; a word with it becomes a comment behind it."""


@dataclass(frozen=True)
class ConstantArray:
    """An array of the model in weights.c. `note` says what it is."""

    symbol: str
    values: Array
    note: str

    @property
    def c_type(self) -> str:
        """C type of an element."""
        return C_TYPES[self.values.dtype]


@dataclass(frozen=True)
class ParameterStruct:
    """A `static const` struct of model.c: (field, literal) pairs."""

    type: str
    symbol: str
    fields: tuple[tuple[str, str], ...]


@dataclass
class Parts:
    """What the emitters of all steps gather: arrays (equal ones once), parameter structs, functions called."""

    prefix: str
    names: Names
    arrays: dict[tuple[str, bytes], ConstantArray] = field(default_factory=dict)
    structs: list[ParameterStruct] = field(default_factory=list)
    functions: dict[str, None] = field(default_factory=dict)
    accessors: set[DType] = field(default_factory=set)
    kept: set[DType] = field(default_factory=set)
    """Types of the states that are read."""
    uses_length: bool = False

    def array(self, wish: str, values: Array, note: str) -> str:
        """The symbol of an array with these elements; one that is there already is used again."""
        values = np.ascontiguousarray(values).reshape(-1)
        key = (values.dtype.str, values.tobytes())
        if key not in self.arrays:
            symbol = self.names.unique(f"{self.prefix}_{identifier(wish)}")
            self.arrays[key] = ConstantArray(symbol, values, note)
        return self.arrays[key].symbol


@dataclass(frozen=True)
class Site:
    """One call: its step's nodes, their integer meanings (None in a float graph), and where its values lie."""

    graph: Graph
    step: Step
    call_index: int
    lowered_nodes: tuple[Lowered | None, ...]
    name: str
    layout: Layout
    plan: MemoryPlan
    offsets: dict[str, str]
    """Value → the constant that names its offset in model.c."""
    parts: Parts

    @property
    def node(self) -> Node:
        """The step's first node, mostly its only one."""
        return self.step.node

    @property
    def lowered(self) -> Lowered | None:
        """The first node's integer meaning."""
        return self.lowered_nodes[0]

    @property
    def types(self) -> tuple[TensorType, ...]:
        """Types of the first node's inputs, constants included."""
        return tuple(self.graph.types[name] for name in self.node.inputs)

    @property
    def out(self) -> TensorType:
        """Type of the step's output."""
        return self.graph.types[self.step.output]

    @cached_property
    def tiling(self) -> Tiling | None:
        """What it belongs to where it computes a tile of rows: `rows` of them from `row` on, in C."""
        return self.plan.schedule.tiling_of(self.call_index)

    @property
    def height(self) -> int | None:
        """Rows of a tile; None where it computes all rows."""
        return self.tiling.height if self.tiling else None

    @cached_property
    def rows(self) -> int | None:
        """All rows of a step that computes some of them, `rows` in C: a tile's, or those of a block that are there;
        None where it computes all."""
        if self.tiling is not None:
            return self.tiling.rows
        block = self.graph.types[self.step.output].shape[0] if self.step.output in self.graph.block else 1
        return block if block > 1 else None

    @cached_property
    def _whole(self) -> frozenset[str]:
        """Operands that are read whole whichever rows are computed."""
        rows = row_wise(self.graph, self.step)
        return rows.whole if rows else frozenset()

    def count(self, elements: int, word: str) -> Argument:
        """How many of `elements` the call works on, as an argument of a call."""
        every = self.rows
        if every is None:
            return elements, word
        each = elements // every
        return "rows" if each == 1 else (f"rows * {each}", word)

    def unsupported(self, reason: str) -> UnsupportedError:
        """The error for this node."""
        return UnsupportedError(f"node '{self.node.name}' ({self.node.op.kind}) cannot be written as C: {reason}")

    def read(self, index: int, by_rows: bool = False) -> str:
        """Pointer to the elements of an input of the first node that the call works on: in the arena, or the array of a
        constant; `by_rows`: a constant that has something for each row."""
        return self.read_value(self.node.inputs[index], by_rows)

    def read_value(self, name: str, by_rows: bool = False) -> str:
        """Pointer to the elements of a value by its name, as `read` has them for inputs."""
        type_, constant = self.graph.types[name], self.graph.constants.get(name)
        if constant is not None:
            symbol = self.parts.array(name, constant, f"{name}, {describe(type_)}")
            return symbol + (self._row_offset(type_) if by_rows else "")
        place = self.plan.read(self.call_index, name)
        is_part = name not in self._whole and not place.height
        return self._pointer(place.name, type_.dtype) + (self._row_offset(type_) if is_part else "")

    def write(self) -> str:
        """Pointer to what the call computes of the output."""
        place = self.plan.written(self.call_index)
        return self._pointer(place.name, self.out.dtype) + ("" if place.height else self._row_offset(self.out))

    def _row_offset(self, type_: TensorType) -> str:
        if self.tiling is None:
            return ""
        each = type_.elements // self.tiling.rows
        return " + row" if each == 1 else f" + row * {each}"

    def scratch(self, dtype: DType) -> str:
        """Pointer to the step's scratch; NULL where the instruction set wants none."""
        name = scratch_name(self.call_index)
        return self._pointer(name, dtype) if name in self.offsets else "NULL"

    def _pointer(self, root: str, dtype: DType) -> str:
        if dtype is DType.BOOL:
            raise self.unsupported(f"'{root}' is boolean")
        if any(root == before for before, _ in self.graph.states):
            self.parts.kept.add(dtype)
            return f"kept_{dtype.value}(m, {self.offsets[root]})"
        self.parts.accessors.add(dtype)
        return f"{dtype.value}(m, {self.offsets[root]})"

    def array(self, suffix: str, values: Array, note: str = "") -> str:
        """Symbol of an array that belongs to this step."""
        return self.parts.array(f"{self.name}_{suffix}", values, f"{self.step.output}: {note or suffix}")

    def weight(self, index: int) -> str:
        """Symbol of a Linear's weight, packed as the instruction set wants it."""
        name = self.node.inputs[index]
        value, shape = self.graph.constants[name], self.graph.types[name]
        wide = self.layout.is_wide(self.graph, self.node)
        packing = self.layout.linear(self.types[0].dtype, shape.dtype, wide)
        note = f"{name}, {describe(shape)}, {packing.weight_order}"
        return self.parts.array(name, packing.pack_weight(value), note)

    def table(self, index: int) -> str:
        """Symbol of an embedding's table of int8, packed as the instruction set wants it."""
        name = self.node.inputs[index]
        packing = self.layout.embedding_row_s8
        note = f"{name}, {describe(self.graph.types[name])}, {packing.order}"
        return self.parts.array(name, packing.pack(self.graph.constants[name]), note)

    def struct(self, type_: str, suffix: str = "", /, **fields: Scalar) -> str:
        """Address of a parameter struct; fields in the order given."""
        literals = tuple((name, _literal(value)) for name, value in fields.items())
        for known in self.parts.structs:
            if (known.type, known.fields) == (type_, literals):
                return f"&{known.symbol}"
        symbol = self.parts.names.unique(f"{self.name}_{suffix}" if suffix else self.name)
        self.parts.structs.append(ParameterStruct(type_, symbol, literals))
        return f"&{symbol}"

    def length(self, index: int, limit: int | str) -> str:
        """The valid length that input `index` holds, kept inside 0..limit; `limit` where there is no such input."""
        if len(self.node.inputs) <= index:
            return str(limit)
        if self.node.inputs[index] in self.graph.constants:
            raise self.unsupported("its valid length is a constant; make it an input of the model")
        self.parts.uses_length = True
        return f"clamp_length(*{self.read(index)}, {limit})"

    def call(self, function: str, *arguments: Argument, prefix: str = "", indent: int = 8) -> str:
        """A call as text; an argument (value, word) gets the word as a comment behind it."""
        self.parts.functions[function] = None
        words = [a if isinstance(a, str) else f"{a[0]} /* {a[1]} */" for a in arguments]
        return wrap(f"{prefix}{function}(", words, ");", indent)

    def types_suffix(self, *dtypes: DType) -> str:
        """The end of an operator's symbol: _s8_s16."""
        return "".join(f"_{dtype.value}" for dtype in dtypes)


def _literal(value: Scalar) -> str:
    if isinstance(value, str):
        return value
    return float_literal(value) if isinstance(value, float) else str(int(value))


def wrap(head: str, words: Sequence[str], tail: str, indent: int) -> str:
    """`head word, word tail`, broken into lines of at most LINE columns, the later ones under the first word."""
    lines, line = [], head
    for i, word in enumerate(words):
        piece = word + (tail if i + 1 == len(words) else ",")
        blank = "" if line.endswith("(") or not line.strip() else " "
        if len(line) + len(blank) + len(piece) + indent > LINE and line != head:
            lines.append(line)
            line = " " * len(head) + piece
        else:
            line += blank + piece
    return "\n".join(" " * indent + text for text in (*lines, line))


def describe(type_: TensorType) -> str:
    """`s8 64 x 16`, or `s32 scalar`."""
    return f"{type_.dtype.value} {dimensions(type_.shape)}"


def dimensions(shape: Sequence[int]) -> str:
    """`64 x 16`, or `scalar`."""
    return " x ".join(map(str, shape)) if shape else "scalar"
