"""The models that are measured: the reference encoder, trained, and three shapes with random weights."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from picoformer.models.config import TransformerConfig, reference_encoder_config

REFERENCE, RELU = "reference encoder", "reference encoder, relu"
SHAPES: dict[str, TransformerConfig] = {
    REFERENCE: reference_encoder_config("gelu"),
    "keyword spotter": TransformerConfig.uniform(
        layers=2, heads=2, d_ff=64, d_model=32, sequence=49, input_size=10, classes=12
    ),
    "digits student": TransformerConfig.uniform(
        layers=2, heads=4, d_ff=128, d_model=32, sequence=8, input_size=8, classes=10
    ),
    "wide encoder": TransformerConfig.uniform(
        layers=4, heads=4, d_ff=512, d_model=128, sequence=32, input_size=16, classes=8
    ),
    RELU: reference_encoder_config("relu"),
}
TRAINED = (REFERENCE, RELU)
"""Of these the quality is measured; figures of the kernels hardly depend on the weights."""
DESCRIPTIONS = {
    REFERENCE: "sequence 64 × 16 inputs, d 64, 4 heads, FFN 256, 2 layers, 6 classes; trained on a synthetic signal",
    "keyword spotter": "49 × 10 MFCC, d 32, 2 heads, FFN 64, 2 layers, 12 classes",
    "digits student": "8 × 8 pixels, d 32, 4 heads, FFN 128, 2 layers, 10 classes",
    "wide encoder": "sequence 32 × 16 inputs, d 128, 4 heads, FFN 512, 4 layers, 8 classes",
}
CALIBRATION_SAMPLES, TEST_SAMPLES = 200, 64


@dataclass(frozen=True)
class Files:
    """A model as ONNX, and samples (samples, sequence, inputs) for calibration and for the run."""

    onnx: Path
    calibration: np.ndarray
    test: np.ndarray


def prepare(name: str, folder: Path) -> Files:
    """Make a model from its seed, trained where its quality is measured."""
    import torch

    from picoformer.models.export import export_onnx
    from picoformer.models.transformer import Transformer

    torch.set_num_threads(1)
    config, path = SHAPES[name], folder / f"{name}.onnx"
    model = Transformer(config, seed=0)
    if name in TRAINED:
        calibration, test = _train(model, name)
    else:
        chance = np.random.default_rng(0)
        shape = (config.sequence, config.input_size)
        calibration = chance.standard_normal((16, *shape)).astype(np.float32)
        test = chance.standard_normal((1, *shape)).astype(np.float32)
    export_onnx(model, path)
    return Files(path, calibration, test)


def _train(model: object, name: str) -> tuple[np.ndarray, np.ndarray]:
    from picoformer.compress.settings import TrainSettings
    from picoformer.compress.train import evaluate, train
    from picoformer.datasets import synthetic_signal

    data = synthetic_signal(0)
    train(model, data.x_train, data.y_train, TrainSettings(epochs=8, label_smoothing=0.1))  # type: ignore[arg-type]
    print(f"{name}: trained, accuracy {evaluate(model, data.x_test, data.y_test):.3f}", file=sys.stderr)  # type: ignore[arg-type]
    return data.x_train[:CALIBRATION_SAMPLES], data.x_test[:TEST_SAMPLES]
