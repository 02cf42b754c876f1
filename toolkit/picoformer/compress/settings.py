"""The knobs of training and compression: plain checked numbers, without torch, as TOML has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from picoformer.errors import ConfigError
from picoformer.models.config import check_int

RANKINGS = ("layer", "global")
IMPORTANCES = ("reconstruction", "taylor", "activation", "magnitude", "random")
PRUNE_BUDGETS = ("parameters", "bytes", "macs")
BUDGETS = ("parameters", "macs")
METHODS = ("activation", "plain")
FROM_TOML = {"extra": "forbid"}
"""For whoever validates a TOML table into one of these: an unknown key is an error, not ignored."""


@dataclass(frozen=True)
class TrainSettings:
    """Every knob of the loop, plain numbers. Raises ConfigError naming the key and the mend."""

    __pydantic_config__: ClassVar[Any] = FROM_TOML

    epochs: int = 40
    batch: int = 64
    learning_rate: float = 2e-3  # peak; cosine from there to zero
    warmup: float = 0.05  # fraction of all steps in which the rate rises linearly
    weight_decay: float = 0.05  # of matrices; biases, norms, positions and embeddings are left alone
    label_smoothing: float = 0.05
    gradient_clip: float = 1.0  # largest norm of the whole gradient
    seed: int = 0  # of batch order and augmentation
    threads: int = 1  # small models train fastest on one

    def __post_init__(self) -> None:
        check_int("epochs", self.epochs, 1, 1_000_000)
        check_int("batch", self.batch, 1, 1 << 20)
        check_int("seed", self.seed, 0, (1 << 63) - 1)
        check_int("threads", self.threads, 1, 1024)
        check_number("learning_rate", self.learning_rate, 1e-9, 1e6)
        check_number("warmup", self.warmup, 0.0, 1.0)
        check_number("weight_decay", self.weight_decay, 0.0, 10.0)
        check_number("label_smoothing", self.label_smoothing, 0.0, 0.99)
        check_number("gradient_clip", self.gradient_clip, 1e-9, 1e9)


@dataclass(frozen=True)
class DistillSettings(TrainSettings):
    """The loop's knobs, and how much each of the three losses counts. Raises ConfigError."""

    temperature: float = 2.0
    soft_weight: float = 0.7  # of the teacher's soft targets; the labels get what is left to 1
    hidden_weight: float = 0.0  # of the hidden-state match, added on top; 0 leaves it out
    # The teacher layer (from 0) that each student layer is matched with; empty spreads them evenly.
    layer_map: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("temperature", self.temperature, 0.01, 1000.0)
        check_number("soft_weight", self.soft_weight, 0.0, 1.0)
        check_number("hidden_weight", self.hidden_weight, 0.0, 1e6)
        if not isinstance(self.layer_map, (tuple, list)):
            raise ConfigError(f"layer_map = {self.layer_map!r}; write a list of teacher layers, counted from 0")
        object.__setattr__(self, "layer_map", tuple(self.layer_map))
        for index, layer in enumerate(self.layer_map):
            check_int(f"layer_map[{index}]", layer, 0, 1 << 20)


