"""Names and shapes of a Transformer's weights, by arithmetic alone: what a checkpoint of a configuration must hold."""

from __future__ import annotations

from picoformer.models.config import TransformerConfig

Shapes = dict[str, tuple[int, ...]]


def weight_shapes(config: TransformerConfig) -> Shapes:
    """Every tensor of the model's state by name; linear layers are (outputs, inputs)."""
    d, width, shapes = config.d_model, config.table_width, Shapes()
    if config.image is not None and config.patch is not None:
        shapes["embedding.patches.weight"] = (d, config.image[0], *config.patch)
        shapes["embedding.patches.bias"] = (d,)
    elif config.vocab_size:
        shapes["embedding.token.weight"] = (config.vocab_size, config.embedding_rank or width)
        if config.embedding_rank:
            shapes["embedding.token_expand.weight"] = (d, config.embedding_rank)
    else:
        shapes |= _linear("embedding.frames", config.input_size, d, config.embedding_rank, True)
    if config.cls_token:
        shapes["embedding.cls"] = (1, 1, d)
    if config.positions == "learned":
        shapes["embedding.position"] = (config.tokens, width)
    if config.segments:
        shapes["embedding.segment.weight"] = (config.segments, width)
    if config.embedding_norm:
        shapes |= _layer_norm("embedding.norm", width)
    if config.embedding_width:
        shapes |= _linear("embedding.project", width, d, 0, True)
    for number in range(max(config.weight_sets) + 1):
        shapes |= _layer(config, config.weight_sets.index(number), number)
    if config.final_norm:
        shapes |= _norm(config, "final_norm")
    if config.pooler:
        shapes |= _linear("pooler.dense", d, d, 0, True)
    if config.head_dense:
        shapes |= _linear("head_dense.dense", d, config.head_width, 0, True)
        shapes |= _layer_norm("head_dense.norm", config.head_width)
    if config.classes and not config.tied_head:
        shapes |= _linear("head", d, config.classes, 0, config.head_bias)
    if config.tied_head_bias:
        shapes["head_bias"] = (config.classes,)
    return shapes


def _layer(config: TransformerConfig, layer: int, number: int) -> Shapes:
    """The weights of set `number`, which `layer` is the first to run."""
    name = f"layers.{number}"
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


def _layer_norm(name: str, width: int) -> Shapes:
    return {f"{name}.{part}": (width,) for part in ("weight", "bias")}


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
