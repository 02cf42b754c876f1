"""From a checkpoint and a data set to what a build takes: an ONNX file and samples."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.datasets import load_dataset
from picoformer.errors import DataError
from picoformer.files import save_arrays
from picoformer.samples import CHARACTERS, DATASET_INPUT, LABELS


def export_checkpoint(checkpoint: Path, out: Path, opset: int = 20) -> dict[str, Any]:
    """Export a checkpoint to ONNX (input 'x', output 'logits', batch 1)."""
    from picoformer.models.checkpoint import load_checkpoint
    from picoformer.models.export import export_onnx

    model, extra = load_checkpoint(checkpoint)
    export_onnx(model, out, opset=opset)
    return {"bytes": out.stat().st_size, **extra.get("figures", {})}


@contextlib.contextmanager
def onnx_file(model: Path) -> Iterator[Path]:
    """An ONNX file as it is; a checkpoint (.safetensors) exported to a temporary ONNX file of the same stem."""
    if model.suffix != ".safetensors":
        yield model
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{model.stem}.onnx"
        export_checkpoint(model, path)
        yield path


def write_samples(data_path: Path, calibration: Path, inputs: Path, count: int, seed: int = 0) -> None:
    """From a data set: `count` training samples for calibration, and the test part with its labels; input 'x'."""
    data = load_dataset(data_path)
    chosen = np.random.default_rng(seed).permutation(len(data.x_train))[:count]
    save_arrays(calibration, {DATASET_INPUT: data.x_train[np.sort(chosen)]})
    characters = {CHARACTERS: np.array(data.characters_per_label)} if data.characters_per_label else {}
    save_arrays(inputs, {DATASET_INPUT: data.x_test, LABELS: data.y_test, **characters})


def write_training_samples(data_path: Path, out: Path) -> None:
    """The training part of a data set as samples of input 'x', with its labels."""
    data = load_dataset(data_path)
    save_arrays(out, {DATASET_INPUT: data.x_train, LABELS: data.y_train})


def torch_outputs(checkpoint: Path, x: Any, outputs: tuple[str, ...]) -> dict[str, Any]:
    """What the torch model of a checkpoint says to `x` (samples, …), under the name of the one output."""
    import torch

    from picoformer.models.checkpoint import load_checkpoint

    if len(outputs) != 1:
        raise DataError(f"a checkpoint has one output, the model has {len(outputs)}")
    model, _ = load_checkpoint(checkpoint)
    model.eval()
    with torch.no_grad():
        result = model(torch.from_numpy(np.ascontiguousarray(x))).numpy()
    return {outputs[0]: result[:, None]}
