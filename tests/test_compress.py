"""Training, distillation, pruning: they learn, they repeat, a pruned model is the masked one."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from picoformer.compress.count import count_macs, count_parameters
from picoformer.compress.distill import distill, map_layers, soft_target_loss
from picoformer.compress.importance import Importance, measure_importance
from picoformer.compress.prune import choose, prune
from picoformer.compress.settings import DistillSettings, PruneSettings, TrainSettings
from picoformer.compress.shrink import Keep, masked, shrink
from picoformer.compress.train import evaluate, predict, schedule, train
from picoformer.datasets import Dataset, synthetic_signal
from picoformer.errors import ConfigError, DataError, PicoformerError
from picoformer.models.config import TransformerConfig, reference_encoder_config
from picoformer.models.transformer import Transformer, build_unset

torch.set_num_threads(1)

CONFIG = TransformerConfig.uniform(layers=2, heads=4, d_ff=16, d_model=16, sequence=12, input_size=4, classes=3)
SETTINGS = TrainSettings(epochs=12, batch=32, learning_rate=5e-3)
DISTILL = DistillSettings(**dataclasses.asdict(SETTINGS))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthetic_signal(seed=0, n=480, seq=12, features=4, classes=3, noise=0.3)


@pytest.fixture(scope="module")
def trained(data: Dataset) -> Transformer:
    model = Transformer(CONFIG)
    train(model, data.x_train, data.y_train, SETTINGS)
    return model


def same(first: Transformer, second: Transformer) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# --- training -----------------------------------------------------------------------------------------------


def test_training_learns(trained: Transformer, data: Dataset) -> None:
    before = evaluate(Transformer(CONFIG), data.x_test, data.y_test)
    after = evaluate(trained, data.x_test, data.y_test)
    assert before < 0.6 and after > 0.9


def test_training_depends_on_its_seeds_alone(data: Dataset) -> None:
    def run(seed: int, outside: int) -> Transformer:
        torch.manual_seed(outside)
        np.random.seed(outside)
        model = Transformer(CONFIG)
        noisy = lambda x, rng: x + rng.normal(0, 0.1, x.shape).astype(np.float32)  # noqa: E731
        settings = dataclasses.replace(SETTINGS, epochs=1, seed=seed)
        train(model, data.x_train[:64], data.y_train[:64], settings, augment=noisy)
        return model

    assert same(run(1, outside=1), run(1, outside=2))
    assert not same(run(1, outside=1), run(2, outside=1))


def test_progress_and_report(data: Dataset) -> None:
    seen: list[tuple[int, int, float]] = []
    settings = TrainSettings(epochs=2, batch=50)
    report = train(
        Transformer(CONFIG),
        data.x_train[:120],
        data.y_train[:120],
        settings,
        progress=lambda *a: seen.append(a),
    )
    assert [(step, total) for step, total, _ in seen] == [(step, 6) for step in range(1, 7)]
    assert report.steps == 6 and len(report.losses) == 2
    first_epoch = (50 * seen[0][2] + 50 * seen[1][2] + 20 * seen[2][2]) / 120
    assert report.losses[0] == pytest.approx(first_epoch)


def test_schedule_warms_up_and_ends_at_zero() -> None:
    rates = [schedule(step, total=100, warmup=10) for step in range(101)]
    assert rates[0] > 0 and rates[10] == 1.0 and rates[100] == pytest.approx(0.0, abs=1e-12)
    assert all(np.diff(rates[:11]) > 0)
    assert all(np.diff(rates[10:]) < 0)
    assert rates[55] == pytest.approx(0.5)


def test_divergence_stops_with_the_step(data: Dataset) -> None:
    # The norms keep this model finite at any rate, so the blow-up is put in by hand at the third batch.
    calls = []

    def explode(x: Any, _rng: np.random.Generator) -> Any:
        calls.append(1)
        return x * np.float32("inf") if len(calls) == 3 else x

    with pytest.raises(PicoformerError, match=r"diverged at step 3 of 15 .*learning_rate"):
        train(
            Transformer(CONFIG),
            data.x_train,
            data.y_train,
            TrainSettings(epochs=1, batch=32),
            augment=explode,
        )


def test_thread_count_is_put_back(data: Dataset) -> None:
    before = torch.get_num_threads()
    train(Transformer(CONFIG), data.x_train[:8], data.y_train[:8], TrainSettings(epochs=1, threads=2))
    assert torch.get_num_threads() == before


def test_predict_is_the_model_in_batches(trained: Transformer, data: Dataset) -> None:
    many = np.concatenate([data.x_test] * 5)[:530]
    with torch.no_grad():
        expected = trained(torch.from_numpy(many)).numpy()
    np.testing.assert_allclose(predict(trained, many), expected, atol=1e-5)


def test_models_are_judged_in_eval_mode_and_put_back(data: Dataset) -> None:
    model, student = Transformer(CONFIG).train(), Transformer(CONFIG)
    seen: list[bool] = []
    model.register_forward_pre_hook(lambda module, _inputs: seen.append(module.training))
    x, y = data.x_train[:8], data.y_train[:8]
    predict(model, x)
    measure_importance(model, x, y, PruneSettings())
    model.layers[0].register_forward_pre_hook(lambda _module, _inputs: seen.append(model.training))
    distill(model, student, x, y, dataclasses.replace(DISTILL, epochs=1))
    assert len(seen) >= 3 and not any(seen) and model.training and not student.training


@pytest.mark.parametrize(
    ("change", "count", "labels", "message"),
    [
        ({}, 3, [0, 1], "3 samples and 2 labels"),
        ({}, 2, [0, 3], "classes = 3"),
        ({"classes": 0}, 2, [0, 1], "classes = 0"),
        ({"pooling": "none"}, 2, [0, 1], "pooling"),
    ],
)
def test_data_that_does_not_fit(
    data: Dataset, change: dict[str, Any], count: int, labels: list[int], message: str
) -> None:
    model = Transformer(dataclasses.replace(CONFIG, **change))
    with pytest.raises(DataError, match=message):
        train(model, data.x_train[:count], np.array(labels), SETTINGS)


@pytest.mark.parametrize(
    ("settings", "key", "value"),
    [
        (TrainSettings, "epochs", 0),
        (TrainSettings, "epochs", 1.5),
        (TrainSettings, "learning_rate", float("nan")),
        (TrainSettings, "label_smoothing", 1.0),
        (TrainSettings, "threads", True),
        (DistillSettings, "batch", "64"),
        (DistillSettings, "temperature", 0.0),
        (DistillSettings, "soft_weight", 1.1),
        (DistillSettings, "layer_map", 3),
        (DistillSettings, "layer_map", [-1]),
        (PruneSettings, "head_fraction", -0.1),
        (PruneSettings, "ranking", "random"),
        (PruneSettings, "neuron_multiple", 0),
    ],
)
def test_bad_settings_are_named(settings: Any, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        settings(**{key: value})


# --- distillation -------------------------------------------------------------------------------------------


def test_student_learns_from_the_teacher_alone(trained: Transformer, data: Dataset) -> None:
    """With soft_weight 1 the labels play no part: wrong ones must not hurt."""
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    student = Transformer(dataclasses.replace(CONFIG, heads=(2,), d_ff=(12,), d_model=12, head_dim=6))
    settings = dataclasses.replace(DISTILL, soft_weight=1.0)
    distill(trained, student, data.x_train, np.roll(data.y_train, 1), settings)
    agreement = (predict(student, data.x_test).argmax(1) == predict(trained, data.x_test).argmax(1)).mean()
    assert agreement > 0.85
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())


def test_soft_target_loss_is_hintons() -> None:
    logits, target = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[0.0, 3.0, 1.0]])
    p, q = torch.softmax(target / 2, -1), torch.softmax(logits / 2, -1)
    expected = 4.0 * float((p * (p / q).log()).sum())
    assert float(soft_target_loss(logits, target, 2.0)) == pytest.approx(expected, rel=1e-5)
    assert float(soft_target_loss(target, target, 2.0)) == pytest.approx(0.0, abs=1e-6)


def test_hidden_states_are_matched_layer_by_layer(trained: Transformer, data: Dataset) -> None:
    """A student's hidden state predicts the teacher layer that it was matched with better than the other."""
    x = torch.from_numpy(data.x_test)

    def left_over(hidden_weight: float, layer: int) -> list[float]:
        student = Transformer(dataclasses.replace(CONFIG, heads=(2,), d_ff=(12,), d_model=12, head_dim=6))
        settings = dataclasses.replace(DISTILL, epochs=8, hidden_weight=hidden_weight, layer_map=(layer,))
        distill(trained, student, data.x_train, data.y_train, settings)
        with torch.no_grad():
            ours = student.forward_with_hidden(x)[1][0].flatten(0, 1)
            hidden = [torch.nn.functional.layer_norm(h, (16,)) for h in trained.forward_with_hidden(x)[1]]
        rows = [theirs.flatten(0, 1) for theirs in hidden]
        return [float((ours @ torch.linalg.lstsq(ours, r).solution - r).square().mean()) for r in rows]

    without, first, second = left_over(0.0, 0), left_over(5.0, 0), left_over(5.0, 1)
    assert first[0] < 0.9 * second[0] and first[0] < 0.8 * without[0]
    assert second[1] < 0.9 * first[1] and second[1] < 0.8 * without[1]


