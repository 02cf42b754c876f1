"""Knowledge distillation: a small model learns from a large one's outputs, hidden states, attention and relations."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from picoformer.compress.distill_losses import (
    attention_loss,
    attention_scores,
    hidden_loss,
    largest_relation_heads,
    map_layers,
    relation_loss,
    soft_target_loss,
)
from picoformer.compress.generate import sequence_targets
from picoformer.compress.initialise import init_from_teacher
from picoformer.compress.loop import Progress, TrainReport, run_loop
from picoformer.compress.processes import Processes
from picoformer.compress.samples import Augment, Samples, frozen_views
from picoformer.compress.settings import DistillSettings
from picoformer.compress.teacher import (
    PARTS,
    OnnxTeacher,
    Teacher,
    TorchTeacher,
    as_teacher,
    check_pair,
    observe,
    refuse_layers,
)
from picoformer.compress.teacher_cache import teacher_outputs
from picoformer.compress.train import bits_per_label, check_labels, check_several_labels, cross_entropy
from picoformer.compress.training_state import RunFiles
from picoformer.errors import ConfigError, DataError
from picoformer.metrics import IGNORED
from picoformer.models.transformer import Transformer

__all__ = ["distill", "init_from_teacher", "map_layers", "soft_target_loss"]


def distill(
    teacher: nn.Module | Path | Teacher,
    student: Transformer,
    x: NDArray[Any],
    y: NDArray[np.int64] | None,
    settings: DistillSettings,
    augment: Augment | None = None,
    progress: Progress | None = None,
    files: RunFiles | None = None,
) -> TrainReport:
    """Train `student` in place on `x` (n, *input), `y` (n,) or (n, rows); without labels `soft_weight` must be 1.

    The loss is soft_weight · T² · KL(teacher ‖ student at temperature T) (Hinton et al. 2015) + (1 - soft_weight) ·
    cross-entropy, and on top, each with its weight: hidden states of mapped layers (Jiao et al. 2020), their attention
    maps, and the relations within one layer (Wang et al. 2021). Rows whose label is IGNORED take no part in any of it.

    The teacher is a module, a checkpoint or an ONNX file. With `files.teacher_outputs` its answers are computed once:
    for the samples as they are, or for `settings.views` frozen augmentations of them. With `augment` and no views it
    runs on every augmented batch, which an ONNX file cannot. Raises DataError for models and data that do not go
    together, ConfigError for settings that ask for what is not there, PicoformerError when the training diverges.
    """
    files = files or RunFiles()
    source = as_teacher(teacher)
    y = _labels(student, x, y, settings)
    check_labels(student, x, y)
    if settings.soft_weight < 1.0:
        check_several_labels(y)
    check_pair(source, student, x)
    plan = _plan(source, student, x, settings)
    x, y = _with_sequences(source, x, y, settings)
    initialised = _initialise(source, student, settings) if settings.init_from_teacher else None
    views: list[NDArray[Any]] = [x]
    if augment is not None and settings.views:
        views, augment = frozen_views(x, augment, settings.views, settings.seed), None
    if source.is_frozen and augment is not None:
        raise ConfigError(
            f"teacher {source.name}: an ONNX file answers once, not for every augmented batch; set views = 8 (or as "
            "many frozen augmentations as you like), or augment = false"
        )
    samples = Samples(views, y, augment)
    processes = Processes(settings.device)
    source.move(processes.device)
    student_device = next(student.parameters()).device
    origin = "on the fly"
    if augment is None and (files.teacher_outputs is not None or source.is_frozen):
        answers = teacher_outputs(source, views, plan.wanted, settings.cache_type, files.teacher_outputs, processes)
        samples.targets, origin = answers, "read" if answers.were_read else "computed"
    projections = _projections(student, plan, settings.seed)

    def loss(inputs: Tensor, labels: Tensor, targets: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        if targets is None:
            targets = source.answer(inputs, plan.wanted)
        return _losses(student, plan, projections, settings, inputs, labels, targets)

    def judge(chosen: NDArray[np.int64]) -> float:
        return bits_per_label(student, x[chosen], y[chosen], settings.threads)

    try:
        report = run_loop(
            student, samples, settings, loss, extra=projections, progress=progress, files=files,
            guess=_guess(student, settings), judge=judge if settings.soft_weight < 1.0 else None,
            identity=f"distill {source.fingerprint()}" if files.state is not None else "",
        )  # fmt: skip
        return dataclasses.replace(report, teacher_outputs=origin, initialised=initialised)
    finally:
        source.move(student_device)


@dataclass(frozen=True)
class _Plan:
    """Which of the teacher's outputs are wanted, and what of the student's each is matched with."""

    wanted: tuple[str, ...]
    pairs: tuple[int, ...]  # teacher layer for each student layer
    widths: tuple[int, ...] = ()  # of the teacher's hidden states in these
    relation_layer: int = 0
    relation_heads: int = 0
    teacher: Any = None  # its configuration


def _plan(source: Teacher, student: Transformer, x: NDArray[Any], settings: DistillSettings) -> _Plan:
    """What the losses need; raises ConfigError or DataError where the teacher does not have it."""
    ours, theirs = student.config, source.config
    if not settings.matches_layers:
        pairs = () if theirs is None else map_layers(ours.layers, theirs.layers, settings.layer_map)
        return _Plan(("logits",), pairs)
    if theirs is None:
        for key in ("attention_weight", "relation_weight", "hidden_weight"):
            known = isinstance(source, OnnxTeacher) and key == "hidden_weight" and source.hidden_layers
            if getattr(settings, key) and not known:
                raise refuse_layers(source, key)
        assert isinstance(source, OnnxTeacher)
        pairs = map_layers(ours.layers, source.hidden_layers, settings.layer_map)
        wanted = tuple(f"hidden.{layer}" for layer in sorted(set(pairs)))
        found = source.answer(torch.from_numpy(x[:1]), wanted)
        for name, rows in found.items():
            if rows.ndim != 3 or rows.shape[1] != ours.tokens:
                raise DataError(
                    f"teacher {source.name}: '{name}' is {list(rows.shape)}; it takes (batch, {ours.tokens}, width)"
                )
        return _Plan(("logits", *wanted), pairs, tuple(found[f"hidden.{layer}"].shape[2] for layer in pairs))
    if theirs.tokens != ours.tokens or theirs.cls_token != ours.cls_token:
        mend = "give both the same rows and cls_token"
        if theirs.vocab_size and theirs.cls_token == ours.cls_token:
            mend = f"make the data with `picoformer dataset --sequence {theirs.sequence}`"
        raise DataError(
            f"teacher {source.name} has {theirs.tokens} rows, data and student have {ours.tokens}; {mend}, or set "
            "hidden_weight, attention_weight and relation_weight to 0"
        )
    pairs = map_layers(ours.layers, theirs.layers, settings.layer_map)
    names: list[str] = []
    if settings.hidden_weight:
        names += [f"hidden.{layer}" for layer in pairs]
    if settings.attention_weight:
        for layer, taught in enumerate(pairs):
            if theirs.heads[taught] % ours.heads[layer]:
                raise ConfigError(
                    f"attention_weight: the teacher's layer {taught} has {theirs.heads[taught]} heads, the student's "
                    f"layer {layer} has {ours.heads[layer]}, which does not divide it; use relation_weight instead"
                )
        names += [f"{part}.{layer}" for layer in pairs for part in ("query", "key")]
    relation_layer = settings.relation_layer + (theirs.layers if settings.relation_layer < 0 else 0)
    heads = settings.relation_heads
    if settings.relation_weight:
        if not 0 <= relation_layer < theirs.layers:
            raise ConfigError(
                f"relation_layer = {settings.relation_layer}; the teacher has 0 to {theirs.layers - 1}, or -1 for the "
                "last"
            )
        widths = [config.projection_shape(layer, part)[1] for part in PARTS
                  for config, layer in ((ours, ours.layers - 1), (theirs, relation_layer))]  # fmt: skip
        heads = heads or largest_relation_heads(*widths)
        if any(width % heads for width in widths):
            raise ConfigError(f"relation_heads = {heads} does not divide the widths {sorted(set(widths))}; set 0")
        names += [f"{part}.{relation_layer}" for part in PARTS]
    hidden = (theirs.d_model,) * len(pairs) if settings.hidden_weight else ()
    return _Plan(("logits", *dict.fromkeys(names)), pairs, hidden, relation_layer, heads, theirs)


def _losses(
    student: Transformer,
    plan: _Plan,
    projections: nn.ModuleList,
    settings: DistillSettings,
    inputs: Tensor,
    labels: Tensor,
    targets: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Every part of the loss, weighted."""
    config = student.config
    last = config.layers - 1
    wanted = ["logits"]
    if settings.hidden_weight:
        wanted += [f"hidden.{layer}" for layer in range(config.layers)]
    if settings.attention_weight:
        wanted += [f"{part}.{layer}" for layer in range(config.layers) for part in ("query", "key")]
    if settings.relation_weight:
        wanted += [f"{part}.{last}" for part in PARTS]
    found = observe(student, inputs, list(dict.fromkeys(wanted)))
    if targets["logits"].shape != found["logits"].shape:  # kept answers are a file, which may hold anything
        shapes = [list(values["logits"].shape) for values in (targets, found)]
        raise DataError(f"the teacher's logits are {shapes[0]}, the student's {shapes[1]}; remove teacher-outputs")
    judged = labels != IGNORED if labels.ndim == 2 else None
    parts: dict[str, Tensor] = {}
    if settings.soft_weight < 1.0:
        parts["labels"] = (1.0 - settings.soft_weight) * cross_entropy(
            found["logits"], labels, settings.label_smoothing
        )
    if settings.soft_weight:
        parts["soft"] = settings.soft_weight * soft_target_loss(
            found["logits"], targets["logits"], settings.temperature, judged
        )
    count = len(plan.pairs)
    if settings.hidden_weight:
        terms = [
            hidden_loss(projection(found[f"hidden.{layer}"]), targets[f"hidden.{taught}"], judged)
            for layer, (projection, taught) in enumerate(zip(projections, plan.pairs, strict=True))
        ]
        parts["hidden"] = settings.hidden_weight / count * torch.stack(terms).sum()
    mask = None
    if config.causal:
        rows = inputs.shape[1] + int(config.cls_token)
        mask = torch.ones(rows, rows, dtype=torch.bool, device=inputs.device).tril()
    if settings.attention_weight:
        terms = [
            attention_loss(
                attention_scores(found[f"query.{layer}"], found[f"key.{layer}"], config, layer),
                attention_scores(targets[f"query.{taught}"], targets[f"key.{taught}"], plan.teacher, taught),
                settings.attention_loss, mask, judged,
            )
            for layer, taught in enumerate(plan.pairs)
        ]  # fmt: skip
        parts["attention"] = settings.attention_weight / count * torch.stack(terms).sum()
    if settings.relation_weight:
        terms = [
            relation_loss(
                found[f"{part}.{last}"], targets[f"{part}.{plan.relation_layer}"], plan.relation_heads, mask, judged
            )
            for part in PARTS
        ]
        parts["relations"] = settings.relation_weight / len(PARTS) * torch.stack(terms).sum()
    return parts


