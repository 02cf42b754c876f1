"""Text from a device, made such that no terminal obeys it."""

from __future__ import annotations

import unicodedata

_HARMFUL = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories that a terminal may obey, or that change how what follows is shown."""


def harmless(text: str) -> str:
    """`text` with all that a terminal might obey written out: escape sequences, control and format characters."""
    return "".join(
        character if character == "\t" or unicodedata.category(character) not in _HARMFUL else _written_out(character)
        for character in text
    )


def _written_out(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
