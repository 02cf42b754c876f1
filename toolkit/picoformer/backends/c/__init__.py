"""The C backend: a memory plan, and C that reads like a person wrote it."""

from picoformer.backends.c.emit import CModel, Draft, TextExample, draft_c, emit_c, write_c
from picoformer.backends.c.interface import check_prefix
from picoformer.backends.c.plan import MemoryPlan, PlacedValue, plan_memory
from picoformer.backends.c.schedule import Step, steps_of
from picoformer.backends.c.tiling import Tile, check_tile

__all__ = [
    "CModel",
    "Draft",
    "MemoryPlan",
    "PlacedValue",
    "Step",
    "TextExample",
    "Tile",
    "check_prefix",
    "check_tile",
    "draft_c",
    "emit_c",
    "plan_memory",
    "steps_of",
    "write_c",
]
