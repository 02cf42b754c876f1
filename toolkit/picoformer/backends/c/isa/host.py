"""The machine this runs on: all as int16 in rows of sixteen, which a vectorizing compiler multiplies in pairs."""

from __future__ import annotations

import numpy as np

from picoformer.backends.c.isa.layout import AttentionLayout, InstructionSet, LinearLayout, padded, up
from picoformer.ir.operator import Array

_LANES = 16
"""PF_LANES of firmware/kernels/host/dots.h."""


class HostLinearLayout(LinearLayout):
    """Weights as int16, four rows at a time; scratch for two rows of the input."""

    weight_order = "row by row, two bytes each, filled up with zeros to multiples of 4 rows and 16 columns"
    mac_instructions, rows = 0.5, 2

    def pack_weight(self, weight: Array) -> Array:
        return padded(weight, 4, _LANES).astype("<i2").view(np.int8).reshape(-1)

    def scratch_bytes(self, rows: int, k: int) -> int:
        return 2 * 2 * up(k, _LANES)


class HostAttentionLayout(AttentionLayout):
    """Keys, transposed values, two queries and two rows of numerators as int16; two rows of scores."""

    mac_instructions, reload_instructions, rows = 0.8, 1.0, 2

    def scratch_bytes(self, keys: int, head_size: int, value_size: int) -> int:
        size, length = up(head_size, _LANES), up(keys, _LANES)
        return 2 * (length * size + up(value_size, 4) * length + 2 * size + 2 * length) + 2 * 4 * length


HOST = InstructionSet(
    linear_s8=HostLinearLayout(),
    linear_s16=HostLinearLayout(),
    attention_head_s8=HostAttentionLayout(),
)
