"""Factorization: the best pair in its norm, a budget that holds, and a checkpoint that goes all the way to firmware."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import picoformer
from command_line import picoformer as picoformer_command
from command_line import refuses, succeeds
from picoformer.compress.count import count_macs, count_parameters
from picoformer.compress.distill import distill
from picoformer.compress.factorize import decompose, factorize, measure_moments, relative_error
from picoformer.compress.prune import prune
from picoformer.compress.ranks import choose_ranks, find_sites
from picoformer.compress.settings import DistillSettings, FactorizeSettings, PruneSettings, TrainSettings
from picoformer.compress.shrink import Keep, masked, shrink
from picoformer.compress.train import train
from picoformer.datasets import save_dataset, synthetic_signal
from picoformer.errors import ConfigError, DataError, ModelError, PicoformerError
from picoformer.exporting import inspect_file
from picoformer.models.checkpoint import load_checkpoint, save_checkpoint
from picoformer.models.config import PROJECTIONS, TransformerConfig
from picoformer.models.export import export_onnx
from picoformer.models.transformer import Transformer, build_unset

torch.set_num_threads(1)

CONFIG = TransformerConfig.uniform(layers=2, heads=4, d_ff=32, d_model=16, sequence=12, input_size=9, classes=3)
TOKENS = dataclasses.replace(CONFIG, input_size=0, vocab_size=40, scale_embedding=True)
RANKS = ((4, 0, 4, 8, 4, 0), (0, 8, 0, 4, 4, 4))


def build(config: TransformerConfig, seed: int = 0) -> Transformer:
    """A model whose every number is random: zero biases and unit gains would hide mistakes."""
    model = Transformer(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def samples(config: TransformerConfig, count: int = 64, seed: int = 0) -> np.ndarray:
    """Inputs whose features hang together; tokens of very different frequency."""
    rng = np.random.default_rng(seed)
    if config.vocab_size:
        return np.minimum(rng.geometric(0.15, (count, config.sequence)) - 1, config.vocab_size - 1).astype(np.int64)
    shape = config.input_shape
    mix = np.random.default_rng(99).normal(0, 1, (shape[-1], shape[-1])) * np.geomspace(1, 0.03, shape[-1])
    return (rng.normal(0, 1, (count, *shape)) @ mix.T).astype(np.float32)


def outputs(model: Transformer, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(x)).numpy()


# --- the decomposition --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (8, 8)])
def test_plain_svd_reaches_the_bound_of_eckart_and_young(shape: tuple[int, int]) -> None:
    weight = np.random.default_rng(0).normal(0, 1, shape)
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(weight.T @ weight)[::-1], 0))
    part = decompose(weight)
    for rank in range(1, min(shape) + 1):
        expand, reduce = part.cut(rank)
        assert expand.shape == (shape[0], rank) and reduce.shape == (rank, shape[1])
        left_over = np.sum((weight - expand @ reduce) ** 2)
        assert left_over == pytest.approx(np.sum(values[rank:] ** 2), abs=1e-10)
        # No pair found by alternating least squares from a random start is better.
        other = np.random.default_rng(rank).normal(0, 1, (rank, shape[1]))
        for _ in range(50):
            left = weight @ np.linalg.pinv(other)
            other = np.linalg.pinv(left) @ weight
        assert left_over <= np.sum((weight - left @ other) ** 2) + 1e-9


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_the_weighted_pair_is_the_best_for_its_inputs(seed: int, rank: int) -> None:
    """Against plain SVD, and against the optimum found another way: the projection on the outputs' main directions."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (200, 8)) * np.geomspace(1, 0.05, 8) @ rng.normal(0, 1, (8, 8))
    weight = rng.normal(0, 1, (6, 8))
    moment = x.T @ x / len(x)

    def left_over(approximation: np.ndarray) -> float:
        return float(np.linalg.norm(x @ (weight - approximation).T))

    expand, reduce = decompose(weight, moment).cut(rank)
    aware = left_over(expand @ reduce)
    plain = decompose(weight).cut(rank)
    assert aware <= left_over(plain[0] @ plain[1]) * (1 + 1e-6)
    main = np.linalg.svd(x @ weight.T, full_matrices=False)[2][:rank]
    best = left_over(main.T @ main @ weight)
    assert best * (1 - 1e-9) <= aware <= best * 1.01 + 1e-9  # the damping's share
    error = relative_error(weight, expand @ reduce, moment)
    assert error == pytest.approx(aware / np.linalg.norm(x @ weight.T), rel=1e-6, abs=1e-7)
    hidden = x @ reduce.T
    assert np.all(np.mean(hidden**2, axis=0) < 1 + 1e-9)


