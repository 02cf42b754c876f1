"""The generator of random numbers: PCG32 (O'Neill 2014, XSH-RR 64/32), and a uniform integer below any limit."""

from __future__ import annotations

MULTIPLIER = 6364136223846793005
INCREMENT = 109
"""Stream 54, that of the published check values; the state moves to state · MULTIPLIER + INCREMENT modulo 2^64."""
_WORD = (1 << 64) - 1


class RandomNumbers:
    """Same seed, same numbers, on every machine. `state` may be read and set to continue elsewhere."""

    def __init__(self, seed: int) -> None:
        self.state = (INCREMENT + (seed & _WORD)) & _WORD
        self.word()

    def word(self) -> int:
        """The next 32 bits."""
        old = self.state
        self.state = (old * MULTIPLIER + INCREMENT) & _WORD
        mixed = (((old >> 18) ^ old) >> 27) & 0xFFFFFFFF
        turn = old >> 59
        return ((mixed >> turn) | (mixed << (-turn & 31))) & 0xFFFFFFFF

    def below(self, limit: int) -> int:
        """Uniform in 0 … limit − 1, 1 ≤ limit < 2^63: the high bits of two words, drawn anew until they are below."""
        shift = 64 - (limit - 1).bit_length()
        while True:
            high, low = self.word(), self.word()
            value = ((high << 32) | low) >> shift
            if value < limit:
                return value
