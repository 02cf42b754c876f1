"""Fixtures of all tests: the tools for Arm, a cache of their own, the tiny model's firmware."""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

import device_fixture
from aarch64_machine import Machine, MachineError, open_machine
from picoformer.compilers import PACKAGES
from picoformer.firmware import FirmwareBuild, build_firmware
from picoformer.targets import Target, load_target

if TYPE_CHECKING:
    from c_tokenizer import HostTokenizer
    from picoformer.tokenizers import TextTokenizer

TinyFirmware = Callable[[str], tuple[FirmwareBuild, Target]]


ROTATED = (
    "test_conformance",
    "test_cores",
    "test_decoder_families",
    "test_no_install",
    "test_onnx_nodes",
    "test_reference_encoder",
    "test_tokenizers_c",
    "test_tokenizers_unicode",
)
"""Files whose slow tests CI runs by turns, so that it stays short; `make sweep` runs all of them."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With $PICOFORMER_SWEEP_PART 0 or 1, leave out the slow tests of every second file of ROTATED."""
    part = os.environ.get("PICOFORMER_SWEEP_PART")
    if part not in ("0", "1"):
        return
    left_out = set(ROTATED[1 - int(part) :: 2])
    dropped = [item for item in items if item.path.stem in left_out and item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=dropped)
    kept = set(items) - set(dropped)
    items[:] = [item for item in items if item in kept]


def _require(programs: list[str]) -> None:
    """Programs whose absence fails the test under CI, and skips it with a warning elsewhere."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        packages = " ".join(PACKAGES[name] for name in programs)
        _lack(f"{', '.join(missing)} not installed: sudo apt-get install {packages}")


def _lack(message: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(message)
    warnings.warn(f"NOT TESTED: {message}", stacklevel=1)
    pytest.skip(message)


@pytest.fixture(scope="session")
def arm_tools() -> None:
    """The Arm compiler and QEMU."""
    _require(["arm-none-eabi-gcc", "qemu-system-arm"])


@pytest.fixture(scope="session")
def riscv_tools() -> None:
    """The RISC-V compiler and QEMU."""
    _require(["riscv64-unknown-elf-gcc", "qemu-system-riscv32"])


@pytest.fixture(scope="session")
def cmake_tools() -> None:
    """CMake, which builds packages of C, and what it calls."""
    _require(["cmake", "make"])


@pytest.fixture(scope="session")
def rsync_tools() -> None:
    """rsync, which copies what goes to a board."""
    if shutil.which("rsync") is None:
        _lack("rsync not installed: sudo apt-get install rsync")


@pytest.fixture(scope="session")
def pip_tools() -> None:
    """zig's compiler and unicorn, from PyPI."""
    missing = [name for name in ("ziglang", "unicorn") if importlib.util.find_spec(name) is None]
    if missing:
        _lack(f"{', '.join(missing)} not installed: pip install 'picoformer[emulator]'")


@pytest.fixture(scope="session")
def aarch64() -> Machine:
    """An emulated 64-bit Arm Linux with the wheels of a Raspberry Pi, fetched where it is not here yet."""
    try:
        return open_machine()
    except MachineError as error:
        _lack(str(error))


def require_tools(target: str, request: pytest.FixtureRequest) -> None:
    """What builds and runs firmware of a target must be there."""
    if target != "host":
        request.getfixturevalue("riscv_tools" if target.startswith("riscv") else "arm_tools")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled objects and the counting plugin go to a folder of this test run, which its processes share."""
    before = os.environ.get("PICOFORMER_CACHE")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    os.environ["PICOFORMER_CACHE"] = str(folder)
    yield
    if before is None:
        del os.environ["PICOFORMER_CACHE"]
    else:
        os.environ["PICOFORMER_CACHE"] = before


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny language model of tests on text and its builds lie, made once."""
    return tmp_path_factory.mktemp("text")


@pytest.fixture(params=["host", "mps2-an386", "mps2-an505", "mps3-an547", "riscv32-virt"])
def device_target(request: pytest.FixtureRequest) -> str:
    """The name of each target that device tests run on: one of each port. test_cores.py has the other cores."""
    name: str = request.param
    require_tools(name, request)
    return name


@pytest.fixture(scope="session")
def tiny_firmware(tmp_path_factory: pytest.TempPathFactory) -> TinyFirmware:
    """Builds the tiny model with fault tests, once per target; the watchdog barks after one second."""
    built: dict[str, tuple[FirmwareBuild, Target]] = {}

    def build(name: str) -> tuple[FirmwareBuild, Target]:
        if name not in built:
            plain = load_target(name)
            target = plain.model_copy(update={"watchdog": plain.watchdog.model_copy(update={"seconds": 1})})
            folder = tmp_path_factory.mktemp("tiny")
            model = device_fixture.write_model(folder / "model")
            built[name] = build_firmware(model, target, folder / "out", fault_tests=True, strict=True), target
        return built[name]

    return build


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[TextTokenizer, HostTokenizer]]:
    """Case of tokenizer_cases → (the library's tokenizer, the C), made when first asked for."""
    from c_tokenizer import HostTokenizer
    from picoformer.tokenizers import load_text_tokenizer
    from tokenizer_cases import CASES

    @cache
    def make(name: str) -> tuple[TextTokenizer, HostTokenizer]:
        folder = tmp_path_factory.mktemp(name)
        tokenizer = load_text_tokenizer(CASES[name](folder))
        return tokenizer, HostTokenizer(tokenizer.tables(), folder)

    return make