def _labels(
    student: Transformer, x: NDArray[Any], y: NDArray[np.int64] | None, settings: DistillSettings
) -> NDArray[np.int64]:
    """The labels, or zeros that nothing looks at. Raises DataError where labels are needed."""
    if y is not None:
        return y
    if settings.soft_weight < 1.0:
        raise DataError(f"no labels, and soft_weight = {settings.soft_weight:g}; give labels or set soft_weight = 1")
    rows = (x.shape[1] + int(student.config.cls_token),) if student.config.pooling == "none" else ()
    return np.zeros((len(x), *rows), dtype=np.int64)


def _with_sequences(
    source: Teacher, x: NDArray[Any], y: NDArray[np.int64], settings: DistillSettings
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Samples and labels, with what the teacher wrote behind them."""
    if not settings.sequence_samples:
        return x, y
    if not isinstance(source, TorchTeacher) or not isinstance(source.module, Transformer):
        raise ConfigError(f"teacher {source.name} cannot write sequences; set sequence_samples = 0")
    more, labels = sequence_targets(source.module, x, settings)
    return np.concatenate((x, more)), np.concatenate((y, labels))


def _initialise(source: Teacher, student: Transformer, settings: DistillSettings) -> dict[str, list[str]]:
    if not isinstance(source, TorchTeacher) or not isinstance(source.module, Transformer):
        raise ConfigError(f"teacher {source.name} has no layers to start from; set init_from_teacher = false")
    return init_from_teacher(student, source.module, settings.layer_map).to_dict()


def _guess(student: Transformer, settings: DistillSettings) -> float:
    """About the loss of a student that knows nothing: uniform logits, hidden states unrelated to the teacher's."""
    logits = math.log(student.config.classes)
    soft = settings.soft_weight * settings.temperature**2
    layers = 2.0 * settings.hidden_weight + math.log(max(2, student.config.tokens)) * settings.relation_weight
    if settings.attention_weight and settings.attention_loss == "mse":
        return math.inf  # scores have no scale
    layers += math.log(max(2, student.config.tokens)) * settings.attention_weight
    return (1.0 - settings.soft_weight + soft) * logits + layers


def _projections(student: Transformer, plan: _Plan, seed: int) -> nn.ModuleList:
    """A linear map from the student's width to the teacher's per pair of layers, from `seed` alone."""
    generator = torch.Generator().manual_seed(seed)
    projections = nn.ModuleList()
    for width in plan.widths:
        projection = nn.Linear(student.config.d_model, width, bias=False, device="meta")
        projection.to_empty(device="cpu")
        nn.init.xavier_uniform_(projection.weight, generator=generator)
        projections.append(projection)
    return projections
