"""The kernels of a decode step for cores with DSP and with MVE, in sizes around every turn of their loops."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from arm_library import M4, M55, ArmLibrary
from c_library import execute
from decode_cases import NUMBER
from operator_cases import Case, of, then_activation, then_residual
from picoformer.ir.operator import Operand
from picoformer.ir.types import DType, TensorType
from picoformer.ops import CachedAttention, KvAppend, Mul, RmsNorm, Rope
from picoformer.ops.fixedpoint import short_factors
from picoformer.ops.normalization import row_factor
from picoformer.ops.rope import ROTATION_QUANT
from test_c_dsp import linear_case

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


CORES = {"dsp": (["dsp", "generic"], M4, True), "mve": (["mve", "dsp", "generic"], M55, True)}


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


@pytest.mark.parametrize("weight", [S8, DType.INT4])
@pytest.mark.parametrize("y", [S8, S16])
def test_one_row_of_every_small_size(y: DType, weight: DType, core: ArmLibrary) -> None:
    """K in every rest of the loops and around a turn of them, odd and even N, extremes, rows off words; sums of 32 and
    of 64 bits, with every kind of ending, left shifts that are allowed and others."""
    rng = np.random.default_rng(6)
    most = 127 if weight is S8 else 7
    waiting = []
    for index, k in enumerate((*range(1, 42), 63, 64, 65, 100, 124, 127, 128, 129, 136, 172, 256, 260, 1000, 1031)):
        n = (1, 2, 3, 16, 17, 18, k if k < 200 else 33)[index % 7]
        for wide in (False, True) if weight is S8 else (False,):
            extreme = wide or index % 3 == 0
            values = rng.choice([-most, most], (n, k)) if extreme else rng.integers(-most, most + 1, (n, k))
            values[:, ::2] //= 1 if wide or k < 500 else 20
            data = rng.choice([-32768, 32767], (2, k)) if extreme else rng.integers(-32768, 32768, (2, k))
            blocks = rng.integers(1, 16, (n, -(-k // 32))).tolist() if weight is DType.INT4 and index % 4 else ()
            factor = (2.0**15 if index % 5 == 0 and not wide else (1.0, 0.01, 0.0001)[index % 3]) / 256
            if k > 1000:  # all of one sign: past 31 bits, 20000 in the end
                signs = np.where(np.arange(n) % 3 == 0, -1, 1)[:, None]
                values, data, factor = np.full((n, k), most) * signs, np.full((2, k), -32768), 2.0**-18
            layout = core.layout.linear(S16, weight, wide)
            start = index % 2 if layout.in_place else 0  # vectors are loaded from words
            row = data.astype(np.int16).reshape(-1)[start:][:k].reshape(1, k)
            case = linear_case(row, values.astype(np.int8), y, factor, weight, tuple(map(tuple, blocks)))
            if not wide and case.lowered.wide:
                continue
            lowered = dataclasses.replace(case.lowered, wide=wide)
            for then in (None, S8, S16):
                table, expected = (None, case.expected) if then is None else then_activation(case, then)
                waiting.append((f"{case.note} {wide}", execute(core, lowered, row, then=table)[1], expected))
            if n == k and y is S16 and layout.in_place:
                waiting.append((f"{case.note} in place", execute(core, lowered, row, alias=0)[1], case.expected))
            if y is S16:
                residual, expected = then_residual(case)
                waiting.append((f"{case.note} added", execute(core, lowered, row, residual=residual)[1], expected))
            if core.is_full:
                core.run()
    core.run()
    assert len(waiting) > 100
    for note, result, expected in waiting:
        np.testing.assert_array_equal(result, expected, note)


@pytest.mark.parametrize("y", [S8, S16])
def test_int16_weights_of_every_small_size(y: DType, core: ArmLibrary) -> None:
    """K in every rest of the loop and around a turn of it, odd ones too, rows off words; sums of 47 bits that saturate,
    left shifts, every kind of ending."""
    rng = np.random.default_rng(7)
    waiting = []
    for index, k in enumerate((*range(1, 34), 158, 160, 162, 164, 166, 168, 170, 172, 320, 4000)):
        n = (1, 2, 3, 15, 16, 17)[index % 6]
        extreme = index % 2 == 0
        weight = rng.choice([-32767, 32767], (n, k)) if extreme else rng.integers(-32767, 32768, (n, k))
        data = rng.choice([-32768, 32767], (2, k)) if extreme else rng.integers(-32768, 32768, (2, k))
        if k == 4000:
            weight, data = np.full((n, k), 32767) * (1 - 2 * (np.arange(n) % 2))[:, None], np.full((2, k), -32768)
        row = data.astype(np.int16).reshape(-1)[index % 4 // 3 :][:k].reshape(1, k)
        factor = (2.0**-16, 2.0**-22, 2.0**-18, 2.0**-32)[index % 4]
        case = linear_case(row, weight.astype(np.int16), y, factor, S16)
        if index % 4 == 2:  # as beside an output of a far larger scale
            shift = 17 + index % 15
            small = short_factors(rng.integers(0, 2 + (1 << shift - 17), n))
            object.__setattr__(case, "lowered", dataclasses.replace(case.lowered, shift=shift, factor=small))
        for then in (None, S8, S16):
            table, expected = (None, case.expected) if then is None else then_activation(case, then)
            waiting.append((case.note, execute(core, case.lowered, row, then=table)[1], expected))
        if y is S16:
            residual, expected = then_residual(case)
            waiting.append((f"{case.note} added", execute(core, case.lowered, row, residual=residual)[1], expected))
        if core.is_full:
            core.run()
    core.run()
    for note, result, expected in waiting:
        np.testing.assert_array_equal(result, expected, note)


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
