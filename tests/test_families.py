"""Decoder families in the Transformer: an independent numpy meaning, names and counts, training, and what pruning,
factorizing and distilling make of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from picoformer.compress.count import count_macs, count_parameters
from picoformer.compress.distill import distill
from picoformer.compress.distill_losses import attention_scores
from picoformer.compress.factorize import factorize
from picoformer.compress.importance import measure_importance
from picoformer.compress.initialise import init_from_teacher
from picoformer.compress.prune import choose, prune
from picoformer.compress.settings import DistillSettings, FactorizeSettings, PruneSettings, TrainSettings
from picoformer.compress.shrink import Keep, masked, shrink
from picoformer.compress.teacher import observe
from picoformer.compress.train import evaluate, train
from picoformer.compress.vocabulary import take_tokens
from picoformer.errors import ConfigError, ModelError
from picoformer.models.checkpoint import load_checkpoint, save_checkpoint
from picoformer.models.config import TransformerConfig
from picoformer.models.export import export_onnx
from picoformer.models.importers import load_decoder
from picoformer.models.positions import alibi_bias, round_bfloat16
from picoformer.models.transformer import TABLE_ROWS, Transformer
from picoformer.models.weights import weight_shapes

torch.set_num_threads(1)

BARE: dict[str, Any] = {"attention_bias": False, "out_bias": False, "feed_forward_bias": False, "head_bias": False}
PLAIN = TransformerConfig.uniform(
    layers=2, heads=4, d_ff=14, d_model=12, head_dim=6, kv_heads=2, sequence=10, vocab_size=17, classes=17, causal=True,
    pooling="none",
)  # fmt: skip
LLAMA = dataclasses.replace(PLAIN, norm="rms", positions="rotary", gated=True, activation="silu", **BARE)
ALIBI = dataclasses.replace(PLAIN, positions="alibi", alibi_slopes=(0.5, 0.25, 0.125, 0.0625))
FORMS = {
    "llama": LLAMA,
    "interleaved": dataclasses.replace(LLAMA, rotary_interleaved=True, tied_head=True),
    "partial": dataclasses.replace(
        LLAMA, rotary_dim=4, rotary_frequencies=(0.7, 0.01), rotary_scale=1.2, attention_bias=True
    ),
    "alibi": dataclasses.replace(ALIBI, embedding_norm=True),
    "alibi_bfloat16": dataclasses.replace(ALIBI, alibi_slopes=(0.31, 0.17, 0.7, 0.023), alibi_bfloat16=True),
    "parallel": dataclasses.replace(PLAIN, parallel=1, positions="rotary", out_bias=False),
    "parallel_two_norms": dataclasses.replace(PLAIN, parallel=2, kv_heads=(1, 1), feed_forward_bias=False),
    "experts": dataclasses.replace(LLAMA, experts=5, experts_per_token=2),
    "plain_experts": dataclasses.replace(PLAIN, experts=3, experts_per_token=1),
    "ungated_rms": dataclasses.replace(PLAIN, norm="rms", positions="none"),
    "gated_pairs": dataclasses.replace(LLAMA, ranks=((4, 0, 3, 2, 5, 0, 3), (0, 2, 0, 0, 0, 4, 0))),
    "post": dataclasses.replace(LLAMA, norm_position="post", final_norm=False),
}


def build(config: TransformerConfig, seed: int = 0) -> Transformer:
    """A model whose every number is random: zero biases and unit gains would hide mistakes."""
    model = Transformer(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def tokens(config: TransformerConfig, count: int = 6, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, config.vocab_size, (count, config.sequence))


# --- an independent float64 meaning -------------------------------------------------------------------------


def numpy_logits(config: TransformerConfig, w: dict[str, NDArray[Any]], ids: NDArray[np.int64]) -> NDArray[Any]:
    """Row by row, head by head, expert by expert."""

    def linear(name: str, v: NDArray[Any]) -> NDArray[Any]:
        if f"{name}.reduce.weight" in w:
            v, name = v @ w[f"{name}.reduce.weight"].T, f"{name}.expand"
        return v @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

    def norm(name: str, v: NDArray[Any], kind: str = config.norm) -> NDArray[Any]:
        centre = v.mean(-1, keepdims=True) if kind == "layer" else 0.0
        scaled = (v - centre) / np.sqrt(((v - centre) ** 2).mean(-1, keepdims=True) + config.norm_epsilon)
        return scaled * w[f"{name}.weight"] + w.get(f"{name}.bias", 0.0)

    def activation(v: NDArray[Any]) -> NDArray[Any]:
        if config.activation == "silu":
            return v / (1 + np.exp(-v))
        return torch.nn.functional.gelu(torch.from_numpy(v)).numpy()

    def turned(v: NDArray[Any], position: int) -> NDArray[Any]:
        if config.positions != "rotary":
            return v
        width = config.rotary_dim or config.head_dim
        result = v.copy()
        for pair in range(width // 2):
            i, j = (2 * pair, 2 * pair + 1) if config.rotary_interleaved else (pair, pair + width // 2)
            rate = config.rotary_frequencies[pair] if config.rotary_frequencies else 10000 ** (-2 * pair / width)
            cos, sin = (config.rotary_scale * f(position * rate) for f in (np.cos, np.sin))
            result[i], result[j] = v[i] * cos - v[j] * sin, v[j] * cos + v[i] * sin
        return result

    def bias(head: int, position: int) -> float:
        if config.positions != "alibi":
            return 0.0
        slope = config.alibi_slopes[head]
        if not config.alibi_bfloat16:
            return slope * position
        root = np.sqrt(config.head_dim)
        first = torch.tensor(slope * root, dtype=torch.float32).to(torch.bfloat16)
        return float((first * torch.tensor(position)).float()) / root

    def attention(layer: int, rows: NDArray[Any]) -> NDArray[Any]:
        name, size = f"layers.{layer}.attention", config.head_dim
        q, k, v = (linear(f"{name}.{part}", rows) for part in ("query", "key", "value"))
        shared = config.heads[layer] // config.key_heads[layer]
        joined = np.zeros((len(rows), config.heads[layer] * size))
        for row in range(len(rows)):
            for head in range(config.heads[layer]):
                own, read = (
                    slice(head * size, (head + 1) * size),
                    slice(head // shared * size, (head // shared + 1) * size),
                )
                query = turned(q[row, own], row)
                scores = np.array(
                    [query @ turned(k[p, read], p) / np.sqrt(size) + bias(head, p) for p in range(row + 1)]
                )
                share = np.exp(scores - scores.max())
                joined[row, own] = share / share.sum() @ v[: row + 1, read]
        return linear(f"{name}.out", joined)

    def branch(name: str, rows: NDArray[Any]) -> NDArray[Any]:
        inner = (
            activation(linear(f"{name}.gate", rows)) * linear(f"{name}.up", rows)
            if config.gated
            else activation(linear(f"{name}.up", rows))
        )
        return linear(f"{name}.down", inner)

    def feed_forward(layer: int, rows: NDArray[Any]) -> NDArray[Any]:
        name = f"layers.{layer}.feed_forward"
        if not config.experts:
            return branch(name, rows)
        result = np.zeros_like(rows)
        for row in range(len(rows)):
            logits = w[f"{name}.router.weight"] @ rows[row]
            chosen = sorted(range(config.experts), key=lambda e: (-logits[e], e))[: config.experts_per_token]
            share = np.exp(logits[chosen] - logits[chosen].max())
            for expert, part in zip(chosen, share / share.sum(), strict=True):
                result[row] += part * branch(f"{name}.experts.{expert}", rows[row : row + 1])[0]
        return result

    found = []
    for sample in ids:
        rows = w["embedding.token.weight"][sample]
        if config.positions == "learned":
            rows = rows + w["embedding.position"][: len(rows)]
        if config.embedding_norm:
            rows = norm("embedding.norm", rows, "layer")
        for layer in range(config.layers):
            first, second = (f"layers.{layer}.{part}_norm" for part in ("attention", "feed_forward"))
            if config.parallel:
                normed = norm(first, rows)
                other = normed if config.parallel == 1 else norm(second, rows)
                rows = rows + attention(layer, normed) + feed_forward(layer, other)
            elif config.norm_position == "post":
                rows = norm(first, rows + attention(layer, rows))
                rows = norm(second, rows + feed_forward(layer, rows))
            else:
                rows = rows + attention(layer, norm(first, rows))
                rows = rows + feed_forward(layer, norm(second, rows))
        if config.final_norm:
            rows = norm("final_norm", rows)
        found.append(rows @ w["embedding.token.weight"].T if config.tied_head else linear("head", rows))
    return np.stack(found)


@pytest.mark.parametrize("config", FORMS.values(), ids=FORMS)
def test_logits_are_the_formula(config: TransformerConfig) -> None:
    model, ids = build(config), tokens(config, 2)
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    wanted = numpy_logits(config, weights, ids)
    with torch.no_grad():
        found = model(torch.from_numpy(ids)).numpy()
        short = model(torch.from_numpy(ids[:, :7])).numpy()
    assert np.abs(found - wanted).max() <= 1e-4  # float32 sums
    assert np.abs(short - wanted[:, :7]).max() <= 1e-4


@pytest.mark.parametrize("config", FORMS.values(), ids=FORMS)
def test_names_shapes_and_counts(config: TransformerConfig) -> None:
    model = build(config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes == weight_shapes(config)
    assert count_parameters(config) == sum(parameter.numel() for parameter in model.parameters())
    assert TransformerConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("change", [{"positions": "sinusoidal", "cls_token": True}, {"embedding_rank": 3}])
def test_shapes_of_encoders(change: dict[str, Any]) -> None:
    for keys in ({"input_size": 5, "sequence": 6}, {"vocab_size": 9, "sequence": 6}):
        config = TransformerConfig.uniform(layers=2, heads=2, d_ff=8, d_model=8, classes=3, **keys, **change)
        assert {n: tuple(v.shape) for n, v in Transformer(config).state_dict().items()} == weight_shapes(config)
    image = TransformerConfig.uniform(layers=1, heads=2, d_ff=8, d_model=8, image=(2, 4, 6), patch=(2, 3))
    assert {n: tuple(v.shape) for n, v in Transformer(image).state_dict().items()} == weight_shapes(image)


def test_experts_cost_what_runs() -> None:
    dense, mixture = LLAMA, FORMS["experts"]
    rows, d, width = LLAMA.tokens, LLAMA.d_model, LLAMA.d_ff[0]
    more = LLAMA.layers * rows * (3 * d * width + 5 * d)  # one expert more than a dense model, and the router
    assert count_macs(mixture) - count_macs(dense) == more


def test_only_chosen_experts_run_and_equals_go_to_the_first() -> None:
    model = build(FORMS["experts"])
    mixture = model.layers[0].feed_forward
    seen: dict[int, int] = {}
    for index, expert in enumerate(mixture.experts):
        expert.register_forward_pre_hook(lambda _m, inputs, index=index: seen.update({index: len(inputs[0])}))
    with torch.no_grad():
        mixture.router.weight.zero_()
        mixture.router.weight[3:, 0] = 1.0  # positive where the first channel is, the same for both
        rows = torch.ones(1, 6, 12)
        rows[0, :4, 0] = -1.0
        mixture(rows)
    assert seen == {0: 4, 1: 4, 3: 2, 4: 2}


def test_inputs_longer_than_the_tables_kept() -> None:
    for config in (LLAMA, ALIBI):
        small = dataclasses.replace(config, d_model=4, heads=(4,), kv_heads=(1,), head_dim=2, d_ff=(3,))
        model = build(dataclasses.replace(small, sequence=TABLE_ROWS + 5))
        ids = torch.from_numpy(tokens(model.config, 1))
        with torch.no_grad():
            found, short = model(ids), model(ids[:, :TABLE_ROWS])
        torch.testing.assert_close(found[:, :TABLE_ROWS], short, rtol=1e-4, atol=1e-4)
        assert bool(torch.isfinite(found).all())


def test_bfloat16_rounding_is_torchs() -> None:
    values = np.random.default_rng(0).standard_normal(5000).astype(np.float32) * np.float32(1000)
    values[:2] = (1.00390625, 1.01171875)  # ties, to even
    assert (round_bfloat16(values) == torch.from_numpy(values).to(torch.bfloat16).float().numpy()).all()
    assert not (alibi_bias(FORMS["alibi_bfloat16"], 10)[0] == np.float32(0.31) * np.arange(10)).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"norm": "batch"}, "norm = 'batch'; choose one of layer, rms"),
        ({"rotary_dim": 4}, "rotary_dim needs positions = 'rotary'"),
        ({"rotary_scale": 2.0}, "rotary_scale needs positions = 'rotary'"),
        ({"positions": "rotary", "rotary_dim": 3}, "rotary_dim = 3: positions 'rotary' turn pairs"),
        ({"positions": "rotary", "rotary_dim": 8}, "rotary_dim = 8"),
        ({"positions": "rotary", "head_dim": 5}, "head_dim = 5"),
        (
            {"positions": "rotary", "rotary_frequencies": (1.0,)},
            "rotary_frequencies has 1 entries; give one for each of 3",
        ),
        ({"positions": "rotary", "rotary_frequencies": (1.0, float("nan"), 1.0)}, "rotary_frequencies holds"),
        ({"positions": "rotary", "rotary_scale": 0}, "rotary_scale = 0"),
        ({"positions": "alibi"}, "alibi_slopes has 0 entries"),
        ({"positions": "alibi", "alibi_slopes": (1.0,) * 4, "heads": (4, 2)}, "alibi_slopes has 4 entries"),
        ({"alibi_slopes": (1.0,) * 4}, "alibi_slopes need positions = 'alibi'"),
        ({"positions": "alibi", "alibi_slopes": (1.0,) * 4, "causal": False}, "need causal = true"),
        ({"parallel": 3}, "parallel = 3"),
        ({"parallel": 1, "norm_position": "post"}, "parallel needs norm_position = 'pre'"),
        ({"embedding_norm": True, "norm": "rms"}, "embedding_norm is a LayerNorm"),
        ({"experts": 3}, "experts_per_token = 0; write 1 to experts = 3"),
        ({"experts_per_token": 1}, "needs experts"),
        ({"experts": 2, "experts_per_token": 1, "ranks": ((1,) * 6,) * 2}, "ranks do not go with experts"),
        ({"gated": 1}, "gated = 1; write true or false"),
        ({"gated": True, "ranks": ((1,) * 6,) * 2}, "ranks must hold 7 integers"),
    ],
)
def test_keys_that_do_not_go_together(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        dataclasses.replace(PLAIN, **change)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["llama", "interleaved", "partial", "alibi", "parallel", "ungated_rms"])
def test_exported_files_say_the_same(name: str, tmp_path: Path) -> None:
    model, path = build(FORMS[name]), tmp_path / "model.onnx"
    export_onnx(model, path)
    ids = tokens(model.config, 1)
    found = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": ids})[0]
    with torch.no_grad():
        assert np.abs(found - model(torch.from_numpy(ids)).numpy()).max() <= 1e-4  # float32 sums


def test_experts_are_not_exported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="experts = 5: which of them run depends on the input"):
        export_onnx(build(FORMS["experts"]), tmp_path / "model.onnx")


# --- training and checkpoints -------------------------------------------------------------------------------


def counting(config: TransformerConfig, count: int = 96) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Windows of counting upwards by 1 or 2, and what follows each token."""
    rng = np.random.default_rng(0)
    start, step = rng.integers(0, config.vocab_size, (count, 1)), rng.integers(1, 3, (count, 1))
    text = (start + step * np.arange(config.sequence + 1)) % config.vocab_size
    return text[:, :-1].copy(), text[:, 1:].copy()


