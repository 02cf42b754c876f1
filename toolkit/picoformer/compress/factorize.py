"""Low-rank factorization: a linear layer becomes a pair of thin ones where that costs least accuracy per weight."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from picoformer.compress.count import count_macs, count_parameters
from picoformer.compress.ranks import Choice, Site, choose_ranks, find_sites, option_ranks, site_macs, site_parameters
from picoformer.compress.settings import FactorizeSettings
from picoformer.compress.train import predict, use_threads
from picoformer.errors import DataError, PicoformerError
from picoformer.models.transformer import LowRankLinear, Transformer

Array = NDArray[np.float64]

ERROR_SAMPLES = 128
"""Samples on which each site is cut alone."""
MEASURED_RANKS = 5
"""Ranks at which it is."""
DAMPING = 1e-4
"""Share of the mean second moment added to every direction: those that no calibration sample took stay invertible."""


@dataclass(frozen=True)
class FactorizedLayer:
    """What became of one matrix; rank 0 is whole. The error is ‖X(W − Ŵ)ᵀ‖ / ‖XWᵀ‖ over the calibration rows X."""

    name: str
    inputs: int
    outputs: int
    rank: int
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    relative_error: float
    note: str  # why it stayed as it was; empty when it did not


@dataclass(frozen=True)
class FactorizeReport:
    """Sizes before and after, of the model and of every layer."""

    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    layers: tuple[FactorizedLayer, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**dataclasses.asdict(self), "layers": [dataclasses.asdict(layer) for layer in self.layers]}


@dataclass(frozen=True)
class Decomposition:
    """W = expand · reduce for all of its `values` (k,); cut to r of them, the best pair of rank r in its norm.

    expand (outputs, k), reduce (k, inputs). The squares of the values left out are the error.
    """

    expand: Array
    values: Array
    reduce: Array

    def cut(self, rank: int) -> tuple[Array, Array]:
        """The pair (expand (outputs, rank), reduce (rank, inputs))."""
        return self.expand[:, :rank], self.reduce[:rank]


def factorize(model: Transformer, x: NDArray[Any], settings: FactorizeSettings) -> tuple[Transformer, FactorizeReport]:
    """A smaller model (eval mode) within the budget, calibrated with samples `x` (n, *input); `model` stays.

    Recover its accuracy with `train` or `distill`. Raises DataError for samples that do not fit, ConfigError for a
    budget or a rank that nothing can meet, PicoformerError when activations are not finite.
    """
    sites = find_sites(model.config, settings.embedding)
    moments = measure_moments(model, x, sites, settings)
    matrices = {site.name: matrix(model, site) for site in sites}
    parts = {
        site.name: decompose(matrices[site.name], moments[site.name] if settings.method == "activation" else None)
        for site in sites
    }
    values = {name: part.values for name, part in parts.items()}
    errors = None if settings.rank else measure_errors(model, x, sites, parts, settings)
    choices = choose_ranks(model.config, sites, values, settings, errors)
    smaller = replace_matrices(model, sites, parts, choices)
    layers = []
    for site in sites:
        choice, whole = choices[site.name], matrices[site.name]
        found = matrix(smaller, site)
        layers.append(
            FactorizedLayer(
                name=site.name,
                inputs=site.inputs,
                outputs=site.outputs,
                rank=choice.rank,
                parameters_before=site_parameters(model.config, site, site.rank),
                parameters_after=site_parameters(model.config, site, choice.rank),
                macs_before=site_macs(model.config, site, site.rank),
                macs_after=site_macs(model.config, site, choice.rank),
                relative_error=relative_error(whole, found, moments[site.name]) if choice.rank != site.rank else 0.0,
                note=choice.note,
            )
        )
    before, after = model.config, smaller.config
    return smaller, FactorizeReport(
        count_parameters(before), count_parameters(after), count_macs(before), count_macs(after), tuple(layers)
    )


def decompose(weight: Array, moment: Array | None = None) -> Decomposition:
    """The singular value decomposition of `weight` (outputs, inputs), in the norm of its inputs' second moment.

    With S·Sᵀ = moment and U·Σ·Vᵀ the decomposition of W·S, the pair (U·Σ)(Vᵀ·S⁻¹), cut to rank r, minimises the mean
    square of (W − Ŵ)x (Eckart and Young 1936, in the norm of Yuan et al. 2023, ASVD, and Wang et al. 2024, SVD-LLM).
    `moment` is (inputs, inputs), or (inputs,) for a diagonal; None is plain SVD, which weights all directions alike.
    Every channel between the two has a mean square of 1 (0 where no input goes): one int8 scale suits all of them.
    """
    if moment is None:
        left, values, right = np.linalg.svd(weight, full_matrices=False)
        return Decomposition(left * values, values, right)
    damped = DAMPING * max(float(np.mean(moment if moment.ndim == 1 else np.diag(moment))), 1e-30)
    if moment.ndim == 1:
        root = np.sqrt(moment + damped)
        left, values, right = np.linalg.svd(weight * root, full_matrices=False)
        return Decomposition(left * values, values, right / root)
    squares, directions = np.linalg.eigh(moment)
    root = np.sqrt(np.maximum(squares, 0.0) + damped)
    left, values, right = np.linalg.svd(weight @ directions * root, full_matrices=False)
    return Decomposition(left * values, values, right / root @ directions.T)


def relative_error(weight: Array, other: Array, moment: Array) -> float:
    """‖X(W − Ŵ)ᵀ‖ / ‖XWᵀ‖ for inputs X of this second moment; both matrices (outputs, inputs)."""

    def energy(m: Array) -> float:
        return float(np.sum(m * (m * moment if moment.ndim == 1 else m @ moment)))

    return float(np.sqrt(max(energy(weight - other), 0.0) / max(energy(weight), 1e-300)))


def measure_moments(
    model: Transformer, x: NDArray[Any], sites: tuple[Site, ...], settings: FactorizeSettings
) -> dict[str, Array]:
    """E[x xᵀ] of the inputs of every site over samples and rows: (inputs, inputs) float64.

    For a token table, whose inputs are one-hot, the diagonal: how often each token occurs, (vocabulary,). Raises
    DataError for samples that do not fit and PicoformerError when activations are not finite.
    """
    if not len(x):
        raise DataError("0 samples; factorization measures activations, give at least 1")
    sums = {site.name: np.zeros(site.inputs if site.is_table else (site.inputs,) * 2) for site in sites}
    rows = dict.fromkeys(sums, 0)

    def watch(site: Site) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0].detach()
            if site.is_table:
                flat = values.reshape(-1).numpy()
                sums[site.name] += np.bincount(flat, minlength=site.inputs)
            else:
                flat = values.reshape(-1, site.inputs).double().numpy()
                sums[site.name] += flat.T @ flat
            rows[site.name] += len(flat)

        return hook

    handles = [model.get_submodule(site.name).register_forward_pre_hook(watch(site)) for site in sites]
    training = model.training
    model.eval()
    try:
        with use_threads(settings.threads), torch.no_grad():
            for start in range(0, min(settings.samples, len(x)), settings.batch):
                stop = min(start + settings.batch, settings.samples, len(x))
                model(torch.from_numpy(np.ascontiguousarray(x[start:stop])))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    for name, total in sums.items():
        if not np.isfinite(total).all():
            raise PicoformerError(f"factorization found no finite inputs of '{name}'; check model and data for NaN")
    return {name: total / rows[name] for name, total in sums.items()}


def measure_errors(
    model: Transformer,
    x: NDArray[Any],
    sites: tuple[Site, ...],
    parts: dict[str, Decomposition],
    settings: FactorizeSettings,
) -> dict[str, Array]:
    """How far the outputs move when one site alone is cut, by name, for each of its `option_ranks`.

    Measured at MEASURED_RANKS of them on ERROR_SAMPLES samples, and in between on a line through the logarithms. Raises
    PicoformerError when outputs are not finite.
    """
    samples = x[: min(ERROR_SAMPLES, settings.samples)]
    whole = predict(model, samples, settings.threads)
    present = {site.name: Choice(site.rank) for site in sites}
    errors = {}
    for site in sites:
        ranks = option_ranks(model.config, site, parts[site.name].values, settings)
        points = np.unique(np.linspace(0, max(len(ranks) - 2, 0), MEASURED_RANKS).astype(np.int64))
        found: list[float] = []
        if len(ranks) == 1:
            errors[site.name] = np.zeros(1)
            continue
        for point in points:
            cut = replace_matrices(model, sites, parts, {**present, site.name: Choice(int(ranks[point]))})
            found.append(divergence(whole, predict(cut, samples, settings.threads)))
            if not np.isfinite(found[-1]):
                raise PicoformerError(
                    f"outputs are not finite with '{site.name}' at rank {ranks[point]}; check the model for NaN"
                )
        errors[site.name] = np.zeros(len(ranks))
        falling = np.minimum.accumulate(np.maximum(found, 1e-12))
        errors[site.name][:-1] = np.exp(np.interp(np.arange(len(ranks) - 1), points, np.log(falling)))
    return errors


def divergence(outputs: NDArray[Any], other: NDArray[Any]) -> float:
    """Mean KL(softmax(outputs) ‖ softmax(other)) over rows; of outputs of one number, the squared error instead."""
    a, b = (torch.from_numpy(np.asarray(part)).double() for part in (outputs, other))
    if a.shape[-1] < 2:
        return float(functional.mse_loss(b, a))
    ours, theirs = (functional.log_softmax(part.flatten(0, -2), dim=-1) for part in (a, b))
    return float(functional.kl_div(theirs, ours, reduction="batchmean", log_target=True))


def matrix(model: Transformer, site: Site) -> Array:
    """The whole matrix of a site, (outputs, inputs) float64: a pair multiplied out, a token table turned."""
    module = model.get_submodule(site.name)
    if isinstance(module, LowRankLinear):
        return _array(module.expand.weight) @ _array(module.reduce.weight)
    assert isinstance(module, (nn.Linear, nn.Embedding))
    if not site.is_table:
        return _array(module.weight)
    table = _array(module.weight).T
    return _array(model.embedding.token_expand.weight) @ table if model.config.embedding_rank else table


def replace_matrices(
    model: Transformer, sites: tuple[Site, ...], parts: dict[str, Decomposition], choices: dict[str, Choice]
) -> Transformer:
    """A model (eval mode) whose sites have the chosen ranks, each cut from its decomposition; `model` stays."""
    config = model.config
    ranks = [[config.rank(layer, name) for name in config.projections] for layer in range(config.layers)]
    embedding_rank = config.embedding_rank
    weights = dict(model.state_dict())
    for site in sites:
        rank = choices[site.name].rank
        if rank == site.rank:
            continue
        expand, reduce = (torch.from_numpy(np.ascontiguousarray(part)) for part in parts[site.name].cut(rank))
        if site.is_table:
            weights[f"{site.name}.weight"], weights[f"{site.name}_expand.weight"] = reduce.T, expand
        else:
            bias = weights.pop(f"{site.name}.expand.bias" if site.rank else f"{site.name}.bias", None)
            weights.pop(f"{site.name}.weight", None)
            weights |= {f"{site.name}.reduce.weight": reduce, f"{site.name}.expand.weight": expand}
            if bias is not None:
                weights[f"{site.name}.expand.bias"] = bias
        if site.layer is None:
            embedding_rank = rank
        else:
            ranks[site.layer][config.projections.index(site.name.rpartition(".")[2])] = rank
    changed = dataclasses.replace(config, ranks=tuple(map(tuple, ranks)), embedding_rank=embedding_rank)
    smaller = Transformer(changed, seed=None).to(next(model.parameters()).dtype)
    smaller.load_state_dict(weights)
    return smaller.eval()


def _array(weight: Tensor) -> Array:
    array: Array = weight.detach().double().numpy()
    return array
