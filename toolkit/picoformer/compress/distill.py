"""Knowledge distillation: a small model learns from a large one's soft targets and hidden states."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from picoformer.compress.settings import DistillSettings
from picoformer.compress.train import (
    Augment,
    Progress,
    TrainReport,
    check_labels,
    cross_entropy,
    fit,
)
from picoformer.errors import ConfigError, DataError
from picoformer.models.transformer import Transformer


def distill(
    teacher: Transformer,
    student: Transformer,
    x: NDArray[Any],
    y: NDArray[np.int64],
    settings: DistillSettings,
    augment: Augment | None = None,
    progress: Progress | None = None,
) -> TrainReport:
    """Train `student` in place on `x` (n, *input), `y` (n,); the teacher sees the same augmented batches,
    unchanged.

    The loss is soft_weight * T^2 * KL(teacher || student at temperature T) (Hinton et al. 2015) + (1 -
    soft_weight) * cross-entropy + hidden_weight * mean squared error between layer-normalized hidden states,
    the student's through a learned projection (Jiao et al. 2020, TinyBERT). Raises DataError for models that
    do not go together, ConfigError for a layer_map that names no layer, PicoformerError when the loss stops
    being a number.
    """
    check_labels(student, x, y)
    ours, theirs = student.config, teacher.config
    if theirs.classes != ours.classes:
        raise DataError(f"teacher has {theirs.classes} classes, student {ours.classes}; give both the same")
    pairs = map_layers(ours.layers, theirs.layers, settings.layer_map)
    matched = settings.hidden_weight > 0.0
    if matched and theirs.tokens != ours.tokens:
        raise DataError(
            f"teacher has {theirs.tokens} rows, student {ours.tokens}; "
            "give both the same sequence and cls_token, or set hidden_weight = 0"
        )
    projections = _projections(student, teacher, len(pairs), settings.seed) if matched else nn.ModuleList()
    training = teacher.training
    teacher.eval()

    def loss(inputs: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            target, target_hidden = teacher.forward_with_hidden(inputs)
        logits, hidden = student.forward_with_hidden(inputs)
        value = (1.0 - settings.soft_weight) * cross_entropy(logits, labels, settings.label_smoothing)
        value = value + settings.soft_weight * soft_target_loss(logits, target, settings.temperature)
        if matched:
            for layer, (projection, teacher_layer) in enumerate(zip(projections, pairs, strict=True)):
                wanted = _normalize(target_hidden[teacher_layer])
                difference = functional.mse_loss(_normalize(projection(hidden[layer])), wanted)
                value = value + settings.hidden_weight / len(pairs) * difference
        return value

    try:
        return fit(student, x, y, settings, loss, extra=projections, augment=augment, progress=progress)
    finally:
        teacher.train(training)


def soft_target_loss(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(target / T) || softmax(logits / T)), mean over the batch of (batch, classes)."""
    student = functional.log_softmax(logits / temperature, dim=-1)
    teacher = functional.log_softmax(target / temperature, dim=-1)
    divergence = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


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


def _projections(student: Transformer, teacher: Transformer, count: int, seed: int) -> nn.ModuleList:
    """A linear map from the student's width to the teacher's per pair of layers, from `seed` alone."""
    generator = torch.Generator().manual_seed(seed)
    projections = nn.ModuleList()
    for _ in range(count):
        projection = nn.Linear(student.config.d_model, teacher.config.d_model, bias=False, device="meta")
        projection.to_empty(device="cpu")
        nn.init.xavier_uniform_(projection.weight, generator=generator)
        projections.append(projection)
    return projections


def _normalize(hidden: Tensor) -> Tensor:
    """Layer norm without gain, so that no layer's scale outweighs the others."""
    return functional.layer_norm(hidden, hidden.shape[-1:])