@pytest.mark.parametrize("name", ["llama", "interleaved", "parallel", "alibi", "experts"])
def test_families_train_and_keep_their_checkpoints(name: str, tmp_path: Path) -> None:
    model = Transformer(FORMS[name])
    x, y = counting(model.config)
    before = evaluate(model, x, y)
    train(model, x, y, TrainSettings(epochs=12, batch=16, learning_rate=1e-2))
    assert before < 0.3 and evaluate(model, x, y) > 0.8  # the step is not known at the first token
    path = tmp_path / "model.safetensors"
    save_checkpoint(model, path)
    again, _ = load_checkpoint(path)
    assert again.config == model.config
    ids = torch.from_numpy(x[:4])
    with torch.no_grad():
        assert bool((again(ids) == model.eval()(ids)).all())
    imported = load_decoder(path)
    assert imported.config == model.config and imported.family == "picoformer"
    assert all((imported.weights[key] == value.numpy()).all() for key, value in model.state_dict().items())


def test_checkpoints_that_are_no_language_models(tmp_path: Path) -> None:
    encoder = TransformerConfig.uniform(layers=1, heads=2, d_ff=8, d_model=8, classes=3, input_size=5, sequence=6)
    save_checkpoint(Transformer(encoder), tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="is no language model"):
        load_decoder(tmp_path / "model.safetensors")


