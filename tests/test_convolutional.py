"""Trained convolutional networks from torch.onnx.export to a Cortex-M4, with what they cost and how good they are."""

from __future__ import annotations

from pathlib import Path

import pytest

import picoformer
from convolutional_models import MODELS, Samples, digits, exported, trained
from picoformer.verification import Verification

LEAST = {"stem": 0.97, "separable": 0.96, "sequence": 0.96}
"""Accuracy that each reaches in float, on digits it was not trained on."""
CHAINS = [
    ("stem", "int8"), ("stem", "int8x16"), ("stem", "float32"), ("separable", "int8"), ("separable", "int8x16"),
    ("sequence", "int8"),
]  # fmt: skip


@pytest.fixture(scope="module")
def data() -> tuple[Samples, Samples]:
    return digits()


@pytest.fixture(scope="module")
def models(data: tuple[Samples, Samples], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: exported(trained(name, data[0]), folder / f"{name}.onnx") for name in MODELS}


def figures(found: Verification) -> str:
    """A line to read with -s."""
    report = found.report
    assert report.instructions_per_inference is not None
    accuracy = ", ".join(f"{form} {share:.4f}" for form, share in found.accuracy.items())
    return (
        f"{report.model} {report.scheme}: {report.instructions_per_inference:,} instructions, RAM "
        f"{report.ram.total:,}, flash {report.flash.total:,}, {report.links[-1].sqnr_db:.1f} dB, accuracy {accuracy}"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scheme"), CHAINS)
def test_a_trained_network_runs_on_a_board_as_it_was_trained(
    name: str, scheme: str, models: dict[str, Path], data: tuple[Samples, Samples], tmp_path: Path, arm_tools: None
) -> None:
    training, test = data
    calibration = None if scheme == "float32" else {"x": training["x"][:300]}
    picoformer.build(models[name], calibration=calibration, scheme=scheme, target="mps2-an386", out=tmp_path / "out")
    found = picoformer.verify(tmp_path / "out", inputs=test, samples=len(test["x"]))
    assert found.report.passed, found.report.failures
    print(figures(found))
    if scheme != "float32":
        assert [link.equal for link in found.report.links if link.source in ("reference", "host")] == [True, True]
        assert (found.report.links[-1].sqnr_db or 0) > (25 if scheme == "int8" else 35)
    shares = found.accuracy
    first, last = next(iter(shares.values())), list(shares.values())[-1]
    assert first >= LEAST[name] and last >= first - 0.01
