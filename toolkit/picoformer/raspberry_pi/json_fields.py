"""JSON from outside, read with suspicion: bounded, finite, every key known and of its type; what is wrong is named."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
"""What a file in a bundle may be called."""
LONGEST_WORD = 1024
"""Characters of a name or any other text in a bundle's description."""


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for one that is broken, nested too deep, or holds NaN, an infinity,
    or the same key twice."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is beyond what a number can be")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)[:40]!r} stands twice")
    return found


class Fields:
    """The fields of one JSON object, taken one by one. Every method raises ValueError naming the field."""

    def __init__(self, value: Any, place: str = "") -> None:
        if not isinstance(value, dict):
            raise ValueError(f"{place or 'it'} is no object")
        self._left, self._place = dict(value), place

    def _name(self, key: str) -> str:
        return f"{self._place}.{key}" if self._place else key

    def take(self, key: str) -> Any:
        """The value of a key that must be there."""
        if key not in self._left:
            raise ValueError(f"'{self._name(key)}' is missing")
        return self._left.pop(key)

    def word(self, key: str, choices: tuple[str, ...] = ()) -> str:
        """A text, one of `choices` if there are some."""
        value = self.take(key)
        if not isinstance(value, str) or len(value) > LONGEST_WORD:
            raise ValueError(f"'{self._name(key)}' is no text of at most {LONGEST_WORD} characters")
        if choices and value not in choices:
            raise ValueError(f"'{self._name(key)}' is {value[:40]!r}, not one of {', '.join(choices)}")
        return value

    def file(self, key: str) -> str:
        """The name of a file in the bundle itself."""
        value = self.word(key)
        if not NAME.fullmatch(value):
            raise ValueError(f"'{self._name(key)}' is {value[:80]!r}, which is no name of a file in the bundle")
        return value

    def whole(self, key: str, least: int, most: int) -> int:
        """A whole number."""
        value = self.take(key)
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"'{self._name(key)}' is no whole number from {least} to {most}")
        return value

    def real(self, key: str, least: float, most: float) -> float:
        """A number."""
        value = self.take(key)
        if type(value) not in (int, float) or not least <= value <= most:
            raise ValueError(f"'{self._name(key)}' is no number from {least:g} to {most:g}")
        return float(value)

    def truth(self, key: str) -> bool:
        """True or false."""
        value = self.take(key)
        if type(value) is not bool:
            raise ValueError(f"'{self._name(key)}' is neither true nor false")
        return value

    def maybe(self, key: str, read: Callable[[str], T]) -> T | None:
        """What `read` takes of a key, None where it is null."""
        if self._left.get(key, ...) is None:
            del self._left[key]
            return None
        return read(key)

    def items(self, key: str, most: int) -> list[Any]:
        """A list of at most so many."""
        value = self.take(key)
        if not isinstance(value, list) or len(value) > most:
            raise ValueError(f"'{self._name(key)}' is no list of at most {most}")
        return value

    def part(self, key: str) -> Fields:
        """An object inside."""
        return Fields(self.take(key), self._name(key))

    def keys(self) -> list[str]:
        """Those that are left."""
        return list(self._left)

    def end(self) -> None:
        """Raise ValueError for a key that nobody took."""
        if self._left:
            raise ValueError(f"'{self._name(next(iter(self._left)))[:80]}' is not known")
