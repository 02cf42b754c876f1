"""Plain C, for every core: weights row by row, no scratch but an int4 row and a word per key."""

from __future__ import annotations

from picoformer.backends.c.isa.layout import InstructionSet

GENERIC = InstructionSet()
