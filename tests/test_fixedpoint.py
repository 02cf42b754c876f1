"""Rounding: every rule of fixedpoint.py against Python's unbounded integers; a rule broken by one unit is noticed."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from picoformer.ir.operator import LoweringError
from picoformer.ir.types import DType, QuantParams
from picoformer.ops import fixedpoint

RNG = np.random.default_rng(0)
EDGES = [0, 1, -1, 2, -2, 3, -3, 127, -128, 2**15, -(2**15), 2**30, -(2**30), 2**31 - 1, -(2**31) + 1]
MULTIPLIERS = [0, 1, 2, 3, 2**30 - 1, 2**30, 2**30 + 1, 2**31 - 1]
SHIFTS = [1, 2, 7, 8, 15, 16, 17, 30, 31, 32]


def exact_requantize(acc: int, multiplier: int, shift: int, zero_point: int, dtype: DType) -> int:
    """Nearest integer to acc·multiplier/2^shift, ties toward plus infinity, then zero point and clamp."""
    scaled = math.floor(Fraction(acc * multiplier, 1 << shift) + Fraction(1, 2))
    return min(max(scaled + zero_point, dtype.minimum), dtype.maximum)


def check_requantize() -> None:
    ties = [t for k in range(-5, 6) for t in (2 * k + 1,)]
    cases = [(acc, m, s) for acc in EDGES for m in MULTIPLIERS for s in SHIFTS]
    cases += [(tie, 1 << (s - 1), s) for tie in ties for s in SHIFTS]  # acc · m / 2^s = k + ½
    random = zip(
        RNG.integers(-(2**31) + 1, 2**31, 2000), RNG.integers(0, 2**31, 2000), RNG.integers(1, 33, 2000), strict=True
    )
    cases += [(int(a), int(m), int(s)) for a, m, s in random]
    for dtype, zero_point in ((DType.INT8, -128), (DType.INT8, 37), (DType.INT16, 0)):
        for acc, m, s in cases:
            got = int(fixedpoint.requantize(np.array([acc]), m, s, zero_point, dtype)[0])
            assert got == exact_requantize(acc, m, s, zero_point, dtype), (acc, m, s, zero_point)


def check_requantize_wide() -> None:
    for shift in (17, 18, 24, 31, 32):
        accs = [*RNG.integers(-(2**46), 2**46, 300).tolist(), 2**47 - 1, -(2**47) + 1, 2**31, -(2**31), 1, -1, 3]
        for acc in accs:
            for m in (1, 3, 2**15 + 1, 2**30 + 12345, 2**31 - 1):
                got = int(fixedpoint.requantize(np.array([acc, 2**46]), m, shift, 3, DType.INT16)[0])
                assert got == exact_requantize(acc, m, shift, 3, DType.INT16)
        for k in range(-4, 5):  # ties: (2k + 1)·2^(shift−1) times an odd multiplier
            got = int(fixedpoint.requantize(np.array([(2 * k + 1) << (shift - 1), 2**46]), 3, shift, 0, DType.INT16)[0])
            assert got == exact_requantize((2 * k + 1) << (shift - 1), 3, shift, 0, DType.INT16)


def check_rounding_shift() -> None:
    for shift in range(1, 63):
        for value in (
            0,
            1,
            -1,
            (1 << shift) >> 1,
            -((1 << shift) >> 1),
            3 << (shift - 1),
            -3 << (shift - 1),
            12345678901,
            -12345678901,
        ):
            if abs(value) < 1 << 62:
                expected = math.floor(Fraction(value, 1 << shift) + Fraction(1, 2))
                assert int(fixedpoint.rounding_shift(np.int64(value), shift)) == expected, (value, shift)


def check_quantize_real() -> None:
    for scale, zero in ((1.0, 0), (0.5, 3), (0.1, -7)):
        value = np.concatenate([np.arange(-40, 41) * (scale / 2), RNG.normal(0, 10, 500), [1e9, -1e9]]).astype(
            np.float32
        )
        got = fixedpoint.quantize_real(value, QuantParams((scale,), zero), DType.INT8)
        for v, q in zip(value, got, strict=True):
            steps = float(np.float32(v) / np.float32(scale))
            assert q == min(max(round(steps) + zero, -128), 127), (v, scale)  # Python's round is half to even


def check_reciprocals() -> None:
    """Word by word in Python integers, as SPEC states the steps."""
    for value in RECIPROCAL_VALUES:
        y, lead = fixedpoint.reciprocal(np.array([value]))
        assert (int(y[0]), int(lead[0])) == reciprocal_in_words(value), value
    for value in SQRT_VALUES:
        y, lead = fixedpoint.reciprocal_sqrt(np.array([value], np.uint64))
        assert (int(y[0]), int(lead[0])) == reciprocal_sqrt_in_words(value), value


def check_scaled_reciprocal() -> None:
    for value in RECIPROCAL_VALUES[::7]:
        for mantissa in (1 << 30, (1 << 31) - 1, 1234567890):
            y, lead = reciprocal_in_words(value)
            m, n = fixedpoint.scaled_reciprocal(mantissa, 40, np.array([value]))
            assert (int(m[0]), int(n[0])) == (min((mantissa * y) >> 31, 2**31 - 1), 71 - lead)


RECIPROCAL_VALUES = sorted(
    {
        *range(1, 600),
        *(1 << k for k in range(32)),
        *((1 << k) - 1 for k in range(1, 33)),
        *((1 << k) + 1 for k in range(1, 32)),
        *RNG.integers(1, 2**32, 3000).tolist(),
    }
)
SQRT_VALUES = sorted(
    {
        *range(1, 600),
        *(1 << k for k in range(64)),
        *((1 << k) - 1 for k in range(1, 65)),
        *((1 << k) + 1 for k in range(1, 64)),
        *(int(2.0**e) for e in RNG.uniform(0, 63.9, 3000)),
    }
)


def reciprocal_in_words(value: int) -> tuple[int, int]:
    lead = 32 - value.bit_length()
    f = value << lead
    y = 0xB4B4B4B5 - (f * 0x78787879 >> 32)
    for _ in range(3):
        y = min(y * (0x80000000 - (f * y >> 32)) >> 30, 0x80000000)
    return y, lead


def reciprocal_sqrt_in_words(value: int) -> tuple[int, int]:
    half = (64 - value.bit_length()) // 2
    f = (value << 2 * half) >> 32
    y = 0x8C000000 - (f * 0x4E000000 >> 32)
    for _ in range(4):
        y = min(y * (0x30000000 - (f * (y * y >> 32) >> 32)) >> 29, 0x80000000)
    return y, half


CHECKS: list[Callable[[], None]] = [
    check_requantize,
    check_requantize_wide,
    check_rounding_shift,
    check_quantize_real,
    check_reciprocals,
    check_scaled_reciprocal,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_rule(check: Callable[[], None]) -> None:
    check()


def _shifted(constant: Callable[[np.ndarray], np.ndarray]) -> Callable[[Any, Any], Any]:
    def rule(value: Any, shift: Any) -> Any:
        n = np.asarray(shift, np.int64)
        return (value + constant(n)) >> n

    return rule


def _tie_toward_zero(value: Any, shift: Any) -> Any:
    n = np.asarray(shift, np.int64)
    return (value + (np.int64(1) << (n - 1)) - (np.asarray(value) > 0)) >> n


def _quantize_half_away(value: Any, quant: QuantParams, dtype: DType) -> Any:
    steps = np.asarray(value, np.float32) / np.float32(quant.scale[0])
    rounded = np.copysign(np.floor(np.abs(steps) + np.float32(0.5)), steps)
    return np.clip(rounded.astype(np.float64) + quant.zero_point, dtype.minimum, dtype.maximum).astype(dtype.numpy)


def _half(n: np.ndarray) -> np.ndarray:
    return np.int64(1) << (n - 1)


MUTATIONS: dict[str, tuple[str, Any, Callable[[], None]]] = {
    "half plus one": ("rounding_shift", _shifted(lambda n: _half(n) + 1), check_rounding_shift),
    "half minus one": ("rounding_shift", _shifted(lambda n: _half(n) - 1), check_rounding_shift),
    "floor": ("rounding_shift", _shifted(lambda n: n * 0), check_rounding_shift),
    "tie toward zero": ("rounding_shift", _tie_toward_zero, check_rounding_shift),
    "requantize: half plus one": ("rounding_shift", _shifted(lambda n: _half(n) + 1), check_requantize),
    "requantize: half minus one": ("rounding_shift", _shifted(lambda n: _half(n) - 1), check_requantize),
    "requantize: floor": ("rounding_shift", _shifted(lambda n: n * 0), check_requantize),
    "requantize: tie toward zero": ("rounding_shift", _tie_toward_zero, check_requantize),
    "input: half away from zero": ("quantize_real", _quantize_half_away, check_quantize_real),
    "reciprocal: product off by one": (
        "_high32",
        lambda a, b: ((a * b) >> np.uint64(32)) + np.uint64(1),
        check_reciprocals,
    ),
    "scaled reciprocal: y off by one": (
        "reciprocal",
        lambda v: (np.array([reciprocal_in_words(int(v[0]))[0] + 1]), np.array([32 - int(v[0]).bit_length()])),
        check_scaled_reciprocal,
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_rule_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    symbol, broken, check = MUTATIONS[name]
    monkeypatch.setattr(fixedpoint, symbol, broken)
    with pytest.raises(AssertionError):
        check()


@pytest.mark.parametrize("place", ["& 0xFFFF", "<< (n - 1))) >> 16", ">> (n - 16)"])
def test_a_broken_wide_rule_is_noticed(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two halves of a wide product: each constant moved by one."""
    import inspect

    source = inspect.getsource(fixedpoint.wide_product_shift)
    broken = {
        "& 0xFFFF": "& 0xFFFE",
        "<< (n - 1))) >> 16": "<< (n - 1)) - 1) >> 16",
        ">> (n - 16)": ">> (n - 15)",
    }
    assert source.count(place) == 1
    scope: dict[str, Any] = vars(fixedpoint).copy()
    exec("from __future__ import annotations\n" + source.replace(place, broken[place]), scope)
    monkeypatch.setattr(fixedpoint, "wide_product_shift", scope["wide_product_shift"])
    with pytest.raises(AssertionError):
        check_requantize_wide()


