"""From a model file to its graph, and for a file that comes quantized to the typed graph on its own grids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from picoformer.errors import ConfigError, UnsupportedError
from picoformer.ir import DType, Graph
from picoformer.ir.operator import Array, LoweringError

if TYPE_CHECKING:
    from picoformer.ops.rounded import Given
    from picoformer.quantize import QuantizeSettings


def import_model(path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None, valid_length: bool = False) -> Graph:
    """The fused float graph of an ONNX file or a checkpoint; `valid_length` adds the input that masks padding.

    Of a quantized file it is the graph of the dequantized model."""
    return import_given(path, shapes, valid_length)[0]


def import_given(
    path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None, valid_length: bool = False
) -> tuple[Graph, Given]:
    """(what `import_model` gives, the grids and integers that the file brings along)."""
    from picoformer.frontends.onnx import load_onnx
    from picoformer.passes import add_valid_length, optimize, split_given
    from picoformer.stages import onnx_file

    with onnx_file(path) as source:
        graph, given = split_given(optimize(load_onnx(source, dict(shapes or {}))))
    return add_valid_length(graph) if valid_length else graph, given


def is_equalized(settings: QuantizeSettings | None) -> bool:
    """Whether the settings may move scales between layers: what is quantized is not the model as it came then."""
    return settings is not None and settings.equalization != "off"


def given_scheme(graph: Graph, given: Given) -> str:
    """The name of the scheme that a file with grids follows, by most of its weights and activations."""
    from picoformer.ops import Linear

    names = [node.inputs[1] for node in graph.nodes if isinstance(node.op, Linear)]
    weights = Counter(given.constants[name][0].dtype for name in names if name in given.constants)
    values = Counter(type_.dtype for type_ in given.values.values())
    is_int4 = weights[DType.INT4] > weights.total() / 2
    is_wide = values[DType.INT16] > values.total() / 2
    return f"{'int4' if is_int4 else 'int8'}{'x16' if is_wide else 'x8' if is_int4 else ''}"


def quantize_as_given(
    graph: Graph, given: Given, samples: Mapping[str, Array], scheme: str, settings: QuantizeSettings | None
) -> Graph:
    """The typed graph on the grids of the file; `samples` serve values that the file left out.

    Raises ConfigError for a scheme or settings that would choose other grids, UnsupportedError naming a node that has
    no integer form on these.
    """
    from picoformer.quantize import quantize_given
    from picoformer.reference import lower_graph, run_float

    own = given_scheme(graph, given)
    if scheme != own:
        raise ConfigError(f"{graph.name}: comes quantized as {own} and keeps that; give --scheme {own}, or float32")
    refuse_choices(graph, settings)
    try:
        typed = quantize_given(graph, given, samples, run_float, settings)
        lower_graph(typed)
    except LoweringError as error:
        raise UnsupportedError(f"{error}; quantize the float model here, or build with --scheme float32") from None
    return typed


def with_given_weights(graph: Graph, given: Given, settings: QuantizeSettings) -> QuantizeSettings:
    """The settings with which only activations are quantized: the file brings integers for weights."""
    if given.empty:
        return settings
    refuse_choices(graph, settings)
    return replace(settings, given=given.constants)


def refuse_choices(graph: Graph, settings: QuantizeSettings | None) -> None:
    """Raise ConfigError for settings that choose what the file has chosen already."""
    if settings is None:
        return
    asked = {"--budget": settings.budget is not None, "--equalization": is_equalized(settings)}
    for option in (name for name, is_asked in asked.items() if is_asked):
        raise ConfigError(f"{graph.name}: brings its own integers, which {option} would change; leave it out")
