"""Which names a C file keeps to itself, macros expanded: what has to be told apart when files become one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""(?P<space>\s+|/\*.*?\*/|//[^\n]*)
      | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
      | (?P<number>\.?[0-9](?:[eEpP][+-]|[0-9A-Za-z_.])*)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<mark>\#\#|->|\.\.\.|.)""",
    re.VERBOSE | re.DOTALL,
)
_DEFINE = re.compile(r"\s*(\w+)(\(([^)]*)\))?(.*)", re.DOTALL)
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_CPLUSPLUS = re.compile(r"^#ifdef __cplusplus\n.*?^#endif[^\n]*\n", re.MULTILINE | re.DOTALL)
_OPEN, _CLOSE = "([{", ")]}"


@dataclass(frozen=True)
class Token:
    """A token that is no blank. `pasted`: made by ## in a macro. `hidden`: macros that it came out of."""

    text: str
    pasted: bool = False
    hidden: frozenset[str] = frozenset()

    @property
    def is_word(self) -> bool:
        """Whether it may be a name."""
        return self.text[0].isalpha() or self.text[0] == "_"


@dataclass(frozen=True)
class Macro:
    """A macro; `parameters` is None where it takes no brackets."""

    parameters: tuple[str, ...] | None
    body: tuple[Token, ...]


@dataclass(frozen=True)
class Names:
    """What a text defines at file scope: `private` names (static, types, enumerators), those of them that macros paste
    together or into others, names that the linker sees, and macros in the order of their definitions."""

    private: frozenset[str]
    pasted: frozenset[str]
    public: frozenset[str]
    macros: tuple[str, ...]


def pieces(text: str) -> list[tuple[str, str]]:
    """(kind, text) of all that a text consists of: space (comments too), string, number, word, mark."""
    return [(str(match.lastgroup), match.group()) for match in _TOKEN.finditer(text)]


def tokens(text: str) -> list[Token]:
    """The tokens of a text that has no directives in it."""
    return [Token(part) for kind, part in pieces(text) if kind != "space"]


def logical_lines(text: str) -> list[str]:
    """Lines, each with those that a backslash continues it by."""
    return re.sub(r"\\\n", " ", text).split("\n")


def names_of(text: str, macros: dict[str, Macro] | None = None) -> Names:
    """The names that C text defines at file scope. `macros` are known before, and get those that it defines.

    Both branches of a condition count: what a build does not compile is told apart all the same.
    """
    known = {} if macros is None else macros
    defined: dict[str, None] = {}
    found: list[Token] = []
    waiting: list[str] = []

    operands: set[str] = set()

    def expand_waiting() -> None:
        found.extend(expanded(tokens("\n".join(waiting)), known, operands))
        waiting.clear()

    for line in logical_lines(_COMMENT.sub(" ", _CPLUSPLUS.sub("", text))):
        directive = re.match(r"\s*#\s*(\w+)(.*)", line, re.DOTALL)
        if directive is None:
            waiting.append(line)
            continue
        expand_waiting()
        if directive[1] == "define" and (parts := _DEFINE.match(directive[2])):
            parameters = None if parts[2] is None else tuple(p.strip() for p in parts[3].split(",") if p.strip())
            known[parts[1]] = Macro(parameters, tuple(tokens(parts[4])))
            defined[parts[1]] = None
        elif directive[1] == "undef":
            known.pop(directive[2].strip(), None)
            defined.pop(directive[2].strip(), None)
    expand_waiting()
    private, public = _declared(found)
    pasted = private & (operands | {token.text for token in found if token.pasted})
    return Names(frozenset(private), frozenset(pasted), frozenset(public), tuple(defined))


def expanded(
    given: Sequence[Token], macros: Mapping[str, Macro], operands: set[str] | None = None
) -> list[Token]:  # fmt: skip
    """Tokens with every macro replaced by what it stands for (C99, 6.10.3). `operands` gets the words at a ##."""
    rest, out = list(reversed(given)), []
    glue: set[str] = set() if operands is None else operands
    while rest:
        token = rest.pop()
        macro = macros.get(token.text)
        if macro is None or token.text in token.hidden:
            out.append(token)
            continue
        arguments: dict[str, list[Token]] = {}
        if macro.parameters is not None:
            if not rest or rest[-1].text != "(":
                out.append(token)
                continue
            arguments = _arguments(rest, macro.parameters)
        hidden = token.hidden | {token.text}
        body = _substituted(macro, arguments, macros, glue)
        rest += [Token(t.text, t.pasted, t.hidden | hidden) for t in reversed(body)]
    return out