@pytest.mark.parametrize(
    "scales", [[0.3], [0.4999], [0.5], [1.0], [1e-12], [0.0], [123456.7], [1e-6, 0.2, 3.0], [2.0**29]]
)
def test_multipliers_are_the_nearest_with_one_shift(scales: list[float]) -> None:
    multipliers, shift = fixedpoint.quantize_multipliers(np.array(scales))
    assert multipliers.dtype == np.int32
    for scale, m in zip(scales, multipliers, strict=True):
        assert 0 <= m < 2**31
        assert abs(Fraction(int(m), 1 << shift) - Fraction(scale)) <= Fraction(1, 1 << (shift + 1))
    assert shift == 32 or max(round(s * 2 ** (shift + 1)) for s in scales) >= 2**31


@pytest.mark.parametrize("scales", [[2.0**31], [-0.1], [float("nan")], [float("inf")]])
def test_multipliers_refuse(scales: list[float]) -> None:
    with pytest.raises(LoweringError, match="rescaling factor"):
        fixedpoint.quantize_multipliers(np.array(scales))


def test_short_factors_are_near() -> None:
    edges = [m for e in range(32) for m in ((1 << e) - 1, 1 << e, (1 << e) + 1) if m < 2**31]
    multipliers = np.array([*MULTIPLIERS, *edges, *RNG.integers(0, 2**31, 4000), *RNG.integers(0, 2**20, 4000)])
    factors = fixedpoint.short_factors(multipliers)
    assert factors.dtype == np.uint16
    kept = fixedpoint.multiplier_of(factors)
    for m, f, k in zip(multipliers.tolist(), factors.tolist(), kept.tolist(), strict=True):
        assert k == f << (f & 15) < 2**31
        assert abs(m - k) <= (8 if m < 2**16 else m * 17 / 65536)


