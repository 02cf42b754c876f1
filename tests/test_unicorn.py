"""Firmware in unicorn against the same ELF in QEMU: equal results, equal counts of instructions, equal fault texts."""

from __future__ import annotations

import random
import struct
import time
import zlib
from pathlib import Path

import pytest

import device_fixture
from conftest import TinyFirmware, require_tools
from picoformer.emulator.choice import UNICORN_CORES, choose_emulator
from picoformer.emulator.image import read_image
from picoformer.emulator.interface import Instructions
from picoformer.emulator.peripherals import CmsdkUart, CmsdkWatchdog
from picoformer.emulator.riscv import RiscV
from picoformer.emulator.session import open_device
from picoformer.errors import ConfigError, DeviceError, ToolError
from picoformer.firmware import build_firmware
from picoformer.link.device import Device, FaultError
from picoformer.link.messages import Stack
from picoformer.targets import Target, list_targets, load_target

BOARDS = [
    target.name
    for target in map(load_target, list_targets())
    if target.emulator is not None and target.emulator.kind == "qemu" and target.cpu in UNICORN_CORES
]
"""Every board that both emulators have."""


def run_samples(device: Device) -> None:
    """Three samples, every step of each as it must be."""
    for seed in range(3):
        rng = random.Random(seed)
        pixels, scale = rng.randbytes(2000), rng.randbytes(4)
        device.write_input(0, pixels)
        device.write_input(1, scale)
        steps = device_fixture.expected_steps(pixels, scale)
        result = device.run(crc=True, outputs=True)
        assert result.step_crcs == tuple(map(zlib.crc32, steps))
        assert result.outputs is not None and result.outputs[0] == steps[2]
        assert device.read_output(0) == steps[2]


@pytest.mark.parametrize("board", BOARDS)
def test_equal_to_qemu(
    board: str, tiny_firmware: TinyFirmware, pip_tools: None, request: pytest.FixtureRequest
) -> None:
    """Results, stack, and counts of each step, of a whole run and of a part; each fault's report, word for word."""
    require_tools(board, request)
    build, target = tiny_firmware(board)
    found: dict[str, list[tuple[Instructions | None, Stack] | str]] = {}
    for emulator in ("qemu", "unicorn"):
        seen = found.setdefault(emulator, [])
        with open_device(build, target, emulator=emulator) as session:
            assert session.emulator.lower().startswith(emulator)
            run_samples(session.device)
            seen.append((session.instructions, session.device.stack()))
            session.device.write_input(0, bytes(2000))
            session.device.write_input(1, bytes(4))
            session.device.run(until=1)
            seen.append((session.instructions, session.device.stack()))
        for kind in (2, 3, 5) if board == "microbit" else (1, 2, 3, 5):  # QEMU's microbit ignores a store to flash
            seen.append(fault(build, target, emulator, kind))
    if board == "microbit":  # and fetches from anywhere
        assert "call of a bad address (0xf0000000) from pf_test_bad_call" in str(found["unicorn"].pop(2))
        found["qemu"].pop(2)
    assert found["qemu"] == found["unicorn"]
    whole, part = (entry[0] for entry in found["unicorn"][:2])
    assert isinstance(whole, Instructions) and isinstance(part, Instructions)
    assert part.init == whole.init > 0 and part.per_step[1] == whole.per_step[1] and len(part.per_step) == 2


def fault(build: object, target: Target, emulator: str, kind: int) -> str:
    """What is said of a fault on purpose, and of the device afterwards."""
    with open_device(build, target, emulator=emulator) as session:  # type: ignore[arg-type]
        with pytest.raises(FaultError) as error:
            session.device.fault_test(kind)
        with pytest.raises(DeviceError, match=r"the device died: .* ended with exit code \d+") as gone:
            session.device.stack()
    return f"{error.value} {str(gone.value).rpartition('code')[2].partition(';')[0]}"


def test_a_hang_ends_with_the_watchdog(arm_tools: None, pip_tools: None, tiny_firmware: TinyFirmware) -> None:
    build, target = tiny_firmware("mps2-an386")
    start = time.monotonic()
    with (
        pytest.raises(FaultError, match=r"hang \(watchdog\) in pf_test_hang: a step took longer.* \[NMI, pc"),
        open_device(build, target, emulator="unicorn") as session,
    ):
        session.device.fault_test(4)
    assert 0.9 < time.monotonic() - start < 8


def test_a_hang_without_a_watchdog_ends_with_the_timeout(arm_tools: None, pip_tools: None, tmp_path: Path) -> None:
    plain = load_target("mps2-an386")
    target = plain.model_copy(update={"watchdog": plain.watchdog.model_copy(update={"kind": "none"})})
    model = device_fixture.write_model(tmp_path / "model")
    build = build_firmware(model, target, tmp_path / "out", fault_tests=True)
    with (
        pytest.raises(DeviceError, match="timeout: the device did not answer"),
        open_device(build, target, emulator="unicorn", run_seconds=0.5) as session,
    ):
        session.device.fault_test(4)


