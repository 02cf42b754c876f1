"""What is asked of a language model, out of JSON: every key known, every value of its kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from picoformer.errors import ConfigError
from picoformer.generation.settings import LONGEST_TEXT, MOST_BEAMS

MOST_TEXT = 1 << 20
MOST_IDS = 1 << 20
REALS = ("temperature", "top_p", "min_p", "repetition_penalty", "length_penalty")
WHOLES = {
    "tokens": (1, LONGEST_TEXT),
    "top_k": (0, (1 << 31) - 1),
    "seed": (0, (1 << 64) - 1),
    "beams": (1, MOST_BEAMS),
}
LISTS = {"prompt_ids": "token ids", "stop_ids": "token ids", "stops": "texts"}
KEYS = ("prompt", "greedy", "early_stopping", *REALS, *WHOLES, *LISTS)


def read_request(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a generation.request.TextRequest that are asked for; null counts as not asked for.

    Raises ConfigError naming the key that there is not or whose value is of the wrong kind.
    """
    found: dict[str, Any] = {}
    for key, value in asked.items():
        if key not in KEYS:
            raise ConfigError(f"'{str(key)[:40]}' is nothing that generation knows; it knows {', '.join(sorted(KEYS))}")
        if value is not None:
            found[key] = _value(key, value)
    return found


def _value(key: str, value: Any) -> Any:
    match key:
        case "prompt":
            good = isinstance(value, str) and len(value) <= MOST_TEXT
            wants = f"a text of at most {MOST_TEXT} characters"
        case "greedy":
            good, wants = isinstance(value, bool), "true or false"
        case "early_stopping":
            if isinstance(value, bool):
                return "true" if value else "false"
            good, wants = value in ("true", "false", "never"), 'true, false or "never"'
        case _ if key in REALS:
            good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            wants = "a number"
            value = float(value) if good else value
        case _ if key in WHOLES:
            least, most = WHOLES[key]
            good = type(value) is int and least <= value <= most
            wants = f"a whole number from {least} to {most}"
        case _:
            of_ids = key != "stops"
            kind = int if of_ids else str
            items = list(value) if isinstance(value, list | tuple) else None
            good = items is not None and len(items) <= MOST_IDS and all(type(item) is kind for item in items)
            good = good and not (of_ids and any(not 0 <= item < 1 << 31 for item in items or ()))
            wants = f"a list of {LISTS[key]}"
            value = tuple(items or ())
    if not good:
        raise ConfigError(f"'{key}' is not {wants}")
    return value
