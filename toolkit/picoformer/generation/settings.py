"""How text is to be chosen, in the numbers that people use; integers come of them in `sampler` and `beam`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from picoformer.errors import ConfigError

EarlyStopping = bool | Literal["never"]
TEMPERATURES = (0.01, 100.0)
PENALTIES = (1 / 64, 64.0)
LONGEST_TEXT = 1 << 16
MOST_BEAMS = 64
LENGTH_PENALTIES = (-4.0, 4.0)


def _within(name: str, value: float, least: float, most: float, mend: str = "") -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not (is_number and least <= value <= most):
        raise ConfigError(f"{name} {value!r}: expected a number from {least:g} to {most:g}{mend}")


def _whole(name: str, value: int, least: int, most: int, mend: str = "") -> None:
    if type(value) is not int or not least <= value <= most:
        raise ConfigError(f"{name} {value!r}: expected a whole number from {least} to {most}{mend}")


def check_tokens(name: str, tokens: tuple[int, ...]) -> None:
    """Stop tokens are whole numbers that may be tokens."""
    for token in tokens:
        _whole(name, token, 0, (1 << 31) - 1)


@dataclass(frozen=True)
class SamplerSettings:
    """In the order in which they act: repetition penalty, temperature, top-k, top-p, min-p; then one token is drawn.

    top_k 0, top_p 1, min_p 0 and repetition_penalty 1 change nothing. `greedy` takes the most probable token (after the
    penalty) and looks at nothing else. `seed`: 64 bits.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    greedy: bool = False

    def __post_init__(self) -> None:
        _within("temperature", self.temperature, *TEMPERATURES, "; the most probable token is greedy's")
        _whole("top_k", self.top_k, 0, (1 << 31) - 1, ", 0 for all")
        _within("top_p", self.top_p, 0, 1, ", 1 for all")
        if self.top_p == 0:
            raise ConfigError("top_p 0 keeps nothing: the most probable token is greedy's")
        _within("min_p", self.min_p, 0, 1, ", 0 for all")
        _within("repetition_penalty", self.repetition_penalty, *PENALTIES, ", 1 for none")
        _whole("seed", self.seed, 0, (1 << 64) - 1)
        if type(self.greedy) is not bool:
            raise ConfigError(f"greedy {self.greedy!r}: expected true or false")


@dataclass(frozen=True)
class BeamSettings:
    """Beam search as transformers defines it (`num_beams`, `length_penalty`, `early_stopping`).

    A finished text of n tokens scores Σ log p / n^length_penalty. early_stopping True ends once there are `beams`
    finished texts, False when none of the running ones would score better if it ended now, "never" when none can.
    """

    beams: int = 4
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False
    max_tokens: int = 64
    stop_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _whole("beams", self.beams, 1, MOST_BEAMS)
        _within("length_penalty", self.length_penalty, *LENGTH_PENALTIES)
        if self.early_stopping not in (False, True, "never"):
            raise ConfigError(f'early_stopping {self.early_stopping!r}: expected true, false or "never"')
        _whole("max_tokens", self.max_tokens, 1, LONGEST_TEXT)
        check_tokens("stop token", self.stop_tokens)

    @property
    def candidates(self) -> int:
        """Continuations looked at in each step: enough that `beams` of them go on, whatever ends."""
        return max(2, 1 + len(self.stop_tokens)) * self.beams


@dataclass(frozen=True)
class Stopping:
    """When a text ends: after `max_tokens`, at one of the tokens, or where one of the strings (bytes) is complete."""

    max_tokens: int = 256
    tokens: tuple[int, ...] = ()
    strings: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        _whole("max_tokens", self.max_tokens, 1, LONGEST_TEXT)
        check_tokens("stop token", self.tokens)
        for string in self.strings:
            if not isinstance(string, bytes) or not string:
                raise ConfigError(f"stop string {string!r}: expected bytes, one at least")
        if sum(map(len, self.strings)) > 0xFFFF:
            raise ConfigError("stop strings of more than 65,535 bytes together: shorten them")