def test_layers_are_mapped_last_to_last() -> None:
    assert map_layers(2, 4) == (1, 3)
    assert map_layers(3, 3) == (0, 1, 2)
    assert map_layers(1, 6) == (5,)
    assert map_layers(4, 2) == (0, 0, 1, 1)
    assert map_layers(2, 4, (0, 2)) == (0, 2)
    with pytest.raises(ConfigError, match="one for each of 2"):
        map_layers(2, 4, (0,))
    with pytest.raises(ConfigError, match=r"layer_map\[1\] = 4"):
        map_layers(2, 4, (0, 4))


def test_models_that_do_not_go_together(trained: Transformer, data: Dataset) -> None:
    other = Transformer(dataclasses.replace(CONFIG, classes=4))
    with pytest.raises(DataError, match="has 3 classes, data and student have 4"):
        distill(trained, other, data.x_train, data.y_train, DISTILL)
    longer = Transformer(dataclasses.replace(CONFIG, cls_token=True))
    settings = dataclasses.replace(DISTILL, hidden_weight=1.0)
    with pytest.raises(DataError, match="12 rows, data and student have 13"):
        distill(trained, longer, data.x_train, data.y_train, settings)


# --- pruning ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_the_smaller_model_is_the_masked_one(norm_position: str, data: Dataset) -> None:
    config = dataclasses.replace(CONFIG, norm_position=norm_position, head_dim=3, cls_token=True)
    model = Transformer(config).double()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.from_numpy(rng.normal(0, 0.3, parameter.shape)))
    keep = Keep(
        heads=(np.array([True, False, True, False]), np.array([False, False, False, True])),
        neurons=(rng.random(16) < 0.5, np.arange(16) == 3),
    )
    x = torch.from_numpy(data.x_test).double()
    smaller = shrink(model, keep)
    assert smaller.config.heads == (2, 1) and smaller.config.d_ff == (int(keep.neurons[0].sum()), 1)
    with torch.no_grad():
        whole = model(x)
        with masked(model, keep):
            expected = model(x)
        # float64 sums in another order; a wrong column would show in the first digits.
        torch.testing.assert_close(smaller(x), expected, rtol=1e-12, atol=1e-12)
        assert not torch.allclose(whole, expected, atol=1e-3)
        assert torch.equal(model(x), whole)


