"""Placing rectangles: lives over calls by sizes in bytes, in as little memory as can be found."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_SEARCH_WORK = 400_000
"""Local search: rectangle comparisons it may spend."""


@dataclass(frozen=True)
class Rectangle:
    """Something that needs `size` bytes (aligned) at the calls `first` to `last`."""

    first: int
    last: int
    size: int

    def meets(self, other: Rectangle) -> bool:
        """Whether both live at some call."""
        return self.first <= other.last and other.first <= self.last


def _orders(rectangles: Sequence[Rectangle]) -> Iterator[list[int]]:
    """Greedy orders worth trying; ties keep the order of the values."""
    indices = range(len(rectangles))
    keys = (
        lambda r: -r.size,
        lambda r: -(r.last - r.first),
        lambda r: -r.size * (r.last - r.first + 1),
        lambda r: r.first,
        lambda r: -r.last,
        lambda r: (-(r.last - r.first) // 4, -r.size),
    )
    for key in keys:
        yield sorted(indices, key=lambda i, key=key: key(rectangles[i]))  # type: ignore[misc]


def place(rectangles: Sequence[Rectangle]) -> list[int]:
    """Offsets: the best of the greedy orders, improved by moving one rectangle at a time to another turn."""
    if not rectangles:
        return []
    bound = max(sum(r.size for r in rectangles if r.first <= at.first <= r.last) for at in rectangles)
    meets = [[j for j, b in enumerate(rectangles) if j != i and a.meets(b)] for i, a in enumerate(rectangles)]
    best_order: list[int] = []
    best: list[int] = []
    best_peak = -1
    for order in _orders(rectangles):
        offsets, peak = _first_fit(order, rectangles, meets)
        if best_peak < 0 or peak < best_peak:
            best_order, best, best_peak = order, offsets, peak
    chance = random.Random(0)
    work = sum(len(m) for m in meets) + len(rectangles)
    for _ in range(_SEARCH_WORK // work):
        if best_peak == bound:
            break
        order = list(best_order)
        order.insert(chance.randrange(len(order)), order.pop(chance.randrange(len(order))))
        offsets, peak = _first_fit(order, rectangles, meets)
        if peak <= best_peak:
            best_order, best, best_peak = order, offsets, peak
    return best


def _first_fit(
    order: Sequence[int], rectangles: Sequence[Rectangle], meets: Sequence[Sequence[int]]
) -> tuple[list[int], int]:
    """Each rectangle in turn at the lowest offset that is free during its life; the offsets and the peak."""
    offsets = [-1] * len(rectangles)
    peak = 0
    for index in order:
        size, offset = rectangles[index].size, 0
        for start, end in sorted(
            (offsets[j], offsets[j] + rectangles[j].size) for j in meets[index] if offsets[j] >= 0
        ):
            if offset + size <= start:
                break
            offset = max(offset, end)
        offsets[index] = offset
        peak = max(peak, offset + size)
    return offsets, peak
