"""Rows past a valid length that nobody reads: which calls may leave them out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from picoformer.backends.c.rows import row_wise
from picoformer.backends.c.schedule import Schedule, Step, Tiling
from picoformer.ir import Graph, Node
from picoformer.ops import Attention, ReduceMean, Reshape, Slice


def counted_rows(graph: Graph, schedule: Schedule, length: str, rows: int) -> Schedule:
    """`schedule` with every group of calls counted by the input `length` whose rows past it, of `rows`, are read by
    nobody; calls that are no part of a group become one. Nothing is where an output of the graph has the rows."""
    unread = _unread(graph, schedule.steps, length, rows)
    while True:
        groups = _groups(schedule, unread, rows)
        outside = {
            schedule.step_of(call).output
            for call in range(len(schedule.calls))
            if not any(group.first <= call <= group.last for group in groups)
        }
        # What is computed whole reads its operands whole.
        kept = {name for name in unread if name not in outside and not _is_read_by(graph, schedule, name, outside)}
        if kept == unread:
            break
        unread = kept
    others = [tiling for tiling in schedule.tilings if not any(tiling.first == group.first for group in groups)]
    return replace(schedule, tilings=tuple(sorted((*others, *groups), key=lambda tiling: tiling.first)))


def _unread(graph: Graph, steps: tuple[Step, ...], length: str, rows: int) -> set[str]:
    """Values of which no reader needs a row past the length; of the readers, those that go by rows may leave theirs
    out, too."""
    found: set[str] = set()
    inside = {node.output for step in steps for node in step.nodes[:-1]}
    by_last = {step.output: step for step in steps}
    step_of = {node.output: step for step in steps for node in step.nodes}
    for node in reversed(graph.nodes):
        name = node.output
        type_ = graph.types[name]
        shaped = len(type_.shape) >= 2 and type_.rows == rows and math.prod(type_.shape[:-2]) == 1
        if name in inside or not shaped or name in graph.outputs:
            continue
        step = by_last.get(name)
        if isinstance(node.op, Reshape):
            goes = graph.types[node.inputs[0]].rows == rows
        else:
            way = None if step is None else row_wise(graph, step)
            goes = way is not None and way.rows == rows and not way.within
        readers = graph.consumers.get(name, ())
        if goes and all(
            _leaves_out(graph, reader, step_of.get(reader.output), name, length, found) for reader in readers
        ):
            found.add(name)
    return found


def _leaves_out(graph: Graph, reader: Node, step: Step | None, name: str, length: str, unread: set[str]) -> bool:
    """Whether a reader of `name` needs no row past the length."""
    op, places = reader.op, [index for index, read in enumerate(reader.inputs) if read == name]
    if isinstance(op, ReduceMean):
        return op.axis == -2 and reader.inputs[1:] == (length,)
    if isinstance(op, Slice):
        return op.axis == -2 and op.start == 0 and op.stop == 1
    if isinstance(op, Reshape):
        return reader.output in unread
    if step is None or step.output not in unread:
        return isinstance(op, Attention) and reader.inputs[3:] == (length,) and 0 not in places
    if isinstance(op, Attention):
        return reader.inputs[3:] == (length,)
    way = row_wise(graph, step)
    return way is not None and name not in way.whole


def _is_read_by(graph: Graph, schedule: Schedule, name: str, outputs: set[str]) -> bool:
    """Whether one of the steps with these outputs reads all rows of a value that has as many."""
    steps = [step for step in schedule.steps if step.output in outputs and name in step.reads(graph)]
    return any(graph.types[step.output].rows == graph.types[name].rows for step in steps)


def _groups(schedule: Schedule, unread: set[str], rows: int) -> list[Tiling]:
    """The tilings whose calls may all leave rows out, and runs of other such calls as tilings of one tile."""
    found: list[Tiling] = []
    call = 0
    while call < len(schedule.calls):
        tiling = schedule.tiling_of(call)
        last = call if tiling is None else tiling.last
        if all(schedule.step_of(index).output in unread for index in range(call, last + 1)):
            if tiling is not None:
                found.append(replace(tiling, counted=True))
            elif found and found[-1].last == call - 1 and found[-1].height == rows and found[-1].tiles == 1:
                found[-1] = replace(found[-1], last=call)
            else:
                found.append(Tiling(call, call, rows, rows, True))
        call = last + 1
    return found


def length_of(schedule: Schedule, length: str) -> Mapping[str, str]:
    """Value → the input that counts its rows, for the output of each step that leaves no others."""
    counted = [tiling for tiling in schedule.tilings if tiling.counted]
    return {
        schedule.step_of(call).output: length
        for tiling in counted
        for call in range(tiling.first, tiling.last + 1)
    }  # fmt: skip
