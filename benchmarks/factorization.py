"""Parameters against accuracy of factorized digits models, into factorization.md: python benchmarks/factorization.py.

Takes about six minutes on one core. A folder may be named (default build/factorization): teachers and students that
are in it already, as seed<n>/teacher.safetensors and seed<n>/student.safetensors, are not trained again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.compress.distill import distill
from picoformer.compress.factorize import factorize
from picoformer.compress.settings import DistillSettings, FactorizeSettings
from picoformer.compress.train import evaluate
from picoformer.config import load_pipeline
from picoformer.datasets import augment_digits, load_dataset
from picoformer.files import atomic_write_text
from picoformer.models.checkpoint import load_checkpoint
from picoformer.stages import distill_model, make_dataset, train_model

HERE = Path(__file__).parent
SEEDS = (1, 2, 3)
KEEPS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
RANKS = (12, 8, 4)
METHODS = ("plain", "activation")
RECOVERY = DistillSettings(epochs=30, batch=128, learning_rate=3e-3)
PREFACE = """\
# Low-rank factorization of the digits student

Test accuracy in percent of the student of `examples/digits` (2 layers, d_model 32), its matrices cut by plain SVD and
by SVD in the norm of the inputs' second moment ("activation"). Mean of {seeds} seeds (data split, teacher and student
each) and, in brackets, lowest and highest; one image is 0.28. Recovery is {epochs} epochs of distillation from the
teacher, measured on the first seed alone. "Error" is the mean over the cut layers of ‖X(W − Ŵ)ᵀ‖ / ‖XWᵀ‖. Made by
`python benchmarks/factorization.py`.

"""


def prepare(folder: Path, seed: int) -> None:
    """Data, teacher and student of the example's recipe in `folder`, where they are missing."""
    file = load_pipeline(HERE.parent / "examples/digits/pipeline.toml").file.model_copy(update={"seed": seed})
    assert file.data is not None and file.teacher is not None and file.student is not None
    folder.mkdir(parents=True, exist_ok=True)
    data, teacher, student = folder / "data.npz", folder / "teacher.safetensors", folder / "student.safetensors"
    make_dataset(file.data.source, data, seed, file.data.test_fraction)
    if not teacher.is_file():
        train_model(data, file.teacher, file.teaching, teacher, file.data.augment)
    if not student.is_file():
        distill_model(teacher, data, file.student, file.distilling, student, file.data.augment)


def measure(folder: Path, seed: int, settings: FactorizeSettings, recovery: bool) -> dict[str, float]:
    """One factorized student: parameters, MACs, mean error of its cut layers, accuracy before and after recovery."""
    data = load_dataset(folder / "data.npz")
    model, _ = load_checkpoint(folder / "student.safetensors")
    smaller, report = factorize(model, data.x_train, settings)
    errors = [layer.relative_error for layer in report.layers if not layer.note]
    found = {
        "parameters": report.parameters_after,
        "macs": report.macs_after,
        "error": float(np.mean(errors)),
        "before": evaluate(smaller, data.x_test, data.y_test),
    }
    if recovery:
        teacher, _ = load_checkpoint(folder / "teacher.safetensors")
        chosen = DistillSettings(**{**vars(RECOVERY), "seed": seed})
        distill(teacher, smaller, data.x_train, data.y_train, chosen, augment_digits)
        found["after"] = evaluate(smaller, data.x_test, data.y_test)
    return found


def row(first: str, results: Sequence[Sequence[dict[str, float]]], keys: Sequence[str]) -> str:
    """A line of the table: results[method][seed], one cell for each key and method."""
    cells = [first]
    for key in keys:
        for seeds in results:
            values = np.array([found[key] for found in seeds if key in found])
            if key in ("parameters", "macs"):
                cells.append(f"{values.mean():,.0f}")
            elif key == "error":
                cells.append(f"{values.mean():.3f}")
            else:
                values = values * 100
                spread = f" ({values.min():.1f}–{values.max():.1f})" if len(values) > 1 else ""
                cells.append(f"{values.mean():.1f}{spread}")
    return f"| {' | '.join(cells)} |\n"


def table(first: str, keys: dict[str, str]) -> str:
    """The head of a table with one column for each key and method."""
    titles = [first, *(f"{title}, {method}" for title in keys.values() for method in METHODS)]
    return f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}\n"


def run(work: Path) -> str:
    """The whole page; says on standard error how far it is."""
    for seed in SEEDS:
        prepare(work / f"seed{seed}", seed)

    def all_seeds(recovery: bool, **keys: Any) -> list[list[dict[str, float]]]:
        results = [
            [
                measure(work / f"seed{s}", s, FactorizeSettings(**keys, method=m), recovery and s == SEEDS[0])
                for s in SEEDS
            ]
            for m in METHODS
        ]
        print(keys, results, file=sys.stderr, flush=True)
        return results

    whole = []
    for seed in SEEDS:
        data = load_dataset(work / f"seed{seed}" / "data.npz")
        model, _ = load_checkpoint(work / f"seed{seed}" / "student.safetensors")
        whole.append(evaluate(model, data.x_test, data.y_test) * 100)
    text = PREFACE.format(seeds=len(SEEDS), epochs=RECOVERY.epochs)
    text += f"The whole student has 26,346 parameters: {np.mean(whole):.1f} ({min(whole):.1f}–{max(whole):.1f}).\n\n"
    same = {"error": "error", "before": "accuracy"}
    text += "## The same rank in every layer, no recovery\n\n" + table("rank", {"parameters": "parameters", **same})
    for rank in RANKS:
        text += row(str(rank), all_seeds(False, rank=rank), ("parameters", *same))
    keys = {"parameters": "parameters", "before": "before recovery", "after": "after recovery"}
    text += "\n## Ranks chosen under a budget\n\n" + table("keep", keys)
    for keep in KEEPS:
        text += row(f"{keep:g}", all_seeds(True, keep=keep), tuple(keys))
    return text


if __name__ == "__main__":
    atomic_write_text(
        HERE / "factorization.md", run(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "build/factorization")
    )
