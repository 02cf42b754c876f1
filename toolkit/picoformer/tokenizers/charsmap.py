"""SentencePiece's normalization map, precompiled_charsmap: a double-array trie from strings to strings.

The trie is a row of 32-bit units: a label in the low byte, bit 8 says that a value hangs below, the rest where its
children are (darts-clone writes it). A device reads it as it is; here it is walked once, to check it and to
bound what it does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from picoformer.errors import DataError

DEEPEST = 1024
"""Bytes of a key; more is a loop."""
MOST = 1 << 21
"""Beginnings of keys; ends are shared, so there are more than units."""


@dataclass(frozen=True)
class CharsMap:
    """A map as a device has it, and how many characters and bytes it makes of a byte of text at most."""

    trie: tuple[int, ...] = ()
    replacements: bytes = b""
    characters_per_byte: int = 1
    bytes_per_byte: int = 3
    """A broken byte is U+FFFD, which has three."""


@cache
def read_charsmap(name: str, blob: bytes) -> CharsMap:
    """The map of a blob: the bytes of the trie (uint32), the trie, strings that end in zero. DataError if it
    is none."""
    if not blob:
        return CharsMap()
    size = struct.unpack_from("<I", blob)[0] if len(blob) >= 4 else 0
    if size % 4 or not 0 < size <= len(blob) - 4:
        raise DataError(f"{name}: its normalization map says {size} bytes of {len(blob)}; save the model again")
    trie, replacements = struct.unpack_from(f"<{size // 4}I", blob, 4), blob[4 + size :]
    characters, size_bytes = 1, 3
    for key, value in _entries(name, trie):
        end = replacements.find(b"\0", value)
        if value >= len(replacements) or end < 0:
            raise DataError(f"{name}: its normalization map leads outside its strings; save the model again")
        made = replacements[value:end]
        try:
            text = made.decode()
            # In a broken text each U+FFFD may be a single byte.
            shortest = len(key.replace("\N{REPLACEMENT CHARACTER}".encode(), b"?"))
        except UnicodeDecodeError:
            raise DataError(f"{name}: its normalization map holds what is no UTF-8; save the model again") from None
        characters = max(characters, -(-len(text) // shortest))
        size_bytes = max(size_bytes, -(-len(made) // shortest))
    return CharsMap(trie, replacements, characters, size_bytes)


def _entries(name: str, trie: tuple[int, ...]) -> Iterator[tuple[bytes, int]]:
    """(key, value) of all keys."""
    units = np.array(trie, np.int64)
    places = np.arange(len(units))
    inner = np.flatnonzero((units & 0x80000000 == 0) & (units & 0xFF != 0))
    parents = places[inner] ^ (units[inner] & 0xFF)
    children: dict[int, list[int]] = {}
    for parent, place in zip(parents.tolist(), inner.tolist(), strict=True):
        children.setdefault(parent, []).append(place)
    waiting = [(b"", _children(trie[0]))]
    visited = 0
    while waiting:
        key, base = waiting.pop()
        for place in children.get(base, ()):
            unit = trie[place]
            below, child = place ^ _children(unit), key + bytes([unit & 0xFF])
            visited += 1
            if visited > MOST or len(child) > DEEPEST or below >= len(trie):
                raise DataError(f"{name}: its normalization map is broken; save the model again")
            if unit & 0x100:
                yield child, trie[below] & 0x7FFFFFFF
            waiting.append((child, below))


def _children(unit: int) -> int:
    return (unit >> 10) << ((unit & 0x200) >> 6)
