"""ARMv6-M (Cortex-M0, M0+): the layouts of `word`, inner loops in assembly."""

from __future__ import annotations

from picoformer.backends.c.isa.word import WORD

ARMV6M = WORD
