"""Training on the integers' grids: it computes what the reference does, gradients pass, what trains is what runs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import picoformer
from graphs import CASES, Builder, postnorm_tokens
from picoformer.build_folder import open_build
from picoformer.compress.fake_quantize import HALF_EVEN, HALF_UP, QuantizedConstant, round_straight
from picoformer.compress.graph_module import GraphModule
from picoformer.compress.graph_operators import COMPUTE
from picoformer.compress.qat import train_quantized
from picoformer.compress.settings import QatSettings, TrainSettings
from picoformer.compress.train import train
from picoformer.datasets import Dataset, digits
from picoformer.errors import ConfigError, DataError, ModelError, PicoformerError, UnsupportedError
from picoformer.importing import import_model
from picoformer.ir import DType, Graph, Node, TensorType
from picoformer.metrics import IGNORED
from picoformer.models.config import TransformerConfig
from picoformer.models.export import export_onnx
from picoformer.models.transformer import Transformer
from picoformer.ops import OPERATORS, Add, Attention, MatMul
from picoformer.ops.fixedpoint import dequantize
from picoformer.quantization_report import read_quantization
from picoformer.quantize import SCHEMES, QuantizeSettings, Rounding, quantize
from picoformer.reference import lower_graph, run_float, run_integer

torch.set_num_threads(1)

Samples = dict[str, np.ndarray]
QUICK = QatSettings(epochs=2)


@dataclass(frozen=True)
class Trained:
    """A trained model as an ONNX file and as a graph, and samples of its input."""

    onnx: Path
    graph: Graph
    train: Samples
    train_labels: np.ndarray
    test: Samples

    def quantized(self, scheme: str, block: int = 0, rounding: Rounding = "gptq") -> Graph:
        wanted = SCHEMES[scheme]
        settings = QuantizeSettings(
            activations=wanted.activations, weights=wanted.weights, block=block, rounding=rounding
        )
        few = {name: value[:128] for name, value in self.train.items()}
        return quantize(self.graph, few, run_float, settings)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    data: Dataset = digits(0)
    made = Transformer(TransformerConfig.uniform(2, 4, 48, 32, sequence=8, input_size=8, classes=10), seed=0)
    train(made, data.x_train, data.y_train, TrainSettings(epochs=5))
    path = tmp_path_factory.mktemp("qat") / "digits.onnx"
    export_onnx(made, path)
    graph = import_model(path)
    shape = graph.types["x"].shape
    x, test = (value.reshape(len(value), *shape) for value in (data.x_train[:512], data.x_test))
    return Trained(path, graph, {"x": x}, data.y_train[:512], {"x": test})


@pytest.fixture(scope="module")
def int4(model: Trained) -> Graph:
    """Weights to the nearest of 4 bits: much to gain in a short training."""
    return model.quantized("int4x8", rounding="nearest")


def tensors(samples: Samples) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in samples.items()}


def distance(typed: Graph, samples: Samples, module: GraphModule) -> np.ndarray:
    """How many steps every element of every value is from the integer reference's: (samples, elements)."""
    names = [node.output for node in typed.nodes]
    with torch.no_grad():
        found = module(tensors(samples), names)
    wanted = run_integer(lower_graph(typed), samples)
    steps = []
    for name in names:
        type_ = typed.types[name]
        assert type_.quant is not None
        real = found[name].double().numpy() / type_.quant.scale_array(type_.rank) + type_.quant.zero_point
        assert np.abs(real - np.rint(real)).max() < 0.02, f"{name} is not on its grid"
        steps.append(np.abs(np.rint(real) - wanted[name]).reshape(len(real), -1))
    return np.concatenate(steps, axis=1)


def sqnr(graph: Graph, typed: Graph, samples: Samples) -> float:
    (name,) = graph.outputs
    quant = typed.types[name].quant
    assert quant is not None
    real = run_float(graph, samples)[name]
    found = dequantize(run_integer(lower_graph(typed), samples)[name], quant)
    return float(10 * np.log10((real**2).sum() / ((real - found) ** 2).sum()))


@pytest.mark.parametrize("name", CASES)
def test_every_operator_gives_the_integers_of_the_reference(name: str) -> None:
    case = CASES[name]()
    typed = case.quantized()
    off = distance(typed, dict(case.samples), GraphModule(typed).double())
    assert (off > 0).mean() < 1e-3 and off.max() <= 1


