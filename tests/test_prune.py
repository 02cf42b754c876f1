"""Pruning: the smaller model is the masked one in every way; budgets are met or refused; rounds; vocabularies."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from command_line import refuses, succeeds
from picoformer.api import build as build_model
from picoformer.compress.budget import Limits, choose_under, find_limits
from picoformer.compress.count import count_bytes, count_macs, count_parameters, count_parts, count_ram
from picoformer.compress.covariance import eliminate
from picoformer.compress.importance import Importance, measure_importance
from picoformer.compress.prune import choose, prune
from picoformer.compress.reconstruct import reconstruct
from picoformer.compress.settings import DistillSettings, PruneSettings, TrainSettings
from picoformer.compress.shrink import Keep, keep_all, masked, shrink
from picoformer.compress.train import evaluate, train
from picoformer.datasets import Dataset, save_dataset, synthetic_signal
from picoformer.errors import ConfigError, DataError
from picoformer.metrics import IGNORED
from picoformer.models.checkpoint import load_checkpoint, save_checkpoint
from picoformer.models.config import TransformerConfig, reference_encoder_config
from picoformer.models.transformer import Transformer
from picoformer.stages import board_limits, prune_model

torch.set_num_threads(1)

ENCODER = TransformerConfig.uniform(layers=3, heads=4, d_ff=16, d_model=16, sequence=12, input_size=4, classes=3)
DECODER = dataclasses.replace(
    ENCODER, input_size=0, vocab_size=20, classes=20, pooling="none", causal=True, tied_head=True, kv_heads=(2, 2, 2)
)
RANKS = ((4, 0, 4, 8, 4, 0), (0, 8, 0, 4, 4, 4), (0,) * 6)
FORMS = {
    "encoder": ENCODER,
    "post": dataclasses.replace(ENCODER, norm_position="post", final_norm=False, cls_token=True, pooling="cls"),
    "decoder": DECODER,
    "scaled": dataclasses.replace(DECODER, scale_embedding=True, positions="sinusoidal"),
    "untied": dataclasses.replace(DECODER, tied_head=False, embedding_rank=4, kv_heads=(1, 4, 2)),
    "pairs": dataclasses.replace(ENCODER, ranks=RANKS, embedding_rank=3, scale_embedding=True),
    "image": dataclasses.replace(ENCODER, input_size=0, sequence=0, image=(2, 4, 6), patch=(2, 3)),
}


def build(config: TransformerConfig, seed: int = 0) -> Transformer:
    """A model whose every number is random: zero biases and unit gains would hide mistakes."""
    model = Transformer(config, seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
    return model.eval()


def samples(config: TransformerConfig, count: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if config.vocab_size:
        return torch.randint(0, config.vocab_size, (count, config.sequence), generator=generator)
    return torch.randn((count, *config.input_shape), generator=generator, dtype=torch.float64)


def labels(config: TransformerConfig, count: int = 8) -> np.ndarray:
    shape = (count, config.sequence) if config.pooling == "none" else (count,)
    return np.random.default_rng(2).integers(0, config.classes, shape)


def random_keep(config: TransformerConfig, layers: bool, width: bool, seed: int = 0) -> Keep:
    """Some of everything: of shared keys and values whole groups, or as many queries of each."""
    rng = np.random.default_rng(seed)
    heads = []
    for layer in range(config.layers):
        groups = np.arange(config.key_heads[layer]) < max(1, config.key_heads[layer] // 2)
        queries = config.heads[layer] // config.key_heads[layer]
        each = np.arange(queries) < (max(1, queries // 2) if layer % 2 else queries)
        heads.append(np.outer(rng.permutation(groups), rng.permutation(each)).reshape(-1).astype(bool))
    neurons = tuple(rng.permutation(np.arange(count) < 7) for count in config.d_ff)
    return Keep(
        tuple(heads),
        neurons,
        np.array([True, False, True]) if layers else None,
        rng.permutation(np.arange(config.d_model) < 10) if width else None,
    )


# --- what is left computes what it computed ---------------------------------------------------------------------


@pytest.mark.parametrize("what", ["branches", "layers", "width", "everything"])
@pytest.mark.parametrize("form", FORMS)
def test_the_smaller_model_is_the_masked_one(form: str, what: str) -> None:
    config = FORMS[form]
    model, x = build(config), samples(config)
    keep = random_keep(config, layers=what in ("layers", "everything"), width=what in ("width", "everything"))
    if what in ("layers", "width"):
        keep = dataclasses.replace(keep_all(config), layers=keep.layers, width=keep.width)
    smaller = shrink(model, keep)
    assert smaller.config.layers == (2 if what in ("layers", "everything") else 3)
    assert smaller.config.d_model == (10 if what in ("width", "everything") else 16)
    assert count_parameters(smaller.config) == sum(p.numel() for p in smaller.parameters())
    with torch.no_grad(), masked(model, keep):
        expected = model(x)
    with torch.no_grad():
        # float64 sums in another order; a wrong column would show in the first digits.
        torch.testing.assert_close(smaller(x), expected, rtol=1e-9, atol=1e-9)
        assert not torch.allclose(model(x), expected, atol=1e-3)


def test_width_that_a_tied_scaled_model_cannot_lose() -> None:
    config = dataclasses.replace(FORMS["scaled"], final_norm=False)
    with pytest.raises(DataError, match="needs a final norm"):
        shrink(build(config), random_keep(config, layers=False, width=True))


def test_groups_stay_regular() -> None:
    heads = (np.array([True, True, True, False]), *(np.ones(4, bool),) * 2)
    with pytest.raises(DataError, match="layer 0 groups of 1 and 2 query heads"):
        shrink(build(DECODER), dataclasses.replace(keep_all(DECODER), heads=heads))
    for config, kv_heads in ((DECODER, (1, 1, 1)), (dataclasses.replace(DECODER, kv_heads=(1, 1, 1)), (1, 1, 1))):
        settings = PruneSettings(importance="random", head_fraction=0.5, ranking="layer")
        smaller, _ = prune(build(config), samples(config).numpy(), labels(config), settings)
        assert smaller.config.heads == (2, 2, 2) and smaller.config.key_heads == kv_heads


def test_reconstruction_is_the_best_linear_fit() -> None:
    """Of what goes: the fitted sums are as near as a free least-squares fit's, and nearer than without."""
    model = Transformer(ENCODER, seed=3).eval()
    x = samples(ENCODER, 64).float()
    keep = random_keep(ENCODER, layers=False, width=False)
    fitted = reconstruct(model, keep, x.numpy(), PruneSettings())
    seen: list[torch.Tensor] = []
    down = model.layers[0].feed_forward.down
    handle = down.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(x)
    handle.remove()
    inputs, mask = seen[0].flatten(0, 1).double(), torch.from_numpy(keep.neurons[0])
    wanted = inputs @ down.weight.detach().double().T + down.bias.detach().double()
    new = fitted.layers[0].feed_forward.down
    assert not new.weight[:, ~mask].any()
    kept = torch.cat((inputs[:, mask], torch.ones(len(inputs), 1, dtype=torch.float64)), dim=1)
    best = (wanted - kept @ torch.linalg.lstsq(kept, wanted).solution).square().sum()
    ours = (wanted - inputs @ new.weight.detach().double().T - new.bias.detach().double()).square().sum()
    dropped = (inputs[:, ~mask] @ down.weight.detach().double()[:, ~mask].T).square().sum()
    assert best <= ours < 1.02 * best and ours < 0.8 * dropped


