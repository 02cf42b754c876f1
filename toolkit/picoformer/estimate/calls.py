"""The calls that the steps of a model's C make, with every size that decides what they cost: read off the C itself."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from picoformer.backends.c import Draft

_CALL = re.compile(r"\b(pf_\w+)\(")
_ARGUMENT = re.compile(r"^(-?\d+) /\* ([\w ]+) \*/$")
_LOOP = re.compile(r"for \(int32_t \w+ = 0; \w+ < (\d+);")
_LIST = re.compile(r"static const int32_t (\w+)\[\d+\] = \{([\d, ]+)\}")
_ABSENT = {("block", "0")}
"""Numbers that say of something that it is not there, so that another way is taken."""
_FLAGS = ("causal",)
"""Fields that choose between ways to compute."""


@dataclass(frozen=True)
class Call:
    """A call of a function of firmware/, made `times` times: its `sizes` by name, and the `variant` of what it does,
    the function with what is left out (pointers that are NULL) or asked for (a flag)."""

    function: str
    variant: str
    sizes: Mapping[str, int]
    times: int


def calls_of(draft: Draft) -> tuple[tuple[Call, ...], ...]:
    """The calls of each step, in order."""
    structs = {struct.symbol: dict(struct.fields) for struct in draft.parts.structs}
    return tuple(tuple(_calls(row.code, structs)) for row in draft.rows)


def _calls(code: str, structs: Mapping[str, Mapping[str, str]]) -> list[Call]:
    times = math.prod(int(count) for count in _LOOP.findall(code))
    lists = {name: [int(part) for part in text.split(",")] for name, text in _LIST.findall(code)}
    found = []
    for match in _CALL.finditer(code):
        sizes: dict[str, int] = {}
        words: list[str] = []
        for argument in _arguments(code[match.end() :]):
            if size := _ARGUMENT.match(argument):
                sizes[size[2]] = int(size[1])
            elif argument in lists and argument.endswith("_shape"):
                sizes |= {"elements": math.prod(lists[argument]), "innermost": lists[argument][-1]}
            elif argument.startswith("&") and argument[1:] in structs:
                words += _read(structs[argument[1:]], sizes)
        variant = " ".join([match[1], *sorted(dict.fromkeys(words))])
        found.append(Call(match[1], variant, sizes, times))
    return found


def _read(fields: Mapping[str, str], sizes: dict[str, int]) -> list[str]:
    """Add the numbers of a parameter struct to `sizes`; what it leaves out and asks for, in words."""
    words = []
    for name, literal in fields.items():
        if literal == "NULL" or (name, literal) in _ABSENT:
            words.append(f"no-{name}")
        elif name in _FLAGS:
            words += [name] if literal != "0" else []
        elif re.fullmatch(r"-?\d+", literal):
            sizes.setdefault(name, int(literal))
    return words


def _arguments(text: str) -> Sequence[str]:
    """The arguments of a call whose opening parenthesis stands right before `text`."""
    depth, start, found = 1, 0, []
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 or (depth == 1 and letter == ","):
            found.append(" ".join(text[start:at].split()))
            start = at + 1
        if depth == 0:
            return found
    raise ValueError(f"a call is not closed: {text[:60]}")
