"""Names and shapes of a Transformer's weights, by arithmetic alone: what a checkpoint of a configuration must hold."""

from __future__ import annotations

from picoformer.models.config import TransformerConfig

Shapes = dict[str, tuple[int, ...]]


def weight_shapes(config: TransformerConfig) -> Shapes:
    """Every tensor of the model's state by name; linear layers are (outputs, inputs)."""
    d, shapes = config.d_model, Shapes()
    if config.image is not None and config.patch is not None:
        shapes["embedding.patches.weight"] = (d, config.image[0], *config.patch)
        shapes["embedding.patches.bias"] = (d,)
    elif config.vocab_size:
        shapes["embedding.token.weight"] = (config.vocab_size, config.embedding_rank or d)
        if config.embedding_rank:
            shapes["embedding.token_expand.weight"] = (d, config.embedding_rank)
    else:
        shapes |= _linear("embedding.frames", config.input_size, d, config.embedding_rank, True)
    if config.cls_token:
        shapes["embedding.cls"] = (1, 1, d)
    if config.positions == "learned":
        shapes["embedding.position"] = (config.tokens, d)
    if config.embedding_norm:
        shapes |= _norm(config, "embedding.norm")
    for layer in range(config.layers):
        shapes |= _layer(config, layer)
    if config.final_norm:
        shapes |= _norm(config, "final_norm")
    if config.classes and not config.tied_head:
        shapes |= _linear("head", d, config.classes, 0, config.head_bias)
    return shapes


def _layer(config: TransformerConfig, layer: int) -> Shapes:
    name = f"layers.{layer}"
    shapes = _norm(config, f"{name}.attention_norm")
    if config.parallel != 1:
        shapes |= _norm(config, f"{name}.feed_forward_norm")
    if config.experts:
        shapes[f"{name}.feed_forward.router.weight"] = (config.experts, config.d_model)
    for projection in config.projections:
        places = [f"{name}.attention"]
        if projection in ("up", "gate", "down"):
            places = [f"{name}.feed_forward"]
            if config.experts:
                places = [f"{name}.feed_forward.experts.{expert}" for expert in range(config.experts)]
        for place in places:
            inputs, outputs = config.projection_shape(layer, projection)
            rank, bias = config.rank(layer, projection), config.has_bias(projection)
            shapes |= _linear(f"{place}.{projection}", inputs, outputs, rank, bias)
    return shapes


def _norm(config: TransformerConfig, name: str) -> Shapes:
    parts = ("weight",) if config.norm == "rms" else ("weight", "bias")
    return {f"{name}.{part}": (config.d_model,) for part in parts}


def _linear(name: str, inputs: int, outputs: int, rank: int, bias: bool) -> Shapes:
    shapes: Shapes = {f"{name}.weight": (outputs, inputs)}
    last = name
    if rank:
        shapes, last = (
            {f"{name}.reduce.weight": (rank, inputs), f"{name}.expand.weight": (outputs, rank)},
            f"{name}.expand",
        )
    if bias:
        shapes[f"{last}.bias"] = (outputs,)
    return shapes
