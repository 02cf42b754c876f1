"""A student's first weights: those of its teacher, cut where the student is narrower."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from picoformer.compress.distill_losses import map_layers, spread_layers
from picoformer.errors import ConfigError
from picoformer.models.transformer import Transformer

Axes = tuple[Tensor | None, ...]
"""For each axis of a tensor the indices that stay, or None for all."""


@dataclass(frozen=True)
class InitReport:
    """Names of the student's parameters: taken over whole, cut or averaged to fit, and left at their random start."""

    copied: tuple[str, ...]
    cut: tuple[str, ...]
    left: tuple[str, ...]

    def to_dict(self) -> dict[str, list[str]]:
        """Plain JSON types."""
        return {key: list(names) for key, names in dataclasses.asdict(self).items()}


def init_from_teacher(student: Transformer, teacher: Transformer, layer_map: tuple[int, ...] = ()) -> InitReport:
    """Copy into `student` the weights of the teacher's layers that `layer_map` names, in place; by default of its first
    layer, its last one, and layers between them evenly.

    A narrower student gets the largest parts, by norm: one choice of embedding columns for the whole model (Xu et al.
    2024, "weight selection", keeps such choices consistent too), and in each layer whole heads, columns of a head and
    neurons. Key and value heads are averaged in groups where only they are fewer (Ainslie et al. 2023). What does not
    fit (more heads or neurons, low-rank pairs, other tokens) is left alone. Raises ConfigError for a bad `layer_map`,
    for layers that share weights, and for a larger d_model than the teacher's, with which next to nothing fits.
    """
    ours, theirs = student.config, teacher.config
    if ours.d_model > theirs.d_model:
        raise ConfigError(
            f"init_from_teacher: the student's d_model = {ours.d_model} is more than the teacher's {theirs.d_model}, "
            "and no weights can be cut to it; lower d_model or set init_from_teacher = false"
        )
    for key in ("shared_layers", "embedding_width"):
        if getattr(ours, key) or getattr(theirs, key):
            raise ConfigError(
                f"init_from_teacher: {key} is set, and such weights are not cut; leave init_from_teacher out"
            )
    pairs = spread_layers(ours.layers, theirs.layers)
    if layer_map:
        pairs = map_layers(ours.layers, theirs.layers, layer_map)
    width = _largest(_residual_energy(teacher), ours.d_model)
    wanted = dict(student.named_parameters())
    given = {name: value.detach() for name, value in teacher.named_parameters()}
    found: dict[str, Tensor] = {}
    for name in ("embedding.token.weight", "embedding.token_expand.weight"):
        if name in given:
            found[name] = _cut(given[name], (*(None,) * (given[name].ndim - 1), width))
    for name in ("embedding.frames", "embedding.patches"):
        for part in ("weight", "bias"):
            if f"{name}.{part}" in given:
                found[f"{name}.{part}"] = _cut(given[f"{name}.{part}"], (width,))
    for name in ("final_norm.weight", "final_norm.bias"):
        if name in given:
            found[name] = _cut(given[name], (width,))
    if ours.cls_token == theirs.cls_token:
        for name in ("embedding.cls", "embedding.position"):
            if name in given:
                found[name] = _cut(given[name], (*(None,) * (given[name].ndim - 1), width))
        if "embedding.position" in found:
            found["embedding.position"] = found["embedding.position"][: ours.tokens]
    for name in ("embedding.norm.weight", "embedding.norm.bias"):
        if name in given:
            found[name] = _cut(given[name], (width,))
    if "head.weight" in given:
        found["head.weight"] = _cut(given["head.weight"], (None, width))
    if "head.bias" in given:
        found["head.bias"] = given["head.bias"]
    for layer, source in enumerate(pairs):
        found |= _layer(student, layer, teacher, source, width)
    copied: list[str] = []
    cut: list[str] = []
    left: list[str] = []
    widths = ours.d_model == theirs.d_model
    with torch.no_grad():
        for name, parameter in wanted.items():
            value = found.get(name)
            if value is None or value.shape != parameter.shape:
                left.append(name)
                continue
            parameter.copy_(value)
            whole = widths and given[_source_name(name, pairs)].shape == parameter.shape
            (copied if whole else cut).append(name)
    return InitReport(tuple(copied), tuple(cut), tuple(left))


def _source_name(name: str, pairs: tuple[int, ...]) -> str:
    parts = name.split(".")
    if parts[0] == "layers":
        parts[1] = str(pairs[int(parts[1])])
    return ".".join(parts)


def _residual_energy(model: Transformer) -> Tensor:
    """How much each of the d_model columns carries: squares of all that writes to it, each matrix counting the same."""
    total = torch.zeros(model.config.d_model)
    for name, value in model.named_parameters():
        if value.ndim < 2:
            continue
        squares = value.detach().square()
        if name.endswith((".attention.out.weight", ".down.weight", "out.expand.weight", "down.expand.weight")) or (
            name.startswith(("embedding.frames", "embedding.patches")) and value.shape[0] == len(total)
        ):
            energy = squares.flatten(1).sum(1)
        elif name.startswith(("embedding.token", "embedding.position")) and value.shape[-1] == len(total):
            energy = squares.flatten(0, -2).sum(0)
        else:
            continue
        total += (energy / energy.sum().clamp(min=1e-30)).cpu()
    return total


def _largest(energy: Tensor, count: int) -> Tensor | None:
    """Indices of the largest, ascending; None for all of them (or for more than there are)."""
    if count >= len(energy):
        return None
    return torch.topk(energy, count).indices.sort().values


def _cut(value: Tensor, axes: Axes) -> Tensor:
    for axis, indices in enumerate(axes):
        if indices is not None:
            value = value.index_select(axis, indices.to(value.device))
    return value


