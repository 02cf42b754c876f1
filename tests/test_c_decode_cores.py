"""The kernels of a decode step for cores with DSP and with MVE, in sizes around every turn of their loops."""

from __future__ import annotations

import numpy as np
import pytest

from arm_library import M4, M55, ArmLibrary
from c_library import execute
from decode_cases import NUMBER
from operator_cases import Case, of
from picoformer.ir.operator import Operand
from picoformer.ir.types import DType, TensorType
from picoformer.ops import CachedAttention, KvAppend, Mul, RmsNorm, Rope
from picoformer.ops.normalization import row_factor
from picoformer.ops.rope import ROTATION_QUANT

S8, S16 = DType.INT8, DType.INT16

ATTENTIONS = [
    # positions, heads, heads of keys, head size, value size, position
    *((24, 2, 1, 8, 1 + seen % 5, seen) for seen in range(24)),
    *((200, 1, 1, 8, 3, seen) for seen in (158, 159, 160, 161, 162, 167, 168, 169, 199)),
    *((6, 2, 2, size, 4, 5) for size in (2, 4, 6, 7, 12, 16, 24, 40, 64, 120, 128, 136)),
    (7, 2, 1, 8, 3, 6),  # rows of values off words
    (6, 3, 3, 7, 5, 4),  # keys off words
    (64, 4, 2, 16, 16, 40),
]


CORES = {"dsp": (["dsp", "generic"], M4), "mve": (["mve", "dsp", "generic"], M55)}


@pytest.fixture(scope="module", params=CORES)
def core(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, arm_tools: None) -> ArmLibrary:
    return ArmLibrary(tmp_path_factory.mktemp("core"), *CORES[request.param])


def attention_case(
    rng: np.random.Generator, sizes: tuple[int, ...], types: tuple[DType, DType, DType], index: int
) -> Case:
    """Queries, keys and values at random or at the ends of what they may be, by `index`; values behind the last key
    seen are anything."""
    positions, heads, kv_heads, size, value_size, position = sizes
    keys, values, y = types
    bits = min(keys.bits, 13)
    limit = 1 << (bits - 1)

    def drawn(low: int, high: int, shape: tuple[int, ...]) -> np.ndarray:
        return rng.choice([low, high - 1], shape) if index % 2 else rng.integers(low, high, shape)

    q = drawn(-32768, 32768, (1, heads * size)).astype(np.int16)
    k = drawn(-limit, limit, (positions, kv_heads * size)).astype(keys.numpy)
    v = drawn(values.minimum, values.maximum + 1, (kv_heads * value_size, positions)).astype(values.numpy)
    if index % 4 == 3:  # the largest score there is, beside the smallest
        q[:], k[0], k[position] = -32768, -limit, limit - 1
    reach = (6.0, 0.5, 2.0**26)[index % 3]  # the last takes a shift below 32
    fit = 2.0**-24 if index % 7 == 6 else 1.0  # so fine that a mean takes one of 32 or less
    steepest = 2.0**29 * reach / (32768 * limit * np.sqrt(size) * positions)
    slopes = tuple(float(s) for s in rng.choice([-1, 1, 0.3], heads) * steepest) if index % 5 == 4 else ()
    inputs = (
        Operand(of(q.shape, S16, np.sqrt(reach) / 32768)),
        Operand(of(k.shape, keys, np.sqrt(reach) / limit)),
        Operand(of(v.shape, values, 3.0 / -values.minimum)),
        NUMBER,
    )
    out = of((1, heads * value_size), y, fit * 3.0 / -y.minimum)
    op = CachedAttention(heads, kv_heads, 1.0 / np.sqrt(size), bits, slopes)
    return Case(f"{sizes} {index}", op, inputs, out, (q, k, v, np.int32(position)))


@pytest.mark.parametrize("types", [(S16, S16, S16), (S16, S16, S8), (S16, S8, S16), (S8, S16, S16), (S8, S8, S8)])
def test_cached_attention_of_every_small_size(types: tuple[DType, DType, DType], core: ArmLibrary) -> None:
    rng = np.random.default_rng(0)
    waiting, shifts = [], set()
    for number, sizes in enumerate(ATTENTIONS):
        for index in (*range(number % 3, 21, 3), 39):
            case = attention_case(rng, sizes, types, index)
            shifts.add(case.lowered.score_shift)
            waiting.append((case.note, execute(core, case.lowered, *case.activations)[1], case.expected))
            if core.is_full:
                core.run()
    core.run()
    assert 32 in shifts and min(shifts) < 32
    for note, result, expected in waiting:
        np.testing.assert_array_equal(result, expected, note)


