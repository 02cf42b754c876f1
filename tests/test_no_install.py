"""Nothing but pip: gcc, QEMU and clang hidden, the same model ends in the same bytes by zig's compiler and unicorn."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import device_fixture
from c_library import FIRMWARE
from command_line import Workshop, open_workshop, picoformer, succeeds
from picoformer.compilers import choose_compiler
from picoformer.emulator.image import read_image
from picoformer.emulator.session import open_device
from picoformer.errors import FitError
from picoformer.firmware import WARNINGS, build_firmware, target_defines
from picoformer.targets import Target, list_targets, load_target
from picoformer.toolchain import Unit, compile_units

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("pip_tools")]

HIDDEN = ("gcc", "cc", "clang", "arm-none-eabi-gcc", "qemu-system-arm", "ld", "as", "make")
DIGITS = """\
name = "digits"
output = "out"
seed = 1

[data]
source = "digits"

[teacher]
layers = 1
d_model = 32
heads = 2
d_ff = 64

[teacher_training]
epochs = 8
batch = 128
learning_rate = 3e-3

[student]
layers = 1
d_model = 16
heads = 2
d_ff = 32

[distillation]
epochs = 8
batch = 128
learning_rate = 3e-3

[quantization]
samples = 64

[firmware]
target = "mps2-an386"
"""


@pytest.fixture
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PATH leads to one empty folder, as on a machine with Python alone."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for name in HIDDEN:
        with pytest.raises(FileNotFoundError):
            subprocess.run([name, "--version"], check=False)
    return folder


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(tmp_path_factory.mktemp("no_install"))


def run_digits(folder: Path, environment: dict[str, str]) -> tuple[Any, Path]:
    """A short run of the digits pipeline in a process of its own: what verify found, and the build folder."""
    folder.mkdir()
    (folder / "digits.toml").write_text(DIGITS)
    command = [sys.executable, "-m", "picoformer.cli", "run", str(folder / "digits.toml"), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder / "out" / "firmware"


def test_the_digits_pipeline_ends_equal(arm_tools: None, tmp_path: Path) -> None:
    """From training to verified firmware, twice: as the machine is, and with its tools hidden."""
    (tmp_path / "empty").mkdir()
    hidden = {**os.environ, "PATH": str(tmp_path / "empty"), "OMP_NUM_THREADS": "1"}
    ours, ours_folder = run_digits(tmp_path / "apt", {**os.environ, "OMP_NUM_THREADS": "1"})
    pips, pips_folder = run_digits(tmp_path / "pip", hidden)
    assert ours["passed"] and pips["passed"]
    assert ours["compiler"].startswith("arm-none-eabi-gcc") and ours["emulator"].startswith("QEMU")
    assert pips["compiler"].startswith("zig ") and pips["emulator"].startswith("unicorn ")
    assert json.loads((pips_folder / "build.json").read_text())["compilers"]["host"].startswith("zig ")
    links = [(link["from"], link["to"], link["equal"]) for link in pips["links"]]
    assert ("host", "mps2-an386", True) in links and ("reference", "host", True) in links
    assert ours["links"] == pips["links"] and ours["metrics"] == pips["metrics"]
    assert ours["ram_bytes"]["arena"] == pips["ram_bytes"]["arena"]
    for record in (ours, pips):
        assert record["instructions"]["per_inference"] > record["macs"]
    outputs = []
    for folder, emulator in ((ours_folder, "qemu"), (pips_folder, "unicorn")):
        place = tmp_path / f"{emulator}.npz"
        samples = folder.parent / "test.npz"
        succeeds("emulate", folder, "--inputs", samples, "--emulator", emulator, "-o", place)
        outputs.append(place.read_bytes())
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("scheme", ["int8", "int8x16", "int4x8", "float32"])
def test_every_scheme_builds_and_verifies(scheme: str, shop: Workshop, tmp_path: Path, nothing_installed: Path) -> None:
    succeeds(*shop.build_words(tmp_path / "out", "mps2-an386", "--scheme", scheme))
    record = picoformer("verify", tmp_path / "out", "--inputs", shop.inputs, "--json").record
    assert record["passed"] and record["emulator"].startswith("unicorn")
    assert record["instructions"]["per_inference"] > 0 and record["ram_bytes"]["stack"] > 0


def test_faults_are_named(tmp_path: Path, nothing_installed: Path) -> None:
    target = load_target("mps2-an386")
    build = build_firmware(device_fixture.write_model(tmp_path / "model"), target, tmp_path / "out", fault_tests=True)
    for kind, words in {
        1: "bad memory access in pf_test_bad_write at address 0",
        2: r"call of a bad address \(0xf000000[01]\) from pf_test_bad_call",
        3: "stack overflow in pf_test_stack_overflow or a function it calls",
        5: "undefined instruction in pf_test_undefined",
    }.items():
        with pytest.raises(Exception, match=words), open_device(build, target) as session:
            session.device.fault_test(kind)


def test_a_model_too_big_is_refused_with_numbers(tmp_path: Path, nothing_installed: Path) -> None:
    board = load_target("mps2-an386")
    model_c = device_fixture.MODEL_C.replace("test_arena[4096]", "test_arena[5000000]")
    model = device_fixture.write_model(tmp_path / "model", model_c=model_c)
    (model / "model.h").write_text(device_fixture.MODEL_H.replace("[4096]", "[5000000]"))
    with pytest.raises(
        FitError, match=r"RAM \(ssram23\) needs 5,00\d,\d+ bytes and has 4,194,304; biggest: test_arena 5,000,000"
    ):
        build_firmware(model, board, tmp_path / "out")


def test_building_twice_gives_the_same_image(
    tmp_path: Path, nothing_installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is loaded, to the byte; the debugging information of zig's run-time library names the cache it lay in."""
    images = []
    for name in ("first", "second"):
        monkeypatch.setenv("PICOFORMER_CACHE", str(tmp_path / name / "cache"))
        model = device_fixture.write_model(tmp_path / name / "model")
        build = build_firmware(model, load_target("mps2-an386"), tmp_path / name / "out")
        images.append((read_image(build.elf), build.sizes))
        assert str(tmp_path).encode() not in b"".join(data for _, data in images[-1][0].segments)
    assert images[0] == images[1]


