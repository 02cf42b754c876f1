"""The file that recordings go into, one label after the other: windows as .npz, or readings as CSV."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from picoformer.errors import DataError
from picoformer.files import atomic_write_text, refuse_unwritable, save_arrays
from picoformer.link.capture import SensorDescription
from picoformer.recording import Recording
from picoformer.samples import ASIDE, CAPTURE, LABEL_NAMES, LABELS, load_samples

_VERSION = 1


class CaptureFile(Protocol):
    """A file that takes recordings."""

    path: Path

    def add(self, label: str, recording: Recording) -> tuple[int, int]:
        """Write the recording behind what is there, whole or not at all: (samples written, windows dropped). Without
        samples nothing is written."""

    def labels(self) -> dict[str, int]:
        """Label → samples, or readings, in the file."""


def open_capture(
    path: Path, sensor: SensorDescription, rate: Fraction, window: int, stride: int, input_name: str, *, append: bool,
    as_csv: bool,
) -> CaptureFile:  # fmt: skip
    """The file at `path`, new or to be added to; raises DataError when it is there and `append` is not said, or when
    what it holds does not go with this sensor, rate and window."""
    suffix = ".csv" if as_csv else ".npz"
    if path.suffix != suffix:
        raise DataError(f"{path}: does not end in {suffix}; give such a name{'' if as_csv else ', or --csv'}")
    if path.exists() and not append:
        raise DataError(f"{path}: is there already; --append adds to it, or give another name")
    refuse_unwritable(path)
    if as_csv:
        return _CsvFile.open(path, sensor, rate)
    if input_name in ASIDE:
        raise DataError(f"'{input_name}' is no name of a model's input; its own array has that name")
    about = {
        "version": _VERSION,
        "sensor": sensor.name,
        "type": sensor.dtype.name,
        "channels": [vars(channel) for channel in sensor.channels],
        "rate": [rate.numerator, rate.denominator],
        "paced": sensor.is_paced,
        "window": window,
        "stride": stride,
        "input": input_name,
    }
    return _NpzFile.open(path, about)


@dataclass
class _NpzFile:
    path: Path
    about: dict[str, Any]
    x: NDArray[np.float32] | None = None
    numbers: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    names: list[str] = field(default_factory=list)
    recordings: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, about: dict[str, Any]) -> _NpzFile:
        if not path.exists():
            return cls(path, about)
        arrays, name = load_samples(path), about["input"]
        try:
            found = json.loads(str(arrays[CAPTURE]))
            recordings = found.pop("recordings")
            names, numbers = arrays[LABEL_NAMES], arrays[LABELS]
            is_whole = isinstance(recordings, list) and names.ndim == 1 and names.dtype.kind == "U"
            is_whole &= numbers.ndim == 1 and numbers.dtype.kind in "iu"
        except (KeyError, ValueError, AttributeError):
            is_whole = False
        if not is_whole:
            raise DataError(f"{path}: holds no recordings of `capture`; give another name")
        for key in ("sensor", "type", "rate", "paced", "channels", "window", "stride", "input"):
            if found.get(key) != about[key]:
                was, is_ = _said(key, found.get(key)), _said(key, about[key])
                raise DataError(f"{path}: has {key} {was}, and this recording {is_}; give another name")
        x = arrays.get(name)
        if x is None or x.dtype != np.float32 or len(x) != len(numbers) or not len(x):
            raise DataError(f"{path}: its array '{name}' does not go with its labels; give another name")
        width = (len(about["channels"]),) if not about["window"] else (about["window"], len(about["channels"]))
        if x.shape[1:] != width or numbers.min() < 0 or numbers.max() >= len(names):
            raise DataError(f"{path}: is not as `capture` wrote it; give another name")
        return cls(path, about, x, numbers.astype(np.int64), list(map(str, names)), recordings)

    def add(self, label: str, recording: Recording) -> tuple[int, int]:
        if self.about["window"]:
            x, dropped = recording.windows(self.about["window"], self.about["stride"])
        else:
            x, dropped = recording.times()[1], 0
        if not len(x):
            return 0, dropped
        first = 0 if self.x is None else len(self.x)
        if label not in self.names:
            self.names.append(label)
        self.x = x if self.x is None else np.concatenate([self.x, x])
        self.numbers = np.concatenate([self.numbers, np.full(len(x), self.names.index(label), np.int64)])
        entry = {"label": label, "first": first, "samples": len(x), "readings": recording.readings,
                 "lost": recording.lost, "breaks": recording.breaks}  # fmt: skip
        self.recordings.append(entry)
        about = json.dumps({**self.about, "recordings": self.recordings})
        save_arrays(
            self.path,
            {
                self.about["input"]: self.x,
                LABELS: self.numbers,
                LABEL_NAMES: np.array(self.names),
                CAPTURE: np.array(about),
            },
        )
        return len(x), dropped

    def labels(self) -> dict[str, int]:
        return {name: int((self.numbers == index).sum()) for index, name in enumerate(self.names)}


@dataclass
class _CsvFile:
    path: Path
    rate: Fraction
    header: list[str]
    text: str = ""
    counts: Counter[str] = field(default_factory=Counter)

    @classmethod
    def open(cls, path: Path, sensor: SensorDescription, rate: Fraction) -> _CsvFile:
        channels = [f"{c.name} [{c.unit}]" if c.unit else c.name for c in sensor.channels]
        header = ["time [s]", *channels, "label"]
        if not path.exists():
            return cls(path, rate, header)
        try:
            text = path.read_text("utf-8")
            rows = list(csv.reader(io.StringIO(text)))
            times = [float(row[0]) for row in rows[1:]]
            is_finite = all(map(math.isfinite, times))
        except (ValueError, IndexError, csv.Error) as error:
            raise DataError(f"{path}: is no CSV of `capture` ({error}); give another name") from None
        if not rows or rows[0] != header or any(len(row) != len(header) for row in rows):
            found = ", ".join(rows[0])[:200] if rows else "nothing"
            raise DataError(
                f"{path}: has the columns {found}; this recording has {', '.join(header)}; give another name"
            )
        if not is_finite or any(abs(at * rate - round(at * rate)) > 1e-3 for at in times) or not _has_step(times, rate):
            raise DataError(f"{path}: its readings are not 1/{float(rate):g} s apart; give another name, or its --rate")
        return cls(path, rate, header, text, Counter(row[-1] for row in rows[1:]))

    def add(self, label: str, recording: Recording) -> tuple[int, int]:
        places, values = recording.times()
        if not len(places):
            return 0, 0
        stream = io.StringIO(newline="")
        writer = csv.writer(stream, lineterminator="\n")
        if not self.text:
            writer.writerow(self.header)
        for place, row in zip(places.tolist(), values, strict=True):
            writer.writerow([f"{float(place / self.rate):.9g}", *map(str, row), label])
        self.text += stream.getvalue()
        self.counts[label] += len(places)
        atomic_write_text(self.path, self.text)
        return len(places), 0

    def labels(self) -> dict[str, int]:
        return dict(self.counts)


def _has_step(times: list[float], rate: Fraction) -> bool:
    """Whether two readings stand one period apart, where there are two."""
    steps = [(after - before) * float(rate) for before, after in itertools.pairwise(times)]
    return not steps or any(abs(step - 1) < 1e-3 for step in steps)


def _said(key: str, value: Any) -> str:
    if key == "rate" and isinstance(value, list) and len(value) == 2 and all(isinstance(v, int) and v for v in value):
        return f"{value[0] / value[1]:g} Hz"
    if key == "channels" and isinstance(value, list) and all(isinstance(v, dict) for v in value):
        return ", ".join(f"{v.get('name')} [{v.get('unit')}] x {v.get('scale')}" for v in value)[:200]
    return str(value)[:200]
