"""ARMv6-M (Cortex-M0, M0+): as `word`, inner loops in assembly that take a row of weights at a time."""

from __future__ import annotations

from picoformer.backends.c.isa.word import six_rows

ARMV6M = six_rows(1)
