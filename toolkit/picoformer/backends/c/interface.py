"""The inputs and outputs of a model as its header shows them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from picoformer.backends.c.literals import c_type, float_literal
from picoformer.backends.c.names import Names, identifier
from picoformer.errors import ConfigError, UnsupportedError
from picoformer.ir import DType, Graph, Node, TensorType
from picoformer.ops import Attention, KvAppend, ReduceMean, RelativeAttention, Reshape


@dataclass(frozen=True)
class Port:
    """One input or output. `longest` is the largest valid length, 0 for a tensor that is none."""

    value: str
    root: str
    ident: str
    type: TensorType
    is_output: bool
    longest: int

    @property
    def macro(self) -> str:
        """The identifier in capitals."""
        return self.ident.upper()

    @property
    def is_length(self) -> bool:
        """Whether this input is a valid length."""
        return self.longest > 0

    @property
    def c_type(self) -> str:
        """C type of an element."""
        return c_type(self.type.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, (1,) for a scalar."""
        return self.type.shape or (1,)

    @property
    def is_quantized(self) -> bool:
        """Whether integers stand for real numbers here."""
        return self.type.quant is not None

    @property
    def scale(self) -> str:
        """The scale as a C literal."""
        return float_literal(self.type.quant.per_tensor_scale) if self.type.quant else "1.0f"

    @property
    def zero_point(self) -> int:
        """The zero point."""
        return self.type.quant.zero_point if self.type.quant else 0

    @property
    def lowest(self) -> str:
        """Fewest steps from the zero point that the type can hold, as a float literal."""
        return float_literal(float(self.type.dtype.minimum - self.zero_point))

    @property
    def highest(self) -> str:
        """Most steps from the zero point that the type can hold, as a float literal."""
        return float_literal(float(self.type.dtype.maximum - self.zero_point))


RESERVED = {
    "main", "weights", "pf", "picoformer", "assert", "complex", "ctype", "errno", "fenv", "float", "inttypes",
    "iso646", "limits", "locale", "math", "setjmp", "signal", "stdarg", "stdbool", "stddef", "stdint", "stdio",
    "stdlib", "string", "tgmath", "time", "wchar", "wctype", "int", "char", "short", "long", "double", "void", "static",
    "const", "if", "for",
}  # fmt: skip
"""Prefixes whose header would hide one of the C library's, or whose symbols would clash."""


def check_prefix(prefix: str) -> None:
    """Raise ConfigError unless `prefix` can start C symbols and file names."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", prefix) or prefix.startswith("pf_") or prefix in RESERVED:
        raise ConfigError(
            f"prefix '{prefix}' cannot start C names: use lower-case letters, digits and underscores, a letter first, "
            "at most 31, and neither 'pf_' in front nor the name of a C header or keyword"
        )


def ports_of(graph: Graph, prefix: str) -> tuple[Port, ...]:
    """Inputs, then outputs, of a graph, its states left out; UnsupportedError for one that has no place in a header."""
    aliases = {node.output: node.inputs[0] for node in graph.nodes if isinstance(node.op, Reshape | KvAppend)}
    ports = []
    for is_output, values in zip((False, True), graph.ports, strict=True):
        names = Names()
        for value in dict.fromkeys(values):
            type_ = graph.types[value]
            side = "output" if is_output else "input"
            if type_.dtype is DType.BOOL or (type_.quant is not None and type_.quant.axis is not None):
                raise UnsupportedError(
                    f"{side} '{value}' of model '{graph.name}' is {type_} with a scale per channel or boolean; "
                    "give it one scale for the tensor"
                )
            root = value
            while root in aliases:
                root = aliases[root]
            longest = 0 if is_output else longest_length(graph, value)
            ports.append(Port(value, root, names.unique(identifier(value)), type_, is_output, longest))
    return tuple(ports)


def longest_length(graph: Graph, name: str) -> int:
    """The longest axis that `name` is the valid length of; 0 when it is not a valid length.

    Raises UnsupportedError when it is one and more than one number, or is read as something else as well.
    """
    readers = graph.consumers.get(name, ())
    masked = [_masked_axis(graph, node, name) for node in readers]
    longest = max(masked, default=0)
    if longest:
        type_ = graph.types[name]
        is_whole = all(masked) and all(node.inputs.count(name) == 1 for node in readers)
        if type_.dtype is not DType.INT32 or type_.elements != 1 or not is_whole:
            raise UnsupportedError(
                f"input '{name}' of model '{graph.name}' is a valid length: it has to be one int32 and nothing else"
            )
    return longest


def _masked_axis(graph: Graph, node: Node, name: str) -> int:
    """Length of the axis that `name` shortens in a node; 0 when the node does not read it so."""
    if isinstance(node.op, Attention) and node.inputs[3:] == (name,):
        return graph.types[node.inputs[1]].shape[-2]
    if isinstance(node.op, RelativeAttention) and not node.op.causal and node.inputs[4] == name:
        return graph.types[node.inputs[1]].shape[-2]
    if isinstance(node.op, ReduceMean) and node.inputs[1:] == (name,):
        return graph.types[node.inputs[0]].shape[node.op.axis]
    return 0
