"""What `inspect` says of each node of a file: kept, fused, folded, dropped, refused, in the table and in JSON."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx.helper import make_node

from command_line import picoformer
from onnx_models import EncoderOptions, exported, save_model
from onnx_spelling import spell_out
from picoformer.errors import ModelError
from picoformer.node_fates import Fate, node_fates

RANDOM = np.random.default_rng(3)
GAIN = RANDOM.normal(size=8).astype(np.float32)


def fates_of(path: Path) -> dict[str, Fate]:
    found, error = node_fates(path)
    assert error is None
    return {fate.output: fate for fate in found}


def test_each_node_of_a_small_file(tmp_path: Path) -> None:
    nodes = [
        make_node("Identity", ["x"], ["same"]),
        make_node("Mul", ["c", "two"], ["gain"]),
        make_node("Shape", ["x"], ["shape"]),
        make_node("Reshape", ["same", "shape"], ["flat"]),
        make_node("Sigmoid", ["flat"], ["sigmoid"]),
        make_node("Mul", ["flat", "sigmoid"], ["silu"]),
        make_node("Tanh", ["x"], ["unread"]),
        make_node("LayerNormalization", ["silu", "gain"], ["norm"]),
        make_node("MatMul", ["norm", "w"], ["y"]),
    ]
    constants = {"c": GAIN, "two": np.float32(2), "w": RANDOM.normal(size=(8, 3)).astype(np.float32)}
    fates = fates_of(save_model(tmp_path / "m.onnx", nodes, {"x": (1, 4, 8)}, constants))
    said = {output: (fate.verdict, fate.kind, fate.into) for output, fate in fates.items()}
    assert list(said) == [node.output[0] for node in nodes]
    nothing = {"same": "dropped", "gain": "folded", "shape": "folded", "flat": "dropped", "unread": "dropped"}
    assert {name: said[name] for name in nothing} == {name: (fate, "", "") for name, fate in nothing.items()}
    assert said["sigmoid"] == ("fused", "Activation", "silu") and said["silu"] == ("kept", "Activation", "silu")
    assert said["norm"] == ("kept", "LayerNorm", "norm_normalized") and said["y"] == ("kept", "Linear", "y")


def test_every_node_of_an_exported_encoder_has_a_fate(tmp_path: Path) -> None:
    path = spell_out(exported(EncoderOptions(), 20), tmp_path / "spelled.onnx")
    fates = fates_of(path)
    verdicts = {fate.verdict for fate in fates.values()}
    assert verdicts <= {"kept", "fused", "folded", "dropped"} and {"kept", "fused"} <= verdicts
    into = {fate.kind for fate in fates.values() if fate.verdict == "fused"}
    assert {"Attention", "LayerNorm", "Activation"} <= into
    softmax = [fate for fate in fates.values() if fate.op == "Softmax"]
    assert softmax and all(fate.kind == "Attention" for fate in softmax)


REFUSED = {
    "an operator": ([make_node("Det", ["x"], ["a"]), make_node("Relu", ["x"], ["b"]),
                     make_node("Add", ["a", "b"], ["y"])],
                    {"a": "refused", "b": "covered", "y": "covered"}, "operator Det is not covered"),
    "two forms": ([make_node("Einsum", ["x"], ["a"], equation="aii->ai"), make_node("Relu", ["a"], ["b"]),
                   make_node("Unsqueeze", ["x", "one"], ["h"]),
                   make_node("Attention", ["h", "h", "h"], ["c"], softcap=2.0), make_node("Tanh", ["x"], ["d"]),
                   make_node("Sum", ["b", "c", "d"], ["y"])],
                  {"a": "refused", "b": "behind", "h": "covered", "c": "refused", "d": "covered", "y": "behind"},
                  "takes a diagonal"),
    "what fusion leaves": ([make_node("Relu", ["x"], ["a"]), make_node("MatMul", ["a", "x"], ["b"]),
                            make_node("Tanh", ["b"], ["y"])],
                           {"a": "kept", "b": "refused", "y": "kept"}, "multiplies two activations"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_refused_has_its_table_too(case: str, tmp_path: Path) -> None:
    nodes, wanted, says = REFUSED[case]
    path = save_model(tmp_path / "m.onnx", nodes, {"x": (1, 4, 4)}, {"one": np.array([1])}, opset=23)
    done = picoformer("inspect", path, "--json")
    assert done.code == 1 and done.err.strip() == f"picoformer: {done.record['unsupported']}"
    assert {node["output"]: node["fate"] for node in done.record["nodes"]} == wanted
    refused = [node for node in done.record["nodes"] if node["fate"] == "refused"]
    assert says in refused[0]["reason"]
    done = picoformer("inspect", path)
    lines = [line for line in done.out.splitlines() if "REFUSED" in line]
    assert done.code == 1 and len(lines) == len(refused)
    assert lines[0].split()[1] == refused[0]["output"] and says in lines[0]


def test_a_file_that_is_no_model_has_no_table(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="is not an ONNX file"):
        node_fates(tmp_path / "m.onnx")


def test_a_file_that_comes_quantized_has_no_node_refused(tmp_path: Path) -> None:
    grid = {"s": np.float32(0.05), "z": np.int8(0), "w": np.ones((4, 4), np.int8), "t": np.float32(0.1)}
    nodes = [
        make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        make_node("DequantizeLinear", ["q", "s", "z"], ["h"]),
        make_node("DequantizeLinear", ["w", "t", "z"], ["v"]),
        make_node("MatMul", ["h", "v"], ["y"]),
    ]
    path = save_model(tmp_path / "m.onnx", nodes, {"x": (1, 4, 4)}, grid, opset=21)
    done = picoformer("inspect", path, "--json")
    assert done.code == 0, done.err
    assert {node["output"]: node["fate"] for node in done.record["nodes"]}.keys() == {"q", "h", "v", "y"}
    assert not {"refused", "behind"} & {node["fate"] for node in done.record["nodes"]}
