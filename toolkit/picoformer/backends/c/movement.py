"""Emitters that only move data, and how a broadcast is read: shapes turned into blocks and strides."""

from __future__ import annotations

import math
from collections.abc import Sequence

from picoformer.backends.c.shapes import broadcast_pattern
from picoformer.backends.c.site import Site, dimensions
from picoformer.ops import Concat, Slice, Transpose

LARGEST_RANK = 6
"""Of pf_transpose."""


def broadcast(site: Site) -> tuple[str, tuple[int, int]]:
    """Address of the pf_broadcast of an element-wise step, and which input stands first and which second."""
    a, b = site.types
    first, second = (0, 1) if a.elements == site.out.elements else (1, 0)
    full, part = site.types[first], site.types[second]
    pattern = broadcast_pattern(site.out.shape, part.shape)
    if full.elements != site.out.elements or pattern is None:
        raise site.unsupported(
            f"shapes {dimensions(a.shape)} and {dimensions(b.shape)} broadcast in a way that is not one repeated or "
            "stretched operand; expand one of them to the full shape"
        )
    period, inner = pattern
    order = (first, second)
    if site.rows is None:
        return site.struct("pf_broadcast", "shape", count=site.out.elements, period=period, inner=inner), order
    elements = f"rows * {site.out.width}" if site.out.width > 1 else "rows"
    of_each_row = period * inner == site.out.elements
    turns = str(period) if not of_each_row else "rows" if inner > 1 else elements
    return f"&(pf_broadcast){{{elements}, {turns}, {inner}}}", order


def has_rows(site: Site, index: int) -> bool:
    """Whether an operand of an element-wise step has something for each row of the output."""
    return site.types[index].elements in (site.out.elements, site.out.rows)


def _copy(site: Site, to: str, source: str, count: int, size: int, to_every: int, from_every: int) -> str:
    notes = ((count, "blocks"), (size, "bytes"), (to_every, "to every"), (from_every, "from every"))
    return site.call("pf_copy_blocks", to, source, *notes)


def concat(site: Site) -> str:
    """One operand after the other along an axis."""
    op = site.node.op
    assert isinstance(op, Concat)
    axis = op.axis + site.out.rank
    count = math.prod(site.out.shape[:axis])
    row = site.out.bytes // count
    lines, at = [], 0
    for index, type_ in enumerate(site.types):
        size = type_.bytes // count
        start = at // site.out.dtype.bytes
        to = f"{site.write()} + {start}" if start else site.write()
        lines.append(_copy(site, to, site.read(index), count, size, row, size))
        at += size
    return "\n".join(lines)


def slice_axis(site: Site) -> str:
    """Entries start, start + step … of an axis."""
    op, x = site.node.op, site.types[0]
    assert isinstance(op, Slice)
    axis = op.axis + x.rank
    entries = len(range(op.start, op.stop, op.step))
    outer, inner = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    entry, row = inner * x.dtype.bytes, x.shape[axis] * inner * x.dtype.bytes
    start = op.start * inner
    source = f"{site.read(0)} + {start}" if start else site.read(0)
    if op.step == 1 or entries == 1:
        return _copy(site, site.write(), source, outer, entries * entry, entries * entry, row)
    if outer == 1:
        return _copy(site, site.write(), source, entries, entry, entry, op.step * entry)
    return _gather(site, source, [(outer, row), (entries, op.step * entry), (inner, x.dtype.bytes)])


def transpose(site: Site) -> str:
    """Axes in another order."""
    op, x = site.node.op, site.types[0]
    assert isinstance(op, Transpose)
    strides = [math.prod(x.shape[i + 1 :]) * x.dtype.bytes for i in range(x.rank)]
    return _gather(site, site.read(0), [(x.shape[axis], strides[axis]) for axis in op.permutation])


def merge_axes(axes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(length, stride) of axes, outermost first, with those of length 1 left out and neighbours merged where the outer
    one continues the inner one."""
    merged: list[tuple[int, int]] = []
    for length, stride in axes:
        if length == 1:
            continue
        if merged and merged[-1][1] == length * stride:
            merged[-1] = (merged[-1][0] * length, stride)
        else:
            merged.append((length, stride))
    return merged


def _gather(site: Site, source: str, axes: Sequence[tuple[int, int]]) -> str:
    size = site.out.dtype.bytes
    merged = merge_axes(axes)
    if len(merged) == 0 or (len(merged) == 1 and merged[0][1] == size):
        return _copy(site, site.write(), source, 1, site.out.bytes, site.out.bytes, site.out.bytes)
    if len(merged) > LARGEST_RANK:
        raise site.unsupported(f"it moves {len(merged)} axes, more than {LARGEST_RANK}; reshape to fewer first")
    shape = site.parts.names.unique(f"{site.name}_shape")
    stride = site.parts.names.unique(f"{site.name}_stride")
    rank = len(merged)
    lines = [
        "        {",
        f"            static const int32_t {shape}[{rank}] = {{{', '.join(str(n) for n, _ in merged)}}};",
        f"            static const int32_t {stride}[{rank}] = {{{', '.join(str(s) for _, s in merged)}}};",
        site.call(
            "pf_transpose",
            site.write(),
            source,
            (rank, "axes"),
            shape,
            stride,
            (size, "bytes each"),
            indent=12,
        ),
        "        }",
    ]
    return "\n".join(lines)
