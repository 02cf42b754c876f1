"""Structured pruning: what matters least goes, at once or in rounds, for a model that is smaller and dense."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from picoformer.compress.budget import Limits, choose_under, count_kept, find_limits, head_unit, keep_best
from picoformer.compress.count import count_bytes, count_macs, count_parameters, count_parts
from picoformer.compress.importance import Importance, measure_importance
from picoformer.compress.reconstruct import reconstruct
from picoformer.compress.settings import PruneSettings
from picoformer.compress.shrink import Keep, keep_all, kept_layers, shrink
from picoformer.models.config import TransformerConfig
from picoformer.models.transformer import Transformer

Recover = Callable[[Transformer, int], None]
"""Trains the model in place after a round (from 0) that is not the last."""
Judge = Callable[[Transformer], float]

Masks = tuple[NDArray[np.bool_], ...]


@dataclass(frozen=True)
class PrunedLayer:
    """One layer before and after, by its old number; zeros after when it went. Bytes are of int8 constants."""

    layer: int
    heads_before: int
    heads_after: int
    neurons_before: int
    neurons_after: int
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class PruneRound:
    """What a round left, and what the judge says of it before and after its recovery; None where it was not asked."""

    parameters: int
    metric: float | None
    metric_recovered: float | None


@dataclass(frozen=True)
class PruneReport:
    """Sizes before and after, of the model and of every layer."""

    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    bytes_before: int
    bytes_after: int
    width_before: int
    width_after: int
    heads_before: tuple[int, ...]
    heads_after: tuple[int, ...]
    neurons_before: tuple[int, ...]
    neurons_after: tuple[int, ...]
    layers: tuple[PrunedLayer, ...]
    rounds: tuple[PruneRound, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        plain = {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}
        for key in ("layers", "rounds"):
            plain[key] = [dataclasses.asdict(part) for part in getattr(self, key)]
        return plain


def prune(
    model: Transformer,
    x: NDArray[Any],
    y: NDArray[np.int64],
    settings: PruneSettings,
    limits: Limits | None = None,
    recover: Recover | None = None,
    judge: Judge | None = None,
) -> tuple[Transformer, PruneReport]:
    """A smaller dense model, chosen with samples `x` (n, *input) and labels `y` (n,) or (n, rows), and what changed;
    `model` stays.

    `limits` are those of a board, and `settings.board` alone means nothing here. A model that meets budget and board
    already is copied as it is. In several rounds `recover` trains what a round left before the next one measures it;
    after the last, recover with `train` or `distill`. `judge` gives the report a metric of every round. Raises
    DataError, ConfigError for a budget that nothing can meet, and PicoformerError.
    """
    whole = model.config
    final = find_limits(whole, settings, limits)
    layers = tuple(range(whole.layers))
    if final is not None and final.are_met(whole) and not (settings.layer_fraction or settings.width_fraction):
        fits = PruneRound(count_parameters(whole), None if judge is None else judge(model), None)
        return shrink(model, keep_all(whole)), _report(whole, whole, layers, (fits,))
    rounds = []
    for index in range(settings.rounds):
        share = (index + 1) / settings.rounds
        importance = measure_importance(model, x, y, settings)
        now = None if final is None else final.part_way(whole, share)
        keep = choose(importance, settings, model.config, now, share, whole, layers)
        if settings.reconstruct:
            model = reconstruct(model, keep, x, settings)
        layers = tuple(layers[layer] for layer in kept_layers(model.config, keep))
        model = shrink(model, keep)
        metric, recovered = None if judge is None else judge(model), None
        if recover is not None and index + 1 < settings.rounds:
            recover(model, index)
            recovered = None if judge is None else judge(model)
        rounds.append(PruneRound(count_parameters(model.config), metric, recovered))
    return model, _report(whole, model.config, layers, tuple(rounds))


def choose(
    importance: Importance,
    settings: PruneSettings,
    config: TransformerConfig,
    limits: Limits | None = None,
    share: float = 1.0,
    whole: TransformerConfig | None = None,
    layers: tuple[int, ...] | None = None,
) -> Keep:
    """The masks of what stays of `config`, so that `share` of all that `settings` asks to go of `whole` is gone.

    `layers` are the numbers in `whole` of those of `config`. At least one layer, channel, head (a group of query heads
    with its head of keys and values) and neuron per layer stay. Raises ConfigError for limits that nothing can meet.
    """
    whole = config if whole is None else whole
    layers = tuple(range(config.layers)) if layers is None else layers
    kept, width = None, None
    if settings.layer_fraction:
        kept = keep_best(importance.layers, count_kept(whole.layers, share * settings.layer_fraction, 1))
    if settings.width_fraction:
        count = count_kept(whole.d_model, share * settings.width_fraction, settings.width_multiple)
        width = keep_best(importance.width, count)
    if limits is not None:
        return choose_under(limits, importance, config, settings, kept, width)
    heads, neurons = (0.5 if f is None else f for f in (settings.head_fraction, settings.neuron_fraction))
    units = [head_unit(config, layer) for layer in range(config.layers)]
    groups = tuple(part.reshape(-1, unit).sum(axis=1) for part, unit in zip(importance.heads, units, strict=True))
    first = tuple(whole.heads[layer] // head_unit(whole, layer) for layer in layers)
    ranking = settings.ranking if settings.importance != "reconstruction" or settings.ranking == "layer" else "errors"
    kept_groups = _rank(groups, first, share * heads, ranking, 1)
    first = tuple(whole.d_ff[layer] for layer in layers)
    kept_neurons = _rank(importance.neurons, first, share * neurons, ranking, settings.neuron_multiple)
    kept_heads = tuple(np.repeat(mask, unit) for mask, unit in zip(kept_groups, units, strict=True))
    return Keep(kept_heads, kept_neurons, kept, width)


def _rank(
    scores: tuple[NDArray[np.float64], ...], first: tuple[int, ...], fraction: float, ranking: str, multiple: int
) -> Masks:
    """Keep the best, so that `fraction` of the `first` counts of each layer, or of all layers, is gone."""
    if ranking == "layer":
        kept = [count_kept(count, fraction, multiple) for count in first]
    else:
        # Errors of the residual stream are of one scale. Other scores are not, from layer to layer; the layer's norm is
        # divided out (Molchanov et al. 2017).
        scaled = [part if ranking == "errors" else part / max(float(np.linalg.norm(part)), 1e-30) for part in scores]
        order = np.argsort(np.concatenate(scaled), kind="stable")
        dropped = order[: max(0, int(fraction * sum(first) + 1e-9) - sum(first) + len(order))]
        layer_of = np.repeat(np.arange(len(scores)), [len(part) for part in scores])
        kept = [len(part) - int((layer_of[dropped] == layer).sum()) for layer, part in enumerate(scores)]
    return tuple(
        keep_best(part, -(-max(1, count) // multiple) * multiple) for part, count in zip(scores, kept, strict=True)
    )


def _report(
    before: TransformerConfig, after: TransformerConfig, layers: tuple[int, ...], rounds: tuple[PruneRound, ...]
) -> PruneReport:
    old, new = count_parts(before)[1:-1], dict(zip(layers, count_parts(after)[1:-1], strict=True))
    place = {layer: index for index, layer in enumerate(layers)}
    rows = []
    for layer, part in enumerate(old):
        index, smaller = place.get(layer), new.get(layer)
        rows.append(
            PrunedLayer(
                layer=layer,
                heads_before=before.heads[layer],
                heads_after=0 if index is None else after.heads[index],
                neurons_before=before.d_ff[layer],
                neurons_after=0 if index is None else after.d_ff[index],
                parameters_before=part.parameters,
                parameters_after=0 if smaller is None else smaller.parameters,
                macs_before=part.macs,
                macs_after=0 if smaller is None else smaller.macs,
                bytes_before=part.bytes,
                bytes_after=0 if smaller is None else smaller.bytes,
            )
        )
    return PruneReport(
        parameters_before=count_parameters(before),
        parameters_after=count_parameters(after),
        macs_before=count_macs(before),
        macs_after=count_macs(after),
        bytes_before=count_bytes(before),
        bytes_after=count_bytes(after),
        width_before=before.d_model,
        width_after=after.d_model,
        heads_before=before.heads,
        heads_after=after.heads,
        neurons_before=before.d_ff,
        neurons_after=after.d_ff,
        layers=tuple(rows),
        rounds=rounds,
    )
