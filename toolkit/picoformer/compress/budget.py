"""Pruning to a budget: heads, neurons and layers in one ranking, by importance per cost, until the model meets it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from picoformer.compress.count import count_bytes, count_macs, count_parameters, count_parts, count_ram
from picoformer.compress.importance import Importance
from picoformer.compress.settings import PruneSettings
from picoformer.compress.shrink import Keep, shrink_config
from picoformer.errors import ConfigError
from picoformer.models.config import TransformerConfig

COUNTS = {"parameters": count_parameters, "bytes": count_bytes, "macs": count_macs, "ram": count_ram}
UNITS = {"parameters": "parameters", "bytes": "bytes of weights", "macs": "multiply-accumulates", "ram": "bytes of RAM"}


@dataclass(frozen=True)
class Board:
    """What a board has, and what of it is not for the model, in bytes."""

    name: str
    flash: int
    code: int  # of flash
    ram: int
    stack: int  # of RAM
    runtime: int  # of RAM

    def limits(self) -> Limits:
        """What is left for weights and activations. Raises ConfigError for nothing."""
        room = Limits(bytes=self.flash - self.code, ram=self.ram - self.stack - self.runtime, board=self)
        for key, value in room.items():
            if value <= 0:
                raise ConfigError(f"{self.origin(key)}: nothing is left for the model; name a larger board")
        return room

    def origin(self, key: str) -> str:
        """Where its limit of this key comes from."""
        if key == "bytes":
            return f"{self.name} has {self.flash:,} bytes of flash less code_bytes = {self.code:,}"
        return (
            f"{self.name} has {self.ram:,} bytes of RAM less a stack of {self.stack:,} and "
            f"runtime_bytes = {self.runtime:,}"
        )

    def estimate(self, config: TransformerConfig) -> dict[str, int]:
        """Flash and RAM that a model of this configuration takes with all that is not the model, and what there is."""
        flash, ram = count_bytes(config) + self.code, count_ram(config) + self.stack + self.runtime
        return {"flash": flash, "flash_available": self.flash, "ram": ram, "ram_available": self.ram}

    def describe(self, config: TransformerConfig) -> str:
        """`estimate` in words."""
        found = self.estimate(config)
        return (
            f"{self.name}: flash {found['flash']:,} of {self.flash:,} bytes, RAM {found['ram']:,} of {self.ram:,} "
            "(estimates)"
        )


@dataclass(frozen=True)
class Limits:
    """What a model may cost at most; None is no limit. `bytes` of int8 constants and `ram` are estimates."""

    parameters: int | None = None
    bytes: int | None = None
    macs: int | None = None
    ram: int | None = None
    board: Board | None = dataclasses.field(default=None, compare=False)  # where they come from

    def items(self) -> list[tuple[str, int]]:
        """(key of COUNTS, limit) of those that are set."""
        return [(key, getattr(self, key)) for key in COUNTS if getattr(self, key) is not None]

    def are_met(self, config: TransformerConfig) -> bool:
        """Whether a model of this configuration costs no more."""
        return all(COUNTS[key](config) <= limit for key, limit in self.items())

    def part_way(self, whole: TransformerConfig, share: float) -> Limits:
        """Limits that `share` of the way from `whole` to these leads to."""
        counts = {key: COUNTS[key](whole) for key, _ in self.items()}
        part: dict[str, Any] = {
            key: math.ceil(counts[key] - share * (counts[key] - limit)) for key, limit in self.items()
        }
        return dataclasses.replace(self, **part)

    def origin(self, key: str) -> str:
        """In brackets, the board that the limit of this key comes from; "" where it is none."""
        given = None if self.board is None else dict(self.board.limits().items()).get(key)
        return "" if self.board is None or given != getattr(self, key) else f" ({self.board.origin(key)})"


def find_limits(config: TransformerConfig, settings: PruneSettings, limits: Limits | None = None) -> Limits | None:
    """The limits of `settings.budget` for a model of `config`, with `limits` of a board; None without any."""
    if not settings.budget:
        return limits
    most = settings.limit or math.floor(settings.keep * COUNTS[settings.budget](config) + 1e-9)
    limits = Limits() if limits is None else limits
    given = dict(limits.items()).get(settings.budget)
    part: dict[str, Any] = {settings.budget: most if given is None else min(most, given)}
    return dataclasses.replace(limits, **part)


def head_unit(config: TransformerConfig, layer: int) -> int:
    """Query heads that go together: a group with its head of keys and values, where there are several groups.

    So keys and values get smaller too, and what stays is as regular as it was. With one group for all, single heads.
    """
    groups = config.key_heads[layer]
    return config.heads[layer] // groups if groups > 1 else 1


def count_kept(count: int, fraction: float, multiple: int) -> int:
    """What is left of `count` without `fraction`, at least one, rounded up to a multiple where there are so many."""
    return min(count, -(-max(1, count - int(fraction * count + 1e-9)) // multiple) * multiple)


def keep_best(scores: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    """True for the `count` largest, the first of equals."""
    mask = np.zeros(len(scores), dtype=np.bool_)
    mask[np.argsort(-scores, kind="stable")[:count]] = True
    return mask


class _State:
    """What has gone so far, in steps: of a layer the worst group of heads, the worst block of neurons, or all of it."""

    def __init__(
        self,
        importance: Importance,
        config: TransformerConfig,
        settings: PruneSettings,
        layers: NDArray[np.bool_] | None,
        width: NDArray[np.bool_] | None,
    ) -> None:
        self.config, self.settings, self.width = config, settings, width
        self.layers = np.ones(config.layers, np.bool_) if layers is None else layers.copy()
        self.layer_scores = importance.layers
        scores = _comparable(importance, settings)
        self.orders: dict[str, list[list[NDArray[np.int64]]]] = {"heads": [], "neurons": []}
        self.scores: dict[str, list[list[float]]] = {"heads": [], "neurons": []}
        for key, parts in (("heads", scores.heads), ("neurons", scores.neurons)):
            for layer, part in enumerate(parts):
                pieces = _blocks(part, settings.neuron_multiple)
                if key == "heads":
                    members = np.arange(len(part)).reshape(-1, head_unit(config, layer))
                    pieces = [members[i] for i in np.argsort(part[members].sum(axis=1), kind="stable")]
                self.orders[key].append(pieces)
                self.scores[key].append([float(part[piece].sum()) for piece in pieces])
        self.gone = {key: [0] * config.layers for key in self.orders}

    def keep(self) -> Keep:
        masks: dict[str, list[NDArray[np.bool_]]] = {}
        for key, counts in (("heads", self.config.heads), ("neurons", self.config.d_ff)):
            masks[key] = [np.ones(count, np.bool_) for count in counts]
            for layer, gone in enumerate(self.gone[key]):
                for piece in self.orders[key][layer][:gone]:
                    masks[key][layer][piece] = False
        layers = None if self.layers.all() else self.layers.copy()
        return Keep(tuple(masks["heads"]), tuple(masks["neurons"]), layers, self.width)

    def shrunk(self) -> TransformerConfig:
        return shrink_config(self.config, self.keep())

    def steps(self) -> Iterator[tuple[str, int, float]]:
        """What could go next: (key, layer, importance of it)."""
        for layer in map(int, np.flatnonzero(self.layers)):
            for key in self.orders:
                if self.gone[key][layer] + 1 < len(self.orders[key][layer]):
                    yield key, layer, self.scores[key][layer][self.gone[key][layer]]
            if self.settings.drop_layers and self.layers.sum() > 1:
                yield "layers", layer, float(self.layer_scores[layer])

    def take(self, key: str, layer: int) -> None:
        if key == "layers":
            self.layers[layer] = False
        else:
            self.gone[key][layer] += 1

    def give_back(self, key: str, layer: int) -> None:
        if key == "layers":
            self.layers[layer] = True
        else:
            self.gone[key][layer] -= 1


def choose_under(
    limits: Limits,
    importance: Importance,
    config: TransformerConfig,
    settings: PruneSettings,
    layers: NDArray[np.bool_] | None = None,
    width: NDArray[np.bool_] | None = None,
) -> Keep:
    """What stays under `limits`, after `layers` and `width` have gone: step by step the head, block of neurons or layer
    goes that matters least per cost; then what still fits comes back, the last first.

    Cost is what a step takes off each limited count, as a share of its limit. Raises ConfigError for limits that
    nothing can meet, naming the nearest that can.
    """
    state = _State(importance, config, settings, layers, width)
    now = state.shrunk()
    _check_reachable(state, limits, now)
    taken: list[tuple[str, int]] = []
    cost: dict[tuple[str, int], float] = {}
    while not limits.are_met(now):
        best: tuple[float, str, int] | None = None
        weight = _weight(now, limits)
        for key, layer, score in state.steps():
            if (key, layer) not in cost:
                state.take(key, layer)
                cost[key, layer] = max(weight - _weight(state.shrunk(), limits), 0.0)
                state.give_back(key, layer)
            if cost[key, layer] > 0.0:
                ratio = score / cost[key, layer]
                if best is None or ratio < best[0]:
                    best = ratio, key, layer
        assert best is not None  # _check_reachable saw that taking all meets the limits
        _, key, layer = best
        state.take(key, layer)
        taken.append((key, layer))
        now = state.shrunk()
        # A step's cost stays the same while its own layer does; RAM and whole layers are looked at again.
        cost = {k: v for k, v in cost.items() if k[1] != layer and limits.ram is None}
    for key, layer in reversed(taken):
        if key != "layers" and not state.layers[layer]:
            continue
        state.give_back(key, layer)
        if not limits.are_met(state.shrunk()):
            state.take(key, layer)
    return state.keep()


def _comparable(importance: Importance, settings: PruneSettings) -> Importance:
    """Scores of heads and neurons that can be compared across layers: errors of the residual stream are so already;
    others become shares of their layer's sum."""
    if settings.importance == "reconstruction":
        return importance
    both = (importance.heads, importance.neurons)
    heads, neurons = (tuple(part / max(float(part.sum()), 1e-30) for part in parts) for parts in both)
    return Importance(heads, neurons, importance.layers, importance.width)