def test_importance_is_the_first_order_change_of_the_loss(trained: Transformer, data: Dataset) -> None:
    """|d loss / d gate| of one sample, found by a finite difference on a gate at the part's output."""
    x, y = data.x_test[:1], data.y_test[:1]
    model = Transformer(CONFIG).double()
    model.load_state_dict(trained.state_dict())
    importance = measure_importance(model, x.astype(np.float64), y, PruneSettings(importance="taylor"))

    def loss(module: torch.nn.Module, columns: slice, gate: float) -> float:
        scale = torch.ones(16, dtype=torch.float64)
        scale[columns] = gate
        handle = module.register_forward_pre_hook(lambda _m, inputs: (inputs[0] * scale,))
        with torch.no_grad():
            logits = model(torch.from_numpy(x).double())
        handle.remove()
        return float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(y)))

    step = 1e-5
    for layer, block in enumerate(model.layers):
        for head in range(4):
            columns = slice(4 * head, 4 * head + 4)
            slope = loss(block.attention.out, columns, 1 + step) - loss(block.attention.out, columns, 1 - step)
            assert importance.heads[layer][head] == pytest.approx(abs(slope) / (2 * step), rel=1e-4, abs=1e-9)
        for neuron in (0, 7, 15):
            columns = slice(neuron, neuron + 1)
            down = block.feed_forward.down
            slope = loss(down, columns, 1 + step) - loss(down, columns, 1 - step)
            assert importance.neurons[layer][neuron] == pytest.approx(abs(slope) / (2 * step), rel=1e-4, abs=1e-9)


