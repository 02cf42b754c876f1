"""Cycles by the core vendor's published instruction timings, applied to the instructions that were executed."""

from picoformer.cycles.model import Cycles, count_cycles, timings_of

__all__ = ["Cycles", "count_cycles", "timings_of"]
