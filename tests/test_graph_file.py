"""Graph files from outside: what no operator can have is refused in one line when they are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from picoformer.errors import ModelError
from picoformer.ir import DType, Graph, Node, QuantParams, TensorType
from picoformer.ops import Attention
from picoformer.ops.graph_file import load_graph, save_graph

Record = dict[str, Any]


def attention() -> Graph:
    rows = TensorType((1, 4, 8), DType.INT8, QuantParams((0.5,)))
    node = Node("y", Attention(4, 0.5, True, 2), ("q", "k", "k"), "y")
    keys = TensorType((1, 4, 4), DType.INT8, QuantParams((0.5,)))
    return Graph("shared", ("q", "k"), ("y",), (node,), {"q": rows, "k": keys, "y": rows}, {})


def attribute(name: str, value: object) -> Callable[[Record], None]:
    def harm(record: Record) -> None:
        record["nodes"][0]["attributes"][name] = value

    return harm


def scale(value: float) -> Callable[[Record], None]:
    def harm(record: Record) -> None:
        record["types"]["q"]["quant"]["scale"] = [value]

    return harm


HARMS = {
    "no heads": attribute("heads", 0),
    "negative heads": lambda record: record["nodes"][0]["attributes"].update(heads=-4, kv_heads=-2),
    "half heads": attribute("heads", 4.0),
    "a text for causal": attribute("causal", "no"),
    "a factor that is no number": attribute("scale", float("nan")),
    "a scale that float32 makes zero": scale(1e-60),
    "a scale that float32 makes infinite": scale(1e300),
    "a scale beyond all numbers": scale(10**400),
}


def test_a_graph_comes_back_as_it_was(tmp_path: Path) -> None:
    save_graph(attention(), tmp_path)
    assert load_graph(tmp_path) == attention()


@pytest.mark.parametrize("harm", HARMS)
def test_what_no_operator_can_have_is_refused(harm: str, tmp_path: Path) -> None:
    save_graph(attention(), tmp_path)
    record = json.loads((tmp_path / "graph.json").read_text())
    HARMS[harm](record)
    (tmp_path / "graph.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match="not a graph of this program"):
        load_graph(tmp_path)
