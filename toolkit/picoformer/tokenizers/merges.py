"""The merges of a BPE over strings: as pairs of ids for a device, and carried out on the host."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from picoformer.tokenizers.tables import Pairs


def pairs_of_scores(pieces: Mapping[bytes, int], scores: Sequence[float]) -> Pairs:
    """Every way to make a piece of two others, best score first; equal scores are of one rank.

    SentencePiece and llama2.c join two symbols whenever the piece of both exists.
    """
    rank = {score: i for i, score in enumerate(sorted({scores[i] for i in pieces.values()}, reverse=True))}
    rows = []
    for piece, merged in pieces.items():
        for cut in range(1, len(piece)):
            left, right = pieces.get(piece[:cut]), pieces.get(piece[cut:])
            if left is not None and right is not None:
                rows.append((left, right, merged, rank[scores[merged]]))
    return Pairs.of(rows)


def merge(symbols: list[int], ranks: Mapping[tuple[int, int], tuple[int, int]]) -> list[int]:
    """Join pairs until none is left: the smallest rank first, of equal ones the leftmost. `ranks`: pair → (rank, id)
    of what it becomes."""
    count = len(symbols)
    after, before = list(range(1, count + 1)), list(range(-1, count - 1))
    alive = [True] * count
    waiting: list[tuple[int, int, int, int]] = []

    def consider(i: int) -> None:
        if i >= 0 and after[i] < count and (found := ranks.get((symbols[i], symbols[after[i]]))):
            heapq.heappush(waiting, (found[0], i, symbols[i], symbols[after[i]]))

    for i in range(count - 1):
        consider(i)
    while waiting:
        _, i, left, right = heapq.heappop(waiting)
        if not alive[i] or symbols[i] != left or after[i] >= count or symbols[after[i]] != right:
            continue
        gone = after[i]
        symbols[i] = ranks[left, right][1]
        alive[gone] = False
        after[i] = after[gone]
        if after[i] < count:
            before[after[i]] = i
        consider(i)
        consider(before[i])
    return [symbol for symbol, there in zip(symbols, alive, strict=True) if there]
