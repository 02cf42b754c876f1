"""Logarithms and powers of two on integers, bit by bit, and what a length penalty makes of a score."""

from __future__ import annotations

LOG_BITS = 28
"""Fraction bits of a logarithm to base 2."""
SCORE_BITS = 24
"""Log-probabilities count in 2^−24 nats."""
LOWEST = -(1 << 46)
"""Where a sum of log-probabilities saturates: −4,194,304 nats."""
LOWEST_NORMALIZED = -(1 << 62)
LN2 = 744261118
"""round(ln 2 · 2^30)"""
PENALTY_BITS = 24


def _roots() -> tuple[int, ...]:
    """round(2^32 · 2^(−2^−k)) for k = 1 … 28."""
    return tuple(round(2.0 ** (32 - 2.0**-k)) for k in range(1, LOG_BITS + 1))


ROOTS = _roots()


def log2(value: int) -> int:
    """log2 of 1 ≤ value < 2^64, in 2^−28, from below: each squaring of the mantissa gives a bit."""
    exponent = value.bit_length() - 1
    mantissa = value << (63 - exponent) >> 32
    result = exponent
    for _ in range(LOG_BITS):
        square = mantissa * mantissa
        bit = square >> 63
        mantissa = square >> (31 + bit)
        result = result * 2 + bit
    return result


def power2(fraction: int) -> int:
    """2^31 · 2^(−fraction / 2^28), 0 ≤ fraction < 2^28: the product of the roots of 2 that its bits name."""
    result = 1 << 31
    for k, root in enumerate(ROOTS):
        if fraction >> (LOG_BITS - 1 - k) & 1:
            result = (result * root + (1 << 31)) >> 32
    return result


def log_of_sum(total: int) -> int:
    """ln(total / 2^31) in 2^−24 nats, 0 at least; `total` is a sum of weights of 31 bits."""
    octaves = max(0, log2(total) - (31 << LOG_BITS))
    return (octaves * LN2 + (1 << 33)) >> 34


def normalize(score: int, length: int, length_penalty: int) -> int:
    """score / length^penalty for LOWEST ≤ score ≤ 0, 1 ≤ length ≤ 2^16 and the penalty in 2^−24."""
    exponent = (length_penalty * log2(length) + (1 << (PENALTY_BITS - 1))) >> PENALTY_BITS
    octaves, fraction = exponent >> LOG_BITS, exponent & ((1 << LOG_BITS) - 1)
    value = (score * power2(fraction) + (1 << 30)) >> 31
    if octaves > 0:
        n = min(octaves, 62)
        return (value + (1 << (n - 1))) >> n
    return max(value << min(-octaves, 62), LOWEST_NORMALIZED)