@pytest.mark.parametrize("scale", [1.0, 0.5, 1 - 2.0**-40, 3e-9, 7e9, 1 / 3])
def test_split_scale(scale: float) -> None:
    mantissa, exponent = fixedpoint.split_scale(scale)
    assert 2**30 <= mantissa < 2**31
    assert abs(math.ldexp(mantissa, -exponent) / scale - 1) <= 2.0**-31


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_split_scale_refuses(scale: float) -> None:
    with pytest.raises(LoweringError, match="not a positive number"):
        fixedpoint.split_scale(scale)


def test_reciprocal_is_accurate() -> None:
    y, lead = fixedpoint.reciprocal(np.array(RECIPROCAL_VALUES))
    exact = np.array([2.0**62 / (v << int(k)) for v, k in zip(RECIPROCAL_VALUES, lead, strict=True)])
    assert np.abs(y / exact - 1).max() < 2.0**-27
    assert y.max() <= 2**31


def test_reciprocal_sqrt_is_accurate() -> None:
    y, half = fixedpoint.reciprocal_sqrt(np.array(SQRT_VALUES, np.uint64))
    exact = np.array([2.0**62 / math.sqrt(v << 2 * int(k)) for v, k in zip(SQRT_VALUES, half, strict=True)])
    assert np.abs(y / exact - 1).max() < 2.0**-27
    assert y.max() <= 2**31


def test_bit_length() -> None:
    values = np.array([0, *SQRT_VALUES], np.uint64)
    assert fixedpoint.bit_length(values).tolist() == [int(v).bit_length() for v in values]


def test_wide_requantize_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(LoweringError, match="too wide"):
        fixedpoint.requantize(np.array([2**47]), 1, 32, 0, DType.INT8)
    with pytest.raises(LoweringError, match="too wide"):
        fixedpoint.requantize(np.array([2**40]), 1, 16, 0, DType.INT8)


def test_exact_matmul() -> None:
    a, b = np.full((3, 5000), -32768, np.int16), np.full((5000, 2), -32768, np.int16)
    np.testing.assert_array_equal(fixedpoint.exact_matmul(a, b), np.full((3, 2), 5000 << 30))
    with pytest.raises(LoweringError, match="inner dimension"):
        fixedpoint.exact_matmul(np.zeros((1, 1 << 22)), np.zeros((1 << 22, 1)))
