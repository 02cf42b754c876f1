"""The small encoder's and the small language model's packages, written once for all tests of a file."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from command_line import Workshop, open_workshop, succeeds
from picoformer.build_folder import quantize_samples
from picoformer.ir import Graph
from picoformer.ops.fixedpoint import dequantize
from picoformer.reference import lower_graph, run_integer
from text_models import model_folder

Export = Callable[..., Path]
"""(form, more words) → the folder of a package."""
SAME = "the outputs are those of the reference\n"
WROTE = "the tokens are those of the reference\n"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The small encoder's files."""
    return open_workshop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def export(shop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Writes the small encoder's package "gesture", once each."""

    @cache
    def make(form: str, *more: str) -> Path:
        out = tmp_path_factory.mktemp("package") / "gesture"
        succeeds(*gesture(shop, form), *more, "-o", out)
        return out

    return make


def gesture(shop: Workshop, form: str) -> list[str | Path]:
    """The command that writes the package, without where to."""
    return ["export", shop.model, "--format", form, "--prefix", "gesture", "--calibration", shop.calibration,
            "--inputs", shop.inputs, "--scheme", "int8"]  # fmt: skip


@pytest.fixture(scope="module")
def tale(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Writes the small language model's package, once each."""

    @cache
    def make(form: str) -> Path:
        out = tmp_path_factory.mktemp("tale") / "tale"
        succeeds("export", model_folder(place), "--format", form, "--prefix", "tale", "-o", out)
        return out

    return make


@pytest.fixture(scope="module")
def typed(shop: Workshop) -> Graph:
    """The small encoder, quantized."""
    return quantize_samples(shop.model, shop.calibration, "int8")[1]


def expected_line(graph: Graph, sample: np.ndarray) -> str:
    """What an example has to print first, by the integer reference."""
    logits = run_integer(lower_graph(graph), {"x": sample.reshape(1, *graph.types["x"].shape)})["y"][0].reshape(-1)
    best = int(np.argmax(logits))
    quant = graph.types["y"].quant
    assert quant is not None
    score = dequantize(logits[best : best + 1], quant)[0]
    return f"prediction: class {best}, y {score:.3f}\n"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
