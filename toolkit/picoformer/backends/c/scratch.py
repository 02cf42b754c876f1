"""What operators need of the arena beside their operands, where that is the same with every instruction set."""

from __future__ import annotations


def relative_scratch(keys: int, head_size: int) -> int:
    """Bytes for a relative attention: a score for each key, and a narrowed query."""
    return 4 * keys + 2 * head_size
