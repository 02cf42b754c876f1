"""Parameters and multiply-accumulates of a configuration, by arithmetic alone."""

from __future__ import annotations

from picoformer.models.config import PROJECTIONS, TransformerConfig


def count_parameters(config: TransformerConfig) -> int:
    """Every trained number of the model: matrices, biases, norms, embeddings, positions, CLS token, head."""
    d = config.d_model
    count = count_weights(row_width(config), d, config.embedding_rank) + (0 if config.vocab_size else d)
    count += d * int(config.cls_token)
    count += d * config.tokens * int(config.positions == "learned")
    for layer in range(config.layers):
        for projection in PROJECTIONS:
            inputs, outputs = config.projection_shape(layer, projection)
            count += count_weights(inputs, outputs, config.rank(layer, projection)) + outputs
        count += 2 * 2 * d
    count += 2 * d * int(config.final_norm)
    return count + (d * config.classes + config.classes if config.classes and not config.tied_head else 0)


def count_macs(config: TransformerConfig) -> int:
    """Multiply-accumulates of one inference at full length: matrix products only, as is the field's habit."""
    d, rows = config.d_model, config.tokens
    count = count_embedding_macs(config, config.embedding_rank)
    for layer, heads in enumerate(config.heads):
        for projection in PROJECTIONS:
            inputs, outputs = config.projection_shape(layer, projection)
            count += rows * count_weights(inputs, outputs, config.rank(layer, projection))
        count += 2 * rows * rows * heads * config.head_dim
    return count + (rows if config.pooling == "none" else 1) * d * config.classes


def count_weights(inputs: int, outputs: int, rank: int) -> int:
    """Weights of a linear layer, without the bias; rank 0 is one whole matrix."""
    return rank * (inputs + outputs) if rank else inputs * outputs


def count_embedding_macs(config: TransformerConfig, rank: int) -> int:
    """Multiply-accumulates from one input to its rows; looking up a token costs none, widening it does."""
    if config.vocab_size:
        return config.sequence * rank * config.d_model
    return config.sequence * count_weights(row_width(config), config.d_model, rank)


def row_width(config: TransformerConfig) -> int:
    """Inputs of the matrix that makes a row: a token's one-hot, a frame's values, or a patch's."""
    if config.image is not None and config.patch is not None:
        return config.image[0] * config.patch[0] * config.patch[1]
    return config.vocab_size or config.input_size