def test_a_llama_student_of_a_llama_teacher() -> None:
    teacher = Transformer(LLAMA)
    x, y = counting(LLAMA)
    train(teacher, x, y, TrainSettings(epochs=15, batch=16, learning_rate=1e-2))
    student = Transformer(dataclasses.replace(LLAMA, heads=(2, 2), d_ff=(10, 10), d_model=8), seed=1)
    settings = DistillSettings(epochs=12, batch=16, learning_rate=1e-2, hidden_weight=0.5, attention_weight=0.5)
    distill(teacher, student, x, y, settings)
    assert evaluate(student, x, y) > 0.75


@pytest.mark.parametrize("name", ["llama", "interleaved", "alibi", "alibi_bfloat16"])
def test_attention_scores_are_those_the_model_has(name: str) -> None:
    model = build(FORMS[name])
    ids = torch.from_numpy(tokens(model.config, 2))
    with torch.no_grad():
        found = observe(model, ids, ["logits", "query.1", "key.1", "value.1"])
        scores = attention_scores(found["query.1"], found["key.1"], model.config, 1)
        share = torch.softmax(scores + torch.full((10, 10), float("-inf")).triu(1), dim=-1)
        value = found["value.1"].reshape(2, 10, 2, 6).transpose(1, 2).repeat_interleave(2, dim=1)
        seen: list[torch.Tensor] = []
        model.layers[1].attention.out.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
        model(ids)
    torch.testing.assert_close((share @ value).transpose(1, 2).flatten(2), seen[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "experts", "parallel", "alibi", "gated_pairs"])
