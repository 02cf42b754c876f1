"""Which rank each matrix gets: the least error for a budget of parameters or multiply-accumulates; no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from picoformer.compress.count import count_embedding_macs, count_macs, count_parameters, count_weights, row_width
from picoformer.compress.settings import FactorizeSettings
from picoformer.errors import ConfigError
from picoformer.models.config import TransformerConfig


@dataclass(frozen=True)
class Site:
    """A matrix that can become a pair: where it is, its size, and its rank now (0: whole)."""

    name: str  # path of the module, as in the checkpoint
    layer: int | None  # None for the embedding
    inputs: int
    outputs: int
    rank: int
    is_table: bool = False  # looked up by token, not multiplied


@dataclass(frozen=True)
class Choice:
    """The rank a site gets (0: whole), and why it stays as it is when it does."""

    rank: int
    note: str = ""


@dataclass(frozen=True)
class _Options:
    """What a site can be, cheapest first: ranks, their costs, and the share of its energy that each loses."""

    ranks: NDArray[np.int64]
    costs: NDArray[np.int64]
    errors: NDArray[np.float64]


def find_sites(config: TransformerConfig, embedding: bool = True) -> tuple[Site, ...]:
    """Every matrix that can become a pair, in the model's order. Image patches and the head are none.

    Raises ConfigError for experts and shared layers, which stay whole.
    """
    if config.experts:
        raise ConfigError(f"experts = {config.experts}: models with it cannot be factorized; leave that out")
    for key in ("shared_layers", "embedding_width"):
        if getattr(config, key):
            raise ConfigError(f"{key} is set: models with it cannot be factorized; leave that out")
    sites = []
    if embedding and config.image is None:
        name = "embedding.token" if config.vocab_size else "embedding.frames"
        rank, is_table = config.embedding_rank, bool(config.vocab_size)
        sites.append(Site(name, None, row_width(config), config.d_model, rank, is_table))
    for layer in range(config.layers):
        for projection in config.projections:
            branch = "feed_forward" if projection in ("up", "gate", "down") else "attention"
            inputs, outputs = config.projection_shape(layer, projection)
            rank = config.rank(layer, projection)
            sites.append(Site(f"layers.{layer}.{branch}.{projection}", layer, inputs, outputs, rank))
    return tuple(sites)


def site_parameters(config: TransformerConfig, site: Site, rank: int) -> int:
    """Weights of a site at a rank (0: whole), without its bias."""
    return count_weights(site.inputs, site.outputs, rank)


def site_macs(config: TransformerConfig, site: Site, rank: int) -> int:
    """Multiply-accumulates of a site at a rank (0: whole), per inference at full length."""
    if site.layer is None:
        return count_embedding_macs(config, rank)
    return config.tokens * count_weights(site.inputs, site.outputs, rank)


def choose_ranks(
    config: TransformerConfig,
    sites: tuple[Site, ...],
    values: Mapping[str, NDArray[np.float64]],
    settings: FactorizeSettings,
    errors: Mapping[str, NDArray[np.float64]] | None = None,
) -> dict[str, Choice]:
    """The rank of each site, from the singular `values` (k,) of each by name, largest first.

    All sites start at their cheapest; then, as long as the budget lasts, the step that regains most per cost is taken:
    of what the outputs lose, where `errors` has that by name for each of `option_ranks`, else of the site's share of
    energy (shares, because the energies of layers are of different scales). A site whose pair would cost no less than
    it does now stays. Raises ConfigError for a budget that nothing can meet, naming the
    nearest that can, and for a `settings.rank` that saves nowhere.
    """
    options = {site.name: _options(config, site, values[site.name], settings) for site in sites}
    for name, measured in (errors or {}).items():
        options[name] = replace(options[name], errors=measured)
    if settings.rank:
        return _fixed(sites, options, settings.rank)
    counted = count_parameters if settings.budget == "parameters" else count_macs
    total = counted(config)
    now = {site.name: 0 for site in sites}  # index into the site's options
    untouched = total - sum(int(options[name].costs[-1]) for name in now)
    slack = math.floor(settings.keep * total + 1e-9) - untouched - sum(int(options[name].costs[0]) for name in now)
    if slack < 0:
        least = (math.floor(settings.keep * total + 1e-9) - slack) / total
        raise ConfigError(
            f"keep = {settings.keep:g} of the {settings.budget} cannot be met: with the smallest ranks "
            f"{least:.1%} are left; set keep to {math.ceil(least * 1000) / 1000:g} or more, or prune first"
        )
    steps = {name: _best_step(options[name], 0, slack) for name in now}
    while True:
        for name, step in steps.items():
            if step is not None and step[1] > slack:
                steps[name] = _best_step(options[name], now[name], slack)
        found = [(step[0], name) for name, step in steps.items() if step is not None]
        if not found:
            break
        name = max(found, key=lambda item: item[0])[1]
        step = steps[name]
        assert step is not None
        slack -= step[1]
        now[name] = step[2]
        steps[name] = _best_step(options[name], now[name], slack)
    choices = {}
    for site in sites:
        ranks, index = options[site.name].ranks, now[site.name]
        note = ""
        if len(ranks) == 1:
            note = f"a pair of rank {settings.rank_multiple} would cost no less"
        elif index == len(ranks) - 1:
            note = "within the budget as it is"
        choices[site.name] = Choice(int(ranks[index]), note)
    return choices


def option_ranks(
    config: TransformerConfig, site: Site, values: NDArray[np.float64], settings: FactorizeSettings
) -> NDArray[np.int64]:
    """The ranks a site may get, cheapest first; the last is what it has now."""
    return _options(config, site, values, settings).ranks


def _options(
    config: TransformerConfig, site: Site, values: NDArray[np.float64], settings: FactorizeSettings
) -> _Options:
    """Multiples of `rank_multiple` (or the one rank asked for) that save something, and the site as it is."""
    cost = site_parameters if settings.budget == "parameters" else site_macs
    present = cost(config, site, site.rank)
    highest = (site.rank - 1) if site.rank else min(site.inputs, site.outputs)
    wanted = [settings.rank] if settings.rank else range(settings.rank_multiple, highest + 1, settings.rank_multiple)
    ranks = [rank for rank in wanted if rank <= highest and cost(config, site, rank) < present]
    lost = np.concatenate((np.cumsum((values**2)[::-1])[::-1], [0.0]))
    lost /= max(float(lost[0]), 1e-300)
    costs = [cost(config, site, rank) for rank in ranks]
    return _Options(
        np.array([*ranks, site.rank], np.int64),
        np.array([*costs, present], np.int64),
        np.array([*(lost[rank] for rank in ranks), 0.0]),
    )


def _best_step(options: _Options, index: int, slack: int) -> tuple[float, int, int] | None:
    """(error regained per cost, cost, index) of the best larger option that `slack` pays for."""
    costs = options.costs[index + 1 :] - options.costs[index]
    affordable = costs <= slack
    if not affordable.any():
        return None
    gains = np.where(affordable, (options.errors[index] - options.errors[index + 1 :]) / costs, -1.0)
    best = int(np.argmax(gains))
    return float(gains[best]), int(costs[best]), index + 1 + best


def _fixed(sites: tuple[Site, ...], options: Mapping[str, _Options], rank: int) -> dict[str, Choice]:
    """The same rank for all that it makes cheaper."""
    choices = {}
    for site in sites:
        if len(options[site.name].ranks) > 1:
            choices[site.name] = Choice(rank)
        else:
            choices[site.name] = Choice(site.rank, f"a pair of rank {rank} would cost no less")
    if not any(choice.note == "" for choice in choices.values()):
        raise ConfigError(f"rank = {rank} makes no matrix of this model cheaper; lower it, or set keep instead")
    return choices
