"""The kernels of firmware/kernels/mve on an emulated Cortex-M55: the bytes of the definition, whatever the sizes."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from arm_library import FLAGS_M55, M55, ArmLibrary
from c_library import FIRMWARE, FLAGS, execute
from operator_cases import CASES, Case, then_activation, then_residual
from picoformer.ir.operator import Array, Lowered, Operand
from picoformer.ir.types import DType, QuantParams, TensorType
from picoformer.ops import Attention
from test_c_dsp import linear_case
from test_c_ops import ALIASES

MVE = ["mve", "dsp", "generic"]
S8, S16 = DType.INT8, DType.INT16


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory, arm_tools: None) -> ArmLibrary:
    return ArmLibrary(tmp_path_factory.mktemp("core"), MVE, M55, single_rows=True)


class Waiting:
    """Results that are not there yet, with what they must be; the core runs when its memory is full, and at the end."""

    def __init__(self, core: ArmLibrary) -> None:
        self.core = core
        self.results: list[tuple[str, Array, Array]] = []

    def add(self, case: Case, alias: int | None = None) -> None:
        """A case, maybe in place."""
        self.add_lowered(case.note, case.lowered, case.activations, case.expected, alias=alias)

    def add_lowered(self, note: str, low: Lowered, data: tuple[Array, ...], expected: Array, **how: object) -> None:
        """Any integer operator on any data; `how`: see execute."""
        self.results.append((note, execute(self.core, low, *data, **how)[1], expected))  # type: ignore[arg-type]
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


@pytest.mark.parametrize("y", [S8, S16])
@pytest.mark.parametrize("symbol", [s for s in CASES if s.startswith("pf_linear_") and "wide" not in s])
def test_linear_with_an_activation(symbol: str, y: DType, core: ArmLibrary) -> None:
    """One call gives what a linear layer and the table of an activation give one after another."""
    waiting = Waiting(core)
    for case in CASES[symbol]():
        then, expected = then_activation(case, y)
        waiting.add_lowered(case.note, case.lowered, case.activations, expected, then=then)
    waiting.run()


@pytest.mark.parametrize("symbol", [s for s in CASES if s.startswith("pf_linear_") and s.endswith("_s16")])
def test_linear_added_to_a_residual(symbol: str, core: ArmLibrary) -> None:
    """One call gives what a linear layer and a sum give one after another, also where sums may not shift."""
    waiting = Waiting(core)
    rng = np.random.default_rng(3)
    cases = list(CASES[symbol]())
    if symbol == "pf_linear_s8_s16":
        for rows, n, k, factor in ((1, 1, 5, 2.0**15), (5, 9, 64, 2.0**15), (19, 11, 96, 0.01), (8, 8, 64, 0.01)):
            data = rng.integers(-128, 128, (rows, k)).astype(np.int8)
            cases.append(linear_case(data, rng.integers(-127, 128, (n, k)).astype(np.int8), S16, factor))
    for case in cases:
        residual, expected = then_residual(case)
        waiting.add_lowered(case.note, case.lowered, case.activations, expected, residual=residual)
    waiting.run()


@pytest.mark.parametrize("then", [S8, S16])
@pytest.mark.parametrize("y", [S8, S16])
def test_activation_of_many_rows_and_of_sums_that_may_not_shift(y: DType, then: DType, core: ArmLibrary) -> None:
    rng = np.random.default_rng(3)
    waiting = Waiting(core)
    for rows, n, k, factor in ((1, 1, 5, 2.0**15), (5, 9, 64, 2.0**15), (19, 11, 96, 0.01), (8, 8, 64, 0.01)):
        data = rng.integers(-128, 128, (rows, k)).astype(np.int8)
        data[0] = 0
        case = linear_case(data, rng.integers(-127, 128, (n, k)).astype(np.int8), y, factor)
        table, expected = then_activation(case, then)
        waiting.add_lowered(case.note, case.lowered, case.activations, expected, then=table)
    waiting.run()


ATTENTIONS = [
    (5, 32, 1, 1, 16, 16, False),  # whole vectors and pieces, the last call of a single query
    (6, 64, 2, 1, 16, 9, False),
    (4, 32, 1, 1, 8, 8, False),
    (3, 96, 1, 1, 32, 5, False),  # two vectors of int8, four of int16
    (2, 48, 1, 1, 70, 17, False),  # halves of a piece
    (40, 40, 1, 1, 16, 8, True),  # rows before and after the first whole sixteens
    (3, 33, 9, 9, 1, 1100, False),  # values so far apart that 16 bits of offset do not reach
]


@pytest.mark.parametrize("x,y", [(S8, S8), (S8, S16), (S16, S8), (S16, S16)])
@pytest.mark.parametrize("drop", [0, 24])
def test_attention_of_every_way_through_its_loops(drop: int, x: DType, y: DType, core: ArmLibrary) -> None:
    """(queries, keys, heads, key heads, head size, value size, causal); drop: means by shifts below 33."""
    rng = np.random.default_rng(4)
    waiting = Waiting(core)
    for queries, keys, heads, kv_heads, size, value_size, causal in ATTENTIONS:
        shapes = (queries, heads * size), (keys, kv_heads * size), (keys, kv_heads * value_size)
        data = tuple(rng.integers(x.minimum, x.maximum + 1, shape).astype(x.numpy) for shape in shapes)
        data[0][0], data[1][:, 0] = x.maximum, x.minimum
        types = [TensorType(shape, x, QuantParams((0.02 / (1 if x is S8 else 256),), 0)) for shape in shapes]
        out = TensorType((queries, heads * value_size), y, QuantParams((0.02 / (1 if y is S8 else 256),), 0))
        op = Attention(heads, size**-0.5, causal, kv_heads)
        low = op.lower([Operand(t) for t in types], out)
        low = replace(low, value_exponent=low.value_exponent - drop)  # type: ignore[attr-defined,call-arg]
        waiting.add_lowered(f"{shapes}", low, data, low.execute(*data))
    waiting.run()


@pytest.mark.parametrize("symbol", [s for s in CASES if s.startswith("pf_layer_norm_gain")])
def test_a_gain_of_any_shift(symbol: str, core: ArmLibrary) -> None:
    """Shifts down to 12: sums whose low words are part of the result."""
    waiting = Waiting(core)
    for case in CASES[symbol]():
        for less in (0, 8, 25):
            low = case.lowered
            low = replace(low, shift=low.shift - less, offset=low.offset >> less)  # type: ignore[attr-defined,call-arg]
            waiting.add_lowered(case.note, low, case.activations, low.execute(*case.activations))
    waiting.run()


COMPILERS = {
    "gcc": ["arm-none-eabi-gcc", *FLAGS_M55],
    "gcc small": ["arm-none-eabi-gcc", *FLAGS_M55, "-Os"],
    "clang": ["clang", "--target=thumbv8.1m.main-none-eabi", *FLAGS_M55],
}


@pytest.mark.parametrize("compiler", COMPILERS)
def test_compiles_without_a_warning(compiler: str, tmp_path: Path, arm_tools: None) -> None:
    sources = [str(path) for path in sorted((FIRMWARE / "kernels" / "mve").glob("*.c"))]
    done = subprocess.run([*COMPILERS[compiler], *FLAGS, "-c", *sources], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