def check(core: ArmLibrary, cases: list[Case]) -> None:
    """All of them in one run of the emulator."""
    results = [execute(core, case.lowered, *case.activations)[1] for case in cases]
    core.run()
    for case, result in zip(cases, results, strict=True):
        np.testing.assert_array_equal(result, case.expected, case.note)


def test_rms_norm_with_every_shift(core: ArmLibrary) -> None:
    """Rows of ones and of the largest numbers there are, widths in every rest of eight, outputs fine and coarse."""
    rng = np.random.default_rng(1)
    cases, scales = [], set()
    for width in (*range(1, 26), 64, 288):
        for most in (1, 2, 30, 1000, 32767):
            x = rng.integers(-most, most + 1, (2, width)).astype(np.int16)
            x[1, 0] = most
            for step in (2.0**-14, 2.0**-12, 2.0**-5):
                grid = of(x.shape, S16, 0.5)
                cases.append(
                    Case(f"{width} {most} {step}", RmsNorm(1e-9), (Operand(grid),), of(x.shape, S16, step), (x,))
                )
                low = cases[-1].lowered
                squares = (x[1].astype(np.int64) ** 2).sum() + low.epsilon
                scales.add(int(row_factor(low.mantissa, low.exponent, squares)[1]))
    assert {16, 17, 18, 19, 32} <= scales
    check(core, cases)


def test_products_past_a_left_shift(core: ArmLibrary) -> None:
    """Factors of every size on numbers of every size, lines that begin off words."""
    rng = np.random.default_rng(2)
    cases = []
    for count in (1, 3, 4, 5, 8, 31, 172):
        for factor in (2.0**-17, 0.3, 0.7, 1.5, 40.0, 3000.0):
            most = min(32767, int(180 / np.sqrt(factor)) + 1)
            both = rng.integers(-most, most + 1, (2, count + 1)).astype(np.int16)
            both[:, 1] = -most, most
            for start in (0, 1):
                a, b = (row[start:][:count] for row in both)
                types = of(a.shape, S16, 0.01), of(a.shape, S16, 0.01), of(a.shape, S16, 1e-4 / factor)
                given = (Operand(types[0]), Operand(types[1]))
                cases.append(Case(f"{count} {factor} {start}", Mul(), given, types[2], (a, b)))
    assert {case.lowered.shift for case in cases} >= {32, 31, 30}
    check(core, cases)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotations_that_end_half_way(interleaved: bool, core: ArmLibrary) -> None:
    """Multiples of a quarter, so that many results lie half way between two integers; extremes that saturate."""
    rng = np.random.default_rng(3)
    cases = []
    for heads, size, rotary in ((1, 2, 2), (2, 6, 6), (3, 8, 8), (2, 7, 4), (1, 48, 48), (2, 10, 6)):
        table = rng.choice([-32767, -16384, -8192, -4096, 0, 4096, 8192, 16384, 32767], (5, rotary)).astype(np.int16)
        for x in (rng.integers(-99, 100, (3, heads * size)), rng.choice([-32768, 32767], (3, heads * size))):
            x = x.astype(np.int16)
            grid = of(x.shape, S16, 0.01)
            rotations = Operand(TensorType(table.shape, S16, ROTATION_QUANT), table)
            op = Rope(heads, rotary, interleaved)
            cases.append(Case(f"{heads} {size}", op, (Operand(grid), rotations, NUMBER), grid, (x, np.int32(2))))
    check(core, cases)


def test_cache_rows_past_a_left_shift(core: ArmLibrary) -> None:
    rng = np.random.default_rng(4)
    cases = []
    for factor in (2.0**-9, 0.6, 1.0, 77.0, 2.0**13, 2.0**17):
        for most in (2, 100, 32767):
            rows = rng.integers(-most, most + 1, (2, 9)).astype(np.int16)
            grid = of((5, 9), S16, 0.01)
            given = (Operand(grid), Operand(of(rows.shape, S16, 0.01 * factor)), NUMBER, NUMBER)
            data = (np.zeros((5, 9), np.int16), rows, np.int32(3), np.int32(2))
            cases.append(Case(f"{factor} {most}", KvAppend(False, 13), given, grid, data))
    assert min(case.lowered.shift for case in cases) < 18
    check(core, cases)
