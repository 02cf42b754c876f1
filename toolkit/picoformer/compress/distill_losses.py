"""What a student's outputs, maps and relations lack of a teacher's: the losses of distillation, one function each."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from picoformer.errors import ConfigError
from picoformer.models.branches import rotate
from picoformer.models.config import TransformerConfig
from picoformer.models.positions import alibi_bias, rotary_tables


def soft_target_loss(logits: Tensor, target: Tensor, temperature: float, judged: Tensor | None = None) -> Tensor:
    """T² · KL(softmax(target / T) ‖ softmax(logits / T)) of (..., classes) (Hinton et al. 2015).

    The mean over all but the last axis; with `judged` (...), True or False, over those rows alone.
    """
    student = functional.log_softmax(full(logits) / temperature, dim=-1)
    teacher = functional.log_softmax(full(target) / temperature, dim=-1)
    return mean_over(_divergence(teacher, student), judged) * temperature**2


def hidden_loss(hidden: Tensor, target: Tensor, judged: Tensor | None = None) -> Tensor:
    """Mean squared error of hidden states (batch, rows, width), both layer-normalized so that no layer's scale
    outweighs the others; the student's has been projected to the teacher's width (Jiao et al. 2020, TinyBERT)."""
    return mean_over((_normalize(hidden) - _normalize(target)).square().mean(dim=-1), judged)


def attention_loss(scores: Tensor, target: Tensor, kind: str, mask: Tensor | None, judged: Tensor | None) -> Tensor:
    """How attention (batch, heads, rows, rows) differs, in scores before the softmax.

    `kind` is "kl", KL(teacher ‖ student) of the maps, or "mse" of the scores (Jiao et al. 2020). Where there are fewer
    student heads, each is matched with the mean map (or scores) of a group of the teacher's. `mask` (rows, rows) says
    which keys a row sees: others take no part.
    """
    heads = scores.shape[1]
    groups = full(target).reshape(len(target), heads, -1, *target.shape[2:])
    if kind == "kl":
        student, teacher = _log_softmax(full(scores), mask), _log_softmax(groups, mask)
        teacher = torch.logsumexp(teacher, dim=2) - math.log(groups.shape[2])
        return mean_over(_divergence(teacher, student).mean(dim=1), judged)
    squares = (full(scores) - groups.mean(dim=2)).square()
    if mask is None:
        return mean_over(squares.mean(dim=(1, 3)), judged)
    return mean_over((squares * mask).sum(dim=-1).div(mask.sum(dim=-1)).mean(dim=1), judged)


def relation_loss(values: Tensor, target: Tensor, heads: int, mask: Tensor | None, judged: Tensor | None) -> Tensor:
    """KL(teacher ‖ student) of the relations among rows of queries, keys or values (batch, rows, width) of any widths.

    A relation is softmax(A·Aᵀ / √(width / heads)) of each of `heads` equal parts of the width (Wang et al. 2021,
    MiniLMv2). `mask` and `judged` as in `attention_loss`.
    """
    student, teacher = (_log_softmax(_relations(full(part), heads), mask) for part in (values, target))
    return mean_over(_divergence(teacher, student).mean(dim=1), judged)


def attention_scores(query: Tensor, key: Tensor, config: TransformerConfig, layer: int) -> Tensor:
    """Scores (batch, heads, rows, rows) of a layer's queries and keys (batch, rows, heads · head_dim) as projected,
    unmasked: turned by rotary positions, ALiBi's biases added."""
    heads, key_heads = config.heads[layer], config.key_heads[layer]
    rows = query.shape[1]
    query = query.reshape(*query.shape[:2], heads, -1).transpose(1, 2)
    key = key.reshape(*key.shape[:2], key_heads, -1).transpose(1, 2)
    if config.positions == "rotary":
        cosine, sine = (torch.from_numpy(table).to(query) for table in rotary_tables(config, rows))
        query, key = (rotate(part, (cosine, sine), config.rotary_interleaved) for part in (query, key))
    key = key.repeat_interleave(heads // key_heads, dim=1)
    scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(config.head_dim)
    if config.positions == "alibi":
        scores = scores + torch.from_numpy(alibi_bias(config, rows)).to(scores)[:, None]
    return scores


def largest_relation_heads(*widths: int) -> int:
    """The largest number of heads, at most the 48 of MiniLMv2, that leaves each of at least 4 numbers in every width;
    1 where there is none."""
    common = math.gcd(*widths)
    return max((h for h in range(1, 49) if common % h == 0 and common // h >= 4), default=1)


def map_layers(student_layers: int, teacher_layers: int, layer_map: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The teacher layer for each student layer; evenly spread by default. Raises ConfigError."""
    if not layer_map:
        return tuple(
            max(0, round((layer + 1) * teacher_layers / student_layers) - 1) for layer in range(student_layers)
        )
    if len(layer_map) != student_layers:
        raise ConfigError(f"layer_map has {len(layer_map)} entries; give one for each of {student_layers}")
    for index, layer in enumerate(layer_map):
        if layer >= teacher_layers:
            raise ConfigError(f"layer_map[{index}] = {layer}; the teacher has 0 to {teacher_layers - 1}")
    return layer_map


def spread_layers(student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """The teacher layer that each student layer takes its first weights from: first from first, last from last.

    A first layer has to be one that knows embeddings, whatever its output is matched with later.
    """
    steps = max(1, student_layers - 1)
    return tuple(round(layer * (teacher_layers - 1) / steps) for layer in range(student_layers))


def mean_over(values: Tensor, judged: Tensor | None) -> Tensor:
    """The mean of per-row values, or of those that are judged (the same shape); 0 when none is."""
    if judged is None:
        return values.mean()
    return (values * judged).sum() / judged.sum().clamp(min=1)


def full(values: Tensor) -> Tensor:
    """Values of half precision as float32."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _normalize(hidden: Tensor) -> Tensor:
    return functional.layer_norm(full(hidden), hidden.shape[-1:])


def _relations(values: Tensor, heads: int) -> Tensor:
    parts = values.reshape(*values.shape[:2], heads, -1).transpose(1, 2)
    return torch.matmul(parts, parts.transpose(-1, -2)) / math.sqrt(parts.shape[-1])


def _log_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Masked keys get a finite, negligible share: an infinite one would make gradients NaN."""
    return functional.log_softmax(scores if mask is None else scores.masked_fill(~mask, -1e4), dim=-1)


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL along the last axis, both as logarithms."""
    return (teacher.exp() * (teacher - student)).sum(dim=-1)
