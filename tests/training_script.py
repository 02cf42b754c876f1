"""A small distillation that tests run in processes of their own: to be killed, or two of them together."""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from picoformer.compress.distill import distill
from picoformer.compress.settings import DistillSettings
from picoformer.compress.training_state import RunFiles
from picoformer.datasets import Dataset, synthetic_signal
from picoformer.models.config import TransformerConfig
from picoformer.models.transformer import Transformer

CONFIG = TransformerConfig.uniform(layers=1, heads=2, d_ff=8, d_model=8, sequence=6, input_size=3, classes=3)
TEACHER = TransformerConfig.uniform(layers=2, heads=2, d_ff=16, d_model=16, sequence=6, input_size=3, classes=3)
SETTINGS = DistillSettings(
    epochs=12,
    batch=15,
    learning_rate=5e-3,
    hidden_weight=1.0,
    attention_weight=1.0,
    relation_weight=1.0,
    checkpoint_steps=1,
)


@cache
def signal_data() -> Dataset:
    return synthetic_signal(seed=0, n=91, seq=6, features=3, classes=3, noise=0.3)


def run_distillation(files: RunFiles, progress: Any = None) -> tuple[Transformer, Any]:
    torch.set_num_threads(1)
    data, student = signal_data(), Transformer(CONFIG)
    report = distill(Transformer(TEACHER, seed=1), student, data.x_train, data.y_train, SETTINGS, None, progress, files)
    return student, report


def main(mode: str, folder: Path, *more: str) -> None:
    files = RunFiles.beside(folder / "s")
    if mode == "killed":
        with open(more[0], "wb", buffering=0) as done:
            run_distillation(files, lambda *_: done.write(b"."))
        return
    rank = int(os.environ["RANK"])
    files = RunFiles(None, folder / f"curves{rank}.json", folder / "teacher-outputs")
    student, report = run_distillation(files)
    weights = np.concatenate([p.detach().numpy().ravel() for p in student.parameters()])
    record = {
        "teacher_outputs": report.teacher_outputs,
        "losses": report.losses,
        "weights": weights.tolist(),
        "wrote": (folder / f"curves{rank}.json").exists(),
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
