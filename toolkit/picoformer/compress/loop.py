"""The loop under every training: AdamW over any loss, saved as it goes, stopped when it makes no sense to go on."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from picoformer.compress.fingerprint import add_weights
from picoformer.compress.processes import Processes
from picoformer.compress.samples import Samples
from picoformer.compress.settings import TrainSettings
from picoformer.compress.training_state import RunFiles, load_state, save_curves, save_state
from picoformer.errors import PicoformerError

Progress = Callable[[int, int, float], None]  # steps done, steps in all, loss of the last step
Loss = Callable[..., Tensor | Mapping[str, Tensor]]
"""Inputs, labels and, where samples have them, targets of a batch -> mean loss, or its parts by name."""
Judge = Callable[[NDArray[np.int64]], float]
"""Indices of held-out samples -> a number that should be small."""

HOPELESS = 3.0
"""A loss so many times that of a uniform guess, after warm-up, will not come back."""
PATIENT_STEPS = 20
"""Steps over which the loss is averaged before it is called hopeless, and gradients may overflow in a row."""
POINTS = 200
"""Points of a curve, about."""
IDLE_SETTINGS = ("device", "checkpoint_seconds", "checkpoint_steps", "extra")
"""Settings that a run may go on without: they decide where and when, not what."""


@dataclass(frozen=True)
class TrainReport:
    """What a run of the loop did. Held-out losses are those after each epoch; best_epoch counts from 1, 0 is none."""

    steps: int
    losses: tuple[float, ...]
    held_out: tuple[float, ...] = ()
    best_epoch: int = 0
    stopped_early: bool = False
    resumed_at: int = 0  # steps that an earlier run had done
    teacher_outputs: str = ""  # of a distillation: "computed" beforehand, "read" from disk, or "on the fly"
    initialised: dict[str, list[str]] | None = None  # parameters copied, cut and left where the teacher's were taken

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**dataclasses.asdict(self), "losses": list(self.losses), "held_out": list(self.held_out)}


@dataclass
class _Record:
    """All of the state that is no tensor; plain JSON types."""

    step: int = 0
    epoch: int = 0  # epochs done
    losses: list[float] = dataclasses.field(default_factory=list)
    held_out: list[float] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    epoch_sum: float = 0.0
    mean: float = 0.0  # running mean of the loss
    overflows: int = 0  # in a row
    points: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    parts: dict[str, float] = dataclasses.field(default_factory=dict)  # sums since the last point
    since: int = 0  # steps since the last point
    rng: dict[str, Any] = dataclasses.field(default_factory=dict)
    scaler: dict[str, Any] = dataclasses.field(default_factory=dict)
    finished: bool = False


def run_loop(
    model: nn.Module,
    samples: Samples,
    settings: TrainSettings,
    loss: Loss,
    extra: Iterable[nn.Module] = (),
    progress: Progress | None = None,
    files: RunFiles | None = None,
    guess: float = math.inf,
    judge: Judge | None = None,
    identity: str = "",
) -> TrainReport:
    """Train `model`, and the modules of `extra` along with it, in place; the model is left in eval mode.

    AdamW (Loshchilov and Hutter 2019) with warm-up and a cosine schedule. The same seeds give the same weights, and so
    does a run that was killed and started again with the same `files`. `guess` is the loss of a uniform guess, `judge`
    the held-out measure (by default the loss itself), `identity` whatever else the result depends on. Raises
    PicoformerError when the loss stops being a number or stays far above `guess`.
    """
    processes = Processes(settings.device)
    modules = (model, *extra)
    before = [next((p.device for p in module.parameters()), torch.device("cpu")) for module in modules]
    cuda = [processes.device] if processes.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), use_threads(settings.threads):
        torch.manual_seed(settings.seed)
        loop = _Loop(modules, samples, settings, loss, processes, files or RunFiles(), guess, judge, identity)
        try:
            return loop.run(progress if processes.is_first else None)
        finally:
            model.eval()
            for module, device in zip(modules, before, strict=True):
                module.to(device)


class _Loop:
    def __init__(
        self,
        modules: tuple[nn.Module, ...],
        samples: Samples,
        settings: TrainSettings,
        loss: Loss,
        processes: Processes,
        files: RunFiles,
        guess: float,
        judge: Judge | None,
        identity: str,
    ) -> None:
        self.model, self.modules, self.samples, self.settings = modules[0], modules, samples, settings
        self.loss, self.processes, self.files, self.guess = loss, processes, files, guess
        self.judge = judge or self._held_out_loss
        self.key = _key(modules, samples, settings, identity) if files.state is not None else ""
        for module in modules:
            module.to(processes.device)
        self.parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        groups = _groups(modules, settings.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
        device = processes.device.type
        self.scaler = torch.amp.GradScaler(device, enabled=settings.precision == "float16")
        self.train_set, self.held_out = _split(len(samples), settings)
        self.batches = math.ceil(len(self.train_set) / settings.batch)
        self.total = settings.epochs * self.batches
        self.warmup = round(settings.warmup * self.total)
        self.rng = np.random.default_rng(settings.seed)
        self.order = self.train_set
        self.best: dict[str, Tensor] = {}
        self.record = _Record()

    def run(self, progress: Progress | None) -> TrainReport:
        resumed = self._restore()
        record, settings = self.record, self.settings
        saved_at, saved_step = time.monotonic(), record.step
        self.model.train()
        while not record.finished:
            place = record.step % self.batches
            if place == 0:
                self.order = self.train_set[self.rng.permutation(len(self.train_set))]
            chosen = self.order[place * settings.batch : (place + 1) * settings.batch]
            number = self._step(chosen)
            if progress is not None:
                progress(record.step, self.total, number)
            if place == self.batches - 1:
                self._end_epoch()
            due = 0 < settings.checkpoint_seconds <= time.monotonic() - saved_at
            if due or 0 < settings.checkpoint_steps <= record.step - saved_step:
                self._save()
                saved_at, saved_step = time.monotonic(), record.step
        if self.best:
            self.model.load_state_dict(self.best)
        if record.step != resumed:
            self._save()
        for name, parameter in self.model.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise PicoformerError(f"training diverged at its last step in '{name}'; lower learning_rate")
        self.processes.wait()
        return TrainReport(
            record.step, tuple(record.losses), tuple(record.held_out), record.best_epoch,
            record.step < self.total, resumed,
        )  # fmt: skip

    def _step(self, chosen: NDArray[np.int64]) -> float:
        """One step on the samples `chosen`, this process on its share of them; the loss of the whole batch."""
        settings, record, processes = self.settings, self.record, self.processes
        rate = settings.learning_rate * schedule(record.step, self.total, self.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        share = processes.share(len(chosen))
        mine = chosen[share]
        part = 1.0
        if processes.count > 1:
            part = self.samples.weight(mine) / max(1.0, self.samples.weight(chosen))
            share = share if len(mine) else slice(0, 1)  # with nothing to do it does something that counts for nothing
        batch = _move(self.samples.take(chosen, record.epoch, self.rng, share), processes.device)
        self.optimizer.zero_grad(set_to_none=True)
        parts = self._parts(batch)
        self.scaler.scale(torch.stack(list(parts.values())).sum() * part).backward()  # type: ignore[no-untyped-call]
        processes.sum_gradients(self.parameters)
        self.scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, settings.gradient_clip))
        values = processes.sum(torch.stack([value.detach() * part for value in parts.values()])).tolist()
        number = math.fsum(values)
        self._check(number, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        record.step += 1
        record.epoch_sum += number * len(chosen)
        self._log(dict(zip(parts, values, strict=True)), rate)
        return number

    def _parts(self, batch: tuple[Any, ...]) -> dict[str, Tensor]:
        """The parts of the loss as float32 scalars."""
        kind = torch.float16 if self.settings.precision == "float16" else torch.bfloat16
        with torch.autocast(self.processes.device.type, kind, enabled=self.settings.precision != "float32"):
            value = self.loss(*batch)
        parts = value if isinstance(value, Mapping) else {"loss": value}
        return {name: part.float() if part.dtype in (torch.float16, torch.bfloat16) else part
                for name, part in parts.items()}  # fmt: skip

    def _check(self, number: float, norm: float) -> None:
        """Raise PicoformerError when the training has come apart."""
        record, settings = self.record, self.settings
        step = f"step {record.step + 1} of {self.total}"
        mend = f"lower learning_rate (now {settings.learning_rate:g}) or lengthen warmup"
        overflow = math.isfinite(number) and not math.isfinite(norm) and self.scaler.is_enabled()
        record.overflows = record.overflows + 1 if overflow else 0
        if overflow and record.overflows <= PATIENT_STEPS:
            return  # the scaler leaves this step out and scales less
        if not (math.isfinite(number) and math.isfinite(norm)):
            raise PicoformerError(f"training diverged at {step} (loss {number}); {mend}")
        weight = max(1.0 / PATIENT_STEPS, 1.0 / (record.step + 1))
        record.mean += weight * (number - record.mean)
        if record.step >= self.warmup + PATIENT_STEPS and record.mean > HOPELESS * self.guess:
            raise PicoformerError(
                f"training diverged at {step}: its loss has been {record.mean:.3g} on average, a uniform guess has "
                f"about {self.guess:.3g}; {mend}"
            )

    def _log(self, parts: dict[str, float], rate: float) -> None:
        record = self.record
        for name, value in parts.items():
            record.parts[name] = record.parts.get(name, 0.0) + value
        record.since += 1
        if record.since >= max(1, self.total // POINTS) or record.step == self.total:
            means = {name: value / record.since for name, value in record.parts.items()}
            point: dict[str, Any] = {"step": record.step, "loss": math.fsum(means.values()), "learning_rate": rate}
            record.points.append(point | ({"parts": means} if len(means) > 1 else {}))
            record.parts, record.since = {}, 0

    def _end_epoch(self) -> None:
        record = self.record
        record.losses.append(record.epoch_sum / len(self.train_set))
        record.epoch_sum = 0.0
        record.epoch += 1
        if len(self.held_out):
            self.model.eval()
            with torch.no_grad():
                found = self.processes.from_first(self.judge(self.held_out))
            self.model.train()
            record.held_out.append(found)
            if not record.best_epoch or found < record.held_out[record.best_epoch - 1]:
                record.best_epoch = record.epoch
                self.best = copy.deepcopy(self.model.state_dict())
        patience = self.settings.patience
        tired = 0 < patience <= record.epoch - record.best_epoch
        record.finished = record.epoch == self.settings.epochs or tired

    def _held_out_loss(self, chosen: NDArray[np.int64]) -> float:
        """The loss itself, without augmentation."""
        total = weight = 0.0
        for start in range(0, len(chosen), self.settings.batch):
            part = chosen[start : start + self.settings.batch]
            parts = self._parts(_move(self.samples.take(part, 0, None), self.processes.device))
            share = self.samples.weight(part)
            total += share * float(torch.stack(list(parts.values())).sum())
            weight += share
        return total / max(1.0, weight)

    def _save(self) -> None:
        if not self.processes.is_first:
            return
        record = self.record
        if self.files.curves is not None:
            curve = {"steps": self.total, "batches": self.batches, "points": record.points}
            save_curves(self.files.curves, {**curve, "losses": record.losses, "held_out": record.held_out})
        if self.files.state is None:
            return
        record.rng, record.scaler = dict(self.rng.bit_generator.state), self.scaler.state_dict()
        tensors = {"order": torch.from_numpy(self.order), "rng.cpu": torch.get_rng_state()}
        if self.processes.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.processes.device)
        for index, module in enumerate(self.modules):
            tensors |= {f"module.{index}.{name}": value for name, value in module.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
        save_state(self.files.state, self.key, tensors, dataclasses.asdict(record))

    def _restore(self) -> int:
        """Go back to where an earlier run was; the steps it had done."""
        found = load_state(self.files, self.key)
        step = -1.0 if found is None else float(found[1]["step"])
        steps = self.processes.sum(torch.tensor([step], dtype=torch.float64, device=self.processes.device))
        if self.processes.from_first(step) * self.processes.count != float(steps):
            raise PicoformerError(f"{self.files.state}: not seen by all processes; give every machine the same folder")
        if found is None:
            return 0
        try:
            self._take_up(*found)
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise PicoformerError(
                f"{self.files.state}: is broken ({type(error).__name__}); delete it to train anew"
            ) from error
        self.files.notify(f"{self.files.state}: goes on after step {self.record.step} of {self.total}")
        return self.record.step

    def _take_up(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Be as the run was that saved this state; raises whatever a state that is none leads to."""
        self.record = _Record(**plain)
        self.rng.bit_generator.state = self.record.rng
        self.order = tensors["order"].numpy()
        torch.set_rng_state(tensors["rng.cpu"])
        if self.processes.device.type == "cuda" and "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.processes.device)
        for index, module in enumerate(self.modules):
            module.load_state_dict(_under(tensors, f"module.{index}."))
        self.best = _under(tensors, "best.")
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _under(tensors, "optimizer.").items():
            index_text, _, key = name.partition(".")
            state.setdefault(int(index_text), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        if self.record.scaler:
            self.scaler.load_state_dict(self.record.scaler)
        if len(self.order) != len(self.train_set) or set(self.order.tolist()) != set(self.train_set.tolist()):
            raise ValueError("order")


def schedule(step: int, total: int, warmup: int) -> float:
    """The rate at a step as a fraction of its peak: linear up, then half a cosine down to zero."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


@contextlib.contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _split(count: int, settings: TrainSettings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to train on and to hold out; both ascending."""
    held = min(count - 1, round(count * settings.holdout))
    order = np.random.default_rng([settings.seed, 2]).permutation(count) if held else np.arange(count)
    return np.sort(order[held:]), np.sort(order[:held])


def _key(modules: tuple[nn.Module, ...], samples: Samples, settings: TrainSettings, identity: str) -> str:
    """The SHA-256 of all that the result of a training depends on, the weights it starts from included."""
    kept = {key: value for key, value in dataclasses.asdict(settings).items() if key not in IDLE_SETTINGS}
    digest = hashlib.sha256(json.dumps([type(settings).__name__, kept, identity]).encode())
    for module in modules:
        add_weights(digest, module)
    digest.update(samples.digest().encode())
    return digest.hexdigest()


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _move(part, device) for key, part in value.items()}
    return tuple(_move(part, device) for part in value)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            matrix = parameter.ndim >= 2 and not name.startswith(
                ("embedding.token.", "embedding.position", "embedding.cls")
            )
            (decayed if matrix else free).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
