"""The digits student, trained for a moment: what tests of ONNX doors have for a real model. Made once a process."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from picoformer.compress.settings import TrainSettings
from picoformer.compress.train import evaluate, train
from picoformer.datasets import digits
from picoformer.models.config import TransformerConfig
from picoformer.models.export import export_onnx
from picoformer.models.transformer import Transformer

_FOLDER = tempfile.TemporaryDirectory()
SAMPLES = 40


@dataclass(frozen=True)
class Student:
    """Its float file, and samples as the file wants them: input name → (samples, 1, 8, 8)."""

    onnx: Path
    calibration: dict[str, np.ndarray]
    test: dict[str, np.ndarray]


@functools.cache
def trained() -> Student:
    data = digits(seed=0)
    config = TransformerConfig.uniform(layers=2, heads=4, d_ff=128, d_model=32, sequence=8, input_size=8, classes=10)
    model = Transformer(config, seed=0)
    train(model, data.x_train, data.y_train, TrainSettings(epochs=8))
    assert evaluate(model, data.x_test, data.y_test) > 0.85, "the student did not learn the digits"
    path = Path(_FOLDER.name) / "digits.onnx"
    export_onnx(model, path)
    return Student(path, {"x": data.x_train[:48, None]}, {"x": data.x_test[:SAMPLES, None]})
