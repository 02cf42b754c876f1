"""Convolutional networks trained on scikit-learn's handwritten digits in seconds, and exported as anybody exports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Samples = dict[str, np.ndarray]


class Stem(nn.Module):
    """A convolutional front end and a transformer block: Conv 3 × 3, Conv 3 × 3 of stride 2, each with
    BatchNormalization and ReLU; the 4 × 4 places are tokens."""

    def __init__(self, width: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        )  # fmt: skip
        self.positions = nn.Parameter(torch.zeros(1, 16, width))
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.rise, self.fall = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2) + self.positions
        batch, rows, width = x.shape
        shape = (batch, rows, self.heads, width // self.heads)
        parts = [part.reshape(shape).transpose(1, 2) for part in self.mixed(self.first(x)).chunk(3, -1)]
        mixed = functional.scaled_dot_product_attention(*parts).transpose(1, 2).reshape(batch, rows, width)
        x = x + self.out(mixed)
        x = x + self.fall(functional.gelu(self.rise(self.second(x))))
        return self.head(x.mean(1))


class Separable(nn.Module):
    """What keyword spotters are: a strided Conv, depthwise and pointwise ones with a residual, pools, ReLU6."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()

        def block() -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(width, width, 3, 1, 1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU6(),
                nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width),
            )  # fmt: skip

        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6())
        self.one, self.two = block(), block()
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = functional.max_pool2d(functional.relu6(x + self.one(x)), 2)
        x = functional.avg_pool2d(functional.relu6(self.two(x)), 2)
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Sequence(nn.Module):
    """A stack of one-dimensional convolutions over eight steps of eight numbers each, taps apart."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stack = nn.Sequential(
            nn.Conv1d(8, width, 3, padding=1), nn.BatchNorm1d(width), nn.Hardswish(),
            nn.Conv1d(width, width, 3, padding=2, dilation=2), nn.BatchNorm1d(width), nn.LeakyReLU(0.1),
            nn.MaxPool1d(2), nn.Flatten(), nn.Linear(4 * width, 10),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.stack(x.flatten(1, 2))
        return result


MODELS: dict[str, Callable[[], nn.Module]] = {"stem": Stem, "separable": Separable, "sequence": Sequence}


def digits() -> tuple[Samples, Samples]:
    """(training, test): x (samples, 1, 1, 8, 8) in 0..1 and labels, every fifth for the test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x, labels = (bunch.images / 16.0).astype(np.float32)[:, None, None], bunch.target.astype(np.int64)
    held = np.arange(len(x)) % 5 == 0
    return {"x": x[~held], "labels": labels[~held]}, {"x": x[held], "labels": labels[held]}


def trained(name: str, training: Samples, epochs: int = 25) -> nn.Module:
    """One of MODELS after so many epochs of AdamW, in evaluation mode; the same each time."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = MODELS[name]()
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    x, labels = torch.tensor(training["x"][:, 0]), torch.tensor(training["labels"])
    steps = epochs * -(-len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    torch.set_num_threads(threads)
    return model.eval()


def exported(model: nn.Module, path: Path) -> Path:
    """`model` as torch.onnx.export writes it, for one sample."""
    torch.onnx.export(
        model, (torch.zeros(1, 1, 8, 8),), str(path), dynamo=True, verbose=False, input_names=["x"], output_names=["y"]
    )
    return path
