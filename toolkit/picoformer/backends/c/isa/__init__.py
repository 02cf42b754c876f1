"""The one place that states what an instruction set wants: a file for each; `choice` for a target's list of them."""

from picoformer.backends.c.isa.choice import INSTRUCTION_SETS, Layout, layout_for, layout_of
from picoformer.backends.c.isa.layout import AttentionLayout, InstructionSet, LinearLayout

__all__ = ["INSTRUCTION_SETS", "AttentionLayout", "InstructionSet", "Layout", "LinearLayout", "layout_for", "layout_of"]
