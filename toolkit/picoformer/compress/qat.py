"""Quantization-aware training: the integers of a quantized graph learn to say what the float graph says.

The float graph is the teacher, so samples without labels are enough; labels may join in. Rounding is passed straight
through (Jacob et al. 2018). A weight that the loss pushes to and fro over a rounding boundary never comes to rest and
leaves its last, arbitrary side behind; so weights are drawn to the integer they stand for, a little more with every
step (oscillation dampening, Nagel et al. 2022, here decoupled from the loss as AdamW's decay is).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from picoformer.compress.distill import soft_target_loss
from picoformer.compress.graph_module import GraphModule
from picoformer.compress.settings import QatSettings
from picoformer.compress.train import Progress, cross_entropy, fit, schedule, use_threads
from picoformer.errors import DataError
from picoformer.ir import Graph
from picoformer.metrics import IGNORED
from picoformer.ops import Add, Softmax

Array = np.ndarray[Any, Any]
Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class QatReport:
    """What training did. `loss` is that of the training samples, `sqnr_db` how near the outputs are to the float
    model's on them, `changed` the share of the trained integers that are others now. Where training found nothing
    better, `improved` is false and the graph is the one given."""

    steps: int
    losses: tuple[float, ...]
    loss_before: float
    loss_after: float
    sqnr_db_before: float
    sqnr_db_after: float
    changed: float
    improved: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**dataclasses.asdict(self), "losses": list(self.losses)}


def train_quantized(
    graph: Graph,
    typed: Graph,
    samples: Mapping[str, Array],
    settings: QatSettings | None = None,
    labels: Array | None = None,
    progress: Progress | None = None,
) -> tuple[Graph, QatReport]:
    """`typed`, the quantized form of `graph`, with integers trained on its own grids: what was trained is what runs.

    `samples`: input name → (n, *shape). `labels`: (n,), or (n, rows) for a label per row, IGNORED where there is none;
    they count when settings.soft_weight is below 1. All grids stay. Raises DataError for data that does not fit,
    UnsupportedError naming a node that cannot be trained, PicoformerError when the loss stops being a number.
    """
    settings = settings or QatSettings()
    count = check_data(graph, samples, labels)
    teacher, module = GraphModule(graph), GraphModule(typed)
    teacher.requires_grad_(False)
    objective = _Objective(graph, teacher, module, samples, settings)
    y = np.zeros(count, np.int64) if labels is None else np.asarray(labels, np.int64)
    total = settings.epochs * math.ceil(count / settings.batch)
    warmup = round(settings.warmup * total)
    steps_done = 0

    def loss(chosen: Tensor, wanted: Tensor) -> Tensor:
        nonlocal steps_done
        if module.training:
            rate = settings.learning_rate * schedule(min(steps_done, total), total, warmup)
            module.settle(settings.settle * rate * steps_done / total)
            steps_done += 1
        return objective(chosen, None if labels is None else wanted)

    with use_threads(settings.threads):
        before = objective.measure(count, labels)
    report = fit(module, np.arange(count), y, settings, loss, progress=progress)
    with use_threads(settings.threads):
        after = objective.measure(count, labels)
    trained = module.trained_graph()
    improved = after[0] < before[0]
    figures = QatReport(report.steps, report.losses, *_pairs(before, after), _changed(typed, trained), improved)
    return trained if improved else typed, figures


def check_data(graph: Graph, samples: Mapping[str, Array], labels: Array | None) -> int:
    """How many samples there are; raises DataError unless they and the labels fit the graph."""
    for name in graph.inputs:
        if name not in samples:
            raise DataError(f"input '{name}' has no samples; given: {', '.join(samples) or 'none'}")
        if samples[name].shape[1:] != graph.types[name].shape:
            found, wanted = list(samples[name].shape), list(graph.types[name].shape)
            raise DataError(f"input '{name}' has shape {found}, the model wants (samples, *{wanted})")
    counts = {len(samples[name]) for name in graph.inputs}
    if counts == {0} or len(counts) != 1:
        raise DataError(f"{' and '.join(map(str, sorted(counts)))} samples; give as many of every input, at least 1")
    count = counts.pop()
    if labels is None:
        return count
    outputs = graph.ports[1]
    if len(outputs) != 1:
        raise DataError(f"labels for {len(outputs)} outputs; only a model with one output trains on labels")
    out = graph.types[outputs[0]]
    rows, classes = (out.rows, out.width) if labels.ndim == 2 else (1, out.elements)
    if labels.shape not in ((count,), (count, rows)):
        raise DataError(f"labels are {list(labels.shape)}; give [{count}], or [{count}, {out.rows}]: one for each row")
    judged = labels[labels != IGNORED]
    if not len(judged):
        raise DataError(f"every label is {IGNORED}, which means: not judged; give labels")
    if judged.min() < 0 or judged.max() >= classes:
        raise DataError(f"labels run from {judged.min()} to {judged.max()}, but the model has {classes} classes")
    return count


class _Objective:
    """How far the quantized model is from the float one, and from the labels, on samples given by their indices."""

    def __init__(
        self,
        graph: Graph,
        teacher: GraphModule,
        module: GraphModule,
        samples: Mapping[str, Array],
        settings: QatSettings,
    ) -> None:
        self.teacher, self.module, self.settings = teacher, module, settings
        self.inputs = {name: torch.from_numpy(np.ascontiguousarray(samples[name])) for name in graph.inputs}
        # What a softmax at the very end is taken of is compared in its place: there the gradient is.
        last = [graph.producers.get(name) for name in graph.ports[1]]
        self.outputs = tuple(
            node.inputs[0] if node is not None and isinstance(node.op, Softmax) else name
            for node, name in zip(last, graph.ports[1], strict=True)
        )
        sums = tuple(node.output for node in graph.nodes if isinstance(node.op, Add))
        self.hidden = sums if settings.hidden_weight else ()

    def values(self, chosen: Tensor) -> tuple[Values, Values]:
        """What the quantized and the float model say to some samples, by value."""
        device = next(self.module.parameters()).device
        inputs = {name: value[chosen.cpu()].to(device) for name, value in self.inputs.items()}
        self.teacher.to(device)
        wanted = (*self.outputs, *self.hidden)
        with torch.no_grad():
            target = self.teacher(inputs, wanted)
        return self.module(inputs, wanted), target

    def __call__(self, chosen: Tensor, labels: Tensor | None) -> Tensor:
        """The loss of a batch: soft targets and labels, errors of outputs and of residual sums. Of outputs with a label
        for each row only those rows count that are judged."""
        found, target = self.values(chosen)
        return self.loss(found, target, labels)

    def loss(self, found: Values, target: Values, labels: Tensor | None) -> Tensor:
        """The same of values that are there already."""
        settings = self.settings
        soft = 1.0 if labels is None else settings.soft_weight
        value = torch.zeros((), device=found[self.outputs[0]].device)
        judged = None if labels is None or labels.ndim < 2 else (labels != IGNORED).flatten().to(value.device)
        for name in self.outputs:
            rows, goal = (values[name].reshape(-1, values[name].shape[-1]) for values in (found, target))
            if soft:
                value = value + soft * soft_target_loss(rows, goal, settings.temperature, judged)
            if judged is not None:  # what is not judged is nothing's error
                rows, goal = rows * judged[:, None], goal * judged[:, None]
            value = value + settings.match_weight * relative_error(rows, goal)
        if labels is not None and soft < 1.0:
            logits = found[self.outputs[0]]
            logits = logits.reshape(*labels.shape, -1)
            value = value + (1.0 - soft) * cross_entropy(logits, labels, settings.label_smoothing)
        for name in self.hidden:
            value = value + settings.hidden_weight / len(self.hidden) * relative_error(found[name], target[name])
        return value

    def measure(self, count: int, labels: Array | None) -> tuple[float, float]:
        """(mean loss, SQNR of the outputs in dB) over all samples."""
        total, energy, noise = 0.0, 0.0, 0.0
        with torch.no_grad():
            for chosen in _batches(count, self.settings.batch):
                found, target = self.values(chosen)
                wanted = None if labels is None else torch.from_numpy(np.asarray(labels, np.int64))[chosen]
                total += float(self.loss(found, target, wanted)) * len(chosen)
                for name in self.outputs:
                    energy += float(target[name].double().square().sum())
                    noise += float((found[name] - target[name]).double().square().sum())
        return total / count, 10.0 * math.log10(max(energy, 1e-30) / max(noise, 1e-30))


def relative_error(found: Tensor, target: Tensor) -> Tensor:
    """Mean square of the difference over that of the target: a number without a unit, whatever the value."""
    return (found - target).square().mean() / target.square().mean().clamp(min=1e-12)


def _batches(count: int, size: int) -> Iterator[Tensor]:
    for start in range(0, count, size):
        yield torch.arange(start, min(start + size, count))


def _pairs(before: tuple[float, float], after: tuple[float, float]) -> tuple[float, float, float, float]:
    return before[0], after[0], before[1], after[1]


def _changed(typed: Graph, trained: Graph) -> float:
    """Share of the integers of weights and tables that are not what they were."""
    names = [name for name, value in typed.constants.items() if value.ndim >= 2 and value.dtype.kind == "i"]
    same = sum(int((typed.constants[name] == trained.constants[name]).sum()) for name in names)
    size = sum(typed.constants[name].size for name in names)
    return 1.0 - same / size if size else 0.0
