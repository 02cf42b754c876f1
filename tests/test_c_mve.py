"""The kernels of firmware/kernels/mve on an emulated Cortex-M55: the bytes of the definition, and vectors in them."""

from __future__ import annotations

import numpy as np
import pytest

from arm_library import M55, ArmLibrary
from c_library import execute
from operator_cases import CASES
from picoformer.ir.types import DType
from test_c_dsp import linear_case
from test_c_ops import ALIASES

MVE = ["mve", "dsp", "generic"]
S8, S16 = DType.INT8, DType.INT16


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory, arm_tools: None) -> ArmLibrary:
    return ArmLibrary(tmp_path_factory.mktemp("core"), MVE, M55)


class Waiting:
    """Results that are not there yet, with what they must be; the core runs when its memory is full, and at the end."""

    def __init__(self, core: ArmLibrary) -> None:
        self.core, self.results = core, []

    def add(self, case, alias: int | None = None) -> None:
        result = execute(self.core, case.lowered, *case.activations, alias=alias)[1]
        self.results.append((case.note, result, case.expected))
        if self.core.is_full:
            self.run()

    def run(self) -> None:
        self.core.run()
        for note, result, expected in self.results:
            np.testing.assert_array_equal(result, expected, note)
        self.results.clear()


@pytest.mark.parametrize("symbol", CASES)
def test_equal_to_the_definition(symbol: str, core: ArmLibrary) -> None:
    """Every case of an operator, and every one that may be computed in place so."""
    waiting = Waiting(core)
    for case in CASES[symbol]():
        for alias in (None, *ALIASES.get(symbol, ())):
            if alias is None or case.activations[alias].shape == case.output.shape:
                waiting.add(case, alias)
    waiting.run()


SIZES = [(1 + k % 4, 1 + k * 5 % 19, k) for k in (*range(1, 34), 47, 48, 63, 64, 65, 80, 100, 112, 129, 192)]


@pytest.mark.parametrize("x,y", [(S8, S8), (S8, S16), (S16, S8), (S16, S16)])
def test_linear_of_every_small_size(x: DType, y: DType, core: ArmLibrary) -> None:
    """Every piece of a row alone and before whole ones, all counts of outputs past a group, rows past a block."""
    rng = np.random.default_rng(0)
    waiting = Waiting(core)
    for rows, n, k in [*SIZES, (21, 3, 512), (9, 2, 1030)]:
        extremes = [x.minimum, x.maximum, int(rng.integers(x.minimum, x.maximum + 1))]
        data = rng.choice(extremes, (rows, k)).astype(x.numpy)
        weight = rng.choice([-127, 127, int(rng.integers(-127, 128))], (n, k)).astype(np.int8)
        waiting.add(linear_case(data, weight, y, 0.01 if x is S8 else 0.01 / 256))
    waiting.run()


@pytest.mark.parametrize("x,y", [(S8, S8), (S8, S16), (S16, S8), (S16, S16)])
def test_int4_linear_of_every_small_size(x: DType, y: DType, core: ArmLibrary) -> None:
    """The same with int4 weights, with blocks and without, and with sums that may not be shifted left."""
    rng = np.random.default_rng(2)
    waiting = Waiting(core)
    for index, (rows, n, k) in enumerate([*SIZES, (21, 3, 512)]):
        data = rng.choice([x.minimum, x.maximum, int(rng.integers(x.minimum, x.maximum))], (rows, k)).astype(x.numpy)
        weight = rng.integers(-8, 8, (n, k)).astype(np.int8)
        blocks = tuple(map(tuple, rng.integers(1, 16, (n, -(-k // 32))).tolist())) if index % 3 else ()
        waiting.add(linear_case(data, weight, y, 2.0**15 if index % 5 == 0 else 0.01, DType.INT4, blocks))
    waiting.run()


@pytest.mark.parametrize("y", [S8, S16])
def test_sums_that_may_not_be_shifted_left(y: DType, core: ArmLibrary) -> None:
    """Factors so large that a shifted sum would pass 32 bits: products of 64 bits."""
    rng = np.random.default_rng(1)
    waiting = Waiting(core)
    for rows, n, k in ((1, 1, 5), (2, 2, 64), (3, 9, 33), (5, 17, 80)):
        data = rng.integers(-128, 128, (rows, k)).astype(np.int8)
        data[0] = 0
        weight = rng.integers(-127, 128, (n, k)).astype(np.int8)
        case = linear_case(data, weight, y, 2.0**15)
        assert 32 - case.lowered.shift > case.lowered.headroom
        waiting.add(case)
    waiting.run()
