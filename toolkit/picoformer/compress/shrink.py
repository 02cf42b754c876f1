"""A smaller dense model out of what stays: heads, neurons, layers and channels of the residual stream."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from picoformer.compress.count import count_weights, row_width
from picoformer.compress.importance import branches, check_prunable
from picoformer.errors import DataError
from picoformer.models.branches import RMSNorm
from picoformer.models.config import TransformerConfig
from picoformer.models.transformer import Transformer

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Keep:
    """True for what stays: heads and neurons, one mask per layer; layers and channels of d_model, None for all.

    What a layer that goes keeps does not matter.
    """

    heads: tuple[Mask, ...]
    neurons: tuple[Mask, ...]
    layers: Mask | None = None
    width: Mask | None = None


def keep_all(config: TransformerConfig) -> Keep:
    """Everything stays."""
    return Keep(tuple(np.ones(n, np.bool_) for n in config.heads), tuple(np.ones(n, np.bool_) for n in config.d_ff))


def kept_layers(config: TransformerConfig, keep: Keep) -> tuple[int, ...]:
    """The layers that stay."""
    return tuple(range(config.layers)) if keep.layers is None else tuple(map(int, np.flatnonzero(keep.layers)))


def shrink_config(config: TransformerConfig, keep: Keep) -> TransformerConfig:
    """The configuration of what stays. A pair of low rank that would be no smaller than one matrix becomes one.

    Raises DataError for masks that do not fit, leave nothing, or leave groups of unequal size.
    """
    check_keep(config, keep)
    layers = kept_layers(config, keep)
    d_model = config.d_model if keep.width is None else int(keep.width.sum())
    positions = config.positions
    if positions == "sinusoidal" and d_model != config.d_model:
        positions = "learned"  # the columns of a narrower model's sines would have other frequencies
    smaller = dataclasses.replace(
        config,
        d_model=d_model,
        heads=tuple(int(keep.heads[layer].sum()) for layer in layers),
        d_ff=tuple(int(keep.neurons[layer].sum()) for layer in layers),
        kv_heads=tuple(int(_kept_groups(config, layer, keep.heads[layer]).sum()) for layer in layers),
        positions=positions,
        ranks=(),
        embedding_rank=0,
    )
    ranks = [
        [
            _smaller_rank(*smaller.projection_shape(new, projection), config.rank(layer, projection))
            for projection in config.projections
        ]
        for new, layer in enumerate(layers)
    ]
    rank = 0 if config.tied_head else _smaller_rank(row_width(config), d_model, config.embedding_rank)
    return dataclasses.replace(smaller, ranks=tuple(map(tuple, ranks)), embedding_rank=rank)


def shrink(model: Transformer, keep: Keep) -> Transformer:
    """A dense model (eval mode) with only what stays; its output is that of `masked(model, keep)`.

    Raises DataError as `shrink_config`, and for a width that a scaled, tied embedding without a final norm cannot
    lose.
    """
    config = model.config
    smaller_config = shrink_config(config, keep)
    weights = dict(model.state_dict())
    _take_branches(weights, config, keep)
    if keep.width is not None:
        _take_width(weights, model, keep.width)
    names = {old: new for new, old in enumerate(kept_layers(config, keep))}
    kept: dict[str, Tensor] = {}
    for name, value in weights.items():
        first, _, rest = name.partition(".")
        layer, _, rest = rest.partition(".")
        if first != "layers":
            kept[name] = value
        elif int(layer) in names:
            kept[f"layers.{names[int(layer)]}.{rest}"] = value
    smaller = Transformer(smaller_config, seed=None).to(next(model.parameters()).dtype)
    for name in [name for name in kept if name.endswith("reduce.weight")]:
        if name not in smaller.state_dict():
            _multiply_out(kept, name.removesuffix(".reduce.weight"))
    if "embedding.token_expand.weight" in kept and not smaller_config.embedding_rank:
        kept["embedding.token.weight"] = kept["embedding.token.weight"] @ kept.pop("embedding.token_expand.weight").T
    smaller.load_state_dict(kept)
    return smaller.eval()


@contextlib.contextmanager
def masked(model: Transformer, keep: Keep) -> Iterator[Transformer]:
    """`model` with what goes set to zero, inside the block: a layer passes its input on; norms count only the
    channels that stay."""
    handles = []
    config, dtype = model.config, next(model.parameters()).dtype
    layers = kept_layers(config, keep)
    for layer, (attention, feed_forward) in enumerate(branches(model)):
        if layer not in layers:
            handles.append(model.layers[layer].register_forward_hook(lambda _m, inputs, _o: inputs[0]))
            continue
        head_mask = torch.from_numpy(np.repeat(keep.heads[layer], config.head_dim)).to(dtype)
        neuron_mask = torch.from_numpy(keep.neurons[layer]).to(dtype)
        for module, mask in ((attention.out, head_mask), (feed_forward.down, neuron_mask)):
            handles.append(module.register_forward_pre_hook(lambda _module, inputs, mask=mask: (inputs[0] * mask,)))
    if keep.width is not None:
        channels = torch.from_numpy(np.flatnonzero(keep.width))
        mask = torch.from_numpy(keep.width).to(dtype)

        def norm(module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> Tensor:
            rows, result = inputs[0][..., channels], torch.zeros_like(inputs[0])
            if isinstance(module, RMSNorm):
                normed = functional.rms_norm(rows, (len(channels),), module.weight[channels], module.eps)
            else:
                assert isinstance(module, nn.LayerNorm)
                gain, bias = module.weight[channels], module.bias[channels]
                normed = functional.layer_norm(rows, (len(channels),), gain, bias, module.eps)
            result[..., channels] = normed
            return result

        for module in model.modules():
            if isinstance(module, nn.LayerNorm | RMSNorm):
                handles.append(module.register_forward_hook(norm))
        for pair in ((model.embedding,), *branches(model)):
            for module in pair:
                handles.append(module.register_forward_hook(lambda _m, _i, output: output * mask))
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def check_keep(config: TransformerConfig, keep: Keep) -> None:
    """Raise DataError for masks that do not fit the model, leave nothing, or leave groups of unequal size, ConfigError
    for a kind of model that cannot be pruned."""
    check_prunable(config)
    layers = keep.layers
    if layers is not None and (layers.shape != (config.layers,) or not layers.any()):
        raise DataError(f"the layers mask is {layers.shape}, {layers.sum()} kept; keep 1 of {config.layers} at least")
    if keep.width is not None and (keep.width.shape != (config.d_model,) or not keep.width.any()):
        raise DataError(f"the width mask is {keep.width.shape}; keep 1 of d_model = {config.d_model} at least")
    for key, masks, counts in (("heads", keep.heads, config.heads), ("neurons", keep.neurons, config.d_ff)):
        if tuple(mask.shape for mask in masks) != tuple((count,) for count in counts):
            raise DataError(f"{key} masks do not fit the model's {counts}; give one boolean per {key[:-1]} and layer")
        if not all(masks[layer].any() for layer in kept_layers(config, keep)):
            raise DataError(f"{key} masks leave a layer empty; keep at least one")
    for layer in kept_layers(config, keep):
        found = keep.heads[layer].reshape(config.key_heads[layer], -1).sum(axis=1)
        sizes = sorted(set(found[found > 0].tolist()))
        if len(sizes) > 1:
            raise DataError(
                f"heads masks leave layer {layer} groups of {' and '.join(map(str, sizes))} query heads; "
                "keep as many in each group that stays"
            )


def _kept_groups(config: TransformerConfig, layer: int, heads: Mask) -> Mask:
    """The heads of keys and values that some query head still reads."""
    return np.asarray(heads.reshape(config.key_heads[layer], -1).any(axis=1), np.bool_)


def _smaller_rank(inputs: int, outputs: int, rank: int) -> int:
    return rank if count_weights(inputs, outputs, rank) < count_weights(inputs, outputs, 0) else 0


def _take_branches(weights: dict[str, Tensor], config: TransformerConfig, keep: Keep) -> None:
    """Keep the rows and columns of the heads and neurons that stay, in place."""
    for layer in kept_layers(config, keep):
        heads = keep.heads[layer]
        query = _indices(np.repeat(heads, config.head_dim))
        key = _indices(np.repeat(_kept_groups(config, layer, heads), config.head_dim))
        neurons = _indices(keep.neurons[layer])
        attention, feed_forward = f"layers.{layer}.attention", f"layers.{layer}.feed_forward"
        for name, kept in (
            (f"{attention}.query", query),
            (f"{attention}.key", key),
            (f"{attention}.value", key),
            (f"{feed_forward}.up", neurons),
            *(((f"{feed_forward}.gate", neurons),) if config.gated else ()),
        ):
            _take_outputs(weights, name, kept)
        _take_inputs(weights, f"{attention}.out", query)
        _take_inputs(weights, f"{feed_forward}.down", neurons)


def _take_width(weights: dict[str, Tensor], model: Transformer, width: Mask) -> None:
    """Keep the channels of the residual stream that stay, in place."""
    config, kept = model.config, _indices(width)
    if config.positions == "sinusoidal":
        weights["embedding.position"] = model.embedding.get_buffer("position")
    for layer in range(config.layers):
        for projection in config.projections:
            branch = "feed_forward" if projection in ("up", "gate", "down") else "attention"
            take = _take_outputs if projection in ("out", "down") else _take_inputs
            take(weights, f"layers.{layer}.{branch}.{projection}", kept)
        for norm in ("attention_norm", "feed_forward_norm"):
            _take_outputs(weights, f"layers.{layer}.{norm}", kept)
    if config.final_norm:
        _take_outputs(weights, "final_norm", kept)
    if config.classes and not config.tied_head:
        _take_inputs(weights, "head", kept)
    for name in ("embedding.cls", "embedding.position"):
        if name in weights:
            weights[name] = weights[name][..., kept]
    if not config.vocab_size:
        table = "embedding.patches" if config.image is not None else "embedding.frames"
        _take_outputs(weights, table, kept)
    elif config.embedding_rank:
        weights["embedding.token_expand.weight"] = weights["embedding.token_expand.weight"][kept]
    else:
        weights["embedding.token.weight"] = weights["embedding.token.weight"][:, kept]
    if config.scale_embedding:
        _rescale(weights, config, math.sqrt(config.d_model / len(kept)))


def _rescale(weights: dict[str, Tensor], config: TransformerConfig, factor: float) -> None:
    """Make up for sqrt(d_model), which the embedding is multiplied by, having become smaller by `factor`."""
    if config.vocab_size:
        names = ["embedding.token_expand.weight" if config.embedding_rank else "embedding.token.weight"]
    else:
        table = "embedding.patches" if config.image is not None else "embedding.frames"
        last = f"{table}.expand" if config.embedding_rank else table
        names = [f"{last}.weight", f"{last}.bias"]
    for name in names:
        weights[name] = weights[name] * factor
    if config.tied_head:
        if not config.final_norm:
            raise DataError(
                "width cannot be pruned: a scaled embedding tied to the head needs a final norm; "
                "set final_norm = true or width_fraction = 0"
            )
        for part in ("weight", "bias") if config.norm == "layer" else ("weight",):
            weights[f"final_norm.{part}"] = weights[f"final_norm.{part}"] / factor


def _take_outputs(weights: dict[str, Tensor], name: str, kept: Tensor) -> None:
    last = f"{name}.expand" if f"{name}.expand.weight" in weights else name
    for part in ("weight", "bias"):
        if f"{last}.{part}" in weights:
            weights[f"{last}.{part}"] = weights[f"{last}.{part}"][kept]


def _take_inputs(weights: dict[str, Tensor], name: str, kept: Tensor) -> None:
    first = f"{name}.reduce" if f"{name}.reduce.weight" in weights else name
    weights[f"{first}.weight"] = weights[f"{first}.weight"][:, kept]


def _multiply_out(weights: dict[str, Tensor], name: str) -> None:
    """Make a pair one matrix again: with less around it, the pair would be the larger."""
    reduce, expand = weights.pop(f"{name}.reduce.weight"), weights.pop(f"{name}.expand.weight")
    weights[f"{name}.weight"] = expand @ reduce
    if f"{name}.expand.bias" in weights:
        weights[f"{name}.bias"] = weights.pop(f"{name}.expand.bias")


def _indices(mask: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.flatnonzero(mask))
