"""The transformer: its formula against an independent numpy one, its lengths, its checkpoint, its export."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from scipy.special import erf

from picoformer.errors import ConfigError, DataError, ModelError
from picoformer.models.checkpoint import load_checkpoint, save_checkpoint
from picoformer.models.config import TransformerConfig, reference_encoder_config
from picoformer.models.export import export_onnx
from picoformer.models.transformer import Transformer

torch.set_num_threads(1)

FRAMES = TransformerConfig.uniform(layers=2, heads=2, d_ff=12, d_model=8, sequence=6, input_size=3, classes=4)
VARIANTS = {
    "frames": FRAMES,
    "uneven": dataclasses.replace(FRAMES, heads=(1, 3), d_ff=(5, 9), head_dim=3, activation="relu"),
    "post": dataclasses.replace(FRAMES, norm_position="post", final_norm=False, activation="gelu_tanh"),
    "cls": dataclasses.replace(FRAMES, cls_token=True, pooling="cls", positions="sinusoidal"),
    "cls_mean": dataclasses.replace(FRAMES, cls_token=True, scale_embedding=True),
    "tokens": dataclasses.replace(
        FRAMES, input_size=0, vocab_size=11, positions="none", activation="silu", pooling="none"
    ),
    "image": dataclasses.replace(FRAMES, input_size=0, sequence=0, image=(2, 4, 6), patch=(2, 3)),
    "no_head": dataclasses.replace(FRAMES, classes=0),
}


def build(config: TransformerConfig, seed: int = 0) -> Transformer:
    """A model whose every number is random: zero biases and unit gains would hide mistakes."""
    model = Transformer(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def inputs(config: TransformerConfig, batch: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if config.vocab_size:
        return torch.randint(0, config.vocab_size, (batch, *config.input_shape), generator=generator)
    return torch.randn((batch, *config.input_shape), generator=generator)


# --- an independent float64 meaning -------------------------------------------------------------------------


def numpy_forward(config: TransformerConfig, w: dict[str, NDArray[Any]], x: NDArray[Any]) -> NDArray[Any]:
    def linear(name: str, v: NDArray[Any]) -> NDArray[Any]:
        return v @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, v: NDArray[Any]) -> NDArray[Any]:
        centred = v - v.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config.norm_epsilon)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    activation = {
        "relu": lambda v: np.maximum(v, 0),
        "gelu": lambda v: v * (1 + erf(v / np.sqrt(2))) / 2,
        "gelu_tanh": lambda v: v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3))) / 2,
        "silu": lambda v: v / (1 + np.exp(-v)),
    }[config.activation]

    def attention(layer: int, v: NDArray[Any]) -> NDArray[Any]:
        name, size = f"layers.{layer}.attention", config.head_dim
        q, k, u = (linear(f"{name}.{part}", v) for part in ("query", "key", "value"))
        contexts = []
        for head in range(config.heads[layer]):
            part = slice(head * size, (head + 1) * size)
            scores = q[..., part] @ k[..., part].swapaxes(-1, -2) / np.sqrt(size)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            contexts.append(weights / weights.sum(-1, keepdims=True) @ u[..., part])
        return linear(f"{name}.out", np.concatenate(contexts, axis=-1))

    if config.image is not None and config.patch is not None:
        (channels, height, width), (down, right) = config.image, config.patch
        cut = x.reshape(-1, channels, height // down, down, width // right, right).transpose(0, 2, 4, 1, 3, 5)
        rows = cut.reshape(len(x), config.patches, -1) @ w["embedding.patches.weight"].reshape(config.d_model, -1).T
        rows = rows + w["embedding.patches.bias"]
    else:
        rows = w["embedding.token.weight"][x] if config.vocab_size else linear("embedding.frames", x)
    if config.scale_embedding:
        rows = rows * np.sqrt(config.d_model)
    if config.cls_token:
        rows = np.concatenate((np.repeat(w["embedding.cls"], len(rows), axis=0), rows), axis=1)
    if config.positions == "learned":
        rows = rows + w["embedding.position"][: rows.shape[1]]
    elif config.positions == "sinusoidal":
        for p in range(rows.shape[1]):
            for column in range(config.d_model):
                angle = p / 10000 ** ((column - column % 2) / config.d_model)
                rows[:, p, column] += np.cos(angle) if column % 2 else np.sin(angle)
    for layer in range(config.layers):
        first, second, up, down_ = (
            f"layers.{layer}.{part}"
            for part in ("attention_norm", "feed_forward_norm", "feed_forward.up", "feed_forward.down")
        )
        if config.norm_position == "pre":
            rows = rows + attention(layer, norm(first, rows))
            rows = rows + linear(down_, activation(linear(up, norm(second, rows))))
        else:
            rows = norm(first, rows + attention(layer, rows))
            rows = norm(second, rows + linear(down_, activation(linear(up, rows))))
    if config.final_norm:
        rows = norm("final_norm", rows)
    if config.pooling != "none":
        rows = rows.mean(1) if config.pooling == "mean" else rows[:, 0]
    return linear("head", rows) if config.classes else rows


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_forward_is_the_formula(config: TransformerConfig) -> None:
    model = build(config).double()
    x = inputs(config, batch=3)
    x = x if config.vocab_size else x.double()
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    with torch.no_grad():
        found = model(x).numpy()
    # The sinusoidal table is kept in float32; all else is float64.
    np.testing.assert_allclose(found, numpy_forward(config, weights, x.numpy()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["frames", "post", "cls", "cls_mean", "tokens"])
@pytest.mark.parametrize("length", [1, 4, 6])
def test_valid_length_is_the_model_on_the_first_rows(name: str, length: int) -> None:
    config = VARIANTS[name]
    model, x = build(config), inputs(config, batch=2)
    rows = length + config.cls_token
    with torch.no_grad():
        short = model(x[:, :length])
        for valid in (length, torch.tensor([length]), torch.tensor([length, length])):
            padded = model(x, valid)
            padded = padded[:, :rows] if config.pooling == "none" else padded
            torch.testing.assert_close(padded, short, rtol=1e-5, atol=1e-5)


def test_valid_length_per_sample() -> None:
    model, x = build(FRAMES), inputs(FRAMES, batch=2)
    with torch.no_grad():
        both = model(x, torch.tensor([2, 5]))
        torch.testing.assert_close(both[:1], model(x[:1, :2]), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(both[1:], model(x[1:, :5]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [0, 7])
def test_valid_length_out_of_range(length: int) -> None:
    with pytest.raises(DataError, match="give 1 to 6"):
        build(FRAMES)(inputs(FRAMES, 1), length)


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = Transformer(FRAMES, seed=5).state_dict()
    torch.manual_seed(2)
    second = Transformer(FRAMES, seed=5).state_dict()
    other = Transformer(FRAMES, seed=6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 6, 4), r"takes \(batch, 6, 3\)"),
        (torch.zeros(1, 7, 3), r"takes \(batch, 6, 3\)"),
        (torch.zeros(6, 3), r"takes \(batch, 6, 3\)"),
        (torch.zeros(1, 6, 3, dtype=torch.int64), "takes float"),
    ],
)
def test_wrong_inputs_are_named(x: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build(FRAMES)(x)


# --- configuration ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_config_survives_json(config: TransformerConfig) -> None:
    assert TransformerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"d_model": 0}, "d_model"),
        ({"d_model": True}, "d_model"),
        ({"d_model": 1 << 40}, "d_model"),
        ({"heads": [2]}, "heads"),
        ({"heads": []}, "heads"),
        ({"heads": 2}, "heads"),
        ({"heads": [2, 0]}, r"heads\[1\]"),
        ({"d_ff": ["a", 4]}, r"d_ff\[0\]"),
        ({"positions": "rope"}, "positions"),
        ({"activation": "mish"}, "activation"),
        ({"pooling": "cls"}, "cls_token"),
        ({"norm_epsilon": float("nan")}, "norm_epsilon"),
        ({"final_norm": 1}, "final_norm"),
        ({"vocab_size": 3}, "vocab_size and input_size"),
        ({"input_size": 0}, "none of"),
        ({"sequence": 0}, "sequence"),
        ({"patch": [1, 1]}, "image and patch"),
        ({"input_size": 0, "sequence": 0, "image": [1, 4, 4], "patch": [3, 2]}, "does not divide"),
        ({"positions": "sinusoidal", "d_model": 7}, "even d_model"),
        ({"colour": 1}, "unknown key 'colour'"),
    ],
)
def test_bad_configs_are_named(change: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key) as caught:
        TransformerConfig.from_dict({**FRAMES.to_dict(), **change})
    assert "\n" not in str(caught.value)


def test_missing_key_and_uneven_heads_are_named() -> None:
    with pytest.raises(ConfigError, match="lacks the key 'heads'"):
        TransformerConfig.from_dict({"d_model": 8})
    with pytest.raises(ConfigError, match="not a multiple"):
        TransformerConfig.uniform(layers=1, heads=3, d_ff=4, d_model=8, sequence=2, input_size=1)


def test_config_needs_no_torch() -> None:
    modules = "picoformer.models.config, picoformer.compress.count, picoformer.compress.settings"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- checkpoint ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_checkpoint_round_trip(config: TransformerConfig, tmp_path: Path) -> None:
    model, path = build(config), tmp_path / "model.safetensors"
    save_checkpoint(model, path, {"accuracy": 0.5})
    loaded, extra = load_checkpoint(path)
    assert loaded.config == config and extra == {"accuracy": 0.5} and not loaded.training
    x = inputs(config, 2)
    assert torch.equal(loaded(x), model(x))
    before = path.read_bytes()
    save_checkpoint(loaded, path, extra)
    assert path.read_bytes() == before


def _write(path: Path, weights: dict[str, torch.Tensor], header: Any) -> None:
    text = header if isinstance(header, str) else json.dumps(header)
    metadata = None if header is None else {"picoformer": text}
    path.write_bytes(safetensors.torch.save(weights, metadata=metadata))


HEADER = {"format": "picoformer-1", "config": FRAMES.to_dict(), "extra": {}}
BAD_NUMBER = torch.full((4,), float("nan"))


@pytest.mark.parametrize(
    ("weights", "header", "message"),
    [
        ({}, None, "no picoformer configuration"),
        ({}, "{", "not JSON"),
        ({}, "[" * 5000, "not JSON"),
        ({}, [], "not of format"),
        ({}, {**HEADER, "format": "other"}, "not of format"),
        ({}, {**HEADER, "config": 3}, "lacks 'config'"),
        ({}, {**HEADER, "config": {"d_model": "x"}}, "lacks the key"),
        (
            {},
            {**HEADER, "config": {**FRAMES.to_dict(), "d_ff": [1 << 19, 1 << 19]}},
            "'layers.0.feed_forward",
        ),
        ({"head.bias": None}, HEADER, "'head.bias' is missing"),
        ({"tail": torch.zeros(1)}, HEADER, "'tail' is not part"),
        ({"head.bias": torch.zeros(5)}, HEADER, "'head.bias' has shape"),
        ({"head.bias": torch.zeros(4).half()}, HEADER, "'head.bias' is F16"),
        ({"head.bias": BAD_NUMBER}, HEADER, "'head.bias' holds 4 NaN"),
    ],
)
def test_hostile_checkpoints(weights: dict[str, Any], header: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    merged = {**build(FRAMES).state_dict(), **weights}
    _write(path, {name: value for name, value in merged.items() if value is not None}, header)
    with pytest.raises(ModelError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"hello", None])
def test_files_that_are_no_checkpoint(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    if content is None:
        save_checkpoint(build(FRAMES), path)
        content = path.read_bytes()[:-8]
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not a safetensors file"):
        load_checkpoint(path)
    with pytest.raises(ModelError, match="no such file"):
        load_checkpoint(tmp_path / "absent")


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    model = build(FRAMES)
    with torch.no_grad():
        model.head.bias.fill_(float("inf"))
    with pytest.raises(ModelError, match=r"'head\.bias'"):
        save_checkpoint(model, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


# --- export -------------------------------------------------------------------------------------------------


def _run(path: Path, feed: dict[str, NDArray[Any]]) -> NDArray[Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    result: NDArray[Any] = session.run(None, feed)[0]
    return result


@pytest.mark.parametrize("name", ["post", "cls", "tokens", "image"])
def test_export_equals_torch(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config, path = VARIANTS[name], tmp_path / "model.onnx"
    model, x = build(config), inputs(config, 1)
    capfd.readouterr()
    export_onnx(model, path)
    assert capfd.readouterr() == ("", "")
    with torch.no_grad():
        expected = model(x).numpy()
    # Two float32 evaluations of one formula; sums of at most 12 terms.
    np.testing.assert_allclose(_run(path, {"x": x.numpy()}), expected, rtol=1e-5, atol=1e-5)
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version == 20
    dims = [dim for value in (*proto.graph.input, *proto.graph.output) for dim in value.type.tensor_type.shape.dim]
    assert all(dim.dim_value > 0 for dim in dims)


def test_export_is_plain_named_and_repeatable(tmp_path: Path) -> None:
    model, path = build(FRAMES), tmp_path / "model.onnx"
    export_onnx(model, path, input_name="frames", output_name="scores")
    first = path.read_bytes()
    export_onnx(model, path, input_name="frames", output_name="scores")
    assert path.read_bytes() == first
    assert b".py" not in first and b"File " not in first
    graph = onnx.load(path).graph
    assert [value.name for value in graph.input] == ["frames"]
    assert [value.name for value in graph.output] == ["scores"]
    kinds = [node.op_type for node in graph.node]
    for kind, count in {
        "LayerNormalization": 5,
        "Gelu": 2,
        "Softmax": 2,
        "Gemm": 1,
        "MatMul": 1 + 2 * 8,
    }.items():
        assert kinds.count(kind) == count, kind
    producer = {node.output[0]: node for node in graph.node}
    softmax = next(node for node in graph.node if node.op_type == "Softmax")
    scaled = producer[softmax.input[0]]
    assert scaled.op_type == "Mul" and producer[scaled.input[0]].op_type == "MatMul"
    assert softmax.output[0] == "layers.0.attention.softmax"
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert not any(name.startswith("val_") for name in (*constants, *producer))
    query = model.get_parameter("layers.0.attention.query.weight").detach().numpy()
    np.testing.assert_array_equal(constants["layers.0.attention.query.weight"], query.T)


def test_export_with_valid_length(tmp_path: Path) -> None:
    config, path = VARIANTS["cls_mean"], tmp_path / "model.onnx"
    model, x = build(config), inputs(config, 1)
    export_onnx(model, path, valid_length=True)
    for length in (1, 3, 6):
        with torch.no_grad():
            expected = model(x[:, :length]).numpy()
        found = _run(path, {"x": x.numpy(), "valid_length": np.array([length])})
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_export_of_a_shorter_example(tmp_path: Path) -> None:
    config = VARIANTS["uneven"]
    model, x = build(config), inputs(config, 1)[:, :4]
    seen: list[bool] = []
    handle = model.register_forward_pre_hook(lambda module, _inputs: seen.append(module.training))
    export_onnx(model.train(), tmp_path / "model.onnx", example=x, opset=18)
    handle.remove()
    assert seen and not any(seen) and model.training
    with torch.no_grad():
        np.testing.assert_allclose(_run(tmp_path / "model.onnx", {"x": x.numpy()}), model(x).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"opset": 17}, "opset = 17"),
        ({"input_name": "y", "output_name": "y"}, "its own"),
        ({"input_name": "valid_length", "valid_length": True}, "its own"),
        ({"example": torch.zeros(2, 6, 3)}, "batch 1"),
        ({"example": torch.zeros(1, 6, 2)}, r"takes \(batch, 6, 3\)"),
    ],
)
def test_export_mistakes_are_named(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        export_onnx(build(FRAMES), tmp_path / "model.onnx", **keys)
    assert list(tmp_path.iterdir()) == []


def test_reference_encoder_has_its_size() -> None:
    model = Transformer(reference_encoder_config())
    assert sum(parameter.numel() for parameter in model.parameters()) == 105_670
    assert reference_encoder_config("relu").activation == "relu"