BOARDS = [target.name for target in map(load_target, list_targets()) if not target.is_library]
FIRST_OF_CORE = list({(*t.isa, *t.toolchain.flags): t.name for t in map(load_target, reversed(BOARDS))}.values())


@pytest.mark.parametrize("name", BOARDS)
def test_every_file_compiles_without_a_warning(name: str, tmp_path: Path) -> None:
    """All C and assembly that a target could take, by zig's clang: of its port and the protocol, and, for a first board
    with its core, of its instruction sets and the rest, which know of no board."""
    target: Target = load_target(name)
    port = FIRMWARE / "port" / target.port
    folders = [FIRMWARE / "protocol"]
    if name in FIRST_OF_CORE:
        folders += [FIRMWARE / "ops", FIRMWARE / "freestanding", *(FIRMWARE / "kernels" / isa for isa in target.isa)]
    sources = [path for folder in folders for path in sorted(folder.glob("*.[cS]"))]
    sources += [path for path in sorted(port.glob("*.[cS]")) if _is_for(path, target)]
    units = [Unit(path, Path(f"{'_'.join(path.relative_to(FIRMWARE).parts)}.o")) for path in sources]
    compiler = choose_compiler(target, "zig")
    includes = [FIRMWARE / "include", *([] if compiler.has_c_library else [FIRMWARE / "freestanding"])]
    flags = ["-std=c99", target.toolchain.optimize, *WARNINGS, "-Werror", *target_defines(target), "-DPF_FAULT_TESTS"]
    assert len(compile_units(compiler, flags, includes, units, tmp_path)) > (40 if name in FIRST_OF_CORE else 10)


def _is_for(path: Path, target: Target) -> bool:
    """Whether a file of the port is one that the target takes: drivers want the macros of their own boards."""
    choice = re.match(r"(exit|watchdog|uart)_(\w+)", path.stem)
    wanted = {"exit": target.exit, "watchdog": target.watchdog.kind, "uart": target.uart.kind if target.uart else ""}
    return choice is None or wanted[choice[1]] == choice[2]