def test_a_student_starts_from_its_teacher(name: str) -> None:
    config = FORMS[name]
    teacher, student = build(config), Transformer(config, seed=5)
    report = init_from_teacher(student, teacher)
    left = {"feed_forward", "attention"} if name in ("experts", "gated_pairs") else set()
    assert all(any(part in parameter for part in left) for parameter in report.left)
    assert not report.cut
    narrow = Transformer(dataclasses.replace(config, d_model=8, ranks=()), seed=5)
    assert "embedding.token.weight" in init_from_teacher(narrow, teacher).cut


# --- pruning and factorizing --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "partial", "gated_pairs", "post", "ungated_rms"])
def test_a_smaller_model_is_the_masked_one(name: str) -> None:
    config = FORMS[name]
    model, rng = build(config).double(), np.random.default_rng(1)
    width = np.arange(12) % 4 != 1
    heads = tuple(np.array([True, True, layer == 0, layer == 0]) for layer in range(2))
    neurons = tuple(rng.random(14) < 0.6 for _ in range(2))
    keep = Keep(heads, neurons, None, width)
    smaller = shrink(model, keep)
    ids = torch.from_numpy(tokens(config))
    with torch.no_grad(), masked(model, keep):
        wanted = model(ids)
    with torch.no_grad():
        torch.testing.assert_close(smaller(ids), wanted, rtol=1e-9, atol=1e-9)
    assert count_parameters(smaller.config) == sum(p.numel() for p in smaller.parameters()) < count_parameters(config)


