"""A graph as two files: graph.json for a person to read, graph.npz for the constants."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.errors import ModelError
from picoformer.files import atomic_write_text, save_arrays
from picoformer.ir import DType, Graph, Node, QuantParams, TensorType, verify
from picoformer.ir.operator import Array
from picoformer.ops import OPERATORS

FORMAT = 1


def save_graph(graph: Graph, folder: Path) -> None:
    """Write graph.json and graph.npz into `folder`; the same graph always gives the same bytes."""
    save_arrays(folder / "graph.npz", {f"c{i}": value for i, value in enumerate(graph.constants.values())})
    atomic_write_text(folder / "graph.json", json.dumps(_to_json(graph), indent=1) + "\n")


def load_graph(folder: Path) -> Graph:
    """Read what `save_graph` wrote; raises ModelError when the files are missing, broken or disagree."""
    try:
        record = json.loads((folder / "graph.json").read_text("utf-8"))
        if record["format"] != FORMAT:
            raise ModelError(
                f"{folder}/graph.json has format {record['format']}, this version reads {FORMAT}: build again"
            )
        constants = _load_constants(folder / "graph.npz", record["constants"])
        nodes = tuple(
            Node(n["name"], _operator(n["op"], n["attributes"]), tuple(n["inputs"]), n["output"])
            for n in record["nodes"]
        )
        types = {name: _type(value) for name, value in record["types"].items()}
        states = tuple((before, after) for before, after in record.get("states", ()))
        ends = tuple(record["inputs"]), tuple(record["outputs"])
        graph = Graph(
            record["name"],
            *ends,
            nodes,
            types,
            constants,
            states,
            record.get("count", ""),
            tuple(record.get("source", ())),
        )
        return verify(graph)
    except FileNotFoundError as error:
        raise ModelError(
            f"{error.filename} is missing: give a folder that `picoformer quantize` or `build` wrote"
        ) from None
    except ModelError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, ArithmeticError, AssertionError, OSError) as error:
        raise ModelError(f"{folder}/graph.json is not a graph of this program ({error}): build it again") from None


def _load_constants(path: Path, keys: Mapping[str, str]) -> dict[str, Array]:
    """Value name → array from the archive whose keys `keys` names (key → value name)."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[key] for key, name in keys.items()}
    except FileNotFoundError:
        raise
    except (KeyError, ValueError, TypeError, EOFError, OSError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        raise ModelError(f"{path} is cut short or is no archive of constants: build it again") from None


def graph_identity(graph: Graph) -> bytes:
    """SHA-256 of everything the graph says (32 bytes): the identity a firmware reports over the wire."""
    digest = hashlib.sha256(json.dumps(_to_json(graph), sort_keys=True).encode())
    for name in sorted(graph.constants):
        digest.update(np.ascontiguousarray(graph.constants[name]).tobytes())
    return digest.digest()


def _to_json(graph: Graph) -> dict[str, Any]:
    between = {"states": [list(pair) for pair in graph.states]} if graph.states else {}
    counted = {"count": graph.count} if graph.count else {}
    given = {"source": list(graph.source)} if graph.source else {}
    return {
        "format": FORMAT,
        "name": graph.name,
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
        "nodes": [
            {
                "name": n.name,
                "op": n.op.kind,
                "attributes": n.op.attributes(),
                "inputs": list(n.inputs),
                "output": n.output,
            }
            for n in graph.nodes
        ],
        "types": {name: _type_json(type_) for name, type_ in graph.types.items()},
        "constants": {f"c{i}": name for i, name in enumerate(graph.constants)},
        **between,
        **counted,
        **given,
    }


def _type_json(type_: TensorType) -> dict[str, Any]:
    record: dict[str, Any] = {"shape": list(type_.shape), "dtype": type_.dtype.value}
    if type_.quant is not None:
        record["quant"] = {
            "scale": list(type_.quant.scale),
            "zero_point": type_.quant.zero_point,
            "axis": type_.quant.axis,
        }
        if type_.quant.block_multipliers:
            record["quant"]["block_multipliers"] = [list(row) for row in type_.quant.block_multipliers]
    return record


def _type(record: dict[str, Any]) -> TensorType:
    quant = record.get("quant")
    params = None
    if quant:
        blocks = tuple(tuple(row) for row in quant.get("block_multipliers", ()))
        params = QuantParams(tuple(quant["scale"]), quant["zero_point"], quant["axis"], blocks)
    return TensorType(tuple(record["shape"]), DType(record["dtype"]), params)


def _operator(kind: str, attributes: dict[str, Any]) -> Any:
    operator = OPERATORS[kind]
    names = {field.name for field in dataclasses.fields(operator)}
    if set(attributes) != names:
        raise ValueError(f"{kind} has attributes {sorted(names)}, the file says {sorted(attributes)}")
    return operator(**{k: tuple(v) if isinstance(v, list) else v for k, v in attributes.items()})
