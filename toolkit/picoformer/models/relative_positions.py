"""T5's buckets of distances (Raffel et al. 2020, section 2.1), in the float32 that its models learned with."""

from __future__ import annotations

import math

import numpy as np


def relative_buckets(buckets: int, reach: int, both_ways: bool) -> tuple[int, ...]:
    """The bucket of each distance (position of the key less that of the query): of −reach … reach with `both_ways`,
    half of the buckets for keys behind the query and half for those before it; else of −reach … 0.

    Near distances have a bucket each, farther ones share logarithmically wider ones, and all from `reach` on the last.
    """
    own = buckets // 2 if both_ways else buckets
    exact = own // 2
    found = []
    for distance in range(reach + 1):
        if distance < exact:
            found.append(distance)
            continue
        octave = np.log(np.float32(distance) / np.float32(exact)) / np.float32(math.log(reach / exact))
        found.append(min(exact + int(octave * np.float32(own - exact)), own - 1))
    before = tuple(reversed(found))
    return (*before, *(own + bucket for bucket in found[1:])) if both_ways else before
