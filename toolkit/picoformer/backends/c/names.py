"""C identifiers from value names, and text that is safe inside C comments and strings."""

from __future__ import annotations

import re
from collections.abc import Iterable

LONGEST = 40
"""Longer names keep their tail, which is what tells values apart."""

_WORDS = """
    auto break case char const continue default do double else enum extern float for goto if inline int long register
    restrict return short signed sizeof static struct switch typedef union unsigned void volatile while
    alignas alignof and asm bitand bitor bool catch class compl delete explicit export false final friend mutable
    namespace new not nullptr operator or override private protected public template this throw true try typeid
    typename using virtual wchar_t xor main errno assert offsetof linux unix stdin stdout stderr
    abs acos asin atan ceil cos exp fabs floor fmod log pow sin sinh sqrt tan tanh cosh erf gamma round index rindex
    m i j row rows left height tilings run_call y0 y1 yn j0 j1 jn s8 s16 s32 f32 step run_step clamp_length
    step_names arena state memcpy memset null
    abort exit free malloc printf puts strlen memmove rint trunc round nan fma fmax fmin logb hypot log1p expm1 exp2
    log2 log10 cbrt remainder nearbyint scalb signbit isnan select lgamma tgamma drem significand pow10 sincos exp10
    ldexp frexp modf ilogb putchar scanf strcpy calloc realloc toupper tolower isalpha ffs bcmp bzero bcopy execl fork
"""
"""What a generated file may not call a variable: keywords of C and C++, library functions that compilers know, its own
names."""


class Names:
    """Gives every wish a name that no other wish of this registry has."""

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self._taken = {*_WORDS.split(), *reserved}

    def unique(self, wish: str) -> str:
        """`wish`, an identifier, with _2, _3 … behind it when that is taken."""
        name, count = wish, 1
        while name in self._taken:
            count += 1
            name = f"{wish}_{count}"
        self._taken.add(name)
        return name


def identifier(wish: str) -> str:
    """A readable lower-case identifier: letters, digits and single underscores, no digit in front, at most 40 long.

    A long path keeps its tail, cut at a separator: /model/encoder/layers.0/attention/MatMul_output_0 becomes
    encoder_layers_0_attention_matmul.
    """
    text = re.sub(r"_output_0$", "", wish.strip())
    words = [word.lower() for word in re.split(r"[^A-Za-z0-9]+", text) if word]
    while len(words) > 1 and len("_".join(words)) > LONGEST:
        words.pop(0)
    name = "_".join(words)[-LONGEST:].strip("_")
    if not name:
        return "value"
    return f"v_{name}" if name[0].isdigit() or name.startswith("pf_") else name


def comment(text: str) -> str:
    """`text` as it may stand inside a C comment: printable ASCII, nothing that opens or closes one."""
    plain = "".join(c if " " <= c <= "~" else "?" for c in text)
    return plain.replace("*/", "* /").replace("/*", "/ *")


def string(text: str) -> str:
    """`text` as a C string literal, UTF-8 bytes escaped where they are not printable ASCII."""
    out = []
    for byte in text.encode("utf-8"):
        c = chr(byte)
        out.append(c if " " <= c <= "~" and c not in '"\\?' else f"\\{byte:03o}")
    return f'"{"".join(out)}"'