def test_importance_does_not_depend_on_the_batch(trained: Transformer, data: Dataset) -> None:
    whole = measure_importance(
        trained, data.x_train, data.y_train, PruneSettings(samples=96, batch=96, importance="taylor")
    )
    parts = measure_importance(
        trained, data.x_train[:96], data.y_train[:96], PruneSettings(batch=7, importance="taylor")
    )
    for a, b in zip((*whole.heads, *whole.neurons), (*parts.heads, *parts.neurons), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7)


def test_ranking_by_layer_and_global() -> None:
    importance = Importance(
        heads=(np.array([4.0, 1.0, 3.0, 2.0]), np.array([0.0, 0.0, 0.0, 9.0])),
        neurons=(np.arange(16.0), np.arange(16.0)[::-1]),
    )
    keep = choose(importance, PruneSettings(head_fraction=0.5, neuron_fraction=0.3, ranking="layer"), CONFIG)
    assert keep.heads[0].tolist() == [True, False, True, False]
    assert keep.heads[1].sum() == 2 and keep.heads[1][3]
    # 16 - floor(4.8) = 12, a multiple of 4 already.
    assert np.flatnonzero(keep.neurons[0]).tolist() == list(range(4, 16))
    assert np.flatnonzero(keep.neurons[1]).tolist() == list(range(12))
    keep = choose(
        importance, PruneSettings(head_fraction=0.5, neuron_fraction=0.3, ranking="global", importance="taylor"), CONFIG
    )
    assert [int(mask.sum()) for mask in keep.heads] == [3, 1] and keep.heads[1][3]
    # A layer whose scores are all larger does not crowd out the others: each is divided by its norm.
    loud = Importance((np.array([400.0, 100.0, 300.0, 200.0]), np.array([1.0, 1.0, 0.9, 1.1])), importance.neurons)
    keep = choose(loud, PruneSettings(head_fraction=0.5, ranking="global", importance="taylor"), CONFIG)
    assert [int(mask.sum()) for mask in keep.heads] == [2, 2]
    # Errors are of one scale in all layers, and are ranked as they are.
    errors = choose(loud, PruneSettings(head_fraction=0.5, ranking="global"), CONFIG)
    assert [int(mask.sum()) for mask in errors.heads] == [4, 1]
    assert [int(mask.sum()) for mask in keep.heads] == [2, 2]
    keep = choose(
        importance, PruneSettings(head_fraction=0.5, neuron_fraction=0.3, neuron_multiple=5, ranking="layer"), CONFIG
    )
    assert [int(mask.sum()) for mask in keep.neurons] == [15, 15]


