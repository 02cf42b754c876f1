"""The sizes of an image before it is compiled: constants and arena exactly."""

from __future__ import annotations

from picoformer.backends.c import Draft
from picoformer.firmware import FlashSizes, RamSizes, SizeReport
from picoformer.targets import Target


def image_sizes(draft: Draft, target: Target) -> SizeReport:
    """What the image of a draft takes on a board, in bytes, as `firmware.size_report` would say of the linked ELF."""
    model = draft.weights_bytes
    arena, stack = draft.arena_bytes, target.stack_bytes
    return SizeReport(FlashSizes(model, 0, 0, model), RamSizes(arena, 0, 0, stack, arena + stack))
