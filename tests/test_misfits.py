"""Teachers and checkpoints with data of another shape, classes or tokens: refused by name, with the mend."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from picoformer.compress.distill import distill
from picoformer.compress.settings import DistillSettings, PruneSettings
from picoformer.datasets import Dataset, save_dataset
from picoformer.errors import DataError
from picoformer.models.checkpoint import save_checkpoint
from picoformer.models.config import TransformerConfig
from picoformer.models.export import export_onnx
from picoformer.models.transformer import Transformer
from picoformer.stages import prune_model, take_teacher

torch.set_num_threads(1)

TEXT = TransformerConfig.uniform(
    layers=2, heads=4, d_ff=16, d_model=16, sequence=8, vocab_size=7, classes=7, causal=True, pooling="none"
)
SETTINGS = DistillSettings(epochs=1, batch=32)


def test_what_a_teachers_file_does_not_fit_is_said_with_its_name(tmp_path: Path) -> None:
    """Windows of another length, other classes, other tokens: what the data has, what the teacher has, and the mend."""
    rows = (np.arange(9) + np.arange(40)[:, None]) % 7
    x, y = rows[:, :-1].copy(), rows[:, 1:].copy()
    path, exported = tmp_path / "taught.safetensors", tmp_path / "taught.onnx"
    model = Transformer(dataclasses.replace(TEXT, sequence=5))
    save_checkpoint(model, path)
    export_onnx(model, exported)
    with pytest.raises(
        DataError, match=r"taught\.safetensors takes at most 5 tokens a sample, .* has 8; .*--sequence 5`"
    ):
        distill(path, Transformer(TEXT), x, y, SETTINGS)
    with pytest.raises(DataError, match=r"taught\.onnx: takes .*\[1, 5\], the data has .*\[1, 8\]; .*--sequence 5`"):
        distill(exported, Transformer(TEXT), x, y, SETTINGS)
    brief = Transformer(dataclasses.replace(TEXT, sequence=4))
    with pytest.raises(DataError, match=r"taught\.safetensors has 5 rows, data and student have 4; .* --sequence 5`"):
        distill(path, brief, x[:, :4].copy(), y[:, :4].copy(), dataclasses.replace(SETTINGS, hidden_weight=1.0))
    distill(path, brief, x[:, :4].copy(), y[:, :4].copy(), dataclasses.replace(SETTINGS, epochs=1))
    labelled = dataclasses.replace(TEXT, causal=False, pooling="mean", classes=4)
    save_checkpoint(Transformer(labelled), path)
    student = Transformer(dataclasses.replace(labelled, classes=3))
    with pytest.raises(DataError, match=r"taught\.safetensors has 4 classes, data and student have 3; .* this data"):
        distill(path, student, x, y[:, 0] % 3, SETTINGS)

    numbers = Dataset(x[..., None].astype(np.float32), y[:, 0], x[..., None].astype(np.float32), y[:, 0], "numbers", 7)
    more = Dataset(x + 3, y[:, 0], x + 3, y[:, 0], "more", 7)
    for data, message in ((numbers, "takes tokens, the data holds numbers"), (more, "takes tokens 0 to 6, .* 3 to 9")):
        save_dataset(data, tmp_path / "data.npz")
        for stage in (
            lambda out: take_teacher(path, tmp_path / "data.npz", out),
            lambda out: prune_model(path, tmp_path / "data.npz", PruneSettings(samples=8), out),
        ):
            with pytest.raises(DataError, match=rf"taught\.safetensors {message}"):
                stage(tmp_path / "out.safetensors")