def _blocks(scores: NDArray[np.float64], multiple: int) -> list[NDArray[np.int64]]:
    """Neurons from the least important up, in blocks of `multiple`; the first takes what is over."""
    order = np.argsort(scores, kind="stable")
    over = len(order) % multiple
    return [*([order[:over]] if over else []), *order[over:].reshape(-1, multiple)]


def _weight(config: TransformerConfig, limits: Limits) -> float:
    """Each limited count as a share of its limit, summed; RAM, which its widest layer decides, as what each is over."""
    total = 0.0
    for key, limit in limits.items():
        if key == "ram":
            total += sum(max(part.ram - limit, 0) for part in count_parts(config)) / max(limit, 1)
        else:
            total += COUNTS[key](config) / max(limit, 1)
    return total


def _check_reachable(state: _State, limits: Limits, now: TransformerConfig) -> None:
    """Raise ConfigError when the limits are not met with all gone that may go."""
    layers, gone = state.layers.copy(), {key: list(counts) for key, counts in state.gone.items()}
    for key, orders in state.orders.items():
        state.gone[key] = [len(pieces) - 1 for pieces in orders]
    if state.settings.drop_layers:
        smallest = min(np.flatnonzero(layers), key=lambda layer: count_parts(state.shrunk())[1 + int(layer)].bytes)
        state.layers[:] = False
        state.layers[smallest] = True
    least = state.shrunk()
    state.layers, state.gone = layers, gone
    for key, limit in limits.items():
        if COUNTS[key](least) > limit:
            more = [] if state.settings.drop_layers or state.config.layers == 1 else ["drop_layers = true"]
            more += ["a larger width_fraction"]
            if key == "ram":
                more += ["a shorter sequence"]
            elif key != "macs" and state.config.vocab_size:
                more += ["a smaller vocabulary"]
            raise ConfigError(
                f"at most {limit:,} {UNITS[key]}{limits.origin(key)} cannot be met: {COUNTS[key](now):,} now, "
                f"and with one head and {state.settings.neuron_multiple} neurons a layer "
                f"{COUNTS[key](least):,}; allow that, or try {' or '.join(more)}"
            )
