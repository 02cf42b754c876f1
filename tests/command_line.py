"""Running picoformer's commands in tests, and the small model, samples and build folders that they work on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner

from onnx_models import EncoderOptions, exported
from picoformer.cli import main

SAMPLES = 6
SHAPE = (6, 5)
"""Of one sample of the small model's input x."""
CLASSES = 3


@dataclass(frozen=True)
class Answer:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def record(self) -> Any:
        """Standard output as the one JSON value that it must be."""
        return json.loads(self.out)


def picoformer(*words: str | Path) -> Answer:
    """Run a command in this process."""
    result = CliRunner().invoke(main, [str(word) for word in words], prog_name="picoformer")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)


def succeeds(*words: str | Path) -> Answer:
    """Run a command that must succeed and say nothing on standard error."""
    answer = picoformer(*words)
    assert answer.code == 0, answer.err
    assert answer.err == ""
    return answer


def refuses(words: Sequence[str | Path], *said: str) -> str:
    """Run a command that must fail with one line on standard error that says all of `said`; returns the line."""
    answer = picoformer(*words)
    lines = answer.err.splitlines()
    assert answer.code == 1, answer
    assert len(lines) == 1 and lines[0].startswith("picoformer: "), answer.err
    assert "fault of this program" not in lines[0], lines[0]
    for text in said:
        assert text in lines[0], f"{text!r} is not in {lines[0]!r}"
    return lines[0]


def samples(count: int = SAMPLES, seed: int = 0) -> np.ndarray:
    """Inputs of the small model, float32 (count, *SHAPE)."""
    return np.random.default_rng(seed).normal(size=(count, *SHAPE)).astype(np.float32)


@dataclass(frozen=True)
class Workshop:
    """Files that commands take."""

    folder: Path

    @property
    def model(self) -> Path:
        """A one-layer encoder, input x (1, *SHAPE), output y (1, CLASSES)."""
        return self.folder / "model.onnx"

    @property
    def calibration(self) -> Path:
        """Samples of x."""
        return self.folder / "calibration.npz"

    @property
    def inputs(self) -> Path:
        """Other samples of x, with labels."""
        return self.folder / "inputs.npz"

    def build_words(self, out: Path, target: str | Path = "host", *more: str | Path) -> list[str | Path]:
        """The command that builds the model."""
        return [
            "build", self.model, "--calibration", self.calibration, "--target", target, "-o", out, *more
        ]  # fmt: skip

    def build(self, target: str, *more: str) -> Path:
        """A build folder made once; copy it before changing it."""
        out = self.folder / "-".join(("build", target, *(word.strip("-") for word in more)))
        if not out.is_dir():
            succeeds(*self.build_words(out, target, *more))
        return out

    def own_build(self, place: Path, target: str = "host") -> Path:
        """A copy of the build folder to do harm to."""
        return Path(shutil.copytree(self.build(target), place / "build"))


@cache
def open_workshop(folder: Path) -> Workshop:
    """Write the files once."""
    shop = Workshop(folder)
    shutil.copyfile(exported(EncoderOptions(), 20), shop.model)
    np.savez(shop.calibration, x=samples(12, 1))
    np.savez(shop.inputs, x=samples(), labels=np.arange(SAMPLES) % CLASSES)
    return shop
