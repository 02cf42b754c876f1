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
_BY_ROWS = re.compile(r"(?<=[ {])((?:row(?: % \d+)? \+ )?rows(?: \* \d+)?(?: \+ \d+)?)( /\* [\w ]+ \*/)?(?=[,)])")
"""An argument, or a field of a struct, that hangs on the rows of a tile; a word may stand behind it."""
_BROADCAST = re.compile(r"^&\(pf_broadcast\)\{(\d+)(?: /\* rows \*/)?, (\d+)(?: /\* rows \*/)?, (\d+)\}$")
_CHOICES = ("entries",)
"""Numbers of which each is another way to compute: the entries of the table of an activation."""
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
    return tuple(
        tuple(call for at in row.tiles or ((0, 0),) for call in _calls(_numbered(row.code, *at), structs))
        for row in draft.rows
    )


def _numbered(code: str, row: int, rows: int) -> str:
    """`code` with numbers in place of what hangs on the rows of a tile."""

    def number(found: re.Match[str]) -> str:
        value = 0
        for term in found[1].split(" + "):
            first, sign, second = term.partition(" * ") if " * " in term else term.partition(" % ")
            known = {"row": row, "rows": rows}
            left, right = (known[part] if part in known else int(part or 1) for part in (first, second))
            value += left % right if sign == " % " else left * right
        return f"{value}{found[2] or (' /* rows */' if found[1] == 'rows' else '')}"

    return _BY_ROWS.sub(number, code)


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
            elif broadcast := _BROADCAST.match(argument):
                sizes |= dict(zip(("count", "period", "inner"), map(int, broadcast.groups()), strict=True))
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
        elif name in _CHOICES:
            words.append(f"{literal}-{name}")
        elif name in _FLAGS:
            words += [name] if literal != "0" else []
        elif re.fullmatch(r"-?\d+", literal):
            sizes.setdefault(name, int(literal))
    return words


def _arguments(text: str) -> Sequence[str]:
    """The arguments of a call whose opening parenthesis stands right before `text`."""
    depth, start, found = 1, 0, []
    for at, letter in enumerate(text):
        depth += (letter in "({") - (letter in ")}")
        if depth == 0 or (depth == 1 and letter == ","):
            found.append(" ".join(text[start:at].split()))
            start = at + 1
        if depth == 0:
            return found
    raise ValueError(f"a call is not closed: {text[:60]}")