def _layer(student: Transformer, layer: int, teacher: Transformer, source: int, width: Tensor | None) -> dict[str, Any]:
    """Parameters of the student's `layer` from the teacher's layer `source`."""
    found: dict[str, Tensor] = {}
    block: Any = teacher.layers[source]
    prefix = f"layers.{layer}."
    for norm in ("attention_norm", "feed_forward_norm"):
        for part, value in getattr(block, norm).named_parameters() if hasattr(block, norm) else ():
            found[f"{prefix}{norm}.{part}"] = _cut(value.detach(), (width,))
    parts: dict[str, Any] = dict(block.feed_forward.named_children())
    first = [part for part in ("gate", "up") if part in parts]
    if first and all(hasattr(parts[part], "weight") for part in (*first, "down")):
        size = parts["down"].weight.detach().norm(dim=0)
        for part in first:
            size = size * parts[part].weight.detach().norm(dim=1)
        neurons = _largest(size, student.config.d_ff[layer])
        for part in (*first, "down"):
            name = f"{prefix}feed_forward.{part}"
            outputs, inputs = (neurons, width) if part in first else (width, neurons)
            found[f"{name}.weight"] = _cut(parts[part].weight.detach(), (outputs, inputs))
            if parts[part].bias is not None:
                found[f"{name}.bias"] = _cut(parts[part].bias.detach(), (outputs,))
    for name, value in _attention(student, layer, teacher, source, width).items():
        found[f"{prefix}attention.{name}"] = value
    return found


def _attention(
    student: Transformer, layer: int, teacher: Transformer, source: int, width: Tensor | None
) -> dict[str, Tensor]:
    """Query, key, value and out of one layer; empty where the shapes do not go together."""
    attention: Any = teacher.layers[source].attention
    parts = ("query", "key", "value", "out")
    if not all(hasattr(getattr(attention, part), "weight") for part in parts):
        return {}
    ours, theirs = student.config, teacher.config
    heads, key_heads, size = ours.heads[layer], ours.key_heads[layer], ours.head_dim
    given_heads, given_key_heads, given_size = theirs.heads[source], theirs.key_heads[source], theirs.head_dim
    group, given_group = heads // key_heads, given_heads // given_key_heads
    weight = {part: getattr(attention, part).weight.detach().clone() for part in parts}  # cut in place below
    bias = {part: getattr(attention, part).bias for part in parts}
    bias = {part: value.detach().clone() for part, value in bias.items() if value is not None}
    # (key heads, heads of each, head_dim, d_model) for all four.
    split = {
        "query": weight["query"].reshape(given_key_heads, given_group, given_size, -1),
        "key": weight["key"].reshape(given_key_heads, 1, given_size, -1),
        "value": weight["value"].reshape(given_key_heads, 1, given_size, -1),
        "out": weight["out"].T.reshape(given_key_heads, given_group, given_size, -1),
    }
    biases = {part: bias[part].reshape(split[part].shape[:3]) for part in ("query", "key", "value") if part in bias}
    if heads == given_heads and key_heads < given_key_heads and given_key_heads % key_heads == 0:
        for part in ("key", "value"):
            split[part] = split[part].reshape(key_heads, -1, *split[part].shape[1:]).mean(dim=1)
            if part in biases:
                biases[part] = biases[part].reshape(key_heads, -1, *biases[part].shape[1:]).mean(dim=1)
        for part in ("query", "out"):
            split[part] = split[part].reshape(key_heads, group, given_size, -1)
        if biases:
            biases["query"] = biases["query"].reshape(key_heads, group, given_size)
        given_key_heads, given_group = key_heads, group
    if key_heads > given_key_heads or group > given_group or size > given_size:
        return {}
    if size < given_size and "rotary" in (ours.positions, theirs.positions):
        return {}  # columns are pairs that turn at a rate of their own
    # What a head does goes through value and out; what a column of it does, through query and key or value and out.
    energy = (split["out"].norm(dim=-1) * split["value"].norm(dim=-1)).square()
    chosen = _largest(energy.sum(dim=(1, 2)), key_heads)
    for part in parts:
        split[part] = _cut(split[part], (chosen,))
    biases = {part: _cut(value, (chosen,)) for part, value in biases.items()}
    energy = _cut(energy, (chosen,))
    for part, pair in (("query", "key"), ("value", "out")):
        strength = (split[part].norm(dim=-1) * split[pair].norm(dim=-1)).square().sum(dim=1)
        for head in range(key_heads if size < given_size else 0):
            stay = _largest(strength[head], size)
            for one in (part, pair):
                split[one][head, :, :size] = _cut(split[one][head], (None, stay))
                if one in biases:
                    biases[one][head, :, :size] = _cut(biases[one][head], (None, stay))
    for part in parts:
        split[part] = split[part][:, :, :size]
    biases = {part: value[:, :, :size] for part, value in biases.items()}
    if group < given_group:
        for head in range(key_heads):
            stay = _largest(energy[head].sum(dim=-1), group)
            for part in ("query", "out"):
                split[part][head, :group] = _cut(split[part][head], (stay,))
            if biases:
                biases["query"][head, :group] = _cut(biases["query"][head], (stay,))
        split |= {part: split[part][:, :group] for part in ("query", "out")}
        if biases:
            biases["query"] = biases["query"][:, :group]
    found = {f"{part}.bias": value.reshape(-1) for part, value in biases.items()}
    if "out" in bias:
        found["out.bias"] = _cut(bias["out"], (width,))
    for part in ("query", "key", "value"):
        found[f"{part}.weight"] = _cut(split[part].flatten(0, 2), (None, width))
    found["out.weight"] = _cut(split["out"].flatten(0, 2), (None, width)).T
    return found
