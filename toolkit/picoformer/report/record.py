"""The figures of a report: what `verify` said, plus every stage before it and the memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from picoformer.report.verification import ParityReport


@dataclass(frozen=True)
class StageFigures:
    """One form of the model on its way: accuracy in [0, 1] on the test split, parameters, bytes of its weights or
    file, bits per character of text, samples it was judged on. None: not measured, or without meaning there."""

    name: str
    accuracy: float | None = None
    parameters: int | None = None
    bytes: int | None = None
    bits_per_character: float | None = None
    samples: int | None = None


@dataclass(frozen=True)
class LiveBytes:
    """Bytes of the arena that hold living tensors while a step runs."""

    step: str
    bytes: int


@dataclass(frozen=True)
class LossCurve:
    """The loss of a training over its steps."""

    stage: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Sample:
    """A text that a target wrote behind a prompt. `as_float`: so many of its tokens are what the float model writes
    (`tokens`: all); `float_margin`: how far its two best logits lie apart where they part. None: was not asked."""

    prompt: str
    text: str
    tokens: int
    as_float: int | None = None
    float_margin: float | None = None


@dataclass(frozen=True)
class TextFigures:
    """A build of a language model: bits a character of held-back text of the float model and of its integers, and of
    the windows that its target got; instructions a token, bytes, and what it wrote."""

    name: str
    context: int
    parameters: int
    judged_tokens: int
    float_bits_per_character: float
    bits_per_character: float
    device_bits_per_character: float | None = None
    device_tokens: int = 0
    instructions_per_token: float | None = None
    ram: int | None = None
    flash: int | None = None
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True)
class Capacity:
    """What the plan could do at best (bytes), what the target has (bytes), and what decides the arena's size; None: not
    known."""

    arena_lower_bound: int | None = None
    ram_available: int | None = None
    flash_available: int | None = None
    arena_decided_by: str | None = None


@dataclass(frozen=True)
class Report:
    """Everything shown: `verification` is the object of `verify --json`, the rest is beside it in report.json."""

    verification: Mapping[str, Any]
    passed: bool
    failures: tuple[str, ...] = ()
    stages: tuple[StageFigures, ...] = ()
    timeline: tuple[LiveBytes, ...] = ()
    capacity: Capacity = Capacity()
    curves: tuple[LossCurve, ...] = ()
    texts: tuple[TextFigures, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The object of report.json."""
        return {
            **self.verification,
            "passed": self.passed,
            "failures": list(self.failures),
            "stages": [asdict(stage) for stage in self.stages],
            "curves": [asdict(curve) for curve in self.curves],
            **({"texts": [asdict(build) for build in self.texts]} if self.texts else {}),
            "memory": {**asdict(self.capacity), "timeline": [asdict(entry) for entry in self.timeline]},
        }


def assemble(
    parity: ParityReport,
    stages: tuple[StageFigures, ...] = (),
    timeline: tuple[LiveBytes, ...] = (),
    capacity: Capacity = Capacity(),
) -> Report:
    """The report of a verification and what is known of the stages before it."""
    return Report(parity.to_json(), parity.passed, parity.failures, stages, timeline, capacity)
