"""An RV32 core in this process: the traps that unicorn leaves to others."""

from __future__ import annotations

from typing import Any

from picoformer.emulator.choice import UNICORN_CORES
from picoformer.emulator.core import Core
from picoformer.emulator.image import Image
from picoformer.emulator.peripherals import Finisher
from picoformer.targets import Target

_FINISHER = 0x00100000  # of the machine "virt"
_FETCH_FAULT, _ILLEGAL, _BREAKPOINT, _LOAD_FAULT, _STORE_FAULT = 1, 2, 3, 5, 7
_TIMER_INTERRUPT = 0x80000007
_MSTATUS_MIE, _MSTATUS_MPIE, _MIE_TIMER = 1 << 3, 1 << 7, 1 << 7
_EBREAK, _C_EBREAK = 0x00100073, 0x9002
_LOAD, _STORE = 0x03, 0x23  # opcodes


class RiscV(Core):
    """See Core. On a trap the machine's control registers are filled in as the core does it."""

    saved = tuple(f"X{number}" for number in range(1, 32))
    peripherals = range(0x02000000, 0x10000000)
    prefix = "UC_RISCV_REG_"

    def __init__(self, image: Image, target: Target) -> None:
        super().__init__(image, target)
        self.attach(_FINISHER, Finisher(self._end))
        self.set("PC", image.address("pf_reset"))

    def make(self) -> tuple[Any, Any]:
        """See Core."""
        from unicorn import riscv_const

        uc, model = self.unicorn, getattr(riscv_const, UNICORN_CORES[self.target.cpu])
        return uc.Uc(uc.UC_ARCH_RISCV, uc.UC_MODE_RISCV32, cpu=model), riscv_const

    def _end(self, status: int) -> None:
        self.exit_code = status
        self.stop()

    def interrupted(self, number: int) -> None:
        """See Core. The address of a refused access is not told: it follows from the instruction."""
        if self.exit_code is None:
            pc = self.get("PC") - 4  # unicorn has gone on by that, whatever the instruction's length
            self._trap(number, pc, self._effective(pc) if number in (_LOAD_FAULT, _STORE_FAULT) else 0)

    def failed(self, error: int) -> None:
        """See Core."""
        uc, pc = self.unicorn, self.get("PC")
        if error in (uc.UC_ERR_FETCH_UNMAPPED, uc.UC_ERR_FETCH_PROT):
            self._trap(_FETCH_FAULT, pc, pc)
        elif self.bad_access is not None:
            access, address = self.bad_access
            is_store = access in (uc.UC_MEM_WRITE_UNMAPPED, uc.UC_MEM_WRITE_PROT)
            self._trap(_STORE_FAULT if is_store else _LOAD_FAULT, pc, address)
        else:
            code = int.from_bytes(self.read(pc, 4), "little")
            is_break = code == _EBREAK or code & 0xFFFF == _C_EBREAK
            self._trap(_BREAKPOINT if is_break else _ILLEGAL, pc, 0)

    def bark(self) -> None:
        """See Core."""
        if self.get("MSTATUS") & _MSTATUS_MIE and self.get("MIE") & _MIE_TIMER:
            self._trap(_TIMER_INTERRUPT, self.get("PC"), 0)

    def count(self, code: bytes) -> int:
        """See Core."""
        at = found = 0
        while at < len(code):
            at += 4 if code[at] & 3 == 3 else 2
            found += 1
        return found

    def _trap(self, cause: int, pc: int, value: int) -> None:
        status = self.get("MSTATUS")
        enabled = _MSTATUS_MPIE if status & _MSTATUS_MIE else 0
        self.set("MSTATUS", status & ~(_MSTATUS_MIE | _MSTATUS_MPIE) | enabled)
        self.set("MCAUSE", cause)
        self.set("MEPC", pc)
        self.set("MTVAL", value)
        self.set("PC", self.get("MTVEC") & ~3)

    def _effective(self, pc: int) -> int:
        """Where the load or store at `pc` goes (unprivileged ISA 2.2, chapters 2.6 and 12.3)."""
        code = int.from_bytes(self.read(pc, 4), "little")

        def bits(high: int, low: int) -> int:
            return code >> low & ((1 << (high - low + 1)) - 1)

        if code & 0x7F in (_LOAD, _STORE):
            offset = bits(31, 20) if code & 0x7F == _LOAD else bits(31, 25) << 5 | bits(11, 7)
            base, offset = bits(19, 15), offset - (offset >> 11 << 12)
        elif code & 3 == 0:  # C.LW, C.SW
            base, offset = 8 + bits(9, 7), bits(12, 10) << 3 | bits(6, 6) << 2 | bits(5, 5) << 6
        elif bits(15, 13) == 2:  # C.LWSP
            base, offset = 2, bits(12, 12) << 5 | bits(6, 4) << 2 | bits(3, 2) << 6
        else:  # C.SWSP
            base, offset = 2, bits(12, 9) << 2 | bits(8, 7) << 6
        return (self.get(f"X{base}") + offset) & 0xFFFFFFFF
