"""Every emulated core: the same bytes, exact counts, faults by name, no instruction that the core does not have."""

from __future__ import annotations

import random
import re
import struct
import subprocess
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

import device_fixture
import graphs
import picoformer
from arm_library import dsp_opcodes
from conftest import TinyFirmware, require_tools
from picoformer.backends.c import emit_c
from picoformer.emulator.session import open_device
from picoformer.exporting import emulate_files
from picoformer.firmware import build_firmware
from picoformer.link.device import FaultError, RefusedError
from picoformer.targets import EmulatorChoice, Target, list_targets, load_target
from picoformer.verification import verify_files

CORES = ["microbit", "mps2-an385", "mps2-an385-m0", "mps2-an500", "netduinoplus2"]
"""Those that device_target does not have."""
EMULATED = [name for name in list_targets() if load_target(name).emulator is not None and name != "host"]
WITHOUT_DSP = [name for name in EMULATED if "dsp" not in load_target(name).isa]


@pytest.mark.parametrize("name", CORES)
def test_a_core_computes_the_model_and_tells_of_faults(
    name: str, tiny_firmware: TinyFirmware, request: pytest.FixtureRequest
) -> None:
    require_tools(name, request)
    build, target = tiny_firmware(name)
    rng = random.Random(0)
    pixels, scale = rng.randbytes(2000), rng.randbytes(4)
    steps = device_fixture.expected_steps(pixels, scale)
    with open_device(build, target, identity=device_fixture.IDENTITY) as session:
        counts = set()
        for _ in range(2):
            session.device.write_input(0, pixels)
            session.device.write_input(1, scale)
            result = session.device.run(crc=True, outputs=True)
            assert result.step_crcs == tuple(map(zlib.crc32, steps))
            assert result.outputs is not None and result.outputs[0] == steps[2]
            counts.add(session.instructions)
        stack = session.device.stack()
        assert stack.used is not None and 0 < stack.used < 600 and stack.size == target.stack_bytes
        with pytest.raises(FaultError, match="undefined instruction in pf_test_undefined"):
            session.device.fault_test(5)
    assert len(counts) == 1 and None not in counts


FAULTS = {
    1: "bad memory access in pf_test_bad_write at address 0",
    2: r"call of a bad address \(0xf0.*\) from pf_test_bad_call",
    3: "stack overflow in pf_test_stack_overflow",
    4: r"hang \(watchdog\) in pf_test_hang",
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("microbit", 1), ("microbit", 2), ("microbit", 3), ("microbit", 4), ("mps2-an385-m0", 1), ("mps2-an385-m0", 2),
     ("mps2-an385-m0", 3), ("netduinoplus2", 1), ("netduinoplus2", 4), ("mps2-an385", 4)],
)  # fmt: skip
def test_a_fault_names_its_function_on_the_other_cores(
    name: str, kind: int, tiny_firmware: TinyFirmware, request: pytest.FixtureRequest
) -> None:
    require_tools(name, request)
    build, target = tiny_firmware(name)
    start = time.monotonic()
    # A micro:bit has no MPU: it lets a write to address 0 (flash) pass, and the firmware says so.
    expected: type[Exception] = RefusedError if (name, kind) == ("microbit", 1) else FaultError
    with pytest.raises(expected) as error, open_device(build, target) as session:
        session.device.fault_test(kind)
    assert time.monotonic() - start < 12
    if expected is FaultError:
        assert re.search(FAULTS[kind], str(error.value))


def test_counts_are_exact_on_riscv(riscv_tools: None, tmp_path: Path) -> None:
    """Assembly of known length: the call and the return of init; of the step two loads' worth, and two a turn."""
    source = """
__attribute__((naked)) void exact_init(void *state) { __asm__ volatile("ret"); }
__attribute__((naked)) int exact_step(void *state)
{ __asm__ volatile("lui a1, %hi(test_arena)\\n lw a1, %lo(test_arena)(a1)\\n"
                   " 1: addi a1, a1, -1\\n bnez a1, 1b\\n li a0, 0\\n ret"); }
"""
    model = device_fixture.write_model(tmp_path / "m", extra_c=source, device_c=device_fixture.EXACT_DEVICE_C)
    target = load_target("riscv32-virt")
    with open_device(build_firmware(model, target, tmp_path / "out"), target) as session:
        for turns in (1, 2, 10, 1000, 1_000_000):
            session.device.write_input(0, struct.pack("<I", turns))
            session.device.run(crc=True)
            counts = session.instructions
            assert counts is not None, session.uncounted
            assert (counts.init, counts.per_step) == (2, (2 * turns + 5,))