def test_counts_are_exact(arm_tools: None, pip_tools: None, tmp_path: Path) -> None:
    """Assembly of known length, as in QEMU: error 0, whatever the number of turns."""
    model = device_fixture.write_model(
        tmp_path / "model", extra_c=device_fixture.EXACT_C, device_c=device_fixture.EXACT_DEVICE_C
    )
    target = load_target("mps2-an386")
    build = build_firmware(model, target, tmp_path / "out")
    with open_device(build, target, emulator="unicorn") as session:
        for turns in (1, 2, 10, 100_000):
            session.device.write_input(0, struct.pack("<I", turns))
            session.device.run(crc=True)
            expected = 2 * turns + device_fixture.EXACT_FIXED_INSTRUCTIONS
            init = device_fixture.EXACT_INIT_INSTRUCTIONS
            assert session.instructions == Instructions(init + expected, init, (expected,))
    with open_device(build, target, emulator="unicorn", count=False) as session:
        assert session.instructions is None and session.uncounted == "counting was not asked for"


def test_firmware_that_waits_for_more_is_told_from_one_that_sends() -> None:
    waits: list[int] = []
    uart = CmsdkUart(lambda: waits.append(len(uart.sent)))
    for byte in b"two":
        assert uart.read(4) == 0
        uart.write(0, byte)
    assert not waits and not uart.is_awaited
    assert uart.read(4) == uart.read(4) == 0
    assert waits == [3] and uart.is_awaited
    uart.received += b"x"
    assert not uart.is_awaited and uart.read(4) == 2 and uart.read(0) == ord("x") and uart.taken == 1
    assert bytes(uart.sent) == b"two"


def test_a_watchdog_counts_while_the_core_runs() -> None:
    watchdog = CmsdkWatchdog(0, 100)
    watchdog.write(0, 250)
    assert not watchdog.ran(9)
    watchdog.write(8, 3)
    assert not watchdog.ran(2.4) and watchdog.ran(0.2) and not watchdog.ran(9)
    watchdog.write(8, 3)
    watchdog.write(8, 0)
    assert not watchdog.ran(9)


def test_what_is_chosen(pip_tools: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    board, helium = load_target("mps2-an386"), load_target("mps3-an547")
    assert choose_emulator(load_target("host"), "unicorn") == "host"
    assert choose_emulator(board) == "unicorn"
    for choice in ("auto", "unicorn"):
        with pytest.raises(ToolError, match=r"mps3-an547 \(cortex-m55\) runs in QEMU only.* install qemu-system-arm"):
            choose_emulator(helium, choice)
    with pytest.raises(ToolError, match="qemu-system-arm is not installed"):
        choose_emulator(board, "qemu")
    with pytest.raises(ConfigError, match="unknown emulator 'bochs'; use one of auto, qemu, unicorn"):
        choose_emulator(board, "bochs")
    (tmp_path / "qemu-system-arm").write_text("#!/bin/sh\n")
    (tmp_path / "qemu-system-arm").chmod(0o755)
    assert choose_emulator(board) == choose_emulator(helium) == "qemu"
    assert choose_emulator(board, "unicorn") == "unicorn"
    monkeypatch.setenv("PICOFORMER_EMULATOR", "unicorn")
    assert choose_emulator(board) == "unicorn"


@pytest.mark.parametrize(
    ("code", "address"),
    [
        (0xFEB52C23, 0x4FF8),  # sw a1, -8(a0)
        (0x00C52583, 0x500C),  # lw a1, 12(a0)
        (0xC56C, 0x504C),  # c.sw a1, 76(a0)
        (0x456C, 0x504C),  # c.lw a1, 76(a0)
        (0xDE2E, 0x603C),  # c.swsp a1, 60(sp)
        (0x55F2, 0x603C),  # c.lwsp a1, 60(sp)
    ],
)
def test_where_a_refused_access_of_risc_v_went(
    code: int, address: int, riscv_tools: None, pip_tools: None, tiny_firmware: TinyFirmware
) -> None:
    build, target = tiny_firmware("riscv32-virt")
    core, place = RiscV(read_image(build.elf), target), target.region("data").origin
    core.write(place, struct.pack("<I", code))
    core.set("X10", 0x5000)
    core.set("X2", 0x6000)
    assert core._effective(place) == address


def test_a_port_without_a_model_is_refused(arm_tools: None, pip_tools: None, tiny_firmware: TinyFirmware) -> None:
    build, target = tiny_firmware("mps2-an386")
    assert target.uart is not None
    other = target.model_copy(update={"uart": target.uart.model_copy(update={"kind": "pl011"})})
    with (
        pytest.raises(ToolError, match=r"mps2-an386 cannot run in unicorn: its serial port \(pl011\) has no model"),
        open_device(build, other, emulator="unicorn"),
    ):
        pass
