"""What a transformer is made of: plain frozen data, checked, the same in code, TOML and checkpoints; no
torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from picoformer.errors import ConfigError
from picoformer.models.config_encoders import check_encoders
from picoformer.models.config_families import check_families

POSITIONS = ("learned", "sinusoidal", "rotary", "alibi", "none")
NORMS = ("layer", "rms")
NORM_POSITIONS = ("pre", "post")
ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu")
POOLINGS = ("mean", "cls", "first", "none")
DENSE_ACTIVATIONS = ("", *ACTIVATIONS, "tanh")
"""Of the dense layers behind the layers; "": there is no such layer."""
PROJECTIONS = ("query", "key", "value", "out", "up", "down")
"""The linear layers of a layer, in the order of its `ranks`; a gated feed-forward has "gate" behind them."""

# Far above any microcontroller, far below what would let a hostile file fill memory.
MAX_SIZE = 1 << 20
MAX_LAYERS = 256


@dataclass(frozen=True)
class TransformerConfig:
    """An encoder or, with `causal`, a decoder: embedding, `len(heads)` layers, pooling, head. Widths are per
    layer, so pruned models are dense. A language model has pooling "none", `causal` and classes = vocab_size.

    Exactly one input is set: `vocab_size` (int64 ids, (batch, seq)), `input_size` (float frames, (batch, seq,
    input_size)) or `image` = (channels, height, width) with `patch` = (height, width).

    Raises ConfigError naming the key and the mend.
    """

    d_model: int
    heads: tuple[int, ...]  # attention heads of each layer
    d_ff: tuple[int, ...]  # feed-forward neurons of each layer
    head_dim: int  # width of one head in every layer; heads * head_dim need not be d_model
    sequence: int = 0  # longest input in rows, the CLS token not counted; 0 with `image`: the number of patches
    classes: int = 0  # width of the head; 0: no head, the pooled hidden state is the output
    vocab_size: int = 0
    input_size: int = 0
    image: tuple[int, int, int] | None = None
    patch: tuple[int, int] | None = None
    positions: str = "learned"
    cls_token: bool = False
    scale_embedding: bool = False  # multiply the embedding by sqrt(d_model), as in Vaswani et al. 2017
    norm_position: str = "pre"
    norm_epsilon: float = 1e-5
    final_norm: bool = True  # LayerNorm after the last layer; pre-norm models want it
    activation: str = "gelu"
    pooling: str = "mean"
    causal: bool = False  # a row attends to itself and to rows before it
    # Heads of keys and values in each layer, each read by heads / kv_heads queries (Ainslie et al. 2023). Empty: as
    # many as heads.
    kv_heads: tuple[int, ...] = ()
    tied_head: bool = False  # the head's matrix is the token table (Press and Wolf 2017), without a bias
    # For each layer the rank of each of `projections`: y = W2 (W1 x) + b with that many rows in W1; 0: one whole
    # matrix. Empty: all whole.
    ranks: tuple[tuple[int, ...], ...] = ()
    embedding_rank: int = 0  # the same for the token table or the projection of frames
    # LayerNorm, or "rms": x / sqrt(mean(x^2) + norm_epsilon) times a gain (Zhang and Sennrich 2019).
    norm: str = "layer"
    embedding_norm: bool = False  # LayerNorm right after the embedding
    # positions "rotary" turns pairs of the first `rotary_dim` elements (0: head_dim) of every head of queries and keys
    # (Su et al. 2021), at position p by p * rotary_frequencies[i] (empty: 10000^(-2 i / rotary_dim)). Pair i is
    # (i, i + rotary_dim / 2), or (2 i, 2 i + 1) where interleaved. Cosine and sine are multiplied by `rotary_scale`.
    rotary_dim: int = 0
    rotary_interleaved: bool = False
    rotary_frequencies: tuple[float, ...] = ()
    rotary_scale: float = 1.0
    # positions "alibi" adds slope * (position of the key) to the scores of each query head, after their scaling (Press
    # et al. 2022). `alibi_bfloat16`: slope * sqrt(head_dim) * position is rounded to bfloat16 first, as in Falcon.
    alibi_slopes: tuple[float, ...] = ()
    alibi_bfloat16: bool = False
    gated: bool = False  # the feed-forward is down(activation(gate(x)) * up(x)) (Shazeer 2020)
    attention_bias: bool = True  # of query, key and value
    out_bias: bool = True
    feed_forward_bias: bool = True
    head_bias: bool = True
    # 1: x + attention(n(x)) + feed_forward(n(x)) with one norm; 2: with a norm for each branch.
    parallel: int = 0
    # Feed-forwards to choose from for every row, and how many it gets: those with the largest router logits, weighted
    # by the softmax over these (Jiang et al. 2024). 0: one feed-forward for all.
    experts: int = 0
    experts_per_token: int = 0
    # A second input of ids of so many kinds, (batch, seq), whose rows are added to the tokens': which of two texts a
    # token is from (Devlin et al. 2019). 0: no such input.
    segments: int = 0
    # Width of the tables of tokens, positions and segments, of their sum and of its norm; a linear layer with a bias
    # widens the rows to d_model (Lan et al. 2020). 0: d_model, and no such layer.
    embedding_width: int = 0
    # For each layer which set of weights it runs, sets numbered as they first stand (Lan et al. 2020). Empty: its own.
    shared_layers: tuple[int, ...] = ()
    # pooling "first" takes the first row, which is a token's. `pooler`: the activation of a dense layer d_model ->
    # d_model on what was pooled.
    pooler: str = ""
    # The activation of a dense layer in front of the head with a LayerNorm behind it, as a masked language model has
    # one; its width is that of the token table where the head is tied to it.
    head_dense: str = ""
    tied_head_bias: bool = False  # a bias of the tied head
    normalize: bool = False  # the output is divided by its length: x / sqrt(sum(x^2))

    def __post_init__(self) -> None:
        for key in (
            "heads",
            "d_ff",
            "kv_heads",
            "image",
            "patch",
            "rotary_frequencies",
            "alibi_slopes",
            "shared_layers",
        ):
            value = getattr(self, key)
            if isinstance(value, list):
                object.__setattr__(self, key, tuple(value))
        if isinstance(self.ranks, Iterable):  # rows that are no lists are named by _check_types
            rows = tuple(tuple(row) if isinstance(row, Iterable) else row for row in self.ranks)
            object.__setattr__(self, "ranks", rows)
        self._check_types()
        if self.image is not None and self.sequence == 0:
            object.__setattr__(self, "sequence", self.patches)
        self._check_values()
        if not any(any(row) for row in self.ranks):  # one spelling for "all whole", so that such models are equal
            object.__setattr__(self, "ranks", ())
        if self.kv_heads == self.heads:  # likewise
            object.__setattr__(self, "kv_heads", ())
        if self.shared_layers == tuple(range(self.layers)):
            object.__setattr__(self, "shared_layers", ())
        if self.embedding_width == self.d_model:
            raise ConfigError(
                f"embedding_width = {self.d_model} is d_model, which needs no layer between; leave it out"
            )

    @classmethod
    def uniform(cls, layers: int, heads: int, d_ff: int, d_model: int, **keys: Any) -> TransformerConfig:
        """A configuration whose layers are all alike; `head_dim` is d_model / heads unless given, `kv_heads` may be
        one number.

        Raises ConfigError, for an unknown key too.
        """
        for name, value in (("layers", layers), ("heads", heads), ("d_ff", d_ff), ("d_model", d_model)):
            check_int(name, value, 1, MAX_LAYERS if name == "layers" else MAX_SIZE)
        if "head_dim" not in keys:
            if d_model % heads:
                raise ConfigError(
                    f"d_model = {d_model} is not a multiple of heads = {heads}; change one or set head_dim"
                )
            keys["head_dim"] = d_model // heads
        if isinstance(keys.get("kv_heads"), int):
            keys["kv_heads"] = (keys["kv_heads"],) * layers
        return cls.from_dict({"d_model": d_model, "heads": (heads,) * layers, "d_ff": (d_ff,) * layers, **keys})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TransformerConfig:
        """The inverse of `to_dict`; lists stand for tuples. Raises ConfigError."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in data:
            if key not in fields:
                raise ConfigError(f"model has an unknown key '{key}'; known are {', '.join(fields)}")
        for key, field in fields.items():
            if field.default is dataclasses.MISSING and key not in data:
                raise ConfigError(f"model lacks the key '{key}'; add it")
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: tuples become lists."""
        plain = {
            key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()
        }
        return {**plain, "ranks": [list(row) for row in self.ranks]}

    def projection_shape(self, layer: int, projection: str) -> tuple[int, int]:
        """(inputs, outputs) of one of `projections`."""
        width = self.heads[layer] * self.head_dim
        if projection in ("key", "value"):
            width = self.key_heads[layer] * self.head_dim
        if projection in ("up", "gate", "down"):
            shape = (self.d_model, self.d_ff[layer])
            return shape[::-1] if projection == "down" else shape
        return (width, self.d_model) if projection == "out" else (self.d_model, width)

    def rank(self, layer: int, projection: str) -> int:
        """The rank of one of `projections`; 0 for one whole matrix."""
        return self.ranks[layer][self.projections.index(projection)] if self.ranks else 0

    def has_bias(self, projection: str) -> bool:
        """Whether one of `projections` adds a bias."""
        if projection in ("query", "key", "value"):
            return self.attention_bias
        return self.out_bias if projection == "out" else self.feed_forward_bias

    @property
    def projections(self) -> tuple[str, ...]:
        """The linear layers of every layer: PROJECTIONS, and "gate" in a gated feed-forward."""
        return (*PROJECTIONS, "gate") if self.gated else PROJECTIONS

    @property
    def layers(self) -> int:
        """The number of layers."""
        return len(self.heads)

    @property
    def weight_sets(self) -> tuple[int, ...]:
        """For each layer the set of weights that it runs: `layers.<set>` in a checkpoint."""
        return self.shared_layers or tuple(range(self.layers))

    @property
    def table_width(self) -> int:
        """Width of the tables of tokens, positions and segments."""
        return self.embedding_width or self.d_model

    @property
    def head_width(self) -> int:
        """Width of what the head reads."""
        return self.table_width if self.tied_head else self.d_model

    @property
    def key_heads(self) -> tuple[int, ...]:
        """The heads of keys and values in each layer."""
        return self.kv_heads or self.heads

    @property
    def patches(self) -> int:
        """The number of whole patches in an image; 0 for other inputs."""
        if self.image is None or self.patch is None:
            return 0
        return (self.image[1] // self.patch[0]) * (self.image[2] // self.patch[1])

    @property
    def tokens(self) -> int:
        """Rows that go through the layers: `sequence`, and one for the CLS token."""
        return self.sequence + int(self.cls_token)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, without the batch axis."""
        if self.image is not None:
            return self.image
        return (self.sequence,) if self.vocab_size else (self.sequence, self.input_size)

    def _check_types(self) -> None:
        for key in ("d_model", "head_dim"):
            check_int(key, getattr(self, key), 1, MAX_SIZE)
        for key in ("sequence", "classes", "vocab_size", "input_size"):
            check_int(key, getattr(self, key), 0, MAX_SIZE)
        for key in ("heads", "d_ff"):
            values = getattr(self, key)
            if not isinstance(values, tuple) or not 1 <= len(values) <= MAX_LAYERS:
                raise ConfigError(f"{key} = {values!r}; write a list of 1 to {MAX_LAYERS} integers, one per layer")
            for index, value in enumerate(values):
                check_int(f"{key}[{index}]", value, 1, MAX_SIZE)
        for key, length in (("image", 3), ("patch", 2)):
            values = getattr(self, key)
            if values is None:
                continue
            if not isinstance(values, tuple) or len(values) != length:
                raise ConfigError(f"{key} = {values!r}; write a list of {length} integers")
            for index, value in enumerate(values):
                check_int(f"{key}[{index}]", value, 1, MAX_SIZE)
        if not isinstance(self.ranks, tuple) or not all(isinstance(row, tuple) for row in self.ranks):
            raise ConfigError(f"ranks = {self.ranks!r}; write a list of {len(PROJECTIONS)} integers for each layer")
        for key in ("rotary_dim", "parallel", "experts", "experts_per_token", "segments", "embedding_width"):
            check_int(key, getattr(self, key), 0, MAX_SIZE)
        for key in ("rotary_frequencies", "alibi_slopes"):
            values = getattr(self, key)
            if not isinstance(values, tuple) or not all(_is_number(value) for value in values):
                raise ConfigError(f"{key} holds something else than finite numbers; write a list of them")
        if not _is_number(self.rotary_scale) or self.rotary_scale <= 0:
            raise ConfigError(f"rotary_scale = {self.rotary_scale!r}; write a number above 0")
        for layer, row in enumerate(self.ranks):
            for index, value in enumerate(row):
                check_int(f"ranks[{layer}][{index}]", value, 0, MAX_SIZE)
        check_int("embedding_rank", self.embedding_rank, 0, MAX_SIZE)
        if not isinstance(self.kv_heads, tuple):
            raise ConfigError(f"kv_heads = {self.kv_heads!r}; write a list of integers, one per layer")
        for index, value in enumerate(self.kv_heads):
            check_int(f"kv_heads[{index}]", value, 1, MAX_SIZE)
        for key, field in ((field.name, field) for field in dataclasses.fields(self)):
            if field.type != "bool":
                continue
            if not isinstance(getattr(self, key), bool):
                raise ConfigError(f"{key} = {getattr(self, key)!r}; write true or false")
        for key, choices in (
            ("positions", POSITIONS),
            ("norm_position", NORM_POSITIONS),
            ("activation", ACTIVATIONS),
            ("norm", NORMS),
            ("pooling", POOLINGS),
            ("pooler", DENSE_ACTIVATIONS),
            ("head_dense", DENSE_ACTIVATIONS),
        ):
            if getattr(self, key) not in choices:
                shown = ", ".join(choice or "''" for choice in choices)
                raise ConfigError(f"{key} = {getattr(self, key)!r}; choose one of {shown}")
        epsilon = self.norm_epsilon
        if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)) or not 0 < epsilon < 1:
            raise ConfigError(f"norm_epsilon = {epsilon!r}; write a number between 0 and 1, such as 1e-5")

    def _check_values(self) -> None:
        inputs = [key for key in ("vocab_size", "input_size", "image") if getattr(self, key)]
        if len(inputs) != 1:
            found = " and ".join(inputs) if inputs else "none"
            raise ConfigError(f"{found} of vocab_size, input_size and image set; set exactly one of the three")
        if len(self.heads) != len(self.d_ff):
            raise ConfigError(f"heads has {len(self.heads)} layers, d_ff {len(self.d_ff)}; give both the same")
        if self.kv_heads and len(self.kv_heads) != self.layers:
            raise ConfigError(f"kv_heads has {len(self.kv_heads)} layers, heads {self.layers}; give both the same")
        for layer, (heads, kv_heads) in enumerate(zip(self.heads, self.key_heads, strict=True)):
            if heads % kv_heads:
                raise ConfigError(
                    f"kv_heads[{layer}] = {kv_heads} does not divide heads[{layer}] = {heads}; change one"
                )
        if self.tied_head and (not self.vocab_size or self.classes != self.vocab_size or self.embedding_rank):
            raise ConfigError(
                "tied_head needs token ids, classes = vocab_size and a whole token table (embedding_rank = 0); "
                "set these or tied_head = false"
            )
        if (self.image is None) != (self.patch is None):
            raise ConfigError("image and patch belong together; set both or neither")
        if self.image is not None and self.patch is not None:
            if self.image[1] % self.patch[0] or self.image[2] % self.patch[1]:
                raise ConfigError(f"patch {list(self.patch)} does not divide image {list(self.image)}; change one")
            if self.sequence != self.patches:
                raise ConfigError(f"sequence = {self.sequence}, but image has {self.patches} patches; leave it out")
        if self.sequence < 1:
            raise ConfigError("sequence is missing; set it to the longest input in rows")
        if self.pooling == "cls" and not self.cls_token:
            raise ConfigError("pooling = 'cls' needs cls_token = true; set it or choose pooling = 'mean'")
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ConfigError(f"positions = 'sinusoidal' needs an even d_model, not {self.d_model}")
        if max(self.tokens, self.d_model) * max(max(self.d_ff), max(self.heads) * self.head_dim) > 1 << 34:
            raise ConfigError("d_model, d_ff, heads and sequence are too large together; reduce one")
        check_families(self)
        check_encoders(self)
        self._check_ranks()

    def _check_ranks(self) -> None:
        count = len(self.projections)
        if self.ranks and (len(self.ranks) != self.layers or any(len(row) != count for row in self.ranks)):
            raise ConfigError(f"ranks must hold {count} integers for each of {self.layers} layers")
        for layer in range(len(self.ranks)):
            for index, projection in enumerate(self.projections):
                largest = min(self.projection_shape(layer, projection))
                if self.ranks[layer][index] > largest:
                    raise ConfigError(
                        f"ranks[{layer}][{index}] = {self.ranks[layer][index]}, but the matrix of '{projection}' has "
                        f"rank {largest} at most; write 0 for a whole matrix"
                    )
        if self.embedding_rank and self.image is not None:
            raise ConfigError("embedding_rank does not go with image: patches keep their whole matrix; leave it out")
        if self.embedding_rank > min(self.vocab_size or self.input_size, self.d_model):
            raise ConfigError(
                f"embedding_rank = {self.embedding_rank} is above the rank of the embedding's matrix; lower it"
            )


def reference_encoder_config(activation: str = "gelu") -> TransformerConfig:
    """The encoder that benchmarks measure: 64 frames of 16, 6 classes, 105,670 parameters, 7,405,952 MACs."""
    return TransformerConfig.uniform(
        layers=2, heads=4, d_ff=256, d_model=64, sequence=64, input_size=16, classes=6, activation=activation
    )


def check_int(key: str, value: object, low: int, high: int) -> None:
    """Raise ConfigError unless `value` is an integer (not a bool) in the range, both ends included."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{key} = {value!r}; write an integer from {low} to {high}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e300
