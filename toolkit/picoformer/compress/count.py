"""Parameters and multiply-accumulates of a configuration, by arithmetic alone."""

from __future__ import annotations

from picoformer.models.config import TransformerConfig


def count_parameters(config: TransformerConfig) -> int:
    """Every trained number of the model: matrices, biases, norms, embeddings, positions, CLS token, head."""
    d = config.d_model
    count = config.vocab_size * d if config.vocab_size else _row_width(config) * d + d
    count += d * int(config.cls_token)
    count += d * config.tokens * int(config.positions == "learned")
    for heads, d_ff in zip(config.heads, config.d_ff, strict=True):
        width = heads * config.head_dim
        count += 3 * (d * width + width) + width * d + d
        count += d * d_ff + d_ff + d_ff * d + d
        count += 2 * 2 * d
    count += 2 * d * int(config.final_norm)
    return count + (d * config.classes + config.classes if config.classes else 0)


def count_macs(config: TransformerConfig) -> int:
    """Multiply-accumulates of one inference at full length: matrix products only, as is the field's habit."""
    d, rows = config.d_model, config.tokens
    count = 0 if config.vocab_size else config.sequence * _row_width(config) * d
    for heads, d_ff in zip(config.heads, config.d_ff, strict=True):
        width = heads * config.head_dim
        count += rows * 4 * d * width
        count += 2 * rows * rows * width
        count += rows * 2 * d * d_ff
    return count + (rows if config.pooling == "none" else 1) * d * config.classes


def _row_width(config: TransformerConfig) -> int:
    """Values that are projected to one row: a frame's, or a patch's."""
    if config.image is not None and config.patch is not None:
        return config.image[0] * config.patch[0] * config.patch[1]
    return config.input_size
