"""The sizes of an image before it is compiled: constants and arena exactly, code and stack from the measured tables."""

from __future__ import annotations

from picoformer.backends.c import Draft
from picoformer.estimate.calls import calls_of
from picoformer.estimate.costs import CostTable
from picoformer.firmware import FlashSizes, RamSizes, SizeReport
from picoformer.targets import Target

FAULT_STACK = 512
"""Bytes behind the stack for the handler of faults, where nothing was measured."""
_TENSOR_INFO = 12


def image_sizes(draft: Draft, target: Target, table: CostTable | None) -> SizeReport:
    """What the image of a draft takes on a board, in bytes, as `firmware.size_report` would say of the linked ELF.

    Without a `table` what only a compiler knows is left out, and the figures are the least that it can be.
    """
    model, arena, stack = _model_bytes(draft, table), draft.arena_bytes, target.stack_bytes
    kept = draft.state_bytes  # keys and values count as data
    if table is None:
        beside = 0 if target.is_library else FAULT_STACK
        ram = RamSizes(arena, kept, beside, stack, arena + kept + beside + stack)
        return SizeReport(FlashSizes(model, 0, 0, model), ram)
    code = table.code_bytes(draft.parts.functions, len(draft.rows))
    if target.is_library:  # wire, stack and start are the application's
        padding, data = padding_bytes(draft), table.record["runtime"]["data"] + kept
        ram = RamSizes(arena, data, 0, 0, arena + data)
        return SizeReport(FlashSizes(model, code, padding, model + code + padding), ram)
    runtime, described = table.record["runtime"], described_bytes(draft)
    wire = runtime["flash"] + described + padding_bytes(draft)
    buffers = round(runtime["ram"] + runtime["ram_per_frame_byte"] * target.frame_bytes)
    return SizeReport(
        FlashSizes(model, code, wire, model + code + wire),
        RamSizes(arena, runtime["data"] + kept, buffers, stack, arena + runtime["data"] + kept + buffers + stack),
    )


def stack_used(draft: Draft, table: CostTable) -> int:
    """Bytes of stack that a run takes."""
    return table.stack_bytes(call for calls in calls_of(draft) for call in calls)


def unmeasured(draft: Draft, table: CostTable) -> list[str]:
    """The functions that the table does not know: their code is not in the sizes."""
    return [name for name in draft.parts.functions if not table.knows(name)]


def _model_bytes(draft: Draft, table: CostTable | None) -> int:
    structs = 0
    for struct in draft.parts.structs:
        fields = len(struct.fields)
        structs += 4 * fields if table is None else table.struct_bytes(struct.type, fields)
    return draft.weights_bytes + structs


def padding_bytes(draft: Draft) -> int:
    """Bytes between the arrays, which start at multiples of 16."""
    return sum(-array.values.nbytes % 16 for array in draft.parts.arrays.values())


def described_bytes(draft: Draft) -> int:
    """Bytes of what the wire knows of the tensors: a name, a place and a size each."""
    names = [port.value for port in draft.ports] + [row.value for row in draft.rows]
    return sum(_TENSOR_INFO + -(-(len(name.encode()) + 1) // 4) * 4 for name in names)
