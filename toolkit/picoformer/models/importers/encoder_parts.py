"""What encoders of a Hugging Face folder have alike: tasks, the post-norm configuration, embedding and head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.errors import ConfigError, ModelError
from picoformer.models.config import MAX_LAYERS, TransformerConfig
from picoformer.models.importers.imported import Weights
from picoformer.models.importers.keys import Keys
from picoformer.models.importers.tensors import Array, Tensors


@dataclass(frozen=True)
class Task:
    """What a model is to answer. `architecture`: how the name of a class in transformers ends that has such a head."""

    name: str
    architecture: str
    pooling: str
    is_classes: bool = False
    """Whether the head has as many outputs as config.json has labels."""
    pooler: bool = False
    """Whether the dense layer on the first row takes part."""
    normalize: bool = False


TASKS = {
    task.name: task
    for task in (
        Task("classify", "ForSequenceClassification", "first", is_classes=True, pooler=True),
        Task("label", "ForTokenClassification", "none", is_classes=True),
        Task("span", "ForQuestionAnswering", "none", is_classes=True),
        Task("masked-lm", "ForMaskedLM", "none"),
        Task("next-sentence", "ForNextSentencePrediction", "first", pooler=True),
        Task("embedding", "", "mean", normalize=True),
        Task("first", "", "first"),
        Task("pooled", "", "first", pooler=True),
        Task("rows", "", "none"),
    )
}
"""classify: logits of a text or a pair, a cross-encoder's score among them; label: logits of each token; span: logits
of an answer's first and last token; masked-lm: of each token; next-sentence: whether the second text follows; and of a
model without a head: embedding, the mean of the rows at length 1; first: the first row; pooled: the dense layer on it;
rows: all rows."""

COVERED_KEYS = {"chunk_size_feed_forward", "finetuning_task", "num_labels", "output_past", "sentence_transformers"}
"""Keys that do not change the logits: how much is computed at once, what the caller does with them."""
UNUSED_KEYS: dict[str, Any] = {
    "directionality": "bidi", "pooler_fc_size": None, "pooler_num_attention_heads": None, "pooler_num_fc_layers": None,
    "pooler_size_per_head": None, "pooler_type": "first_token_transform", "net_structure_type": 0, "gap_size": 0,
    "num_memory_blocks": 0, "down_scale_factor": 1, "layers_to_keep": [], "pruned_heads": {}, "tie_weights_": True,
    "position_embedding_type": "absolute", "output_attentions": None, "output_hidden_states": None, "seq_length": None,
}  # fmt: skip
"""Keys of older configurations → the only value that is covered, None where transformers reads none."""


@dataclass(frozen=True)
class Encoder:
    """What a family's converter gives: the configuration, weights under our names, a note for people."""

    config: TransformerConfig
    weights: Weights
    note: str = ""


def encoder_config(keys: Keys, task: Task, **given: Any) -> TransformerConfig:
    """A post-norm encoder for `task`; `heads` and `d_ff` as single numbers for `layers` layers. Raises ModelError."""
    layers, d, heads = given.pop("layers"), given["d_model"], given["heads"]
    if layers > MAX_LAYERS:
        raise ModelError(f"{keys.path}: {layers} layers; {MAX_LAYERS} are the most")
    if d % heads:
        raise ModelError(f"{keys.path}: the width {d} is not a multiple of its {heads} heads")
    for key in ("heads", "d_ff"):
        given[key] = (given[key],) * layers
    fixed = {
        "head_dim": d // heads, "norm_position": "post", "final_norm": False, "embedding_norm": True,
        "pooling": task.pooling, "normalize": task.normalize,
    }  # fmt: skip
    for key in ("is_decoder", "add_cross_attention", "is_encoder_decoder"):
        keys.refuse(key, mend="it makes a decoder of it, and only encoders are read here")
    for key, allowed in UNUSED_KEYS.items():
        if allowed is None:
            keys.value(key, default=None)
        else:
            keys.refuse(key, allowed, mend=f"only {allowed!r} is")
    for key in COVERED_KEYS:
        keys.value(key, default=None)
    try:
        return TransformerConfig(**{**fixed, **given})
    except ConfigError as error:
        raise ModelError(f"{keys.path}: bad configuration: {error}") from error


