"""The quantized graph between commands: a folder that `quantize` and `finetune` write and `build` and `export` read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from picoformer.errors import ModelError
from picoformer.files import atomic_write_text
from picoformer.ir import Graph
from picoformer.ops.graph_file import graph_identity, load_graph, save_graph

RECORD, EQUALIZED = "quantized.json", "equalized"


def save_quantized(
    folder: Path, float_graph: Graph, typed: Graph, scheme: str, equalized: Graph | None = None, **figures: Any
) -> None:
    """Write graph.json, graph.npz, and quantized.json, which says of what model and how it was made.

    `equalized`: the float graph whose values were rounded, where that is not the model as it came.
    """
    save_graph(typed, folder)
    if equalized is not None:
        save_graph(equalized, folder / EQUALIZED)
    record = {"scheme": scheme, "float_graph": _identity(float_graph), **figures}
    atomic_write_text(folder / RECORD, json.dumps(record, indent=1) + "\n")


def quantized_scheme(folder: Path) -> str:
    """The scheme of the graph in `folder`; raises ModelError when it is not one."""
    return str(_record(folder)["scheme"])


def load_quantized(folder: Path, float_graph: Graph) -> tuple[Graph, Graph]:
    """(the float graph whose values were rounded, the quantized one) of `folder`, under the name of `float_graph`;
    raises ModelError when they were made of another model."""
    if _record(folder)["float_graph"] != _identity(float_graph):
        raise ModelError(
            f"{folder}: was quantized from another model, other shapes or another --valid-length; give those it had"
        )
    equalized = load_graph(folder / EQUALIZED) if (folder / EQUALIZED).is_dir() else float_graph
    typed = load_graph(folder)
    for graph in (equalized, typed):
        if _interface(graph) != _interface(float_graph):
            raise ModelError(f"{folder}: its inputs and outputs are not the model's; quantize again")
    return equalized.replace(name=float_graph.name), typed.replace(name=float_graph.name)


def _interface(graph: Graph) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, graph.types[name].shape) for name in (*graph.inputs, *graph.outputs)]


def _record(folder: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text("utf-8"))
        return {"scheme": str(record["scheme"]), "float_graph": str(record["float_graph"])}
    except OSError:
        raise ModelError(
            f"{folder}: holds no {RECORD}; give a folder that `picoformer quantize` or `finetune` wrote"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise ModelError(f"{folder}/{RECORD} is broken; quantize again") from None


def _identity(graph: Graph) -> str:
    """Of all that a graph says but its name, which the file's name gives it."""
    return graph_identity(graph.replace(name="model")).hex()