@dataclass(frozen=True)
class PruneSettings:
    """How much goes and how it is chosen. Raises ConfigError naming the key and the mend."""

    __pydantic_config__: ClassVar[Any] = FROM_TOML

    # Shares of what there is at first that are dropped. Heads and neurons: half each, unless a budget says how much.
    head_fraction: float | None = None
    neuron_fraction: float | None = None
    layer_fraction: float = 0.0  # of the layers
    width_fraction: float = 0.0  # of the channels of the residual stream, d_model
    ranking: str = "layer"  # "layer": that fraction in each layer; "global": where it matters least
    # With a budget, heads and neurons go by importance per cost until the whole model meets it.
    budget: str = ""  # "parameters", "bytes" (of int8 constants) or "macs"
    keep: float = 0.5  # share of the budget's count that may stay
    limit: int = 0  # not 0: that many may stay, whatever `keep` says
    board: str = ""  # a target whose flash and RAM the model must fit; by estimate
    code_bytes: int = 24 * 1024  # flash of `board` that code and tables take beside the weights
    drop_layers: bool = False  # with a budget or a board: whole layers may go too
    importance: str = "reconstruction"  # or "taylor", "activation", "magnitude", "random"
    reconstruct: bool = True  # what stays takes up, by least squares, what went
    rounds: int = 1  # an equal part of it all goes in each, with `round_epochs` of recovery in between
    round_epochs: int = 5
    neuron_multiple: int = 4  # layers keep a multiple of this many neurons, for SIMD; rounded up
    width_multiple: int = 4  # likewise channels
    samples: int = 1024  # importance is accumulated over the first so many
    batch: int = 128
    seed: int = 0  # of importance = "random"
    threads: int = 1

    def __post_init__(self) -> None:
        for key in ("head_fraction", "neuron_fraction"):
            if getattr(self, key) is not None:
                check_number(key, getattr(self, key), 0.0, 1.0)
                if self.has_budget:
                    raise ConfigError(f"{key} and a budget both say how much goes; remove one of them")
        for key in ("layer_fraction", "width_fraction", "keep"):
            check_number(key, getattr(self, key), 0.0, 1.0)
        for key, choices in (
            ("ranking", RANKINGS),
            ("importance", IMPORTANCES),
            ("budget", ("", *PRUNE_BUDGETS)),
        ):
            if getattr(self, key) not in choices:
                raise ConfigError(f"{key} = {getattr(self, key)!r}; choose one of {', '.join(filter(None, choices))}")
        for key in ("drop_layers", "reconstruct"):
            if not isinstance(getattr(self, key), bool):
                raise ConfigError(f"{key} = {getattr(self, key)!r}; write true or false")
        if not isinstance(self.board, str):
            raise ConfigError(f"board = {self.board!r}; write the name of a target or the path of its TOML")
        if self.drop_layers and not self.has_budget:
            raise ConfigError("drop_layers = true needs a budget or a board; set one, or layer_fraction")
        if self.limit and not self.budget:
            raise ConfigError(f"limit = {self.limit} of what? set budget to one of {', '.join(PRUNE_BUDGETS)}")
        check_int("limit", self.limit, 0, 1 << 60)
        check_int("code_bytes", self.code_bytes, 0, 1 << 40)
        check_int("rounds", self.rounds, 1, 1000)
        check_int("round_epochs", self.round_epochs, 1, 1_000_000)
        check_int("neuron_multiple", self.neuron_multiple, 1, 1 << 20)
        check_int("width_multiple", self.width_multiple, 1, 1 << 20)
        check_int("samples", self.samples, 1, 1 << 40)
        check_int("batch", self.batch, 1, 1 << 20)
        check_int("seed", self.seed, 0, (1 << 63) - 1)
        check_int("threads", self.threads, 1, 1024)

    @property
    def has_budget(self) -> bool:
        """Whether a budget says how many heads and neurons go, and not their fractions."""
        return bool(self.budget or self.board)

    @property
    def layers_may_go(self) -> bool:
        """Whether whole layers are ranked too."""
        return self.drop_layers or self.layer_fraction > 0.0


@dataclass(frozen=True)
class FactorizeSettings:
    """How small the model gets, and in which norm its matrices are cut. Raises ConfigError naming key and mend."""

    __pydantic_config__: ClassVar[Any] = FROM_TOML

    keep: float = 0.7  # share of the whole model's parameters or multiply-accumulates that may stay
    budget: str = "parameters"  # what `keep` counts: "parameters" or "macs"
    rank: int = 0  # not 0: this rank wherever it saves something, whatever `keep` says
    rank_multiple: int = 4  # ranks are multiples of this, for SIMD
    method: str = "activation"  # "activation": error as calibration inputs see it; "plain": of the matrix alone
    embedding: bool = True  # the token table or the projection of frames too
    samples: int = 1024  # activations are measured on the first so many
    batch: int = 128
    threads: int = 1

    def __post_init__(self) -> None:
        check_number("keep", self.keep, 0.0, 1.0)
        for key, choices in (("budget", BUDGETS), ("method", METHODS)):
            if getattr(self, key) not in choices:
                raise ConfigError(f"{key} = {getattr(self, key)!r}; choose one of {', '.join(choices)}")
        check_int("rank", self.rank, 0, 1 << 20)
        check_int("rank_multiple", self.rank_multiple, 1, 1 << 20)
        if not isinstance(self.embedding, bool):
            raise ConfigError(f"embedding = {self.embedding!r}; write true or false")
        check_int("samples", self.samples, 1, 1 << 40)
        check_int("batch", self.batch, 1, 1 << 20)
        check_int("threads", self.threads, 1, 1024)


def check_number(key: str, value: object, low: float, high: float) -> None:
    """Raise ConfigError unless `value` is a number in the range; NaN is not."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ConfigError(f"{key} = {value!r}; write a number from {low:g} to {high:g}")
