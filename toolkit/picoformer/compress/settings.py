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
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "bfloat16", "float16")
ATTENTION_LOSSES = ("kl", "mse")
CACHE_TYPES = ("float32", "float16")
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
    holdout: float = 0.0  # fraction of the samples that is held out and judged after every epoch
    patience: int = 0  # stop after so many epochs without a better held-out loss; 0 trains to the end
    device: str = "auto"  # "auto" is a GPU where there is one
    precision: str = "float32"  # of activations; "bfloat16" and "float16" are mixed precision
    checkpoint_seconds: float = 60.0  # time between two saved states that a stopped run goes on from; 0: no limit
    checkpoint_steps: int = 0  # the same in steps; 0: no limit

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
        check_number("holdout", self.holdout, 0.0, 0.9)
        check_int("patience", self.patience, 0, 1_000_000)
        if self.patience and not self.holdout:
            raise ConfigError(f"patience = {self.patience} needs a held-out part; set holdout = 0.1")
        check_choice("device", self.device, DEVICES)
        check_choice("precision", self.precision, PRECISIONS)
        check_number("checkpoint_seconds", self.checkpoint_seconds, 0.0, 1e9)
        check_int("checkpoint_steps", self.checkpoint_steps, 0, 1 << 40)


@dataclass(frozen=True)
class DistillSettings(TrainSettings):
    """The loop's knobs, how much each loss counts, and what the teacher's outputs are. Raises ConfigError."""

    temperature: float = 2.0
    soft_weight: float = 0.7  # of the teacher's soft targets; the labels get what is left to 1
    # The rest is added on top; 0 leaves a loss out.
    hidden_weight: float = 0.0  # hidden states, through a learned projection
    attention_weight: float = 0.0  # attention maps
    attention_loss: str = "kl"  # "kl" of the maps, or "mse" of the scores before the softmax
    relation_weight: float = 0.0  # relations among queries, among keys and among values of one layer
    relation_heads: int = 0  # heads that the relations are split into; 0: the largest number that fits both models
    relation_layer: int = -1  # the teacher's layer for the relations, from 0, or from the end with -1
    # The teacher layer (from 0) that each student layer is matched with (and takes its first weights from); empty
    # matches evenly spread ones, last with last, and starts from first, last and those between.
    layer_map: tuple[int, ...] = ()
    init_from_teacher: bool = False  # the student starts from the teacher's weights, cut where it is narrower
    # Augmentation drawn once, this many times over, so that the teacher's outputs can be kept; 0: the teacher runs
    # on every batch wherever there is augmentation.
    views: int = 0
    cache_type: str = "float32"  # of the teacher's outputs on disk; "float16" takes half
    # Sequences that the teacher writes and the student learns from too, for models that label every row; 0: none.
    sequence_samples: int = 0
    sequence_prompt: int = 8  # tokens of training text that each begins with; they are not judged
    sequence_temperature: float = 1.0  # the teacher samples at it; 0 takes the likeliest token

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("temperature", self.temperature, 0.01, 1000.0)
        check_number("soft_weight", self.soft_weight, 0.0, 1.0)
        for key in ("hidden_weight", "attention_weight", "relation_weight"):
            check_number(key, getattr(self, key), 0.0, 1e6)
        check_choice("attention_loss", self.attention_loss, ATTENTION_LOSSES)
        check_int("relation_heads", self.relation_heads, 0, 1 << 20)
        check_int("relation_layer", self.relation_layer, -(1 << 20), 1 << 20)
        if not isinstance(self.layer_map, (tuple, list)):
            raise ConfigError(f"layer_map = {self.layer_map!r}; write a list of teacher layers, counted from 0")
        object.__setattr__(self, "layer_map", tuple(self.layer_map))
        for index, layer in enumerate(self.layer_map):
            check_int(f"layer_map[{index}]", layer, 0, 1 << 20)
        if not isinstance(self.init_from_teacher, bool):
            raise ConfigError(f"init_from_teacher = {self.init_from_teacher!r}; write true or false")
        check_int("views", self.views, 0, 10_000)
        check_choice("cache_type", self.cache_type, CACHE_TYPES)
        check_int("sequence_samples", self.sequence_samples, 0, 1 << 40)
        check_int("sequence_prompt", self.sequence_prompt, 1, 1 << 20)
        check_number("sequence_temperature", self.sequence_temperature, 0.0, 1000.0)

    @property
    def matches_layers(self) -> bool:
        """Whether a loss looks inside the teacher."""
        return bool(self.hidden_weight or self.attention_weight or self.relation_weight)


@dataclass(frozen=True)
class PruneSettings:
    """How much goes and how it is chosen. Raises ConfigError naming the key and the mend."""

    __pydantic_config__: ClassVar[Any] = FROM_TOML

    # Shares of what there is at first that are dropped. Heads and neurons: half each, unless a budget says how much.
    head_fraction: float | None = None
    neuron_fraction: float | None = None
    layer_fraction: float = 0.0  # of the layers
    width_fraction: float = 0.0  # of the channels of the residual stream, d_model
    ranking: str = "global"  # that fraction "global": of all layers, where it matters least; "layer": of each layer
    # With a budget, heads and neurons go by importance per cost until the whole model meets it.
    budget: str = ""  # "parameters", "bytes" (of int8 constants) or "macs"
    keep: float = 0.5  # share of the budget's count that may stay
    limit: int = 0  # not 0: that many may stay, whatever `keep` says
    board: str = ""  # a target whose flash and RAM the model must fit; by estimate
    code_bytes: int = 24 * 1024  # flash of `board` that code and tables take beside the weights
    # RAM of `board` that the image takes beside activations and stack: buffers of the wire, 2,704 with frames of 1,040.
    runtime_bytes: int = 2816
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
        check_int("runtime_bytes", self.runtime_bytes, 0, 1 << 40)
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


@dataclass(frozen=True)
class QatSettings(TrainSettings):
    """The loop's knobs where integers are trained on their grids, and what counts how much. Raises ConfigError.

    Weights count in steps of their grid, so `learning_rate` is about how far, in steps, one update moves a weight.
    """

    epochs: int = 10
    batch: int = 32
    learning_rate: float = 0.05
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    soft_weight: float = 1.0  # of the float model's soft targets; labels, where there are any, get what is left to 1
    temperature: float = 2.0
    match_weight: float = 1.0  # of the squared error of the outputs, relative to their energy, on top
    hidden_weight: float = 0.3  # of the same error of the residual sums, their mean
    settle: float = 0.3  # how strongly weights are drawn to the integer they stand for, at the end; 0: not at all

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("soft_weight", self.soft_weight, 0.0, 1.0)
        check_number("temperature", self.temperature, 0.01, 1000.0)
        check_number("match_weight", self.match_weight, 0.0, 1e6)
        check_number("hidden_weight", self.hidden_weight, 0.0, 1e6)
        check_number("settle", self.settle, 0.0, 10.0)
        if self.precision != "float32":
            raise ConfigError(f"precision = {self.precision!r}; the integers' grids are finer: write 'float32'")


def check_number(key: str, value: object, low: float, high: float) -> None:
    """Raise ConfigError unless `value` is a number in the range; NaN is not."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ConfigError(f"{key} = {value!r}; write a number from {low:g} to {high:g}")


def check_choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ConfigError unless `value` is one of `choices`."""
    if value not in choices:
        raise ConfigError(f"{key} = {value!r}; choose one of {', '.join(choices)}")