def _arguments(rest: list[Token], parameters: Sequence[str]) -> dict[str, list[Token]]:
    """Take the arguments of a macro, in brackets, off the end of `rest`."""
    depth, lists = 0, [[]]  # type: ignore[var-annotated]
    while rest:
        token = rest.pop()
        if token.text == "(":
            depth += 1
            if depth == 1:
                continue
        elif token.text == ")":
            depth -= 1
            if depth == 0:
                break
        elif token.text == "," and depth == 1:
            lists.append([])
            continue
        lists[-1].append(token)
    return {name: lists[i] if i < len(lists) else [] for i, name in enumerate(parameters)}


def _substituted(
    macro: Macro, arguments: Mapping[str, list[Token]], macros: Mapping[str, Macro], operands: set[str]
) -> list[Token]:
    """The body of a macro with its arguments in place, those at # and ## as they stand."""
    out: list[Token] = []
    body, i = macro.body, 0
    while i < len(body):
        token = body[i]
        glued = (i + 1 < len(body) and body[i + 1].text == "##") or (i > 0 and body[i - 1].text == "##")
        if token.text == "#" and i + 1 < len(body) and body[i + 1].text in arguments:
            out.append(Token('"' + " ".join(t.text for t in arguments[body[i + 1].text]) + '"'))
            i += 2
            continue
        if token.text == "##":
            out.append(token)
        elif token.text in arguments:
            # Where there is nothing to paste, an empty token stands for it.
            whole = arguments[token.text]
            out += (whole or [Token("")]) if glued else expanded(whole, macros, operands)
            operands.update(part.text for part in (whole[:1] + whole[-1:] if glued else []))
        else:
            out.append(token)
        i += 1
    return _pasted(out)


def _pasted(given: Sequence[Token]) -> list[Token]:
    out: list[Token] = []
    i = 0
    while i < len(given):
        if given[i].text == "##" and out and i + 1 < len(given):
            out[-1] = Token(out[-1].text + given[i + 1].text, True)
            i += 2
            continue
        out.append(given[i])
        i += 1
    return [token for token in out if token.text]


@dataclass
class _Declarations:
    """What is read off declarations, one token after the other."""

    private: set[str]
    public: set[str]
    outside: list[Token]
    """Of the declaration that is read: its tokens outside of brackets, an opening bracket for each pair."""

    def end(self) -> None:
        """Take the names that a declaration gives: what stands before its first bracket or `=`, and so on by comma."""
        kinds = {token.text for token in self.outside}
        names = self.private if kinds & {"static", "typedef"} else self.public
        words = [token.text for token in self.outside if token.text not in ("__attribute__", "__asm__")]
        self.outside = []
        if "extern" in kinds and "{" not in kinds:
            return
        last, done = "", False
        for before, word in zip(["", *words], [*words, ","], strict=True):
            if word in ("=", "[", "(", ",") and not done and last not in ("", "struct", "union", "enum"):
                names.add(last)
                done = True
            if word == ",":
                last, done = "", False
            elif not done and (word[0].isalpha() or word[0] == "_"):
                last = "" if before in ("struct", "union", "enum") else word

    def is_function(self) -> bool:
        """Whether it has a body: brackets with arguments before braces."""
        marks = [token.text for token in self.outside]
        return "{" in marks and "(" in marks[: marks.index("{")] and "=" not in marks and "typedef" not in marks


def _declared(given: Iterable[Token]) -> tuple[set[str], set[str]]:
    """(private names, public names) of expanded tokens."""
    found = _Declarations(set(), set(), [])
    depth, braces = 0, 0
    enumerates = expects = False
    before = ["", ""]
    for token in given:
        text = token.text
        if text == "{" and braces == 0:
            enumerates = expects = any(t.text == "enum" for t in found.outside[-2:])
        elif braces == 1 and enumerates:
            if expects and token.is_word:
                found.private.add(text)
            expects = text == ","
        if text == "{" and before[0] in ("struct", "union", "enum"):
            found.private.add(before[1])
        if text in _OPEN:
            if depth == 0:
                found.outside.append(token)
            depth += 1
            braces += text == "{"
        elif text in _CLOSE:
            depth -= 1
            braces -= text == "}"
            if depth == 0 and text == "}" and found.is_function():
                found.end()
        elif depth == 0 and text == ";":
            found.end()
        elif depth == 0:
            found.outside.append(token)
        before = [before[1], text]
    return found.private, found.public