def test_correlated_inputs_gain_much_and_dead_ones_do_no_harm() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, (500, 2)) @ rng.normal(0, 1, (2, 16))  # two directions; fourteen never seen
    weight = rng.normal(0, 1, (16, 16))
    moment = x.T @ x / len(x)
    aware, plain = decompose(weight, moment).cut(2), decompose(weight).cut(2)
    assert np.isfinite(aware[1]).all()
    assert relative_error(weight, aware[0] @ aware[1], moment) < 0.01
    assert relative_error(weight, plain[0] @ plain[1], moment) > 0.3
    zero = decompose(weight, np.zeros((16, 16)))
    np.testing.assert_allclose(zero.expand @ zero.reduce, weight, atol=1e-9)


@pytest.mark.parametrize("config", [CONFIG, TOKENS], ids=["frames", "tokens"])
def test_moments_are_those_of_the_inputs(config: TransformerConfig) -> None:
    model, x = build(config), samples(config, 50)
    sites = find_sites(config)
    found = measure_moments(model, x, sites, FactorizeSettings(samples=30, batch=7))
    if config.vocab_size:
        np.testing.assert_allclose(found["embedding.token"], np.bincount(x[:30].ravel(), minlength=40) / (30 * 12))
    else:
        flat = x[:30].reshape(-1, 9).astype(np.float64)
        np.testing.assert_allclose(found["embedding.frames"], flat.T @ flat / len(flat))
    with torch.no_grad():
        rows = model.layers[0].attention_norm(model.embedding(torch.from_numpy(x[:30]))).flatten(0, 1).double().numpy()
    np.testing.assert_allclose(found["layers.0.attention.key"], rows.T @ rows / len(rows), atol=1e-5)
    assert not any(module._forward_pre_hooks for module in model.modules())


# --- models of pairs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["plain", "activation"])
@pytest.mark.parametrize("config", [CONFIG, TOKENS], ids=["frames", "tokens"])
def test_full_rank_is_exact(config: TransformerConfig, method: str) -> None:
    from picoformer.compress.factorize import matrix, replace_matrices
    from picoformer.compress.ranks import Choice

    model, x = build(config), samples(config)
    sites = find_sites(config)
    moments = measure_moments(model, x, sites, FactorizeSettings())
    parts = {s.name: decompose(matrix(model, s), moments[s.name] if method == "activation" else None) for s in sites}
    full = {s.name: Choice(min(s.inputs, s.outputs)) for s in sites}
    pairs = replace_matrices(model, sites, parts, full)
    assert pairs.config.ranks == ((16,) * 6,) * 2 and pairs.config.embedding_rank == (9 if config.input_size else 16)
    np.testing.assert_allclose(outputs(pairs, x), outputs(model, x), rtol=1e-4, atol=1e-4)
    for site in sites:
        np.testing.assert_allclose(matrix(pairs, site), matrix(model, site), atol=1e-5)
    # And cut once more, from pairs: what comes out is what cutting the whole would have given.
    budget = FactorizeSettings(rank=4, method=method)
    twice, once = factorize(pairs, x, budget)[0], factorize(model, x, budget)[0]
    np.testing.assert_allclose(outputs(twice, x), outputs(once, x), rtol=1e-3, atol=1e-3)


def test_a_pair_is_the_product_of_its_halves() -> None:
    model = build(dataclasses.replace(CONFIG, ranks=RANKS, embedding_rank=4))
    part = model.layers[0].attention.query
    x = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (5, 16)).astype(np.float32))
    w = part.expand.weight @ part.reduce.weight
    torch.testing.assert_close(part(x), x @ w.T + part.expand.bias, rtol=1e-5, atol=1e-5)
    assert isinstance(model.layers[0].attention.key, torch.nn.Linear)


@pytest.mark.parametrize("base", [CONFIG, TOKENS], ids=["frames", "tokens"])
def test_counts_are_those_of_the_module(base: TransformerConfig) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = dataclasses.replace(base, ranks=RANKS, embedding_rank=4)
    assert count_parameters(config) == sum(p.numel() for p in build_unset(config).parameters())
    with FlopCounterMode(display=False) as counter:
        outputs(Transformer(config), samples(config, 1))
    assert 2 * count_macs(config) == counter.get_total_flops()


