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
                waiting.append((case.note, execute(core, case.lowered, *case.activations, alias=alias)[1], case.expected))
        if core.is_full:
            run()
    run()