def test_an_m0_traps_what_is_not_aligned(arm_tools: None, tmp_path: Path) -> None:
    """Where an M3 stands in for an M0, a word at an odd address faults as on the real core."""
    target = load_target("mps2-an385-m0")
    store = "{ volatile uintptr_t odd = (uintptr_t)test_arena + 1u; *(volatile uint32_t *)odd = 1; }"
    model_c = device_fixture.MODEL_C.replace("sum_blocks();", store)
    build = build_firmware(device_fixture.write_model(tmp_path / "m", model_c=model_c), target, tmp_path / "out")
    with (
        pytest.raises(FaultError, match=r"bad memory access in test_step .*during step 1 \(sums\)"),
        open_device(build, target) as session,
    ):
        session.device.write_input(0, bytes(2000))
        session.device.write_input(1, bytes(4))
        session.device.run()


@pytest.mark.parametrize("name", ["stm32f411-nucleo", pytest.param("stm32f446-nucleo", marks=pytest.mark.slow)])
def test_a_nucleos_own_image_answers_on_an_stm32f405(name: str, arm_tools: None, tmp_path: Path) -> None:
    """QEMU has their serial port, timer and memory at the same places; its timers count at 1 GHz."""
    plain = load_target(name)
    watchdog = plain.watchdog.model_copy(update={"clock_hz": 10**9, "seconds": 1})
    emulator = EmulatorChoice(kind="qemu", program="qemu-system-arm", machine="netduinoplus2", serial=1)
    target = plain.model_copy(update={"emulator": emulator, "stands_in": "", "watchdog": watchdog})
    build = build_firmware(device_fixture.write_model(tmp_path / "m"), target, tmp_path / "out", fault_tests=True)
    pixels, scale = bytes(range(250)) * 8, b"abcd"
    with open_device(build, target) as session:
        session.device.write_input(0, pixels)
        session.device.write_input(1, scale)
        outputs = session.device.run(outputs=True).outputs
        assert outputs is not None and outputs[0] == device_fixture.expected_steps(pixels, scale)[2]
        with pytest.raises(FaultError, match=r"hang \(watchdog\) in pf_test_hang"):
            session.device.fault_test(4)


