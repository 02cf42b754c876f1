"""A trained model by way of the bootloader: the digits student onto emulated boards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bootloader_board import BootloaderBoard
from command_line import succeeds
from digits_student import trained
from picoformer.build_folder import read_target


@pytest.mark.slow
@pytest.mark.parametrize("name", ["microbit", "mps2-an385"])
def test_trained_digits(arm_tools: None, tmp_path: Path, name: str) -> None:
    student = trained()
    np.savez(tmp_path / "calibration.npz", **student.calibration)
    np.savez(tmp_path / "test.npz", **{key: value[:8] for key, value in student.test.items()})
    out = tmp_path / "out"
    succeeds(
        "build",
        student.onnx,
        "--calibration",
        tmp_path / "calibration.npz",
        "--target",
        name,
        "--bootloader",
        "-o",
        out,
    )
    with BootloaderBoard(read_target(out), out / name / "bootloader.elf", pty=True) as board:
        board.go()
        record = succeeds("flash", out, "--port", board.port, "--json").record
        assert record["started"] and record["written_bytes"] > 40_000
        words = ["verify", out, "--inputs", tmp_path / "test.npz", "--port", board.port, "--json"]
        assert succeeds(*words).record["passed"]
