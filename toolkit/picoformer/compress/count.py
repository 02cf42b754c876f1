"""Parameters, int8 bytes, multiply-accumulates and RAM of a configuration, by arithmetic alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from picoformer.models.config import TransformerConfig

OUTPUT_BYTES = 8
"""Of a linear layer's output channel in int8 firmware, beside its weights: bias and multiplier, 32 bits each."""
BLOCK_BYTES = 4096
"""Most that the fastest kernels hold of their inputs, widened to 16 bits; beside them a pair of rows of weights."""


@dataclass(frozen=True)
class Part:
    """What one part of a model costs: its embedding, a layer, or all that follows the layers.

    `bytes` is of its constants in int8 firmware, `ram` of its activations there; both are estimates.
    """

    name: str
    parameters: int
    bytes: int
    macs: int
    ram: int


def count_parts(config: TransformerConfig) -> tuple[Part, ...]:
    """Every part in order: "embedding", "layers.0" and so on, "head". Weights that layers share are the first one's."""
    layers = [_layer(config, layer) for layer in range(config.layers)]
    for layer, number in enumerate(config.weight_sets):
        if layer != config.weight_sets.index(number):
            layers[layer] = replace(layers[layer], parameters=0, bytes=0)
    return (_embedding(config), *layers, _head(config))


def count_parameters(config: TransformerConfig) -> int:
    """Every trained number of the model: matrices, biases, norms, embeddings, positions, CLS token, head."""
    return sum(part.parameters for part in count_parts(config))


def count_bytes(config: TransformerConfig) -> int:
    """Bytes of the constants in int8 firmware, an estimate: matrices, tables and positions at one byte a number,
    eight for each output of a linear layer; gains and biases of norms fold into what follows, but the last."""
    return sum(part.bytes for part in count_parts(config))


def count_macs(config: TransformerConfig) -> int:
    """Multiply-accumulates of one inference at full length: matrix products only, as is the field's habit."""
    return sum(part.macs for part in count_parts(config))


def count_ram(config: TransformerConfig) -> int:
    """Bytes of activations and scratch in int8 firmware at its widest place, an estimate."""
    return max(part.ram for part in count_parts(config))


def count_weights(inputs: int, outputs: int, rank: int) -> int:
    """Weights of a linear layer, without the bias; rank 0 is one whole matrix."""
    return rank * (inputs + outputs) if rank else inputs * outputs


def count_embedding_macs(config: TransformerConfig, rank: int) -> int:
    """Multiply-accumulates from one input to its rows; looking up a token costs none, widening it does."""
    if config.vocab_size:
        return config.sequence * (rank or config.embedding_width) * config.d_model
    return config.sequence * count_weights(row_width(config), config.d_model, rank)


def row_width(config: TransformerConfig) -> int:
    """Inputs of the matrix that makes a row: a token's one-hot, a frame's values, or a patch's."""
    if config.image is not None and config.patch is not None:
        return config.image[0] * config.patch[0] * config.patch[1]
    return config.vocab_size or config.input_size


def _embedding(config: TransformerConfig) -> Part:
    d = config.table_width
    weights = count_weights(row_width(config), d, config.embedding_rank)
    widening = (config.embedding_width + 1) * config.d_model * int(config.embedding_width > 0)
    rows = d * config.tokens * int(config.positions == "learned") + d * (int(config.cls_token) + config.segments)
    bias = 0 if config.vocab_size else d
    norm = 2 * d * int(config.embedding_norm)
    fixed = d * config.tokens * int(config.positions == "sinusoidal")  # computed in torch, a constant in firmware
    if config.positions == "rotary":  # cosine and sine, in 16 bits
        fixed = 2 * config.tokens * (config.rotary_dim or config.head_dim)
    size = weights + rows + fixed + 4 * norm + OUTPUT_BYTES * (bias + config.embedding_rank)
    ram = config.tokens * (2 * d + (config.embedding_rank or row_width(config) * int(not config.vocab_size)))
    macs = count_embedding_macs(config, config.embedding_rank)
    return Part("embedding", weights + rows + bias + norm + widening, size + widening, macs, ram)


def _layer(config: TransformerConfig, layer: int) -> Part:
    d, rows, heads = config.d_model, config.tokens, config.heads[layer]
    norms = 1 if config.parallel == 1 else 2
    parameters, size = norms * _norm(config) + d * config.experts, d * config.experts + OUTPUT_BYTES * config.experts
    macs = 2 * rows * rows * heads * config.head_dim + rows * d * config.experts
    for projection in config.projections:
        inputs, outputs = config.projection_shape(layer, projection)
        rank = config.rank(layer, projection)
        weights = count_weights(inputs, outputs, rank)
        in_expert = config.experts and projection in ("up", "gate", "down")
        copies, runs = (config.experts, config.experts_per_token) if in_expert else (1, 1)
        parameters += copies * (weights + outputs * int(config.has_bias(projection)))
        size += copies * (weights + OUTPUT_BYTES * (outputs + rank))
        macs += runs * rows * weights
    width, keys, neurons = heads * config.head_dim, config.key_heads[layer] * config.head_dim, config.d_ff[layer]
    # int16 rows of the residual stream, and int8 beside them: queries, keys, values and contexts, or neurons and sums.
    widest = max(2 * d + 2 * width + 2 * keys, 2 * d + neurons * (1 + int(config.gated)) + 2 * d)
    inputs = max(d, width, neurons)
    ram = rows * widest + min(BLOCK_BYTES, 2 * rows * inputs) + 4 * inputs
    return Part(f"layers.{layer}", parameters, size, macs, ram)


def _head(config: TransformerConfig) -> Part:
    d, rows = config.d_model, config.tokens if config.pooling == "none" else 1
    norm = _norm(config) * int(config.final_norm)
    parameters = norm + (d + int(config.head_bias)) * config.classes * int(not config.tied_head)
    parameters += config.classes * int(config.tied_head_bias)
    dense = (d + 1) * (d * bool(config.pooler) + config.head_width * bool(config.head_dense))
    gains = 2 * config.head_width * bool(config.head_dense)
    parameters += dense + gains
    size = 4 * norm + (OUTPUT_BYTES * config.classes + d * config.classes * int(not config.tied_head))
    size += dense + 4 * gains
    ram = 2 * d * config.tokens + rows * (d + 2 * config.classes)
    macs = rows * (config.head_width * config.classes + d * (d * bool(config.pooler)))
    macs += rows * d * config.head_width * bool(config.head_dense)
    return Part("head", parameters, size, macs, ram)


def _norm(config: TransformerConfig) -> int:
    """Parameters of one norm: a gain for each channel, and in a LayerNorm a bias."""
    return config.d_model * (1 if config.norm == "rms" else 2)
