"""What a package is made of, whatever its form: the model's files, its ports, an example with its answer, the card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picoformer import __version__
from picoformer.backends.c.emit import Draft
from picoformer.backends.c.interface import Port
from picoformer.errors import ConfigError
from picoformer.ir import DType, Graph
from picoformer.ir.operator import Array
from picoformer.packages.sources import SourceFile
from picoformer.targets import Target


@dataclass(frozen=True)
class Sample:
    """One inference for the example: input → its array as the model's input has it (real numbers, ids, a length), and
    output → what the reference computes of it, integers where the output is quantized. `source` says in words where
    the inputs are from."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    source: str


@dataclass(frozen=True)
class Text:
    """One text for the example of a language model: the prompt as ids and as text (None without a tokenizer on the
    device), those that begin a text among the ids, and the ids that the reference writes behind it."""

    prompt: tuple[int, ...]
    begin: tuple[int, ...]
    text: str | None
    written: tuple[int, ...]


@dataclass(frozen=True)
class Origin:
    """Where a model is from: the file's name and SHA-256, and the scheme of its numbers."""

    source: str
    sha256: str
    scheme: str


@dataclass(frozen=True)
class Accuracy:
    """The share of `samples` whose label the reference finds; `source` says in words which samples."""

    value: float
    samples: int
    source: str


@dataclass(frozen=True)
class Package:
    """A model that is ready to be packed; `files` as `sources.collect` gives them."""

    form: str
    draft: Draft
    board: Target
    origin: Origin
    files: tuple[SourceFile, ...] = ()
    sample: Sample | None = None
    text: Text | None = None
    classes: tuple[str, ...] = ()
    accuracy: Accuracy | None = None
    float_parameters: int = 0

    @property
    def graph(self) -> Graph:
        """The model."""
        return self.draft.graph

    @property
    def prefix(self) -> str:
        """Start of every C symbol and file name, and the package's name."""
        return self.draft.prefix

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What the model reads."""
        return tuple(port for port in self.draft.ports if not port.is_output)

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What the model writes."""
        return tuple(port for port in self.draft.ports if port.is_output)

    @property
    def is_text(self) -> bool:
        """Whether the model writes text."""
        return self.draft.block is not None

    @property
    def class_output(self) -> Port | None:
        """The output whose largest element is the prediction; None where no output is one row of several elements."""
        return class_output(self.draft.ports)

    @property
    def title(self) -> str:
        """The model in a few words."""
        return f"Model {self.prefix} ({self.origin.scheme})"

    def compiled(self) -> list[str]:
        """Names of the files that a compiler is given."""
        return [file.name for file in self.files if file.compiled]


def class_output(ports: tuple[Port, ...]) -> Port | None:
    """The only output of a model, where it is one row of several elements: a class each."""
    outputs = [port for port in ports if port.is_output]
    if len(outputs) != 1 or outputs[0].type.rows != 1 or outputs[0].type.width < 2:
        return None
    return outputs[0] if outputs[0].type.dtype is not DType.INT32 else None


def read_classes(given: str | None, ports: tuple[Port, ...]) -> tuple[str, ...]:
    """Names of the classes, out of a text file with one a line, or separated by commas; () where none are given.

    Raises ConfigError for a file that cannot be read, a name that does not print, or as many names as there are not
    classes.
    """
    if given is None:
        return ()
    path = Path(given)
    if "," not in given and not path.is_file() and (path.suffix or "/" in given):
        raise ConfigError(f"--classes {given}: there is no such file; give one, or the names as a,b,c")
    try:
        lines = path.read_text("utf-8").splitlines() if path.is_file() else given.split(",")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--classes {given}: cannot be read as text ({error}); give one name a line") from None
    names = tuple(line.strip() for line in lines if line.strip())
    output = class_output(ports)
    if output is None:
        raise ConfigError("--classes says nothing about this model: it has no single row of scores; leave it out")
    if len(names) != output.type.width:
        raise ConfigError(f"--classes {given}: {len(names)} names, and the model has {output.type.width} classes")
    wrong = next((name for name in names if not name.isprintable()), None)
    if wrong is not None or len(set(names)) != len(names):
        raise ConfigError(f"--classes {given}: every class needs a name of its own that prints, one a line")
    return names


def card(package: Package) -> dict[str, Any]:
    """The model's card as JSON has it. What is not known is None."""
    draft, accuracy = package.draft, package.accuracy
    return {
        "name": package.graph.name,
        "prefix": package.prefix,
        "source": {"file": package.origin.source, "sha256": package.origin.sha256},
        "scheme": package.origin.scheme,
        "target": package.board.name,
        "instruction_sets": list(package.board.isa),
        "inputs": [_port(port) for port in package.inputs],
        "outputs": [_port(port) for port in package.outputs],
        "classes": list(package.classes) or None,
        "accuracy": None
        if accuracy is None
        else {"value": accuracy.value, "samples": accuracy.samples, "measured_on": accuracy.source,
              "measured_by": "integer reference" if package.origin.scheme != "float32" else "float reference"},
        "ram_bytes": {"arena": draft.arena_bytes, "state": draft.state_bytes if package.is_text else None},
        "weights_bytes": draft.weights_bytes,
        "macs": package.graph.macs,
        "parameters": package.float_parameters,
        "context": draft.block.context if draft.block else None,
        "picoformer": __version__,
    }  # fmt: skip


def _port(port: Port) -> dict[str, Any]:
    quant = port.type.quant
    return {
        "name": port.value,
        "c_name": port.ident,
        "shape": list(port.type.shape),
        "dtype": port.type.dtype.numpy.name,
        "scale": None if quant is None else quant.per_tensor_scale,
        "zero_point": None if quant is None else quant.zero_point,
    }