# --- importance -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("importance", ["taylor", "reconstruction", "activation", "magnitude"])
def test_what_does_nothing_is_unimportant(importance: str) -> None:
    """A head, a neuron, a channel without weights behind it, a layer that adds nothing."""
    for config in (ENCODER, dataclasses.replace(DECODER, tied_head=False)):
        model = build(config).float()
        with torch.no_grad():
            model.layers[1].attention.out.weight[:, 4:8] = 0
            model.layers[0].feed_forward.down.weight[:, 5] = 0
            for part in (model.layers[2].attention.out, model.layers[2].feed_forward.down):
                part.weight.zero_()
                part.bias.zero_()
        x = samples(config).numpy()
        x = x if config.vocab_size else x.astype(np.float32)
        y = labels(config)
        if config.pooling == "none":
            y[:, ::3] = IGNORED
        settings = PruneSettings(importance=importance, layer_fraction=0.3, width_fraction=0.3, batch=3)
        found = measure_importance(model, x, y, settings)
        smallest_head, smallest_neuron = found.heads[1].argmin(), found.neurons[0].argmin()
        assert found.layers[2] == pytest.approx(0.0, abs=1e-5)
        assert len(found.width) == 16 and (found.width > 0).all()
        if importance != "magnitude":  # which sees what feeds them too
            assert smallest_head == 1 and found.heads[1][1] == 0
            assert smallest_neuron == 5 and found.neurons[0][5] == 0
        assert not choose(found, settings, config).layers[2] or (found.layers < 0).any()


