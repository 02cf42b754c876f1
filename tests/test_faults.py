"""Faults on purpose: each comes back as one line that names the function, within seconds."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import device_fixture
from conftest import TinyFirmware
from picoformer.emulator.session import open_device
from picoformer.errors import DeviceError
from picoformer.firmware import build_firmware
from picoformer.link.device import FaultError
from picoformer.link.faults import explain
from picoformer.link.messages import Fault, TensorInfo
from picoformer.targets import load_target


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (1, "bad memory access in pf_test_bad_write at address 0"),
        (2, r"call of a bad address \(0xf000000[01]\) from pf_test_bad_call"),
        (
            3,
            "stack overflow in pf_test_stack_overflow or a function it calls; give the target a larger stack_bytes",
        ),
        (4, "hang \\(watchdog\\) in pf_test_hang: a step took longer"),
        (5, "undefined instruction in pf_test_undefined"),
    ],
)
def test_a_fault_names_its_function(device_target: str, tiny_firmware: TinyFirmware, kind: int, message: str) -> None:
    build, target = tiny_firmware(device_target)
    start = time.monotonic()
    with pytest.raises(FaultError, match=message) as error, open_device(build, target) as session:
        session.device.fault_test(kind)
    assert time.monotonic() - start < 8
    assert "\n" not in str(error.value)
    is_arm, is_limit = device_target.startswith("mps"), kind == 3 and target.architecture.startswith("armv8")
    assert ("MemManage" in str(error.value)) == (is_arm and kind <= 3 and not is_limit)
    assert ("UsageFault" in str(error.value)) == (is_arm and (kind == 5 or is_limit))  # the stack limit's own fault
    assert ("access fault" in str(error.value)) == (device_target == "riscv32-virt" and kind <= 3)


def test_the_device_is_gone_after_a_fault_and_says_how(device_target: str, tiny_firmware: TinyFirmware) -> None:
    build, target = tiny_firmware(device_target)
    with open_device(build, target) as session:
        with pytest.raises(FaultError):
            session.device.fault_test(1)
        code = {"host": 128 + 11, "cortex_m": 100 + 4, "riscv": 100 + 7}[target.port]
        with pytest.raises(DeviceError, match=f"the device died: .* ended with exit code {code}"):
            session.device.stack()


_DEEP = """
uint32_t deep(volatile uint8_t *first);
__attribute__((noinline)) static uint32_t fill(volatile uint8_t *big)
{
    for (uint32_t i = 0; i < 6000u; i++)
        big[i] = 1;
    return big[7];
}
__attribute__((noinline)) uint32_t deep(volatile uint8_t *first)
{
    volatile uint8_t big[6000];
    big[0] = *first;
    return fill(big) + big[9];
}
"""


def test_a_fault_inside_a_step_names_the_step(tmp_path: Path, arm_tools: None) -> None:
    """A frame larger than the whole stack: the overflow is caught at once, in the step that caused it."""
    target = load_target("mps2-an386")
    model_c = device_fixture.MODEL_C.replace("sum_blocks();", "test_arena[0] = (uint8_t)deep(test_arena);")
    model_c = model_c.replace('#include "model.h"\n', f'#include "model.h"\n{_DEEP}', 1)
    build = build_firmware(device_fixture.write_model(tmp_path / "model", model_c=model_c), target, tmp_path / "out")
    with (
        pytest.raises(FaultError, match=r"stack overflow in deep or .*, during step 1 \(sums\)"),
        open_device(build, target) as s,
    ):
        s.device.write_input(0, bytes(2000))
        s.device.write_input(1, bytes(4))
        s.device.run()


def test_a_step_that_hangs_is_named(device_target: str, tmp_path: Path) -> None:
    plain = load_target(device_target)
    target = plain.model_copy(update={"watchdog": plain.watchdog.model_copy(update={"seconds": 1})})
    model_c = device_fixture.MODEL_C.replace("sum_blocks();", "for (volatile int go = 1; go;) {}")
    build = build_firmware(device_fixture.write_model(tmp_path / "model", model_c=model_c), target, tmp_path / "out")
    start = time.monotonic()
    with (
        pytest.raises(FaultError, match=r"hang \(watchdog\) in test_step: .*, during step 1 \(sums\)"),
        open_device(build, target) as session,
    ):
        session.device.write_input(0, bytes(2000))
        session.device.write_input(1, bytes(4))
        session.device.run()
    assert time.monotonic() - start < 8


def test_a_hang_without_a_watchdog_ends_in_a_timeout(arm_tools: None, tmp_path: Path) -> None:
    plain = load_target("mps2-an386")
    target = plain.model_copy(update={"watchdog": plain.watchdog.model_copy(update={"kind": "none"})})
    model = device_fixture.write_model(tmp_path / "model")
    build = build_firmware(model, target, tmp_path / "out", fault_tests=True)
    start = time.monotonic()
    with (
        pytest.raises(DeviceError, match="timeout: the device did not answer 'fault test'"),
        open_device(build, target, run_seconds=1.0) as session,
    ):
        session.device.fault_test(4)
    assert time.monotonic() - start < 8


def test_a_release_build_knows_no_fault_tests(tmp_path: Path) -> None:
    target = load_target("host")
    build = build_firmware(device_fixture.write_model(tmp_path / "model"), target, tmp_path / "out")
    with open_device(build, target) as session:
        assert not session.device.hello().has_fault_tests
        with pytest.raises(DeviceError, match="does not know this message"):
            session.device.fault_test(1)


def test_a_fault_without_symbols_gives_addresses() -> None:
    fault = Fault(1, 4, 0, 0x123, 0x456, 0x20000000, 0x40, 0x82, 0, 0x40, 0)
    text = explain(fault, None, [TensorInfo("q", 0, 1)], "cortex_m")
    assert "bad memory access in code at 0x00000123 at address 0x00000040, during step 0 (q) [MemManage" in text
