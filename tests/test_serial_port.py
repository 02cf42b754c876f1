"""verify and generate over a serial port: the same as in the emulator, and over a board that is reset in between."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest

import picoformer
from picoformer.build_folder import open_build
from picoformer.decoder.writing import write_text
from picoformer.emulator.session import emulator_for
from picoformer.errors import DeviceError
from picoformer.firmware import FirmwareBuild
from picoformer.flash.serial_line import SerialLine as BootloaderLine
from picoformer.generation import SamplerSettings, Stopping
from picoformer.link.transport import SerialTransport
from picoformer.models.config import TransformerConfig
from picoformer.models.export import export_onnx
from picoformer.models.transformer import Transformer
from picoformer.report import figures
from picoformer.reporting import report_of
from picoformer.targets import Target
from picoformer.verification import Verification, verify_files
from serial_line import SerialLine
from text_models import built

SHAPE = TransformerConfig.uniform(layers=1, heads=2, d_ff=16, d_model=12, sequence=6, input_size=5, classes=4)


@contextmanager
def on_a_port(firmware: FirmwareBuild, target: Target, place: Path) -> Iterator[SerialLine]:
    line = SerialLine(place / "port", lambda: emulator_for(target, count=False).start(firmware.elf, target))
    try:
        yield line
    finally:
        line.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, arm_tools: None) -> Path:
    """An encoder's build for a core without DWT, and inputs.npz."""
    place = tmp_path_factory.mktemp("port")
    export_onnx(Transformer(SHAPE, seed=3), place / "model.onnx")
    samples = np.random.default_rng(0).normal(size=(6, 6, 5)).astype(np.float32)
    name = onnx.load(place / "model.onnx").graph.input[0].name
    np.savez(place / "inputs.npz", **{name: samples})
    picoformer.build(
        place / "model.onnx", calibration=place / "inputs.npz", scheme="int8", target="mps2-an385-m0", out=place / "out"
    )
    return place / "out"


def verified(folder: Path, line: SerialLine | None) -> Verification:
    return verify_files(folder, folder.parent / "inputs.npz", None if line is None else str(line.path), least_sqnr_db=0)


def test_verify_says_the_same_of_a_port_and_of_the_emulator(folder: Path, tmp_path: Path) -> None:
    build = open_build(folder)
    emulated = verified(folder, None)
    with on_a_port(build.firmware(build.target), build.target, tmp_path) as line:
        found = verified(folder, line)
    assert found.report.passed
    assert [(link.equal, link.max_abs) for link in found.report.links] == [
        (link.equal, link.max_abs) for link in emulated.report.links
    ]
    assert found.report.ram == emulated.report.ram
    assert emulated.report.instructions_per_inference is not None
    assert found.report.instructions_per_inference is None
    assert found.to_json()["instructions_uncounted"] == "instructions are counted in an emulator only"


def test_what_a_board_counts_is_shown_as_cycles(folder: Path, tmp_path: Path) -> None:
    """SysTick stands in for the counter that an M0 lacks; QEMU drives it here, so the numbers mean nothing."""
    build = open_build(folder)
    assert not verified(folder, None).to_json()["cycles"]["is_counted"]
    with on_a_port(build.firmware(build.target), build.target, tmp_path) as line:
        record = verified(folder, line).to_json()
    cycles = record["cycles"]
    assert cycles["is_counted"]
    assert cycles["source"] == "the board's own counter"
    assert [step["name"] for step in cycles["per_operator"]] == [
        cost["name"] for cost in record["instructions"]["per_operator"]
    ]
    assert all(step["low"] == step["high"] >= 0 for step in cycles["per_operator"])
    assert cycles["low"] == cycles["high"] >= sum(step["low"] for step in cycles["per_operator"])
    shown = figures._steps(record, report_of(record, (), folder), 100)
    assert "Cycles: counted by the board's own counter" in shown.note
    assert f"{cycles['low']:,}" in str(shown)


def test_a_board_that_is_reset_in_between_is_verified_all_the_same(folder: Path, tmp_path: Path) -> None:
    build = open_build(folder)
    with on_a_port(build.firmware(build.target), build.target, tmp_path) as line:
        line.unplug_after = 400  # in the middle of the samples
        assert verified(folder, line).report.passed
        assert line.unplug_after is None


def test_a_board_that_does_not_come_back_is_told_of(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("picoformer.emulator.session._REOPEN_SECONDS", 0.3)
    build = open_build(folder)
    with on_a_port(build.firmware(build.target), build.target, tmp_path) as line:
        line.plug = lambda: line._is_over.set()  # type: ignore[method-assign]
        line.unplug_after = 400
        with pytest.raises(DeviceError, match=r"/port went away and did not come back within 0\.3 s"):
            verified(folder, line)


def test_a_text_over_a_port_is_that_of_the_emulator(place: Path, tmp_path: Path, arm_tools: None) -> None:
    build = built(place, "int8x16", "mps2-an386", 3)
    chosen, stopping = SamplerSettings(0.9, 20, 0.9, seed=4), Stopping(6)
    emulated = write_text(build, [1, 40, 41, 42], chosen, stopping)
    target = build.build.target
    with on_a_port(build.build.firmware(target), target, tmp_path) as line:
        written = write_text(build, [1, 40, 41, 42], chosen, stopping, port=str(line.path))
    assert written.generated == emulated.generated
    assert written.cost.stack == emulated.cost.stack


@pytest.mark.parametrize(
    ("port", "said"),
    [
        ("", "--port '' cannot be opened (No such file or directory); `picoformer devices` lists what is connected"),
        ("/dev/not-there", "/dev/not-there cannot be opened (No such file or directory); `picoformer devices` lists"),
        ("/dev/null", "/dev/null cannot be opened (it is no serial port); `picoformer devices` lists"),
        ("socket://", "socket:// cannot be opened: it is no address; write socket://HOST:PORT"),
        ("socket://127.0.0.1:99999", "it is no address; write socket://HOST:PORT"),
        ("socket://127.0.0.1:1", "(Connection refused); check the address, and that something listens there"),
    ],
)
def test_a_port_that_cannot_be_opened_says_why_once_and_what_helps(port: str, said: str) -> None:
    for way in (SerialTransport, lambda url: BootloaderLine(url, 115200)):
        with pytest.raises(DeviceError) as caught:
            way(port)
        assert said in str(caught.value) and "Errno" not in str(caught.value)


def test_a_port_is_one_programs_at_a_time() -> None:
    controller, terminal = os.openpty()
    port = os.ttyname(terminal)
    first = SerialTransport(port)
    with pytest.raises(DeviceError, match=r"another program has it open\); close the program"):
        SerialTransport(port)
    with pytest.raises(DeviceError, match=r"another program has it open\); close the program"):
        BootloaderLine(port, 115200)
    first.close()
    SerialTransport(port).close()
    os.close(controller)
    os.close(terminal)
