"""Arm's M-profile vector extension, Helium (Cortex-M55, M85)."""

from __future__ import annotations

from picoformer.backends.c.isa.layout import InstructionSet

MVE = InstructionSet()
