"""`pi bench`: how long a run takes with one thread and with more, tokens a second, memory, and how warm it got."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from picoformer.errors import ModelError
from picoformer.generation.loop import generate
from picoformer.generation.settings import Stopping
from picoformer.raspberry_pi.array_files import read_arrays
from picoformer.raspberry_pi.board import peak_memory, read_board, read_temperature
from picoformer.raspberry_pi.bundle import Bundle
from picoformer.raspberry_pi.decoding import StepSession
from picoformer.raspberry_pi.onnx_session import Array
from picoformer.raspberry_pi.runner import Runner, open_runner

PERCENTILES = (50, 90, 99)
MOST_PROMPT = 64


@dataclass(frozen=True)
class BenchSettings:
    """How often, after how many runs that do not count, with which numbers of threads; tokens of a language model."""

    runs: int = 50
    warm_up: int = 5
    threads: tuple[int, ...] = ()
    """() for 1, 2, 4 … up to the cores that there are."""
    tokens: int = 64


@dataclass(frozen=True)
class Measured:
    """With so many threads. Seconds; milliseconds of a run, or of a token that is written."""

    threads: int
    load_seconds: float
    first_milliseconds: float
    runs: int
    milliseconds: dict[str, float]
    per_second: float
    prompt_tokens: int | None = None
    prompt_tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    temperature_celsius: float | None = None


def thread_counts(cores: int) -> tuple[int, ...]:
    """1, 2, 4 … and all of them."""
    powers = [1 << power for power in range(10) if 1 << power <= cores]
    return tuple(sorted({*powers, cores}))


def bench(bundle: Bundle, settings: BenchSettings, told: Callable[[int], None] | None = None) -> dict[str, Any]:
    """The record of `pi bench --json`; what this machine does not say is None. `told` hears each number of threads.

    The model runs on the first sample that it was packed with; a language model reads that text over and over and
    writes on, greedily.
    """
    import onnxruntime

    before = read_board()
    measured = []
    for count in settings.threads or thread_counts(before.cores):
        if told is not None:
            told(count)
        measured.append(_measure(bundle, count, settings))
    after = read_board()
    best = min(measured, key=lambda one: one.milliseconds["p50"])
    return {
        "bundle": bundle.name,
        "task": bundle.task,
        "scheme": bundle.manifest.scheme,
        "model_bytes": bundle.manifest.files[bundle.manifest.model].bytes,
        "board": asdict(before),
        "onnxruntime": onnxruntime.__version__,
        "warm_up": settings.warm_up,
        "threads": [asdict(one) for one in measured],
        "best_threads": best.threads,
        "after": {"temperature_celsius": after.temperature_celsius, "clock_mhz": after.clock_mhz,
                  "throttled": None if after.throttled is None else list(after.throttled)},
    }  # fmt: skip


def _measure(bundle: Bundle, threads: int, settings: BenchSettings) -> Measured:
    """One number of threads; the model is gone again when it is over."""
    begun = time.perf_counter()
    runner = open_runner(bundle, threads)
    loaded = time.perf_counter() - begun
    measure = _text if bundle.manifest.generate is not None else _runs
    return measure(runner, threads, loaded, settings)


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Least, percentiles, most and mean, in milliseconds."""
    values: Array = np.asarray(seconds, np.float64) * 1e3
    found = {"min": float(values.min())}
    found |= {f"p{percent}": float(np.percentile(values, percent)) for percent in PERCENTILES}
    return {**found, "max": float(values.max()), "mean": float(values.mean())}


def _runs(runner: Runner, threads: int, loaded: float, settings: BenchSettings) -> Measured:
    arrays = read_arrays(runner.bundle.folder / runner.bundle.manifest.parity.file)
    prefix = "0/input/"
    inputs = runner.session.fit(
        {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
    )
    taken = [_time(lambda: runner.session.run(inputs)) for _ in range(1 + settings.warm_up + settings.runs)]
    counted = taken[1 + settings.warm_up :]
    return Measured(
        threads, loaded, taken[0] * 1e3, settings.runs, spread(counted), len(counted) / sum(counted),
        peak_memory_bytes=peak_memory(), temperature_celsius=read_temperature(),
    )  # fmt: skip


def _text(runner: Runner, threads: int, loaded: float, settings: BenchSettings) -> Measured:
    decoding = runner.bundle.manifest.generate
    assert decoding is not None
    arrays = read_arrays(runner.bundle.folder / runner.bundle.manifest.parity.file)
    text = arrays.get("prompt", np.zeros(0, np.int64)).reshape(-1).tolist()
    if not text or decoding.context < 4:
        raise ModelError(f"{runner.bundle.folder}: has no text to read in its parity sample; pack again")
    length = min(MOST_PROMPT, decoding.context // 2)
    prompt = [int(text[at % len(text)]) for at in range(length)]
    tokens = min(settings.tokens, decoding.context - length)
    for _ in range(settings.warm_up):
        StepSession(runner.session, decoding).decode(prompt[:1], 0)
    step = StepSession(runner.session, decoding)
    first = _time(lambda: step.decode(prompt[:1], 0))
    rest = _time(lambda: step.decode(prompt[1:], 1)) if length > 1 else 0.0
    marks: list[float] = []
    begun = time.perf_counter()
    generate(
        _Going(step, prompt), prompt, runner.request(greedy=True).sampler(), decoding.logits_scale, Stopping(tokens),
        emit=lambda _: marks.append(time.perf_counter()),
    )  # fmt: skip
    taken = np.diff([begun, *marks])[1:].tolist() or [marks[0] - begun]
    return Measured(
        threads, loaded, first * 1e3, len(taken), spread(taken), len(taken) / sum(taken), length,
        (length - 1) / rest if rest > 0 else None, peak_memory(), read_temperature(),
    )  # fmt: skip


class _Going:
    """A session that has read the prompt already but for its last token: what is timed is writing alone."""

    slots = 1

    def __init__(self, step: StepSession, prompt: Sequence[int]) -> None:
        self._step, self._read = step, len(prompt)
        self.context, self.vocabulary = step.context, step.vocabulary

    def decode(self, tokens: Sequence[int], position: int, slot: int = 0) -> Array:
        if position == 0:
            tokens, position = tokens[-1:], self._read - 1
        return self._step.decode(tokens, position, slot)

    def copy_state(self, source: int, target: int) -> None:
        self._step.copy_state(source, target)


def _time(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun
