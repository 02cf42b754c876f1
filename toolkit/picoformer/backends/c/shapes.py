"""How the shape of one operand lies over that of another."""

from __future__ import annotations

import math
from collections.abc import Sequence


def broadcast_pattern(full: Sequence[int], part: Sequence[int]) -> tuple[int, int] | None:
    """(period, inner) with part[(i / inner) % period] the partner of element i of `full`; None when there is none.

    `part` may be 1 along leading and trailing axes of `full`, not between axes it spans.
    """
    padded = [1] * (len(full) - len(part)) + list(part)
    spans = [i for i, (f, p) in enumerate(zip(full, padded, strict=True)) if f != 1 and p == f]
    if not spans:
        return (1, 1) if math.prod(part) == 1 else None
    first, last = spans[0], spans[-1]
    if any(f != p for f, p in zip(full[first : last + 1], padded[first : last + 1], strict=True)):
        return None
    return math.prod(full[first : last + 1]), math.prod(full[last + 1 :])
