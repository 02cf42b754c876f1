"""The kernels of firmware/kernels/dsp on an emulated Cortex-M4: the bytes of the definition, and DSP opcodes only there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from arm_library import FLAGS_M4, ArmLibrary, dsp_opcodes
from c_library import FIRMWARE, FLAGS, execute
from operator_cases import CASES
from test_c_ops import ALIASES

DSP = ["dsp", "generic"]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory, arm_tools: None) -> ArmLibrary:
    return ArmLibrary(tmp_path_factory.mktemp("core"), DSP)


@pytest.mark.parametrize("symbol", CASES)
def test_equal_to_the_definition(symbol: str, core: ArmLibrary) -> None:
    """Every case of an operator, and every one that may be computed in place so, in a few runs of the emulator."""
    waiting = []

    def run() -> None:
        core.run()
        for note, result, expected in waiting:
            np.testing.assert_array_equal(result, expected, note)
        waiting.clear()

    for case in CASES[symbol]():
        for alias in (None, *ALIASES.get(symbol, ())):
            if alias is None or case.activations[alias].shape == case.output.shape:
                waiting.append(
                    (case.note, execute(core, case.lowered, *case.activations, alias=alias)[1], case.expected)
                )
        if core.is_full:
            run()
    run()


def listing(folder: Path, isa: str) -> str:
    """Disassembly of a directory's kernels for the Cortex-M4."""
    sources = [str(path) for path in sorted((FIRMWARE / "kernels" / isa).glob("*.c"))]
    subprocess.run(["arm-none-eabi-gcc", *FLAGS_M4, *FLAGS, "-c", *sources], cwd=folder, check=True)
    objects = [path.name for path in sorted(folder.glob("*.o"))]
    command = ["arm-none-eabi-objdump", "-d", "--no-show-raw-insn", *objects]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_the_kernels_are_made_of_dsp_opcodes(tmp_path: Path, arm_tools: None) -> None:
    wanted = {"smlad", "smlald", "smmlar", "smmulr", "sxtb16", "pkhbt", "qadd16"}
    assert wanted <= {name.split(".")[0] for name in dsp_opcodes(listing(tmp_path, "dsp"))}


@pytest.mark.parametrize("cpu", ["cortex-m0", "cortex-m3"])
def test_the_generic_kernels_assemble_without_the_extension(cpu: str, tmp_path: Path, arm_tools: None) -> None:
    """The disassembly of what a core without the extension would run holds none of its opcodes."""
    sources = [str(path) for path in sorted((FIRMWARE / "kernels" / "generic").glob("*.c"))]
    command = ["arm-none-eabi-gcc", "-mthumb", f"-mcpu={cpu}", "-O2", *FLAGS, "-c", *sources]
    subprocess.run(command, cwd=tmp_path, check=True)
    objects = [path.name for path in sorted(tmp_path.glob("*.o"))]
    command = ["arm-none-eabi-objdump", "-d", "--no-show-raw-insn", *objects]
    found = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert dsp_opcodes(found) == set()


COMPILERS = {
    "cortex-m4": ["arm-none-eabi-gcc", *FLAGS_M4],
    "cortex-m7": ["arm-none-eabi-gcc", "-mthumb", "-mcpu=cortex-m7", "-O0"],
    "cortex-m33": ["arm-none-eabi-gcc", "-mthumb", "-mcpu=cortex-m33", "-Os"],
    "clang": ["clang", "--target=arm-none-eabi", "-mthumb", "-mcpu=cortex-m4", "-ffreestanding", "-O2"],
}


@pytest.mark.parametrize("compiler", COMPILERS)
def test_compiles_without_a_warning(compiler: str, tmp_path: Path, arm_tools: None) -> None:
    sources = [str(path) for path in sorted((FIRMWARE / "kernels" / "dsp").glob("*.c"))]
    done = subprocess.run([*COMPILERS[compiler], *FLAGS, "-c", *sources], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