@pytest.mark.parametrize("importance", ["taylor", "activation", "magnitude", "reconstruction"])
def test_pruning_a_llama(importance: str) -> None:
    model = build(LLAMA)
    with torch.no_grad():  # neurons that do nothing go first, by every measure
        for layer in model.layers:
            for part in (layer.feed_forward.gate, layer.feed_forward.up):
                part.weight[3:10] = 0.0
            layer.feed_forward.down.weight[:, 3:10] = 0.0
    x, y = counting(LLAMA, 16)
    settings = PruneSettings(
        importance=importance, neuron_fraction=0.5, head_fraction=0.0, samples=16, neuron_multiple=1
    )
    keep = choose(measure_importance(model, x, y, settings), settings, LLAMA)
    assert all(not mask[3:10].any() and mask.sum() == 7 for mask in keep.neurons)
    smaller, report = prune(model, x, y, dataclasses.replace(settings, reconstruct=True))
    assert report.neurons_after == (7, 7)
    ids = torch.from_numpy(x)
    with torch.no_grad():
        torch.testing.assert_close(smaller(ids), model(ids), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("experts", "experts = 5"),
        ("parallel", "parallel = 1"),
        ("alibi", "embedding_norm = True"),
        ("alibi_bfloat16", "alibi_slopes = 4 entries"),
    ],
)
def test_what_cannot_be_pruned_is_refused_by_its_key(name: str, key: str) -> None:
    x, y = counting(FORMS[name], 8)
    for importance in ("taylor", "random"):
        with pytest.raises(ConfigError) as caught:
            prune(build(FORMS[name]), x, y, PruneSettings(samples=8, importance=importance))
        assert key in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["llama", "parallel", "alibi", "gated_pairs"])
def test_factorizing_families(name: str) -> None:
    model = build(FORMS[name])
    x, _ = counting(model.config, 16)
    smaller, report = factorize(model, x, FactorizeSettings(keep=0.85, samples=16, rank_multiple=1))
    assert report.parameters_after == sum(p.numel() for p in smaller.parameters())
    assert report.parameters_after <= 0.85 * report.parameters_before
    assert ("layers.0.feed_forward.gate" in {layer.name for layer in report.layers}) == model.config.gated


def test_experts_are_not_factorized() -> None:
    x, _ = counting(FORMS["experts"], 8)
    with pytest.raises(ConfigError, match="experts = 5"):
        factorize(build(FORMS["experts"]), x, FactorizeSettings(samples=8))


def test_fewer_tokens_without_a_bias_of_the_head() -> None:
    model, kept = build(LLAMA), np.array([0, 3, 4, 9])
    ids = torch.tensor([[0, 1, 2, 3]])
    with torch.no_grad():
        found = take_tokens(model, kept)(ids)
        wanted = model(torch.from_numpy(kept)[ids])[:, :, kept.tolist()]
    torch.testing.assert_close(found, wanted)