def labels_of(keys: Keys) -> tuple[str, ...]:
    """The names of the classes in order; two without names where config.json has none, as in transformers."""
    names = keys.value("id2label", default=None)
    count = keys.value("num_labels", default=None)
    if names is None:
        return tuple(f"LABEL_{i}" for i in range(count if isinstance(count, int) and 0 < count <= 1 << 16 else 2))
    plain = isinstance(names, dict) and 0 < len(names) <= 1 << 16
    if not plain or set(names) != {str(i) for i in range(len(names))}:
        raise keys.error("id2label", names, "a name for each of the numbers 0, 1, 2 …")
    return tuple(str(names[str(i)]) for i in range(len(names)))


def head_classes(task: Task, labels: tuple[str, ...], vocabulary: int) -> int:
    """Outputs of the task's head; 0 where it has none."""
    if task.name == "masked-lm":
        return vocabulary
    return len(labels) if task.is_classes else 2 if task.name == "next-sentence" else 0


def take_embedding(tensors: Tensors, at: str, config: TransformerConfig, offset: int = 0, segments: int = 0) -> Weights:
    """Tables and norm of an embedding `at`; the position table has `offset` rows in front that no text uses. Of
    `segments` kinds the configuration may have none: then the row of kind 0 goes into the positions."""
    width = config.table_width
    positions = tensors.take(f"{at}.position_embeddings.weight", config.sequence + offset, width)[offset:]
    weights: Weights = {
        "embedding.token.weight": tensors.take(f"{at}.word_embeddings.weight", config.vocab_size, width)
    }
    if segments:
        kinds = tensors.take(f"{at}.token_type_embeddings.weight", segments, width)
        if config.segments:
            weights["embedding.segment.weight"] = kinds
        else:
            positions = positions + kinds[0]
    weights["embedding.position"] = np.ascontiguousarray(positions)
    return weights | tensors.norm(f"{at}.LayerNorm", "embedding.norm", width)


def take_masked_head(
    tensors: Tensors, config: TransformerConfig, table: Array, names: tuple[str, str, str, str]
) -> Weights:
    """The head of a masked language model, `names` of its dense layer, norm, decoder and bias. A tied decoder may be
    written out, and its bias twice."""
    dense, norm, decoder, bias = names
    width = config.head_width
    weights = tensors.linear(dense, "head_dense.dense", width, config.d_model, True)
    weights |= tensors.norm(norm, "head_dense.norm", width)
    inner = f"{decoder}.bias"
    if not config.tied_head:
        own = tensors.take(inner if inner in tensors else bias, config.vocab_size)
        return weights | {"head.weight": tensors.take(f"{decoder}.weight", *table.shape), "head.bias": own}
    values = tensors.take(bias if bias in tensors else inner, config.vocab_size)
    if inner in tensors and not np.array_equal(tensors.take(inner, config.vocab_size), values):
        raise ModelError(f"{tensors.path}: '{bias}' and '{inner}' are one bias, and differ; keep one of them")
    written = f"{decoder}.weight"
    if written in tensors and not np.array_equal(tensors.take(written, *table.shape), table):
        raise ModelError(
            f"{tensors.path}: config.json ties the decoder to the token table, but '{written}' differs from it; set "
            "tie_word_embeddings to false"
        )
    return weights | {"head_bias": values}


def prefix_of(tensors: Tensors, name: str) -> str:
    """`name.` where the tensors of the body stand under it, else nothing."""
    return f"{name}." if f"{name}.embeddings.word_embeddings.weight" in tensors else ""


def unknown_task(path: Path, found: Any) -> ModelError:
    """What to raise where a folder leaves open what is to come out."""
    return ModelError(
        f"{path}: architectures = {found!r} does not say what is to come out; choose with --task: {', '.join(TASKS)}"
    )
