"""Built firmware, run on the host and in QEMU: results, exact counts, sizes, and what goes wrong in plain
words."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
import time
import zlib
from pathlib import Path

import pytest

import device_fixture
from conftest import TinyFirmware
from picoformer.compilers import PACKAGES, named_compiler
from picoformer.emulator.counting import plugin_for, read_counts
from picoformer.emulator.session import open_device
from picoformer.emulator.symbols import symbolize
from picoformer.errors import DeviceError, FitError, ModelError, ToolError
from picoformer.firmware import build_firmware, load_build, target_defines
from picoformer.link.device import Device, RefusedError
from picoformer.link.messages import Status, Table
from picoformer.targets import load_target, resource_root
from picoformer.toolchain import Unit, compile_units


def _write_inputs(device: Device, seed: int) -> list[bytes]:
    rng = random.Random(seed)
    pixels, scale = rng.randbytes(2000), rng.randbytes(4)
    device.write_input(0, pixels)
    device.write_input(1, scale)
    return device_fixture.expected_steps(pixels, scale)


def test_the_device_computes_the_model(device_target: str, tiny_firmware: TinyFirmware) -> None:
    build, target = tiny_firmware(device_target)
    with open_device(build, target, identity=device_fixture.IDENTITY) as session:
        device = session.device
        hello = device.hello()
        assert (hello.name, hello.input_count, hello.output_count, hello.step_count) == ("tiny", 2, 2, 3)
        assert hello.arena_bytes == device_fixture.ARENA_BYTES
        assert hello.clock_hz == target.clock_hz
        assert [tensor.name for tensor in device.tensors(Table.INPUTS)] == ["pixels", "scale"]
        assert [tensor.size for tensor in device.tensors(Table.STEPS)] == [2000, 40, 40]
        for seed in range(5):
            steps = _write_inputs(device, seed)
            result = device.run(crc=True, outputs=True)
            assert result.step_crcs == tuple(map(zlib.crc32, steps))
            assert result.outputs == (steps[2], steps[0])
            assert result.step_cycles is None  # neither machine has a cycle counter
            assert device.read_output(0) == steps[2]


def test_any_step_can_be_run_for(device_target: str, tiny_firmware: TinyFirmware) -> None:
    build, target = tiny_firmware(device_target)
    with open_device(build, target) as session:
        for until in range(3):
            steps = _write_inputs(session.device, until)
            result = session.device.run(crc=True, until=until)
            assert result.step_crcs == tuple(map(zlib.crc32, steps[: until + 1]))
            _write_inputs(session.device, until)
            assert session.device.run_for_step(until) == steps[until]  # 2000 bytes: two frames
            if until < 2:
                with pytest.raises(RefusedError) as stale:
                    session.device.read_output(0)
                assert stale.value.status == Status.STALE
        with pytest.raises(RefusedError, match="write every input before each run"):
            session.device.run()


def test_steps_by_tiles_are_put_together(device_target: str, tmp_path: Path) -> None:
    """Three calls for each of three tiles, the last tile lower, and rows that are computed again."""
    target = load_target(device_target)
    model = device_fixture.write_model(
        tmp_path / "model", device_c=device_fixture.TILED_DEVICE_C, model_c=device_fixture.TILED_MODEL_C
    )
    with open_device(build_firmware(model, target, tmp_path / "out", strict=True), target) as session:
        for until in (0, 1, 2, None):
            steps = _write_inputs(session.device, 1)
            result = session.device.run(crc=True, until=until)
            assert result.step_crcs == tuple(map(zlib.crc32, steps[: 3 if until is None else until + 1]))
        assert result.calls == (0, 0, 1, 2, 0, 1, 2, 0, 1, 2)
        counts = session.instructions
        if device_target != "host":
            assert counts is not None and len(counts.per_step) == 3
            assert counts.total == counts.init + sum(counts.per_step)
            assert counts.per_step[0] > 2 * counts.per_step[1]
        for step in range(3):
            _write_inputs(session.device, 1)
            assert session.device.run_for_step(step) == steps[step]


def test_the_stack_is_measured(arm_tools: None, tiny_firmware: TinyFirmware) -> None:
    build, target = tiny_firmware("mps2-an386")
    with open_device(build, target) as session:
        idle = session.device.stack()
        _write_inputs(session.device, 0)
        session.device.run(crc=True)
        after = session.device.stack()
        session.device.reset()
        again = session.device.stack()
    assert idle.size == after.size == target.stack_bytes
    assert idle.used and after.used and again.used
    assert 0 < idle.used <= after.used < 600
    assert again.used <= after.used


def test_the_host_says_that_it_cannot_measure(tiny_firmware: TinyFirmware) -> None:
    build, target = tiny_firmware("host")
    with open_device(build, target) as session:
        stack = session.device.stack()
        assert (stack.size, stack.used) == (None, None)
        assert session.instructions is None
        assert "native process" in session.uncounted


def test_many_steps_come_in_several_frames(device_target: str, tmp_path: Path) -> None:
    """600 steps: 2,400 bytes of CRCs and more names than one describe reply holds."""
    rows = ", ".join(f'{{"step_{i}", 0, {i % 50 + 1}}}' for i in range(600))
    device_c = device_fixture.DEVICE_C.replace(
        '{{"looked_up", 2048, 2000}, {"sums", 0, 40}, {"inverted", 0, 40}}', "{" + rows + "}"
    ).replace(".step_count = 3", ".step_count = 600")
    model_c = device_fixture.MODEL_C.replace("switch (self->next++) {", "switch (self->next++ ? 5u : 3u) {").replace(
        "    default:",
        "    case 3:\n        return 1;\n    default:\n        test_arena[0]++;\n"
        "        return self->next < 600u;\n    case 9:",
    )
    target = load_target(device_target)
    model = device_fixture.write_model(tmp_path / "model", device_c=device_c, model_c=model_c)
    with open_device(build_firmware(model, target, tmp_path / "out"), target) as session:
        assert [t.name for t in session.device.tensors(Table.STEPS)] == [f"step_{i}" for i in range(600)]
        session.device.write_input(0, bytes(2000))
        session.device.write_input(1, bytes(4))
        crcs = session.device.run(crc=True).step_crcs
        assert crcs == tuple(zlib.crc32(bytes([i % 256]) + bytes(i % 50)) for i in range(600))
        if device_target != "host":
            counts = session.instructions
            assert counts is not None
            assert len(counts.per_step) == 600


def test_counts_are_exact(arm_tools: None, tmp_path: Path) -> None:
    """Assembly of known length: error 0, whatever the number of turns."""
    target = load_target("mps2-an386")
    model = device_fixture.write_model(
        tmp_path / "model", extra_c=device_fixture.EXACT_C, device_c=device_fixture.EXACT_DEVICE_C
    )
    build = build_firmware(model, target, tmp_path / "out")
    with open_device(build, target) as session:
        for turns in (1, 2, 10, 1000, 1_000_000):
            session.device.write_input(0, struct.pack("<I", turns))
            session.device.run(crc=True)
            counts = session.instructions
            assert counts is not None, session.uncounted
            assert counts.init == device_fixture.EXACT_INIT_INSTRUCTIONS
            assert counts.per_step == (2 * turns + device_fixture.EXACT_FIXED_INSTRUCTIONS,)
            assert counts.total == counts.init + counts.per_step[0]


def test_counts_repeat_and_leave_the_crc_out(arm_tools: None, tiny_firmware: TinyFirmware) -> None:
    build, target = tiny_firmware("mps2-an386")
    seen = set()
    for _ in range(2):
        with open_device(build, target) as session:
            for crc in (False, True):
                _write_inputs(session.device, 1)
                session.device.run(crc=crc)
                seen.add(session.instructions)
            _write_inputs(session.device, 1)
            session.device.run(until=0)
            part = session.instructions
    assert len(seen) == 1
    (whole,) = seen
    assert whole is not None and part is not None
    assert part.per_step == whole.per_step[:1]


def test_without_a_compiler_counts_are_null_with_a_reason(
    arm_tools: None, tiny_firmware: TinyFirmware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, target = tiny_firmware("mps2-an386")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "qemu-system-arm").symlink_to(str(shutil.which("qemu-system-arm")))
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("PICOFORMER_TOOLCHAIN", "gcc")
    monkeypatch.setenv("PICOFORMER_CACHE", str(tmp_path / "cache"))
    with open_device(build, target) as session:
        _write_inputs(session.device, 0)
        session.device.run()
        assert session.instructions is None
        assert "sudo apt-get install gcc" in session.uncounted


def test_a_missing_count_is_none(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    assert read_counts(path, 1) is None
    path.write_bytes(struct.pack("<3Q", 5, 6, 7))
    assert read_counts(path, 3) is None
    counts = read_counts(path, 1)
    assert counts is not None
    assert (counts.total, counts.init, counts.per_step) == (13, 6, (7,))


def test_the_plugin_is_built_once(arm_tools: None) -> None:
    qemu = str(shutil.which("qemu-system-arm"))
    first, reason = plugin_for(qemu)
    assert first is not None, reason
    stamp = first.stat().st_mtime_ns
    assert plugin_for(qemu)[0] == first
    assert first.stat().st_mtime_ns == stamp


def test_a_missing_program_names_its_package(
    device_target: str, tiny_firmware: TinyFirmware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, target = tiny_firmware(device_target)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PICOFORMER_TOOLCHAIN", "gcc")
    monkeypatch.setenv("PICOFORMER_EMULATOR", "qemu")
    package = PACKAGES[target.toolchain.program]
    with pytest.raises(ToolError, match=f"is not installed; get it with: sudo apt-get install {package}"):
        build_firmware(device_fixture.write_model(tmp_path / "model"), target, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    if target.emulator is not None and device_target != "host":
        program = target.emulator.program
        with (
            pytest.raises(ToolError, match=f"{program} is not installed; .* install {PACKAGES[program]}"),
            open_device(build, target),
        ):
            pass


def test_firmware_that_ends_at_once_is_told_with_its_last_words(
    device_target: str, tiny_firmware: TinyFirmware, tmp_path: Path
) -> None:
    _, target = tiny_firmware(device_target)
    leave = {
        "host": "#include <stdio.h>\n#include <stdlib.h>\n__attribute__((constructor)) static void leave(void);\n"
        'static void leave(void) { fputs("cannot go on\\n", stderr); exit(3); }\n',
        "cortex_m": "void pf_uart_init(void);\n"
        "void pf_uart_init(void) { static const uint32_t b[2] = {0x20026u, 3u};\n"
        'register uint32_t r0 __asm__("r0") = 0x20u; register const uint32_t *r1 __asm__("r1") = b;\n'
        '__asm__ volatile("bkpt 0xAB" : : "r"(r0), "r"(r1)); }\n',
        "riscv": "void pf_uart_init(void);\nvoid pf_uart_init(void) { *(volatile uint32_t *)0x100000u = 0x33333u; }\n",
    }
    extra = leave[target.port]
    if device_target != "host":  # its own UART, which leaves instead of starting
        target = target.model_copy(update={"uart": target.uart.model_copy(update={"kind": "none"})})  # type: ignore[union-attr]
        extra += "int pf_uart_read(void);\nint pf_uart_read(void) { return 0; }\n"
        extra += "void pf_uart_write(uint8_t byte);\nvoid pf_uart_write(uint8_t byte) { (void)byte; }\n"
    build = build_firmware(device_fixture.write_model(tmp_path / "model", extra_c=extra), target, tmp_path / "out")
    words = "cannot go on" if device_target == "host" else ""
    with pytest.raises(DeviceError, match=f"ended with exit code 3.*{words}"), open_device(build, target):
        pass


def test_nothing_is_left_running(device_target: str, tiny_firmware: TinyFirmware) -> None:
    build, target = tiny_firmware(device_target)
    with pytest.raises(ZeroDivisionError), open_device(build, target) as session:
        child = session.running._child.popen  # type: ignore[union-attr]
        assert child.poll() is None
        raise ZeroDivisionError
    assert child.returncode is not None


def test_a_model_too_big_for_flash_is_refused_with_numbers(arm_tools: None, tmp_path: Path) -> None:
    board = load_target("mps2-an386")
    memory = [board.memory[0].model_copy(update={"length": 0x10000}), board.memory[1]]
    target = board.model_copy(update={"memory": memory})
    extra = "extern const uint8_t big_a[50000], big_b[40000];\n"
    extra += "const uint8_t big_a[50000] = {1};\nconst uint8_t big_b[40000] = {1};\n"
    declared = '#include "model.h"\nextern const uint8_t big_a[], big_b[];\n'
    model_c = device_fixture.MODEL_C.replace('#include "model.h"\n', declared, 1).replace(
        "->next = 0;", "->next = test_arena[9] ? big_a[test_arena[8]] : big_b[test_arena[8]];"
    )
    model = device_fixture.write_model(tmp_path / "model", extra_weights=extra, model_c=model_c)
    out = tmp_path / "out"
    with pytest.raises(FitError) as error:
        build_firmware(model, target, out)
    text = str(error.value)
    needed = int(text.split("needs ")[1].split(" bytes")[0].replace(",", ""))
    assert text.startswith("the model does not fit mps2-an386: flash (ssram1) needs ")
    assert 90_000 < needed < 100_000
    assert "and has 65,536; biggest: big_a 50,000, big_b 40,000, " in text
    assert not list(out.iterdir())


def test_an_arena_too_big_for_ram_is_refused_with_numbers(arm_tools: None, tmp_path: Path) -> None:
    target = load_target("mps2-an386")
    model_c = device_fixture.MODEL_C.replace("test_arena[4096]", "test_arena[5000000]")
    model = device_fixture.write_model(tmp_path / "model", model_c=model_c)
    (model / "model.h").write_text(device_fixture.MODEL_H.replace("[4096]", "[5000000]"))
    with pytest.raises(
        FitError,
        match=r"RAM \(ssram23\) needs 5,00\d,\d+ bytes and has 4,194,304; biggest: test_arena 5,000,000",
    ):
        build_firmware(model, target, tmp_path / "out")


def test_the_first_error_of_the_compiler_is_named(device_target: str, tmp_path: Path) -> None:
    model = device_fixture.write_model(tmp_path / "model", extra_c="int broken(void) { return nothing; }\n")
    with pytest.raises(ToolError, match=r"gcc failed on model.c: .*error: .nothing. undeclared") as error:
        build_firmware(model, load_target(device_target), tmp_path / "out")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    model = device_fixture.write_model(tmp_path / "model")
    (model / "weights.c").unlink()
    with pytest.raises(ModelError, match=r"weights\.c is missing; generate"):
        build_firmware(model, load_target("host"), tmp_path / "out")
    device_fixture.write_model(model)
    (model / "sources.json").write_text(json.dumps({"model_sources": ["model.c"], "sources": ["ops/no_such.c"]}))
    with pytest.raises(ModelError, match=r"no_such\.c, which firmware/ does not have"):
        build_firmware(model, load_target("host"), tmp_path / "out")


def test_sizes_come_from_the_elf(arm_tools: None, tiny_firmware: TinyFirmware) -> None:
    build, target = tiny_firmware("mps2-an386")
    flash, ram = build.sizes.flash, build.sizes.ram
    listed = subprocess.run(["arm-none-eabi-size", "-A", build.elf], capture_output=True, text=True, check=True).stdout
    section = {row.split()[0]: int(row.split()[1]) for row in listed.splitlines() if row.startswith(".")}
    stored = section[".text"] + section[".rodata"] + section[".data"]
    assert stored <= flash.total < stored + 32
    assert flash.model == 256  # the table, nothing else
    assert flash.total == flash.model + flash.code + flash.runtime
    assert 100 < flash.code < 1500  # the three steps and memcpy
    assert ram.total == section[".stack"] + section[".data"] + section[".bss"]
    assert ram.total == ram.arena + ram.data + ram.runtime + ram.stack
    assert (ram.arena, ram.data, ram.stack) == (device_fixture.ARENA_BYTES, 4, target.stack_bytes)
    assert load_build(build.elf.parent, target) == build


def test_building_twice_gives_the_same_bytes(arm_tools: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = load_target("mps2-an386")
    images = []
    for name in ("first", "second"):
        monkeypatch.setenv("PICOFORMER_CACHE", str(tmp_path / name / "cache"))
        model = device_fixture.write_model(tmp_path / name / "model")
        images.append(build_firmware(model, target, tmp_path / name / "out").elf.read_bytes())
    assert images[0] == images[1]
    assert str(tmp_path).encode() not in images[0]


def test_addresses_become_names(device_target: str, tiny_firmware: TinyFirmware) -> None:
    build, _ = tiny_firmware(device_target)
    from elftools.elf.elffile import ELFFile

    with build.elf.open("rb") as stream:
        symbol = ELFFile(stream).get_section_by_name(".symtab").get_symbol_by_name("test_step")[0]
        start, size = symbol["st_value"], symbol["st_size"]
    assert symbolize(build.elf, start) == symbolize(build.elf, start + size - 2) == "test_step"
    assert symbolize(build.elf, 0xF0000000) == ""


CORES = {
    "arm-none-eabi-gcc": [["-mthumb", f"-mcpu={cpu}"] for cpu in ("cortex-m0", "cortex-m4", "cortex-m33")],
    "riscv64-unknown-elf-gcc": [["-march=rv32imc", "-mabi=ilp32", "--specs=picolibc.specs"]],
}


@pytest.mark.parametrize("compiler", ["gcc", "clang", "arm-none-eabi-gcc", "riscv64-unknown-elf-gcc"])
def test_the_runtime_compiles_without_a_warning(compiler: str, request: pytest.FixtureRequest) -> None:
    if compiler in CORES:
        request.getfixturevalue("arm_tools" if compiler.startswith("arm") else "riscv_tools")
    elif compiler == "clang" and shutil.which("clang") is None and not os.environ.get("CI"):
        pytest.skip("NOT TESTED: clang not installed: sudo apt-get install clang")
    firmware = resource_root("firmware")
    board = {"arm-none-eabi-gcc": "mps2-an386", "riscv64-unknown-elf-gcc": "riscv32-virt"}.get(compiler, "host")
    target = load_target(board)
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-fsyntax-only"]
    for core in CORES.get(compiler, [[]]):
        sources = [*(firmware / "protocol").glob("*.c"), *(firmware / "port" / target.port).glob("*.c")]
        for tests in ([], ["-DPF_FAULT_TESTS"]):
            command = [compiler, *core, *flags, *target_defines(target), *tests, f"-I{firmware}/include"]
            command += [f"-I{firmware}/protocol", *map(str, sources)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr


def test_a_small_sample_takes_milliseconds(device_target: str, tiny_firmware: TinyFirmware) -> None:
    """One run with CRCs and outputs in one message; the bound is loose, the point is that nothing waits."""
    build, target = tiny_firmware(device_target)
    with open_device(build, target) as session:
        for _ in range(3):
            _write_inputs(session.device, 0)
            session.device.run(crc=True, outputs=True)
        start = time.monotonic()
        for _ in range(20):
            session.device.stack()
        assert time.monotonic() - start < 2


def test_a_changed_header_beside_a_source_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICOFORMER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "own.c").write_text('#include "own.h"\nint own(void);\nint own(void) { return OWN; }\n')
    units, objects = [Unit(tmp_path / "source" / "own.c", Path("own.o"))], []
    for value in (1, 2, 1):
        (tmp_path / "source" / "own.h").write_text(f"#define OWN {value}\n")
        compile_units(named_compiler("gcc"), ["-O2"], [], units, tmp_path)
        objects.append((tmp_path / "own.o").read_bytes())
    assert objects[0] == objects[2] != objects[1]