@pytest.mark.parametrize("scheme", ["int8", "int8x16"])
def test_causal_attention_with_shared_heads_and_padding(scheme: str) -> None:
    b = Builder("causal", seed=3)
    x = b.input("x", 7, 16)
    length = b.input("valid_length", dtype=DType.INT32)
    q, k, v = (b.linear(x, width, name) for name, width in (("q", 16), ("k", 8), ("v", 8)))
    mixed = b.node(Attention(4, 0.5, causal=True, kv_heads=2), q, k, v, length, name="mixed")
    graph = b.graph(b.linear(mixed, 6, "out"))
    rng = np.random.default_rng(0)
    samples = {
        "x": rng.normal(0, 1.5, (32, 7, 16)).astype(np.float32),
        "valid_length": np.arange(32, dtype=np.int32) % 8,
    }
    typed = quantize(graph, samples, run_float, QuantizeSettings(activations=SCHEMES[scheme].activations))
    off = distance(typed, samples, GraphModule(typed).double())
    # A score's multiplier has some 16 bits at int8x16: a distance near the middle of two numerators may take the other.
    assert (off > 0).mean() < 2e-3 and off.max() <= (1 if scheme == "int8" else 16)
    with torch.no_grad():
        found = GraphModule(graph)(tensors(samples), ["mixed"])["mixed"].numpy()
    np.testing.assert_allclose(found, run_float(graph, samples)["mixed"], atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_every_operator_gives_the_reals_of_a_float_graph(name: str) -> None:
    case = CASES[name]()
    names = [node.output for node in case.graph.nodes]
    with torch.no_grad():
        found = GraphModule(case.graph)(tensors(dict(case.samples)), names)
    wanted = run_float(case.graph, case.samples)
    for value in names:
        np.testing.assert_allclose(found[value].numpy(), wanted[value], rtol=0, atol=5e-6 * np.abs(wanted[value]).max())


@pytest.mark.parametrize(("scheme", "block"), [("int8", 0), ("int4x8", 0), ("int4x8", 32), ("int8x16", 0)])
def test_a_trained_model_is_simulated_to_the_step(model: Trained, scheme: str, block: int) -> None:
    typed, few = model.quantized(scheme, block), {"x": model.test["x"][:64]}
    exact = distance(typed, few, GraphModule(typed).double())
    trained = distance(typed, few, GraphModule(typed))  # in float32, as it trains: where a sum is next to a tie …
    if scheme == "int8x16":  # … and in 16 bits throughout, the last bits differ, and what follows from them
        assert exact.max() < 100 and (exact > 4).mean() < 0.01
        assert trained.max() < 200 and (trained > 4).mean() < 0.02
        return
    # A tie that falls to the other side changes what follows in its sample, and nothing in the others.
    assert (exact > 0).any(axis=1).sum() <= 2
    first = [row[np.flatnonzero(row)[0]] for row in exact if row.any()]
    assert all(step == 1 for step in first)
    assert (trained > 0).mean() < 0.03 and (scheme != "int8" or (trained > 1).any(axis=1).sum() <= 6)


def test_the_operators_that_can_be_trained_are_those_with_an_integer_form() -> None:
    spelled = {"Binary", "Conv", "MatMul", "Unary", "Where"}
    assert {operator.kind for operator in COMPUTE} == set(OPERATORS) - spelled


def test_rounding_is_that_of_the_device_and_passes_gradients_inside_the_range() -> None:
    x = torch.tensor([-2.5, -0.5, 0.5, 1.5, 2.4, 7.2, 8.6, -9.0], requires_grad=True)
    assert round_straight(x, -8, 7, HALF_UP).tolist() == [-2, 0, 1, 2, 2, 7, 7, -8]
    y = round_straight(x, -8, 7, HALF_EVEN)
    assert y.tolist() == [-2, 0, 0, 2, 2, 7, 7, -8]
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1, 1, 1, 1, 1, 1, 0, 0]


def gradients(module: GraphModule, samples: Samples, real: bool) -> dict[str, np.ndarray]:
    """Of the squared outputs to every constant, by its key; those of a quantized one counted to its real value."""
    (name,) = module.graph.outputs
    module(tensors(samples))[name].square().sum().backward()
    found = {}
    for key, constant in module.constants.items():
        assert constant.real.grad is not None, key
        scale = constant.scale.numpy() if isinstance(constant, QuantizedConstant) and real else 1.0
        found[key] = constant.real.grad.numpy() / scale
    return found


def test_the_gradient_reaches_every_parameter_and_is_nearly_that_of_the_float_model(model: Trained) -> None:
    few = {"x": model.train["x"][:32]}
    typed = model.quantized("int8")
    module, real = GraphModule(typed), GraphModule(model.graph)
    quantized, floating = gradients(module, few, True), gradients(real, few, False)
    assert all(np.isfinite(value).all() and np.abs(value).sum() > 0 for value in quantized.values())
    compared = 0
    for node in typed.nodes:
        source = model.graph.producers.get(node.output)
        if node.op.kind == "Linear" and source is not None:
            a, b = quantized[module._keys[node.inputs[1]]], floating[real._keys[source.inputs[1]]]
            assert (a * b).sum() > 0.98 * np.linalg.norm(a) * np.linalg.norm(b), node.name
            compared += 1
    assert compared == 14


