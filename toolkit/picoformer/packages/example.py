"""The example of a package: a program that runs one inference, prints what comes out, and holds it to the reference."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from picoformer.backends.c.interface import Port
from picoformer.backends.c.literals import array_body, float_literal
from picoformer.backends.c.names import comment, string
from picoformer.ir.operator import Array
from picoformer.packages.description import Package

MOST_SHOWN = 8
"""Elements of an output that an example prints, where they are no classes."""


@dataclass(frozen=True)
class _Array:
    """An input's sample: real numbers, or ids."""

    port: Port
    values: Array

    @property
    def type(self) -> str:
        return "float" if self.values.dtype.kind == "f" else "int32_t"


@dataclass(frozen=True)
class _Length:
    port: Port
    value: int


@dataclass(frozen=True)
class _Answer:
    """What the reference computes: a hash of all integers, or the first real numbers and the largest of all."""

    port: Port
    hash: int
    values: Array | None
    largest: float


def fnv1a(values: Iterable[int]) -> int:
    """FNV-1a over integers, each taken as one 32-bit word; the same on every machine."""
    found = 2166136261
    for value in values:
        found = (found ^ (value & 0xFFFFFFFF)) * 16777619 & 0xFFFFFFFF
    return found


def example_files(package: Package, form: str = "c") -> dict[str, str]:
    """The example's program under the name "program", and the headers beside it. `form`: whose console it prints on."""
    if package.text is not None:
        return {"program": _render("text.c.j2", package, form, text=package.text, hash=fnv1a(package.text.written))}
    assert package.sample is not None
    sample = package.sample
    given = [port for port in package.inputs if not port.is_length]
    arrays = [_Array(port, _in_c(sample.inputs[port.value])) for port in given]
    lengths = [
        _Length(port, int(sample.inputs[port.value].reshape(-1)[0])) for port in package.inputs if port.is_length
    ]
    answers = [_answer(port, sample.outputs[port.value]) for port in package.outputs]
    chosen = package.class_output
    shown = (chosen,) if chosen is not None else package.outputs
    common = {
        "arrays": arrays,
        "lengths": lengths,
        "answers": answers,
        "class_output": chosen,
        "classes": package.classes,
        "source": sample.source,
        "most_shown": MOST_SHOWN,
        "has_reals": any(port.is_quantized or port.c_type == "float" for port in shown),
    }
    return {
        "program": _render("predict.c.j2", package, form, **common),
        "sample.h": _render("sample.h.j2", package, form, **common),
    }


def _in_c(values: Array) -> Array:
    kind = np.float32 if values.dtype.kind == "f" else np.int32
    return np.ascontiguousarray(values, kind)


def _answer(port: Port, values: Array) -> _Answer:
    flat = values.reshape(-1)
    if values.dtype.kind == "f":
        largest = float(np.abs(flat).max()) or 1.0
        return _Answer(port, 0, np.ascontiguousarray(flat[:MOST_SHOWN], np.float32), largest)
    return _Answer(port, fnv1a(int(value) for value in flat), None, 0.0)


def _real(port: Port, index: str, prefix: str) -> str:
    """A C expression: an element of `found` as a real number."""
    if not port.is_quantized:
        return f"found[{index}]"
    name = f"{prefix.upper()}_OUTPUT_{port.macro}"
    return f"(float)(found[{index}] - {name}_ZERO_POINT) * {name}_SCALE"


def _render(template: str, package: Package, form: str, **context: object) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    shared = {
        "form": form,
        "graph": package.graph,
        "prefix": package.prefix,
        "PREFIX": package.prefix.upper(),
        "outputs": package.outputs,
        "comment": comment,
        "string": string,
        "array_body": array_body,
        "float_literal": float_literal,
        "printed": lambda name: string(name)[1:-1],
        "real_of": lambda port, index: _real(port, index, package.prefix),
    }
    return environment.get_template(template).render(**shared, **context)
