"""Language models of Hugging Face, exported as they are: rotations, shared heads and windows end in a few operators."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_models import run_all
from picoformer.build_folder import quantize_model
from picoformer.frontends.onnx import load_onnx
from picoformer.host_library import build_library
from picoformer.ops import Attention
from picoformer.ops.fixedpoint import dequantize
from picoformer.passes import optimize
from picoformer.reference import lower_graph, run_float, run_integer

SIZES = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 32, "use_cache": False,
}  # fmt: skip
PLAIN = {"Activation", "Add", "Attention", "Embedding", "Linear", "Mul", "Reshape", "RmsNorm", "Rope"}
WINDOW = {"Concat", "Slice", "Transpose"}
"""What a window of keys takes beside."""


def export(family: str, opset: int, path: Path) -> Path:
    import torch
    import transformers

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.manual_seed(0)
    more: dict[str, Any] = {"sliding_window": 3} if family == "Mistral" else {}
    config = getattr(transformers, f"{family}Config")(**SIZES, num_hidden_layers=1, **more)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor) -> Any:
            return self.model(ids).logits

    ids = torch.zeros((1, 7), dtype=torch.int64)
    with torch.no_grad():
        torch.onnx.export(Logits(), (ids,), path, dynamo=True, opset_version=opset, input_names=["ids"], verbose=False,
                          external_data=False)  # fmt: skip
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("family", "opset", "kinds"), [("Llama", 18, PLAIN), ("Llama", 23, PLAIN),
                                                        ("Mistral", 20, PLAIN | WINDOW)])  # fmt: skip
def test_an_exported_language_model(family: str, opset: int, kinds: set[str], tmp_path: Path) -> None:
    path = export(family, opset, tmp_path / "m.onnx")
    samples = {"ids": np.random.default_rng(0).integers(0, 50, (4, 1, 7))}
    ((name, expected),) = run_all(path, samples).items()
    graph = optimize(load_onnx(path))
    assert {node.op.kind for node in graph.nodes} == kinds
    attentions = [node.op for node in graph.nodes if isinstance(node.op, Attention)]
    assert all(one.kv_heads == 2 for one in attentions) or family == "Mistral"
    np.testing.assert_allclose(run_float(graph, samples)[name], expected, rtol=1e-5, atol=1e-5)
    floats = build_library(graph, tmp_path / "float")
    np.testing.assert_allclose(floats.run({"ids": samples["ids"][0]})[name], expected[0], rtol=1e-5, atol=1e-5)
    quantized = quantize_model(graph, samples)
    integers = build_library(quantized, tmp_path / "int8")
    found = np.stack([integers.run({"ids": one})[name] for one in samples["ids"]])
    np.testing.assert_array_equal(found, run_integer(lower_graph(quantized), samples)[name])
    quant = quantized.types[name].quant
    assert quant is not None
    noise = ((dequantize(found, quant) - expected) ** 2).mean()
    assert 10 * np.log10((expected**2).mean() / noise) > 40