@pytest.mark.parametrize("size", [1, 4])
def test_elimination_takes_the_least_error_at_every_step(size: int) -> None:
    """By trying each: the error of the best fit that the remaining inputs can make."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (200, 12)) @ rng.normal(0, 1, (12, 12))
    weight = rng.normal(0, 1, (5, 12))
    covariance = np.cov(x.T, bias=True)
    scores = eliminate(torch.from_numpy(weight), torch.from_numpy(covariance), size)

    def error(gone: list[int]) -> float:
        kept = np.setdiff1d(np.arange(12), [g * size + i for g in gone for i in range(size)])
        centred = x - x.mean(axis=0)
        best = np.linalg.lstsq(centred[:, kept], centred @ weight.T, rcond=None)[0] if len(kept) else 0
        return float(np.mean(np.sum((centred @ weight.T - (centred[:, kept] @ best if len(kept) else 0)) ** 2, axis=1)))

    gone: list[int] = []
    for group in np.argsort(scores, kind="stable"):
        errors = {g: error([*gone, g]) for g in range(12 // size) if g not in gone}
        # Damping makes the fits differ from these a little, so a near tie may go either way.
        assert errors[int(group)] <= 1.02 * min(errors.values())
        gone.append(int(group))
    assert scores.max() == scores[gone[-1]] > 0


def test_width_goes_where_nothing_flows() -> None:
    model = build(ENCODER).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.split(".")[-2] in ("out", "down", "frames") and "reduce" not in name:
                parameter[3] = 0
            elif name.endswith("position"):
                parameter[:, 3] = 0
            elif "norm" in name and "final" not in name:
                parameter[3] = 0
    x, y = samples(ENCODER).float().numpy(), labels(ENCODER)
    for importance in ("taylor", "activation"):
        found = measure_importance(model, x, y, PruneSettings(importance=importance))
        assert found.width.argmin() == 3


def test_random_importance_is_its_seed_alone() -> None:
    x, y = samples(ENCODER).numpy(), labels(ENCODER)
    first, again, other = (
        measure_importance(build(ENCODER), x, y, PruneSettings(importance="random", seed=seed)) for seed in (1, 1, 2)
    )
    assert (first.heads[0] == again.heads[0]).all() and (first.heads[0] != other.heads[0]).any()


# --- budgets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "count"), [("parameters", count_parameters), ("macs", count_macs)])
@pytest.mark.parametrize("form", ["encoder", "decoder", "pairs"])
def test_a_budget_is_met_and_hardly_undershot(form: str, budget: str, count: Any) -> None:
    config = FORMS[form]
    x, y = samples(config).numpy(), labels(config)
    settings = PruneSettings(budget=budget, keep=0.7, neuron_multiple=2)
    smaller, report = prune(build(config), x, y, settings)
    limit = 0.7 * count(config)
    assert 0.9 * limit < count(smaller.config) <= limit
    assert all(neurons % 2 == 0 for neurons in smaller.config.d_ff)
    assert report.bytes_after == count_bytes(smaller.config) < report.bytes_before
    assert sum(layer.parameters_after for layer in report.layers) < report.parameters_after


def test_the_ranking_is_by_importance_per_cost() -> None:
    """Neurons that cost less than they are worth stay; a layer that matters less than its parts goes whole."""
    heads = tuple(np.full(4, 1.0) for _ in range(3))
    neurons = (np.full(16, 1.0), np.full(16, 1e-3), np.full(16, 1.0))
    found = Importance(heads, neurons, np.array([9.0, 9.0, 1e-6]))
    limits = Limits(parameters=count_parameters(ENCODER) - 300)
    # In shares of their layer all neurons are alike, and cost less than heads; in errors those of layer 1 are less.
    keep = choose_under(limits, found, ENCODER, PruneSettings(budget="parameters", importance="taylor"))
    assert keep.neurons[1].sum() == 16 and all(mask.all() for mask in keep.neurons[1:])
    keep = choose_under(limits, found, ENCODER, PruneSettings(budget="parameters"))
    # A block of 4 neurons is 4 * (2 * 16 + 1) parameters: three blocks are 396, of which two would be too few.
    assert keep.neurons[1].sum() == 4 and keep.neurons[0].all() and all(mask.all() for mask in keep.heads)
    # A head matters more than a block of neurons, 1.5 against 1, and costs more than twice as much: it goes.
    even = Importance(tuple(np.full(4, 1.5) for _ in range(3)), tuple(np.full(16, 0.25) for _ in range(3)))
    few = Limits(parameters=count_parameters(ENCODER) - 200)
    keep = choose_under(few, even, ENCODER, PruneSettings(budget="parameters"))
    assert sum(int(mask.sum()) for mask in keep.heads) == 11 and all(mask.all() for mask in keep.neurons)
    keep = choose_under(limits, found, ENCODER, PruneSettings(budget="parameters", drop_layers=True))
    assert keep.layers is not None and keep.layers.tolist() == [True, True, False]
    assert all(keep.neurons[layer].all() for layer in (0, 1))


def test_a_budget_that_nothing_meets_names_the_nearest() -> None:
    x, y = samples(ENCODER).numpy(), labels(ENCODER)
    settings = PruneSettings(budget="parameters", limit=100, importance="random")
    with pytest.raises(ConfigError, match=r"at most 100 parameters .* drop_layers = true or a larger width") as error:
        prune(build(ENCODER), x, y, settings)
    least = int(str(error.value).split(" neurons a layer ")[1].split(";")[0].replace(",", ""))
    smaller, _ = prune(build(ENCODER), x, y, dataclasses.replace(settings, limit=least))
    assert count_parameters(smaller.config) == least and smaller.config.d_ff == (4, 4, 4)
    with pytest.raises(ConfigError, match="cannot be met"):
        prune(build(ENCODER), x, y, dataclasses.replace(settings, limit=least - 1))
    smaller, _ = prune(build(ENCODER), x, y, dataclasses.replace(settings, limit=least - 1, drop_layers=True))
    assert count_parameters(smaller.config) < least and smaller.config.layers < 3


def test_ram_is_a_limit_of_the_widest_layer() -> None:
    config = dataclasses.replace(ENCODER, d_ff=(64, 256, 256))
    found = measure_importance(
        build(config), samples(config).numpy(), labels(config), PruneSettings(importance="random")
    )
    limit = count_ram(dataclasses.replace(config, d_ff=(64, 128, 128)))
    keep = choose_under(Limits(ram=limit), found, config, PruneSettings(board="x"))
    assert [int(mask.sum()) for mask in keep.neurons] == [64, 128, 128]


def test_a_board_is_flash_and_ram(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "targets" / "mps2-an386.toml").read_text()
    board = tmp_path / "small.toml"
    board.write_text(text.replace("0x00400000", "0x00008000"))
    limits = board_limits(PruneSettings(board=str(board), code_bytes=20_000))
    assert limits == Limits(bytes=0x8000 - 20_000, ram=0x8000 - 4096 - 2816)
    assert find_limits(ENCODER, PruneSettings(board=str(board), budget="bytes", limit=5), limits) == Limits(
        bytes=5, ram=limits.ram
    )
    with pytest.raises(ConfigError, match="code_bytes"):
        board_limits(PruneSettings(board=str(board), code_bytes=40_000))
    with pytest.raises(
        ConfigError, match=r"32,768 bytes of RAM less a stack of 4,096 and runtime_bytes = 30,000: nothing"
    ):
        board_limits(PruneSettings(board=str(board), runtime_bytes=30_000))
    with pytest.raises(ConfigError, match="this machine"):
        board_limits(PruneSettings(board="host"))
    assert board_limits(PruneSettings()) is None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"importance": "best"}, "importance = 'best'; choose one of reconstruction"),
        ({"budget": "flash"}, "budget = 'flash'; choose one of parameters"),
        ({"budget": "bytes", "head_fraction": 0.5}, "head_fraction and a budget"),
        ({"limit": 10}, "limit = 10 of what"),
        ({"drop_layers": True}, "drop_layers = true needs a budget"),
        ({"width_fraction": 1.5}, "width_fraction"),
        ({"rounds": 0}, "rounds"),
        ({"reconstruct": 1}, "reconstruct = 1; write true or false"),
    ],
)
def test_bad_settings_are_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PruneSettings(**keys)


def test_parts_add_up() -> None:
    for config in FORMS.values():
        parts = count_parts(config)
        assert [part.name for part in parts] == ["embedding", "layers.0", "layers.1", "layers.2", "head"]
        assert sum(part.parameters for part in parts) == sum(p.numel() for p in Transformer(config).parameters())
    # What `picoformer build` measured on the Cortex-M4: arena, and constants with about 3,700 bytes of tables.
    digits = TransformerConfig.uniform(2, 2, 64, 32, head_dim=8, sequence=8, input_size=8, classes=10)
    for config, constants, arena in ((reference_encoder_config(), 117_872, 37_888), (digits, 20_136, 2_816)):
        assert count_bytes(config) + 3_700 == pytest.approx(constants, rel=0.01)
        assert count_ram(config) == arena


# --- rounds -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthetic_signal(seed=0, n=320, seq=12, features=4, classes=3, noise=0.3)


@pytest.fixture(scope="module")
def trained(data: Dataset) -> Transformer:
    model = Transformer(ENCODER)
    train(model, data.x_train, data.y_train, TrainSettings(epochs=8, batch=32, learning_rate=5e-3))
    return model


def test_rounds_go_step_by_step_and_recover_in_between(trained: Transformer, data: Dataset) -> None:
    seen: list[tuple[int, tuple[int, ...], tuple[int, ...], int, int]] = []

    def recover(model: Transformer, index: int) -> None:
        config = model.config
        seen.append((index, config.heads, config.d_ff, config.d_model, config.layers))

    settings = PruneSettings(rounds=4, layer_fraction=0.34, width_fraction=0.5, neuron_fraction=0.75, ranking="layer")
    smaller, report = prune(
        trained, data.x_train, data.y_train, settings, recover=recover, judge=lambda m: float(m.config.d_ff[0])
    )
    assert [entry[0] for entry in seen] == [0, 1, 2] and len(report.rounds) == 4
    assert [entry[1][0] for entry in seen] == [4, 3, 3] and smaller.config.heads == (2, 2)
    assert [entry[2][0] for entry in seen] == [16, 12, 8] and smaller.config.d_ff == (4, 4)
    assert [entry[3] for entry in seen] == [16, 12, 12] and smaller.config.d_model == 8
    assert report.width_after == 8 and smaller.config.layers == 2
    gone = [layer for layer in report.layers if layer.heads_after == 0]
    assert len(gone) == 1 and gone[0].parameters_after == gone[0].macs_after == gone[0].bytes_after == 0
    assert [part.metric for part in report.rounds] == [16, 12, 8, 4]
    assert report.rounds[0].metric_recovered == 16 and report.rounds[-1].metric_recovered is None
    json.dumps(report.to_dict())


def test_a_layer_that_went_is_named_by_its_old_number() -> None:
    config = dataclasses.replace(ENCODER, d_ff=(16, 12, 8))
    seen = set()
    for seed in range(6):
        settings = PruneSettings(
            rounds=2, layer_fraction=0.34, head_fraction=0.0, neuron_fraction=0.0, importance="random", seed=seed
        )
        smaller, report = prune(build(config), samples(config).numpy(), labels(config), settings)
        left = tuple(layer.neurons_after for layer in report.layers if layer.neurons_after)
        assert left == smaller.config.d_ff and len(left) == 2
        assert all(layer.neurons_after in (0, layer.neurons_before) for layer in report.layers)
        seen |= {layer.layer for layer in report.layers if not layer.neurons_after}
    assert len(seen) > 1


def test_a_budget_in_rounds_ends_where_one_round_does(trained: Transformer, data: Dataset) -> None:
    sizes: list[int] = []
    settings = PruneSettings(rounds=3, budget="bytes", keep=0.5)
    smaller, _ = prune(
        trained,
        data.x_train,
        data.y_train,
        settings,
        recover=lambda model, _index: sizes.append(count_bytes(model.config)),
    )
    whole = count_bytes(ENCODER)
    assert count_bytes(smaller.config) <= 0.5 * whole
    assert 0.75 * whole < sizes[0] <= 0.84 * whole and 0.58 * whole < sizes[1] <= 0.67 * whole


def test_reconstruction_helps_before_any_training(trained: Transformer, data: Dataset) -> None:
    scores = {}
    for helps in (False, True):
        settings = PruneSettings(neuron_fraction=0.75, importance="random", reconstruct=helps)
        scores[helps] = evaluate(prune(trained, data.x_train, data.y_train, settings)[0], data.x_train, data.y_train)
    assert scores[True] > scores[False]


def test_the_stage_recovers_between_rounds(trained: Transformer, data: Dataset, tmp_path: Path) -> None:
    save_dataset(data, tmp_path / "data.npz")
    save_checkpoint(trained, tmp_path / "model.safetensors")
    steps: list[tuple[int, int]] = []
    settings = PruneSettings(rounds=2, round_epochs=1, samples=64)
    arguments = (tmp_path / "model.safetensors", tmp_path / "data.npz", settings, tmp_path / "small.safetensors")
    recovery = DistillSettings(epochs=2, batch=64)
    figures = prune_model(
        *arguments,
        recovery,
        tmp_path / "model.safetensors",
        progress=lambda _label, done, total, _loss: steps.append((done, total)),
    )
    assert [total for done, total in steps if done == total] == [5, 10]
    assert figures["accuracy_before_recovery"] == figures["pruning"]["rounds"][-1]["metric"]
    assert figures["pruning"]["rounds"][0]["metric_recovered"] is not None
    with pytest.raises(ConfigError, match=r"rounds = 2 needs the section \[recovery\]"):
        prune_model(*arguments)


@pytest.mark.parametrize(
    ("keys", "fits"),
    [({"budget": "macs", "keep": 1.0}, True), ({"budget": "bytes", "limit": 10**6, "rounds": 3}, True),
     ({"budget": "macs", "keep": 0.9}, False), ({"budget": "macs", "keep": 1.0, "width_fraction": 0.25}, False)],
)  # fmt: skip
def test_what_fits_already_is_neither_pruned_nor_trained(
    trained: Transformer, data: Dataset, tmp_path: Path, keys: dict[str, Any], fits: bool
) -> None:
    save_dataset(data, tmp_path / "data.npz")
    save_checkpoint(trained, tmp_path / "model.safetensors")
    out, curves = tmp_path / "small.safetensors", tmp_path / "small.curves.json"
    curves.write_text("{}")
    figures = prune_model(
        tmp_path / "model.safetensors", tmp_path / "data.npz", PruneSettings(samples=64, **keys), out,
        DistillSettings(epochs=1, batch=64),
    )  # fmt: skip
    assert figures.get("pruned") == ("fits already; nothing pruned" if fits else None)
    weights, before = load_checkpoint(out)[0].state_dict(), trained.state_dict()
    assert fits == all(torch.equal(weights[name], before[name]) for name in weights)
    assert curves.is_file() != fits, "curves are of a training that there was"
    assert len(figures["pruning"]["rounds"]) == 1


def test_the_ram_and_flash_beside_the_model_are_what_a_build_takes(tmp_path: Path, arm_tools: None) -> None:
    build_model(Transformer(ENCODER), scheme="float32", target="mps2-an386", out=tmp_path / "out")
    sizes = json.loads((tmp_path / "out" / "mps2-an386" / "size.json").read_text())
    beside, settings = sizes["ram"]["data"] + sizes["ram"]["runtime"], PruneSettings()
    assert 0 <= settings.runtime_bytes - beside <= 256, beside
    assert sizes["flash"]["code"] + sizes["flash"]["runtime"] < settings.code_bytes


# --- the command line -------------------------------------------------------------------------------------------


def test_prune_and_inspect_by_command(trained: Transformer, data: Dataset, tmp_path: Path) -> None:
    save_dataset(data, tmp_path / "data.npz")
    save_checkpoint(trained, tmp_path / "model.safetensors")
    text = 'name = "x"\n[data]\nsource = "data.npz"\n[teacher]\nlayers = 1\nd_model = 4\nheads = 1\nd_ff = 4\n'
    text += "[student]\nlayers = 1\nd_model = 4\nheads = 1\nd_ff = 4\n[pruning]\nsamples = 64\n"
    (tmp_path / "bytes.toml").write_text(text + 'budget = "bytes"\nkeep = 0.6\n')
    common = ["prune", tmp_path / "model.safetensors", tmp_path / "data.npz", "-o", tmp_path / "small.safetensors"]
    found = succeeds(*common, "--config", tmp_path / "bytes.toml").out
    assert "bytes int8" in found and "layer 2" in found
    small, _ = load_checkpoint(tmp_path / "small.safetensors")
    assert count_bytes(small.config) <= 0.6 * count_bytes(ENCODER)
    board = (Path(__file__).parents[1] / "targets" / "mps2-an386.toml").read_text().replace("0x00400000", "0x00008000")
    (tmp_path / "tiny.toml").write_text(board)
    (tmp_path / "board.toml").write_text(text + 'board = "tiny.toml"\ncode_bytes = 32000\n')
    toml = tmp_path / "board.toml"
    flash = "at most 768 bytes of weights (mps2-an386 has 32,768 bytes of flash less code_bytes = 32,000) cannot be met"
    refuses([*common, "--config", toml], flash)
    toml.write_text(text + 'board = "tiny.toml"\nruntime_bytes = 28000\n')
    ram = (
        "at most 672 bytes of RAM (mps2-an386 has 32,768 bytes of RAM less a stack of 4,096 and runtime_bytes = 28,000)"
    )
    refuses([*common, "--config", toml], ram, "or a shorter sequence")
    toml.write_text(text + 'board = "tiny.toml"\n')
    record = succeeds(*common, "--config", toml, "--json").record
    assert record["pruned"] == "fits already; nothing pruned"
    used = {"flash": count_bytes(ENCODER) + 24_576, "ram": count_ram(ENCODER) + 4096 + 2816}
    assert record["board_bytes"] == {**used, "flash_available": 32_768, "ram_available": 32_768}
    said = f"mps2-an386: flash {used['flash']:,} of 32,768 bytes, RAM {used['ram']:,} of 32,768 (estimates)"
    assert record["board"] == said and said in succeeds(*common, "--config", toml).out
    toml.write_text(text + 'budget = "bytes"\nkeep = 0.6\n')
    succeeds(*common, "--config", toml)
    record = succeeds("inspect", tmp_path / "small.safetensors", "--json").record
    assert [part["name"] for part in record["parts"]] == ["embedding", "layers.0", "layers.1", "layers.2", "head"]
    assert sum(part["bytes"] for part in record["parts"]) == count_bytes(small.config)
    assert record["parts"][1]["neurons"] == small.config.d_ff[0]