def test_training_brings_the_integers_nearer_to_the_float_model(model: Trained, int4: Graph) -> None:
    trained, report = train_quantized(model.graph, int4, model.train, QUICK)
    assert report.improved and report.loss_after < 0.8 * report.loss_before and len(report.losses) == 2
    assert sqnr(model.graph, trained, model.test) > sqnr(model.graph, int4, model.test) + 1.0
    on_training = sqnr(model.graph, trained, model.train)
    assert abs(report.sqnr_db_after - on_training) < 0.1, "the reference does not compute what was trained"
    assert dict(trained.types) == dict(int4.types) and trained.nodes == int4.nodes
    weights = [name for name, type_ in trained.types.items() if type_.dtype is DType.INT4]
    assert weights and all(np.abs(trained.constants[name]).max() <= 7 for name in weights)
    changed = [name for name in trained.constants if not np.array_equal(trained.constants[name], int4.constants[name])]
    assert set(weights) <= set(changed) and 0 < report.changed < 0.2
    again, _ = train_quantized(model.graph, int4, model.train, QUICK)
    assert all(np.array_equal(again.constants[name], value) for name, value in trained.constants.items())


def test_settling_moves_weights_to_their_integers_and_changes_no_output(int4: Graph, model: Trained) -> None:
    module = GraphModule(int4)
    with torch.no_grad():
        for constant in module.constants.values():
            constant.real += 0.3 * torch.randn(constant.real.shape, generator=torch.Generator().manual_seed(0))
    before = module.trained_graph()
    weights = [c for c in module.constants.values() if isinstance(c, QuantizedConstant)]
    with torch.no_grad():
        far = [c.real - c.steps() for c in weights]
        module.settle(0.5)
        near = [c.real - c.steps() for c in weights]
    assert all(torch.allclose(b, a / 2, atol=1e-5) for a, b in zip(far, near, strict=True))
    assert all(
        np.array_equal(value, before.constants[name]) for name, value in module.trained_graph().constants.items()
    )


def test_labels_alone_can_teach(model: Trained, int4: Graph) -> None:
    """Digits named one too high: only labels say so."""
    wrong = (model.train_labels + 1) % 10
    settings = QatSettings(epochs=4, soft_weight=0.0, match_weight=0.0, hidden_weight=0.0, learning_rate=0.1)
    trained, report = train_quantized(model.graph, int4, model.train, settings, wrong)
    logits = run_integer(lower_graph(trained), model.train)["logits"].reshape(len(wrong), -1)
    assert report.improved and (logits.argmax(axis=1) == wrong).mean() > 0.6


def test_labels_of_rows_teach_where_they_are_judged() -> None:
    b = Builder("rows", seed=1)
    h = b.linear(b.input("x", 6, 8), 16, "embed")
    b.linear(b.node(Add(), h, b.constant("positions", shape=(6, 16)), name="sum"), 5, "logits")
    graph = b.graph("logits")
    samples = {"x": np.random.default_rng(0).normal(0, 1, (64, 6, 8)).astype(np.float32)}
    labels = np.full((64, 6), IGNORED, np.int64)
    labels[:, 3] = 2
    settings = QatSettings(epochs=20, soft_weight=0.0, match_weight=0.0, hidden_weight=0.0, learning_rate=3.0)
    typed = quantize(graph, samples, run_float)
    trained, _ = train_quantized(graph, typed, samples, settings, labels)
    before, after = (run_integer(lower_graph(g), samples)["logits"].argmax(axis=-1)[:, 3] for g in (typed, trained))
    assert (before == 2).mean() < 0.5 < 0.9 < (after == 2).mean()