@pytest.mark.parametrize("ranking", ["layer", "global"])
def test_something_is_left_in_every_layer(ranking: str, trained: Transformer, data: Dataset) -> None:
    settings = PruneSettings(head_fraction=1.0, neuron_fraction=1.0, ranking=ranking, neuron_multiple=1, samples=32)
    smaller, report = prune(trained, data.x_train, data.y_train, settings)
    assert smaller.config.heads == (1, 1) and smaller.config.d_ff == (1, 1)
    assert report.heads_after == (1, 1) and report.neurons_after == (1, 1)
    assert np.isfinite(predict(smaller, data.x_test)).all()


def test_nothing_pruned_changes_nothing(trained: Transformer, data: Dataset) -> None:
    settings = PruneSettings(head_fraction=0.0, neuron_fraction=0.0, samples=32)
    smaller, _ = prune(trained, data.x_train, data.y_train, settings)
    assert smaller.config == trained.config and same(smaller, trained)


def test_importance_beats_its_opposite_and_recovery_works(trained: Transformer, data: Dataset) -> None:
    settings = PruneSettings(head_fraction=0.5, neuron_fraction=0.5, importance="taylor", ranking="layer")
    importance = measure_importance(trained, data.x_train, data.y_train, settings)
    opposite = Importance(tuple(-part for part in importance.heads), tuple(-part for part in importance.neurons))
    x, y = data.x_test, data.y_test
    smaller, report = prune(trained, data.x_train, data.y_train, settings)
    chosen, worst = evaluate(smaller, x, y), evaluate(shrink(trained, choose(opposite, settings, CONFIG)), x, y)
    assert chosen > worst
    assert report.to_dict()["neurons_after"] == [8, 8] and report.heads_after == (2, 2)
    assert report.parameters_before == count_parameters(trained.config)
    assert report.parameters_after == sum(p.numel() for p in smaller.parameters())
    assert report.macs_after == count_macs(smaller.config) < report.macs_before
    distill(trained, smaller, data.x_train, data.y_train, dataclasses.replace(DISTILL, epochs=6))
    assert evaluate(smaller, x, y) > 0.9


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (Keep((np.ones(4, bool),), (np.ones(16, bool),) * 2), "heads masks do not fit"),
        (Keep((np.ones(4, bool),) * 2, (np.ones(15, bool),) * 2), "neurons masks do not fit"),
        (Keep((np.zeros(4, bool),) * 2, (np.ones(16, bool),) * 2), "heads masks leave a layer empty"),
    ],
)
def test_masks_that_do_not_fit(keep: Keep, message: str) -> None:
    with pytest.raises(DataError, match=message):
        shrink(Transformer(CONFIG), keep)


# --- counts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"heads": (1, 3), "d_ff": (5, 9), "head_dim": 3},
        {"cls_token": True, "positions": "sinusoidal", "final_norm": False},
        {"input_size": 0, "vocab_size": 11, "positions": "none", "classes": 0},
        {"input_size": 0, "sequence": 0, "image": (2, 4, 6), "patch": (2, 3)},
    ],
)
def test_parameters_are_those_of_the_module(change: dict[str, Any]) -> None:
    config = dataclasses.replace(CONFIG, **change)
    assert count_parameters(config) == sum(p.numel() for p in build_unset(config).parameters())


@pytest.mark.parametrize("change", [{}, {"heads": (1, 3), "head_dim": 3, "cls_token": True}, {"pooling": "none"}])
def test_macs_are_those_torch_counts(change: dict[str, Any]) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = dataclasses.replace(CONFIG, **change)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        Transformer(config)(torch.zeros(1, *config.input_shape))
    assert 2 * count_macs(config) == counter.get_total_flops()


def test_reference_encoder_costs_what_it_should() -> None:
    config = reference_encoder_config()
    assert count_parameters(config) == 105_670
    assert count_macs(config) == 7_405_952
