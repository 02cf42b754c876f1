"""The keys of a TransformerConfig that pretrained encoders need: what goes together, checkpoints old and new, export,
and what compression makes of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch

from picoformer.compress.distill import distill
from picoformer.compress.factorize import factorize
from picoformer.compress.initialise import init_from_teacher
from picoformer.compress.prune import prune
from picoformer.compress.settings import DistillSettings, FactorizeSettings, PruneSettings, TrainSettings
from picoformer.compress.train import evaluate, train
from picoformer.compress.vocabulary import take_tokens
from picoformer.errors import ConfigError, DataError
from picoformer.frontends.onnx import load_onnx
from picoformer.models.checkpoint import load_checkpoint, save_checkpoint
from picoformer.models.config import TransformerConfig
from picoformer.models.export import export_onnx
from picoformer.models.transformer import Transformer
from picoformer.passes import optimize
from picoformer.reference import run_float

torch.set_num_threads(1)

PLAIN = TransformerConfig.uniform(
    layers=3, heads=2, d_ff=9, d_model=8, sequence=6, vocab_size=11, classes=4, norm_position="post", final_norm=False,
    embedding_norm=True, segments=2, pooling="first", pooler="tanh",
)  # fmt: skip
SHARED = dataclasses.replace(PLAIN, shared_layers=(0, 0, 1), embedding_width=5)
MASKED = dataclasses.replace(
    PLAIN, classes=11, pooling="none", pooler="", head_dense="gelu", tied_head=True, tied_head_bias=True
)
NEW = ("segments", "embedding_width", "shared_layers", "pooler", "head_dense", "tied_head_bias", "normalize")


def build(config: TransformerConfig) -> Transformer:
    model = Transformer(config, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    return model.eval()


def ids(config: TransformerConfig, count: int = 8) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, config.vocab_size, (count, config.sequence)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"segments": -1}, "segments = -1"),
        ({"segments": 2, "vocab_size": 0, "input_size": 5}, "segments = 2 needs token ids"),
        ({"segments": 2, "pooling": "cls", "cls_token": True}, "does not go with cls_token"),
        ({"segments": 2, "causal": True, "pooler": ""}, "does not go with causal"),
        ({"embedding_width": 8}, "embedding_width = 8 is d_model"),
        ({"embedding_width": 5, "embedding_rank": 3}, "does not go with embedding_rank = 3"),
        ({"embedding_width": 5, "scale_embedding": True}, "does not go with scale_embedding"),
        ({"embedding_width": 6, "positions": "sinusoidal"}, "sinusoids are d_model wide"),
        ({"shared_layers": (0, 0)}, "it has (0, 0) for 3 layers"),
        ({"shared_layers": (0, 2, 1)}, "shared_layers[1] = 2 does not follow 0"),
        ({"shared_layers": (0, True, 1)}, "shared_layers[1] = True"),
        ({"shared_layers": (0, 0, 1), "d_ff": (9, 8, 9)}, "layers 0 and 1 share weights, but d_ff differs"),
        ({"pooling": "first", "cls_token": True, "segments": 0}, "use 'cls'"),
        ({"pooling": "none"}, "pooler = 'tanh' needs a pooling"),
        ({"pooler": "swish"}, "pooler = 'swish'; choose one of '', relu"),
        ({"classes": 0, "head_dense": "gelu"}, "head_dense = 'gelu' needs a head"),
        ({"tied_head_bias": True}, "tied_head_bias needs tied_head"),
        ({"embedding_width": 5, "classes": 11, "tied_head": True}, "set head_dense, the layer between them"),
        ({"normalize": 1}, "normalize = 1; write true or false"),
        ({"segments": 0, "causal": True}, "are an encoder's"),
    ],
)
def test_keys_that_do_not_go_together(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        dataclasses.replace(PLAIN, **change)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_layers_that_share_nothing_are_plain() -> None:
    assert dataclasses.replace(PLAIN, shared_layers=(0, 1, 2)) == PLAIN
    assert TransformerConfig.from_dict(json.loads(json.dumps(SHARED.to_dict()))) == SHARED


def test_shared_layers_are_layers_alike() -> None:
    """The same as a model that keeps a copy for each layer."""
    model = build(SHARED)
    whole = Transformer(dataclasses.replace(SHARED, shared_layers=()), seed=None)
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("layers.")}
    for layer, number in enumerate(SHARED.weight_sets):
        state |= {f"layers.{layer}.{name}": value for name, value in model.layers[number].state_dict().items()}
    whole.load_state_dict(state)
    x, kinds = ids(SHARED), torch.randint(0, 2, (8, 6), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(model(x, None, kinds), whole.eval()(x, None, kinds))
        assert not torch.equal(model(x, None, kinds), model(x))


def test_segments_are_checked() -> None:
    model = build(PLAIN)
    with pytest.raises(DataError, match=r"give int64 of the ids' shape \[8, 6\]"):
        model(ids(PLAIN), None, torch.zeros(8, 5, dtype=torch.int64))
    with pytest.raises(DataError, match="the model has none"):
        build(dataclasses.replace(PLAIN, segments=0))(ids(PLAIN), None, torch.zeros(8, 6, dtype=torch.int64))


def test_checkpoints_of_before_still_load(tmp_path: Path) -> None:
    """A file whose configuration knows none of these keys; its tied head has no bias, though head_bias is true."""
    config = TransformerConfig.uniform(
        layers=1, heads=2, d_ff=9, d_model=8, sequence=6, vocab_size=11, classes=11, pooling="none", tied_head=True
    )
    save_checkpoint(build(config), tmp_path / "now.safetensors")
    with safetensors.safe_open(tmp_path / "now.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["picoformer"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for key in NEW:
        del header["config"][key]
    safetensors.torch.save_file(weights, tmp_path / "old.safetensors", {"picoformer": json.dumps(header)})
    assert load_checkpoint(tmp_path / "old.safetensors")[0].config == config


@pytest.mark.parametrize("length", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_exported_files_take_segments(length: bool, tmp_path: Path) -> None:
    model, path = build(SHARED), tmp_path / "model.onnx"
    export_onnx(model, path, valid_length=length)
    x, kinds = ids(SHARED, 1), torch.tensor([[0, 0, 1, 1, 1, 0]])
    given = {"x": x.numpy(), "segments": kinds.numpy(), **({"valid_length": np.array([4])} if length else {})}
    found = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, given)[0]
    with torch.no_grad():
        wanted = model(x, 4 if length else None, kinds).numpy()
    assert np.abs(found - wanted).max() <= 1e-4  # float32 sums
    graph = optimize(load_onnx(path))
    fed = {"x": x.numpy()[None], "segments": kinds.numpy()[None], "valid_length": np.full((1, 1), 4)}
    ours = run_float(graph, {name: fed[name].astype(np.int32) for name in graph.inputs})["logits"]
    assert np.abs(ours.reshape(wanted.shape) - wanted).max() <= 1e-4
    assert sum(value.size for value in graph.constants.values()) <= sum(p.numel() for p in model.parameters())


def test_such_models_train_and_teach() -> None:
    x = ids(SHARED, 64)
    y = (x[:, 0] % 4).numpy()
    model = Transformer(SHARED)
    train(model, x.numpy(), y, TrainSettings(epochs=25, batch=16, learning_rate=1e-2))
    assert evaluate(model, x.numpy(), y) > 0.9
    student = Transformer(dataclasses.replace(SHARED, shared_layers=(0, 0, 0)), seed=1)
    distill(model, student, x.numpy(), y, DistillSettings(epochs=20, batch=16, learning_rate=1e-2, hidden_weight=0.5))
    assert evaluate(student, x.numpy(), y) > 0.8
    with pytest.raises(ConfigError, match="shared_layers cannot be told apart"):
        distill(model, student, x.numpy(), y, DistillSettings(epochs=1, batch=16, attention_weight=0.5))


def test_what_cannot_be_cut_is_refused_by_its_key() -> None:
    x = ids(SHARED).numpy()
    y = x[:, 0] % 4
    with pytest.raises(ConfigError, match="models with it cannot be pruned"):
        prune(build(SHARED), x, y, PruneSettings(samples=8))
    with pytest.raises(ConfigError, match="segments = 2"):
        prune(build(dataclasses.replace(PLAIN, embedding_norm=False)), x, y, PruneSettings(samples=8))
    with pytest.raises(ConfigError, match="shared_layers is set"):
        factorize(build(SHARED), x, FactorizeSettings(samples=8))
    with pytest.raises(ConfigError, match="init_from_teacher: shared_layers is set"):
        init_from_teacher(build(SHARED), build(SHARED))


def test_fewer_tokens_with_a_bias_of_the_tied_head() -> None:
    model, kept = build(MASKED), np.array([0, 3, 4, 9])
    rows = torch.tensor([[0, 1, 2, 3]])
    with torch.no_grad():
        found = take_tokens(model, kept)(rows)
        wanted = model(torch.from_numpy(kept)[rows])[:, :, kept.tolist()]
    torch.testing.assert_close(found, wanted)
