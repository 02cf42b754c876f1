"""The scheme int8x16 on a small trained model: every activation 16 bits wide, and equal down to the emulator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import picoformer
from picoformer.build_folder import open_build
from picoformer.compress.settings import TrainSettings
from picoformer.compress.train import evaluate, train
from picoformer.datasets import Dataset, synthetic_signal
from picoformer.ir import DType
from picoformer.models.config import TransformerConfig
from picoformer.models.transformer import Transformer
from picoformer.ops import Attention, Linear


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthetic_signal(0)


@pytest.fixture(scope="module")
def model(data: Dataset) -> Transformer:
    config = TransformerConfig.uniform(
        1, 4, 32, 16, kv_heads=(2,), causal=True, sequence=data.x_train.shape[1], input_size=data.x_train.shape[2],
        classes=data.classes,
    )  # fmt: skip
    trained = Transformer(config, seed=0)
    train(trained, data.x_train[:1500], data.y_train[:1500], TrainSettings(epochs=4))
    assert evaluate(trained, data.x_test, data.y_test) > 0.5  # of six classes
    return trained


@pytest.fixture(scope="module")
def built(model: Transformer, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8x16") / "out"
    calibration = {"x": data.x_train[:60]}
    picoformer.build(model, calibration=calibration, scheme="int8x16", target="mps2-an386", out=folder)
    return folder


def test_equal_down_the_chain_and_near_float(built: Path, data: Dataset, arm_tools: None) -> None:
    found = picoformer.verify(built, inputs={"x": data.x_test[:4], "labels": data.y_test[:4]})
    assert found.report.passed, found.report.failures
    links = {(link.source, link.to): link for link in found.report.links}
    assert links["reference", "host"].equal and links["host", "mps2-an386"].equal
    end = links["float onnx", "mps2-an386"].sqnr_db
    assert end is not None and end >= 42.0  # int8 is near 37


def test_every_activation_is_int16(built: Path) -> None:
    graph = open_build(built).graph
    activations = {name: type_ for name, type_ in graph.types.items() if name not in graph.constants}
    assert {type_.dtype for type_ in activations.values()} == {DType.INT16}
    assert "Requantize" not in {node.op.kind for node in graph.nodes}
    for node in graph.nodes:
        if isinstance(node.op, Linear):
            assert graph.types[node.inputs[1]].dtype is DType.INT8
        if isinstance(node.op, Attention):
            assert (node.op.heads, node.op.kv_heads, node.op.causal) == (4, 2, True)
            scales = [np.unique(graph.types[name].quant.scale) for name in node.inputs]  # type: ignore[union-attr]
            assert [len(found) for found in scales] == [4, 2, 2]