@pytest.mark.parametrize("name", [name for name in WITHOUT_DSP if name != "mps2-an385-m0"])  # compiled as a micro:bit's
def test_an_image_holds_only_instructions_of_its_core(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """QEMU's M3 executes DSP and M3 opcodes in what should be M0 code without a word: only a disassembly tells."""
    require_tools(name, request)
    target = load_target(name)
    case = graphs.prenorm_encoder()
    emit_c(case.quantized(), target.isa, "model", tmp_path / "source")
    build = build_firmware(tmp_path / "source", target, tmp_path / "out")
    listing = disassembly(build.elf, target)
    assert foreign(listing, target) == set()
    assert len(listing.splitlines()) > 1000


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT_DSP)
def test_every_kernel_holds_only_instructions_of_its_core(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    require_tools(name, request)
    target = load_target(name)
    firmware = Path(device_fixture.__file__).parents[1] / "firmware"
    sources = [path for isa in target.isa for path in sorted((firmware / "kernels" / isa).glob("*.c"))]
    for path in (*sources, *sorted((firmware / "ops").glob("*.c"))):
        object_ = tmp_path / f"{path.parent.name}_{path.stem}.o"
        command = [target.toolchain.program, *target.toolchain.flags, target.toolchain.optimize, "-std=c99"]
        subprocess.run([*command, f"-I{firmware}/include", "-c", path, "-o", object_], check=True)
        assert foreign(disassembly(object_, target), target) == set(), path


def disassembly(path: Path, target: Target) -> str:
    command = [f"{target.toolchain.prefix}objdump", "-d", str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def foreign(listing: str, target: Target) -> set[str]:
    """Mnemonics that a core does not have."""
    found = re.findall(r"^\s*[0-9a-f]+:\t([0-9a-f]{4,8}|[0-9a-f]{4} [0-9a-f]{4}) *\t(\S+)", listing, re.MULTILINE)
    assert found
    if target.architecture == "armv6-m":  # 16 bits but for these (Armv6-M ARM, A5.3); no CBZ, IT, NOP-compatible hints
        wide = {"bl", "msr", "mrs", "dsb", "dmb", "isb", "udf.w"}
        narrow = {"cbz", "cbnz", "it", "ite", "itt"}
        return {name for code, name in found if (" " in code and name not in wide) or name in narrow} - {".word"}
    if target.architecture == "armv7-m":
        return dsp_opcodes(listing) | {name for _, name in found if name.startswith("v")}
    float_or_atomic = re.compile(
        r"(f[ls][wd]|f(add|sub|mul|div|mv|cvt|madd|sgnj|eq|lt|le|min|max|sqrt).*|amo.*|lr\.|sc\.)"
    )
    return {name for _, name in found if float_or_atomic.fullmatch(name) or name in ("ld", "sd", "addw")}


def test_an_instruction_that_a_core_lacks_is_seen() -> None:
    line = "    80:\t{}\t{}\tr0, r1\n"
    m0, m3, riscv = (load_target(name) for name in ("microbit", "mps2-an385", "riscv32-virt"))
    assert foreign(line.format("fb21 0002 ", "smlad") + line.format("b109      ", "cbz"), m0) == {"smlad", "cbz"}
    assert foreign(line.format("f240 1234 ", "movw") + line.format("f7ff ff5a ", "bl"), m0) == {"movw"}
    assert foreign(line.format("fb21 0002 ", "smlad") + line.format("f240 1234 ", "movw"), m3) == {"smlad"}
    assert foreign(line.format("00b58553          ", "fadd.s") + line.format("4501                ", "li"), riscv) == {
        "fadd.s"
    }


DIGITS = """\
name = "digits"
output = "out"
seed = 1

[data]
source = "digits"
test_fraction = 0.2

[teacher]
layers = 1
d_model = 32
heads = 4
d_ff = 64

[teacher_training]
epochs = 12
batch = 128
learning_rate = 5e-3

[student]
layers = 2
d_model = 32
heads = 4
d_ff = 64

[distillation]
epochs = 12
batch = 128
learning_rate = 5e-3

[quantization]
samples = 128

[firmware]
target = "host"
prefix = "digits"
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pipeline that trained a small digits model: model.onnx, calibration.npz, test.npz."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "pipeline.toml").write_text(DIGITS)
    return picoformer.run(folder / "pipeline.toml")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["int8", "int8x16"])
def test_the_same_pipeline_ends_equal_on_every_core(
    scheme: str, digits: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Digits, trained once: every emulated core gives the reference's bytes, step by step, and so the others'."""
    figures, outputs = {}, {}
    for name in EMULATED:
        require_tools(name, request)
        built, samples = tmp_path / name, digits / "test.npz"
        calibration = digits / "calibration.npz"
        picoformer.build(digits / "model.onnx", calibration=calibration, scheme=scheme, target=name, out=built)
        found = verify_files(built, samples, limit=4)
        assert found.report.passed, (name, found.report.failures)
        emulate_files(built, samples, tmp_path / f"{name}.npz", 4)
        outputs[name] = {key: value.tobytes() for key, value in np.load(tmp_path / f"{name}.npz").items()}
        figures[name] = found.report.instructions_per_inference
    assert all(one == outputs["mps2-an386"] for one in outputs.values())
    assert all(figures.values()), figures