def test_rows_that_are_not_judged_are_no_error_of_the_outputs() -> None:
    b = Builder("rows", seed=1)
    b.linear(b.input("x", 6, 8), 5, "logits")
    graph = b.graph("logits")
    samples = {"x": np.random.default_rng(0).normal(0, 1, (64, 6, 8)).astype(np.float32)}
    labels = np.full((64, 6), IGNORED, np.int64)
    labels[:, 3] = np.arange(64) % 5
    typed = quantize(graph, samples, run_float)
    other = {"x": samples["x"] * np.where(np.arange(6) == 3, 1.0, 9.0).astype(np.float32)[:, None]}
    settings = QatSettings(epochs=1, soft_weight=0.5)
    losses = [train_quantized(graph, typed, x, settings, labels)[1].loss_before for x in (samples, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_constant_that_two_layers_share_stays_one() -> None:
    case = postnorm_tokens()
    typed = case.quantized()
    trained, _ = train_quantized(case.graph, typed, dict(case.samples), QatSettings(epochs=2))
    assert set(trained.constants) == set(typed.constants)
    assert sum("tokens.weight" in node.inputs for node in trained.nodes) == 2


def test_what_does_not_get_better_is_left_as_it_was(model: Trained, int4: Graph) -> None:
    settings = QatSettings(epochs=1, learning_rate=30.0)
    trained, report = train_quantized(model.graph, int4, {"x": model.train["x"][:32]}, settings)
    assert not report.improved and trained is int4


def test_from_samples_to_verified_firmware(model: Trained, tmp_path: Path) -> None:
    calibration = {"x": model.train["x"][:128]}
    found = picoformer.finetune(
        model.onnx, calibration=calibration, data={**model.train, "labels": model.train_labels}, scheme="int4x8",
        out=tmp_path / "quantized", training=QUICK, settings=QuantizeSettings(rounding="nearest"),
    )  # fmt: skip
    assert found["sqnr_db_after"] > found["sqnr_db_before"] + 1.0 and found["samples"] == 512
    picoformer.build(model.onnx, quantized=tmp_path / "quantized", target="host", out=tmp_path / "out")
    verified = picoformer.verify(tmp_path / "out", inputs={"x": model.test["x"][:24]})
    assert verified.report.passed, verified.report.failures
    link = next(link for link in verified.report.links if (link.source, link.to) == ("reference", "host"))
    assert link.equal
    build = open_build(tmp_path / "out")
    assert build.manifest.scheme == "int4x8"
    tensors_of = read_quantization(tmp_path / "out")
    assert tensors_of is not None and tensors_of == {
        **(read_quantization(tmp_path / "quantized") or {}),
        "model": "digits",
    }
    assert {row["type"] for row in tensors_of["tensors"]} >= {"s4", "s8"}
    assert sqnr(model.graph, build.graph, model.train) == pytest.approx(found["sqnr_db_after"], abs=0.1)
    picoformer.export(model.onnx, quantized=tmp_path / "quantized", out=tmp_path / "q.onnx")
    assert (tmp_path / "q.onnx").stat().st_size > 0

    with pytest.raises(ConfigError, match="--quantized and --calibration both"):
        picoformer.build(
            model.onnx, quantized=tmp_path / "quantized", calibration=calibration, out=tmp_path / "no", target="host"
        )
    other = tmp_path / "other.onnx"
    export_onnx(Transformer(TransformerConfig.uniform(1, 2, 8, 8, sequence=8, input_size=8, classes=3), seed=0), other)
    with pytest.raises(ModelError, match="was quantized from another model"):
        picoformer.build(other, quantized=tmp_path / "quantized", target="host", out=tmp_path / "no")
    with pytest.raises(ModelError, match=r"holds no quantized\.json"):
        picoformer.build(model.onnx, quantized=tmp_path / "out", target="host", out=tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": lambda v: v[:0]}, "0 samples"),
        ({"x": lambda v: v[:, :, :5]}, "input 'x' has shape"),
        ({"labels": lambda v: v[:5]}, r"labels are \[5\]"),
        ({"labels": lambda v: v + 5}, "labels run from 5 to 14, but the model has 10 classes"),
        ({"labels": lambda v: np.full_like(v, IGNORED)}, "every label is -100"),
    ],
)  # fmt: skip
def test_data_that_does_not_fit_is_refused(model: Trained, int4: Graph, change: dict, said: str) -> None:
    same = lambda v: v  # noqa: E731
    samples = {"x": change.get("x", same)(model.train["x"])}
    labels = change.get("labels", same)(model.train_labels) if "labels" in change else None
    with pytest.raises(DataError, match=said):
        train_quantized(model.graph, int4, samples, QUICK, labels)


def test_what_cannot_be_trained_is_refused(model: Trained, int4: Graph, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="input 'x' has no samples"):
        train_quantized(model.graph, int4, {}, QUICK)
    with pytest.raises(PicoformerError, match="diverged"):
        settings = dataclasses.replace(QUICK, match_weight=1e6, temperature=1e-2)
        broken = {"x": np.full_like(model.train["x"][:64], np.nan)}
        train_quantized(model.graph, int4, broken, settings)
    types = {"a": TensorType((2, 3)), "b": TensorType((3, 2)), "y": TensorType((2, 2))}
    spelled = Graph("spelled", ("a", "b"), ("y",), (Node("product", MatMul(), ("a", "b"), "y"),), types)
    with pytest.raises(UnsupportedError, match=r"node 'product' \(MatMul\): cannot be trained"):
        GraphModule(spelled)
    with pytest.raises(ConfigError, match="scheme float32 has no integers to train"):
        picoformer.finetune(model.onnx, calibration=model.train, scheme="float32", out=tmp_path / "out")
    with pytest.raises(ConfigError, match="precision = 'bfloat16'"):
        QatSettings(precision="bfloat16")
    with pytest.raises(ConfigError, match="settle = -1"):
        QatSettings(settle=-1.0)
