"""The published instruction timings of cores, as tables; (least, most) cycles where the manual leaves a choice.

Sources, all by Arm, all for memory without wait states: Cortex-M3 TRM (DDI 0337I) and Cortex-M4 TRM
(100166_0001_00), sections 3.3.1 "Table of processor instructions", 3.3.2 "Load/store timings", and of the M4 7.2.3
(its FPU); Cortex-M0 TRM (DDI 0432C) and Cortex-M0+ TRM (DDI 0484C), section 3.3 "Instruction set summary".
None is published for the Cortex-M7, M33 and M55 and for the RISC-V cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Range = tuple[int, int]

ONE: Range = (1, 1)


@dataclass(frozen=True)
class Timings:
    """Of one core. `refill` is what a taken branch costs beyond `branch`; a multiple load or store of n registers takes
    1 + n, and `multiple_to_pc` more where it loads the program counter. `single` are the start of a mnemonic → cycles,
    the longest start counts, anything else takes one."""

    name: str
    source: str
    refill: Range
    call_refill: Range
    multiple_to_pc: Range
    loads: Range
    stores: Range
    pipelined: bool
    """Whether a load may overlap with the one before it, and an address may have to wait for the result before it."""
    single: Mapping[str, Range]


_FPU: dict[str, Range] = {
    "vmla": (3, 4), "vmls": (3, 4), "vnmla": (3, 4), "vnmls": (3, 4), "vfma": (3, 4), "vfms": (3, 4), "vfnma": (3, 4),
    "vfnms": (3, 4), "vdiv": (14, 15), "vsqrt": (14, 15), "vadd": (1, 2), "vsub": (1, 2), "vmul": (1, 2),
    "vnmul": (1, 2), "vcvt": (1, 2), "vmov": (1, 2),
}  # fmt: skip
"""One cycle longer where the next instruction reads the result."""

_V7M: dict[str, Range] = {
    "sdiv": (2, 12), "udiv": (2, 12), "it": (0, 1), "isb": (1, 4), "dsb": (1, 2), "dmb": (1, 2), "mrs": (1, 2),
    "msr": (1, 2), "cps": (1, 2), "tbb": (6, 6), "tbh": (6, 6),
}  # fmt: skip
"""An IT may be folded into the instruction before it. Of a table branch the load and the refill are in the figure."""

CORTEX_M4 = Timings(
    name="Cortex-M4",
    source="Cortex-M4 TRM 100166_0001_00, 3.3 and 7.2.3",
    refill=(1, 3),
    call_refill=(1, 3),
    multiple_to_pc=(1, 3),
    loads=(2, 2),
    stores=(1, 2),
    pipelined=True,
    single={**_V7M, **_FPU},
)
CORTEX_M3 = Timings(
    name="Cortex-M3",
    source="Cortex-M3 TRM DDI 0337I, 3.3",
    refill=(1, 3),
    call_refill=(1, 3),
    multiple_to_pc=(1, 3),
    loads=(2, 2),
    stores=(1, 2),
    pipelined=True,
    single={
        **_V7M,
        "mla": (2, 2),
        "mls": (2, 2),
        "smull": (3, 5),
        "umull": (3, 5),
        "smlal": (4, 7),
        "umlal": (4, 7),
    },
)
CORTEX_M0 = Timings(
    name="Cortex-M0",
    source="Cortex-M0 TRM DDI 0432C, 3.3; MUL takes 1 or 32 cycles, as the chip's maker chose",
    refill=(2, 2),
    call_refill=(3, 3),
    multiple_to_pc=(3, 3),
    loads=(2, 2),
    stores=(2, 2),
    pipelined=False,
    single={"mul": (1, 32), "mrs": (4, 4), "msr": (4, 4), "dmb": (4, 4), "dsb": (4, 4), "isb": (4, 4)},
)
CORTEX_M0PLUS = Timings(
    name="Cortex-M0+",
    source="Cortex-M0+ TRM DDI 0484C, 3.3; MUL takes 1 or 32 cycles, as the chip's maker chose",
    refill=(1, 1),
    call_refill=(2, 2),
    multiple_to_pc=(2, 2),
    loads=(2, 2),
    stores=(2, 2),
    pipelined=False,
    single={"mul": (1, 32), "mrs": (3, 3), "msr": (3, 3), "dmb": (3, 3), "dsb": (3, 3), "isb": (3, 3)},
)

CORES: dict[str, Timings] = {
    "cortex-m0": CORTEX_M0,
    "cortex-m0plus": CORTEX_M0PLUS,
    "cortex-m0+": CORTEX_M0PLUS,
    "cortex-m3": CORTEX_M3,
    "cortex-m4": CORTEX_M4,
}
"""A target's `cpu` → its timings."""
