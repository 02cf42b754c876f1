"""From executed blocks to a range of cycles: each instruction by its core's table, and by the one before it."""

from __future__ import annotations

import shutil
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from picoformer.cycles.disassembly import Instruction, disassemble
from picoformer.cycles.timings import CORES, ONE, Range, Timings
from picoformer.emulator.interface import Block, Region
from picoformer.errors import DeviceError
from picoformer.targets import Target


@dataclass(frozen=True)
class Cycles:
    """Least and most cycles by the published timings, memory without wait states, or those that a board counted; of
    `init` and each step."""

    init: Range
    per_step: tuple[Range, ...]
    source: str
    """The manual that the timings are from, or what counted."""
    is_counted: bool = False

    @property
    def total(self) -> Range:
        """Of one inference."""
        ranges = (self.init, *self.per_step)
        return sum(low for low, _ in ranges), sum(high for _, high in ranges)


def timings_of(target: Target) -> Timings | str:
    """The published timings of a target's core, or the reason why there are none."""
    found = CORES.get(target.cpu)
    if found is None:
        return f"no instruction timings are published for {target.cpu}"
    chosen = target.multiply_cycles
    if not chosen:
        return found
    source = f"{found.source.partition(';')[0]}; MUL takes {chosen} {'cycle' if chosen == 1 else 'cycles'} on this chip"
    return replace(found, source=source, single={**found.single, "mul": (chosen, chosen)})


def count_cycles(
    elf: Path, target: Target, profile: tuple[Region, ...], calls: Sequence[int] | None = None
) -> Cycles | str:
    """Cycles of init and each step of a profiled run; or the reason why they cannot be said. `calls`: the step that
    each of its calls computed for, where steps took several."""
    timings = timings_of(target)
    if isinstance(timings, str):
        return timings
    objdump = shutil.which(f"{target.toolchain.prefix}objdump") or shutil.which("arm-none-eabi-objdump")
    if objdump is None:
        return "cycles need arm-none-eabi-objdump; get it with: sudo apt-get install binutils-arm-none-eabi"
    code = _Code(disassemble(elf, objdump), timings)
    init, *ranges = (code.region(region) for region in profile)
    calls = range(len(ranges)) if calls is None else calls
    per_step = [(0, 0)] * (max(calls) + 1)
    for step, (low, high) in zip(calls, ranges, strict=True):
        per_step[step] = (per_step[step][0] + low, per_step[step][1] + high)
    return Cycles(init, tuple(per_step), timings.source)


class _Code:
    """The instructions of an image, and what blocks of them cost."""

    def __init__(self, instructions: Mapping[int, Instruction], timings: Timings) -> None:
        self.instructions, self.timings = instructions, timings
        self.addresses = sorted(instructions)
        self._known: dict[tuple[int, int], tuple[Range, Instruction]] = {}

    def region(self, region: Region) -> Range:
        """All blocks of a region and the call that enters it."""
        refill = self.timings.refill
        low, high = 1 + refill[0], 1 + refill[1]
        for block in region.blocks:
            (least, most), last = self._block(block)
            low, high = low + least * block.executed, high + most * block.executed
            if last.is_branch:
                extra = refill if not last.is_call else self.timings.call_refill
                if last.loads_pc and last.is_multiple:
                    extra = self.timings.multiple_to_pc
                times = block.taken if last.is_conditional else block.executed
                low, high = low + extra[0] * times, high + extra[1] * times
        return low, high

    def _block(self, block: Block) -> tuple[Range, Instruction]:
        key = (block.start, block.end)
        if key not in self._known:
            first, behind = (bisect_left(self.addresses, address) for address in key)
            inside = [self.instructions[address] for address in self.addresses[first:behind]]
            if not inside or self.addresses[first] != block.start:
                raise DeviceError(f"instructions ran at {block.start:#x}, where the image has none; build it again")
            low = high = 0
            before: Instruction | None = None
            for instruction in inside:
                least, most = self._one(instruction, before)
                low, high, before = low + least, high + most, instruction
            self._known[key] = (low, high), inside[-1]
        return self._known[key]

    def _one(self, now: Instruction, before: Instruction | None) -> Range:
        """Cycles of an instruction, but for the refill of a branch; one that a condition turns off takes one."""
        if now.is_multiple:
            low, high = 1 + now.registers, 1 + now.registers
        elif now.is_load:
            low, high = self._load(now, before)
        elif now.is_store:
            low, high = self._store(now, before)
        else:
            low, high = self._plain(now)
        return (min(low, 1) if now.is_conditional else low), high

    def _plain(self, now: Instruction) -> Range:
        starts = [start for start in self.timings.single if now.name.startswith(start)]
        if not starts or now.name.startswith(("smlald", "smlalb", "smlalt")):
            return ONE
        return self.timings.single[max(starts, key=len)]

    def _load(self, now: Instruction, before: Instruction | None) -> Range:
        low, high = self.timings.loads
        if not self.timings.pipelined:
            return low, high
        follows = before is None or (before.is_load and before.destination not in now.address_registers)
        late = before is None or self._address_is_late(now, before) or "pc" in now.address_registers
        return (low - 1 if follows else low), high + late

    def _store(self, now: Instruction, before: Instruction | None) -> Range:
        low, high = self.timings.stores
        if not self.timings.pipelined:
            return low, high
        by_register = len(now.address_registers) > 1
        low += by_register and not (before is None or before.is_load)
        return low, high + (before is None or self._address_is_late(now, before))

    @staticmethod
    def _address_is_late(now: Instruction, before: Instruction) -> bool:
        """Whether the address waits for the result of the instruction before it."""
        if before.is_store or before.is_branch or before.name.startswith(("cmp", "cmn", "tst", "teq", "it")):
            return False
        return before.destination in now.address_registers
