"""Orders in which the steps of a model can run: the graph's own, and those that keep an attention's queries back."""

from __future__ import annotations

from collections.abc import Sequence

from picoformer.backends.c.flow import Flow
from picoformer.backends.c.isa import Layout
from picoformer.backends.c.schedule import Call, Schedule, Step, in_order
from picoformer.ir import Graph


def orders_of(graph: Graph, layout: Layout, steps: Sequence[Step], keep: Sequence[str] = ()) -> list[Schedule]:
    """Orders worth a plan, the graph's own first.

    The queries of an attention are read by rows, keys and values whole. So what computes the queries can wait until
    keys and values are there and then go by tiles with the attention; and what all three were computed from, often a
    normalized residual, can be computed a second time rather than kept.
    """
    own = in_order(tuple(steps))
    flow = Flow(graph, layout, own.steps, own.calls, keep)
    found = [own]
    for again in (False, True):
        order = _waiting(flow, again)
        if order not in found:
            found.append(order)
    return found


def _waiting(flow: Flow, again: bool) -> Schedule:
    """The order in which queries are computed right before their attention; `again`: what they share with keys and
    values is computed once more for it, where it costs no products."""
    back: set[int] = set()
    turns: list[tuple[int, bool]] = []
    before: dict[int, list[tuple[int, bool]]] = {}
    for call, step in enumerate(flow.steps):
        if step.node.op.kind == "Attention" and flow.rows[call] is not None:
            waiting, repeated = _behind(flow, call, again, back)
            back |= waiting
            before[call] = sorted([(other, False) for other in waiting] + [(other, True) for other in repeated])
    for call in range(len(flow.steps)):
        if call not in back:
            turns += [*before.get(call, []), (call, False)]
    return Schedule(flow.steps, tuple(Call(call, repeated_call) for call, repeated_call in turns))


def _behind(flow: Flow, attention: int, again: bool, taken: set[int]) -> tuple[set[int], set[int]]:
    """The calls that only the queries of an attention need, and those they share that can be made again."""
    readers: dict[str, set[int]] = {}
    for call, names in enumerate(flow.names):
        for name in names.values():
            readers.setdefault(name, set()).add(call)
    waiting: set[int] = set()
    repeated: set[int] = set()
    query = flow.step(attention).node.inputs[0]
    left = [flow.aliases.get(query, query)]
    while left:
        name = left.pop()
        producer = flow.defined[name]
        if producer < 0 or producer in taken or flow.rows[producer] is None or flow.last[name] > attention:
            continue
        others = readers[name] - waiting - {attention}
        if not others and name not in flow.whole[attention]:
            waiting.add(producer)
            left += flow.names[producer].values()
        elif again and others and not flow.step(producer).macs(flow.graph):
            repeated.add(producer)
    return waiting, repeated