@pytest.mark.parametrize("base", [CONFIG, TOKENS], ids=["frames", "tokens"])
def test_a_checkpoint_keeps_the_ranks(base: TransformerConfig, tmp_path: Path) -> None:
    model = build(dataclasses.replace(base, ranks=RANKS, embedding_rank=4))
    save_checkpoint(model, tmp_path / "m.safetensors")
    loaded, _ = load_checkpoint(tmp_path / "m.safetensors")
    assert loaded.config == model.config and loaded.config.ranks == RANKS
    x = samples(base, 4)
    assert np.array_equal(outputs(loaded, x), outputs(model, x))
    plain = {key: value for key, value in base.to_dict().items() if key not in ("ranks", "embedding_rank")}
    assert TransformerConfig.from_dict(plain) == base  # a checkpoint from before ranks
    assert dataclasses.replace(base, ranks=((0,) * 6,) * 2) == base
    save_checkpoint(build(base), tmp_path / "whole.safetensors")
    data = (tmp_path / "whole.safetensors").read_bytes()
    assert data.count(b'\\"embedding_rank\\": 0') == 1
    (tmp_path / "bad.safetensors").write_bytes(data.replace(b'\\"embedding_rank\\": 0', b'\\"embedding_rank\\": 4'))
    with pytest.raises(ModelError, match=r"embedding\..*missing"):
        load_checkpoint(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranks": ((4,) * 6,)}, "ranks must hold 6 integers for each of 2 layers"),
        ({"ranks": ((4,) * 5,) * 2}, "ranks must hold 6"),
        ({"ranks": ((4, 4, 4, 4, 4, 17),) * 2}, r"ranks\[0\]\[5\] = 17.*'down' has rank 16"),
        ({"ranks": ((0, 0, 0, 0, 0, -1),) * 2}, r"ranks\[0\]\[5\] = -1"),
        ({"ranks": ((4.0,) * 6,) * 2}, r"ranks\[0\]\[0\] = 4.0"),
        ({"ranks": 4}, "ranks = 4"),
        ({"ranks": (4, 4)}, "ranks = "),
        ({"embedding_rank": 10}, "embedding_rank = 10"),
        ({"embedding_rank": True}, "embedding_rank = True"),
        ({"input_size": 0, "sequence": 0, "image": (2, 4, 6), "patch": (2, 3), "embedding_rank": 2}, "with image"),
    ],
)
def test_ranks_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_pairs_train_and_distill(tmp_path: Path) -> None:
    data = synthetic_signal(seed=0, n=240, seq=12, features=9, classes=3, noise=0.3)
    model = Transformer(dataclasses.replace(CONFIG, ranks=RANKS, embedding_rank=4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quick = TrainSettings(epochs=8, batch=32, learning_rate=5e-3)
    losses = train(model, data.x_train, data.y_train, quick).losses
    assert losses[-1] < 0.8 * losses[0]
    assert not any(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    hidden = DistillSettings(epochs=2, batch=32, hidden_weight=1.0)
    student = Transformer(dataclasses.replace(CONFIG, ranks=RANKS), seed=1)
    losses = distill(model, student, data.x_train, data.y_train, hidden).losses
    assert losses[-1] < losses[0]


def test_pruning_a_model_of_pairs() -> None:
    """The result is the masked model; a pair that no longer saves anything is multiplied out."""
    config = dataclasses.replace(CONFIG, ranks=((6, 0, 6, 6, 10, 10), (0, 2, 0, 4, 4, 4)), embedding_rank=4)
    model = build(config).double()
    keep = Keep(
        heads=(np.array([True, False, False, False]), np.array([False, True, True, True])),
        neurons=(np.arange(32) % 3 == 0, np.arange(32) > 4),
    )
    x = samples(CONFIG).astype(np.float64)
    with masked(model, keep):
        expected = outputs(model, x)
    smaller = shrink(model, keep)
    np.testing.assert_allclose(outputs(smaller, x), expected, rtol=1e-12, atol=1e-12)
    assert smaller.config.ranks == ((0,) * 6, (0, 2, 0, 4, 4, 4)) and smaller.config.heads == (1, 3)
    labels = np.zeros(len(x), np.int64)
    pruned, report = prune(model.float(), x.astype(np.float32), labels, PruneSettings())
    assert report.parameters_after == sum(p.numel() for p in pruned.parameters())


# --- ranks under a budget -----------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", ["parameters", "macs"])
@pytest.mark.parametrize("keep", [0.9, 0.7, 0.55])
@pytest.mark.parametrize("config", [CONFIG, TOKENS], ids=["frames", "tokens"])
def test_the_budget_is_respected_and_used(config: TransformerConfig, keep: float, budget: str) -> None:
    model, x = build(config), samples(config)
    smaller, report = factorize(model, x, FactorizeSettings(keep=keep, budget=budget))
    count = count_parameters if budget == "parameters" else count_macs
    share = count(smaller.config) / count(config)
    assert keep - 0.08 < share <= keep
    assert report.parameters_after == sum(p.numel() for p in smaller.parameters()) == count_parameters(smaller.config)
    assert report.macs_after == count_macs(smaller.config) and report.parameters_before == count_parameters(config)
    assert report.parameters_before - report.parameters_after == sum(
        layer.parameters_before - layer.parameters_after for layer in report.layers
    )
    assert report.macs_before - report.macs_after == sum(
        layer.macs_before - layer.macs_after for layer in report.layers
    )
    for layer in report.layers:
        assert layer.rank % 4 == 0 and bool(layer.note) == (layer.rank == 0) == (layer.relative_error == 0)
    assert [layer.rank for layer in report.layers if "attention.key" in layer.name] == [
        smaller.config.rank(layer, "key") for layer in range(2)
    ]
    assert smaller.config.ranks and model.config == config
    if budget == "macs" and config.vocab_size:  # looking a token up costs no MAC; a pair would
        assert report.layers[0].rank == 0 and "no less" in report.layers[0].note


def test_more_budget_is_less_error_and_the_choice_is_close_to_the_best() -> None:
    """On sizes small enough to try every combination of ranks."""
    config = dataclasses.replace(CONFIG, heads=(4,), d_ff=(32,))
    rng = np.random.default_rng(0)
    sites = find_sites(config, embedding=False)
    values = {s.name: np.sort(rng.gamma(1.0, 1.0, min(s.inputs, s.outputs)))[::-1] * 10 ** rng.normal() for s in sites}
    energies = {name: np.append(np.cumsum((v**2)[::-1])[::-1], 0) / np.sum(v**2) for name, v in values.items()}
    total = count_parameters(config)
    last = np.inf
    for keep in (0.5, 0.55, 0.6, 0.7, 0.8, 0.9):
        chosen = choose_ranks(config, sites, values, FactorizeSettings(keep=keep, rank_multiple=2))
        error = sum(energies[name][c.rank] for name, c in chosen.items() if c.rank)
        assert error <= last + 1e-12
        last = error
        table = {0.0: 0.0}  # cost saved → least error, exactly
        for site in sites:
            grown: dict[float, float] = {}
            for rank in (0, 2, 4, 6, 8, 10):
                saved = site.inputs * site.outputs - rank * (site.inputs + site.outputs) if rank else 0
                if saved < 0:
                    continue
                for before, lost in table.items():
                    found = lost + (energies[site.name][rank] if rank else 0)
                    grown[before + saved] = min(grown.get(before + saved, np.inf), found)
            table = grown
        best = min(lost for saved, lost in table.items() if total - saved <= keep * total)
        assert best <= error + 1e-12 and error <= 1.35 * best + 1e-12


def test_an_important_layer_keeps_more() -> None:
    model, x = build(CONFIG), samples(CONFIG)
    with torch.no_grad():  # value of layer 0 gets rank 2: nothing is lost by cutting it to 4
        w = model.layers[0].attention.value.weight
        u, s, v = torch.linalg.svd(w)
        s[2:] = 0
        w.copy_(u @ torch.diag(s) @ v)
    _, report = factorize(model, x, FactorizeSettings(keep=0.95))
    ranks = {layer.name: layer for layer in report.layers}
    assert ranks["layers.0.attention.value"].rank == 4
    assert ranks["layers.0.attention.value"].relative_error < 1e-4


def test_activation_aware_beats_plain_at_the_same_ranks() -> None:
    model, x = build(CONFIG), samples(CONFIG, 256)
    aware, plain = (factorize(model, x, FactorizeSettings(rank=4, method=m)) for m in ("activation", "plain"))
    errors = [
        (a.relative_error, p.relative_error)
        for a, p in zip(aware[1].layers, plain[1].layers, strict=True)
        if a.rank == p.rank == 4
    ]
    assert len(errors) == 13 and all(a < p for a, p in errors)
    held_back = samples(CONFIG, 256, seed=1)
    whole = outputs(model, held_back)
    far = [np.linalg.norm(outputs(m, held_back) - whole) for m in (aware[0], plain[0])]
    assert far[0] < far[1]


def test_what_would_cost_more_stays_whole_and_says_so() -> None:
    model, x = build(CONFIG), samples(CONFIG)
    _, report = factorize(model, x, FactorizeSettings(rank=8))
    notes = {layer.name: (layer.rank, layer.note) for layer in report.layers}
    assert notes["layers.0.attention.query"] == (0, "a pair of rank 8 would cost no less")  # 8·32 = 16·16
    assert notes["embedding.frames"] == (0, "a pair of rank 8 would cost no less")
    assert notes["layers.0.feed_forward.up"] == (8, "")
    with pytest.raises(ConfigError, match="rank = 16 makes no matrix of this model cheaper"):
        factorize(model, x, FactorizeSettings(rank=16))
    whole, report = factorize(model, x, FactorizeSettings(keep=1.0))
    assert whole.config == model.config and all(layer.note for layer in report.layers)
    _, report = factorize(model, x, FactorizeSettings(rank=4, embedding=False))
    assert "embedding.frames" not in {layer.name for layer in report.layers}


@pytest.mark.parametrize("budget", ["parameters", "macs"])
def test_a_budget_that_nothing_can_meet_names_the_nearest(budget: str) -> None:
    model, x = build(CONFIG), samples(CONFIG)
    with pytest.raises(ConfigError, match=rf"keep = 0.1 of the {budget} cannot be met.*set keep to 0\.\d+") as caught:
        factorize(model, x, FactorizeSettings(keep=0.1, budget=budget))
    nearest = float(str(caught.value).split("set keep to ")[1].split()[0])
    _, report = factorize(model, x, FactorizeSettings(keep=nearest, budget=budget))
    assert all(layer.rank == 4 for layer in report.layers)
    with pytest.raises(ConfigError):
        factorize(model, x, FactorizeSettings(keep=nearest - 0.002, budget=budget))


def test_bad_samples_and_settings() -> None:
    model, x = build(CONFIG), samples(CONFIG)
    with pytest.raises(DataError, match="0 samples"):
        factorize(model, x[:0], FactorizeSettings())
    with pytest.raises(DataError, match="input has shape"):
        factorize(model, x[:, :, :5], FactorizeSettings())
    with pytest.raises(PicoformerError, match="no finite inputs of 'embedding"):
        factorize(model, x * np.float32("nan"), FactorizeSettings())
    for bad in ({"keep": 1.5}, {"budget": "bytes"}, {"method": "magic"}, {"rank_multiple": 0}, {"embedding": 1}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            FactorizeSettings(**bad)


# --- down the chain -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [CONFIG, TOKENS], ids=["frames", "tokens"])
def test_the_exported_file_says_the_same_and_shows_both_halves(base: TransformerConfig, tmp_path: Path) -> None:
    model, x = build(dataclasses.replace(base, ranks=RANKS, embedding_rank=4)), samples(base, 4)
    path = tmp_path / "m.onnx"
    export_onnx(model, path)
    session = onnxruntime.InferenceSession(path)
    found = np.concatenate([session.run(None, {"x": row[None]})[0] for row in x])
    np.testing.assert_allclose(found, outputs(model, x), rtol=1e-4, atol=1e-4)
    record = inspect_file(path, {})
    names = [row["name"] for row in record["operators"] if row["op"] == "Linear"]
    for layer in range(2):
        for projection, rank in zip(PROJECTIONS, RANKS[layer], strict=True):
            own = [name for name in names if f"layers.{layer}." in name and f".{projection}." in name]
            assert len(own) == (2 if rank else 1), (layer, projection, own)
    assert record["macs"] == count_macs(model.config)


@pytest.mark.parametrize("scheme", ["int8", "float32"])
@pytest.mark.parametrize("base", [CONFIG, TOKENS], ids=["frames", "tokens"])
def test_a_factorized_model_is_equal_down_to_firmware(base: TransformerConfig, scheme: str, tmp_path: Path) -> None:
    smaller, _ = factorize(build(base), samples(base), FactorizeSettings(rank=4))
    assert smaller.config.embedding_rank and smaller.config.ranks
    save_checkpoint(smaller, tmp_path / "m.safetensors")
    calibration = {"x": samples(base, 32)} if scheme == "int8" else None
    picoformer.build(
        tmp_path / "m.safetensors", calibration=calibration, scheme=scheme, target="host", out=tmp_path / "out"
    )
    inputs = {"x": samples(base, 8, seed=1)}
    found = picoformer.verify(tmp_path / "out", inputs=inputs, checkpoint=tmp_path / "m.safetensors")
    assert found.report.passed, found.report.failures
    assert found.report.links[0].source == "torch"
    if scheme == "int8":
        assert [link.equal for link in found.report.links if link.source == "reference"] == [True]


TOML = """\
name = "f"

[data]

[teacher]
layers = 1
d_model = 16
heads = 2
d_ff = 16

[student]
layers = 1
d_model = 16
heads = 2
d_ff = 16

[factorization]
keep = 0.6

[factorization_recovery]
epochs = 1
batch = 256
"""


def test_the_command(tmp_path: Path) -> None:
    save_dataset(synthetic_signal(seed=0, n=120, seq=12, features=9, classes=3, noise=0.3), tmp_path / "data.npz")
    save_checkpoint(build(CONFIG), tmp_path / "whole.safetensors")
    (tmp_path / "f.toml").write_text(TOML)
    words = ["factorize", tmp_path / "whole.safetensors", tmp_path / "data.npz", "--config", tmp_path / "f.toml"]
    out = tmp_path / "small.safetensors"
    record = succeeds(*words, "--teacher", tmp_path / "whole.safetensors", "-o", out, "--json").record
    model, extra = load_checkpoint(out)
    assert extra["figures"] == record and record["parameters"] == count_parameters(model.config)
    assert record["parameters"] <= 0.6 * count_parameters(CONFIG)
    said = succeeds(*words, "-o", out).out
    assert "layers.1.feed_forward.down" in said and "rank 4" in said and "accuracy before recovery" in said
    (tmp_path / "f.toml").write_text(TOML.replace("keep = 0.6", "keep = 0.01"))
    refuses([*words, "-o", out], "keep = 0.01", "set keep to")
    (tmp_path / "f.toml").write_text(TOML.replace("keep = 0.6", "kept = 0.6"))
    refuses([*words, "-o", out], "factorization", "kept")
    (tmp_path / "f.toml").write_text(TOML.replace("[factorization]\nkeep = 0.6\n", ""))
    refuses([*words, "-o", out], "[factorization]")


def test_the_stage_in_a_pipeline(tmp_path: Path) -> None:
    """It runs after the student (no [pruning] here), is exported, stands in the report, and depends on its settings."""
    toml = tmp_path / "f.toml"
    text = TOML.replace("d_ff = 16\n\n[factorization]", "d_ff = 64\n\n[factorization]")
    text = text.replace("[data]", 'output = "out"\n\n[data]\nsource = "synthetic_signal"')
    text = text.replace("[student]", "[teacher_training]\nepochs = 1\nbatch = 512\n\n[student]")
    text += '\n[distillation]\nepochs = 1\nbatch = 512\n\n[firmware]\ntarget = "host"\n\n[verification]\nsamples = 8\n'
    toml.write_text(text)
    first = picoformer_command("run", toml, "--json")
    assert first.code == 0, first.err
    stages = ["data", "teacher", "student", "factorized", "onnx", "build", "verify", "report"]
    assert [line.split()[0] for line in first.err.splitlines()] == stages
    rows = {stage["name"]: stage for stage in first.record["stages"]}
    model, _ = load_checkpoint(tmp_path / "out" / "factorized.safetensors")
    assert rows["factorized"]["parameters"] == count_parameters(model.config) < 0.6 * rows["student"]["parameters"] + 1
    assert first.record["passed"] and first.record["links"][0]["from"] == "torch"
    assert "reduce" in (tmp_path / "out" / "firmware" / "float" / "graph.json").read_text()
    toml.write_text(text.replace("keep = 0.6", "keep = 0.01"))
    again = picoformer_command("run", toml)
    states = [line.split()[1] for line in again.err.splitlines()[:4]]
    assert again.code == 1 and states == ["unchanged"] * 3 + ["running"] and "keep = 0.01" in again.err
