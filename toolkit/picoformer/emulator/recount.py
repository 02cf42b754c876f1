"""Counting instructions afterwards: `init` and the steps of the last run once more, on a second core, block by block.

A hook for every block costs about a microsecond of Python each, so nothing is counted while samples run. What a run
starts from is kept instead (registers and memory at the first counted region after a request), and the same calls are
made again when somebody asks. Integers do not change from one time to the next, so the counts are those of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from picoformer.emulator.core import Core
from picoformer.emulator.image import Image
from picoformer.emulator.interface import Instructions
from picoformer.errors import DeviceError


@dataclass(frozen=True)
class _Start:
    """Where a run began: bytes processed on the line by then, registers, and what memory held."""

    taken: int
    registers: tuple[int, ...]
    memory: tuple[tuple[int, bytes], ...]


class Recount:
    """Counts of the last run on `core`. `make` gives another core of the same image; `taken()` how many bytes of
    requests the firmware has read, by which one run is told from the next."""

    def __init__(self, image: Image, make: Callable[[], Core], core: Core, taken: Callable[[], int]) -> None:
        self._image, self._make, self._core, self._taken = image, make, core, taken
        self._begin, self._end = image.address("pf_region_begin"), image.address("pf_region_end")
        self._start: _Start | None = None
        self._step: tuple[int, ...] | None = None
        self._lengths: dict[tuple[int, int], int] = {}
        core.call_at(self._begin, self._on_region)

    def _on_region(self) -> None:
        """A counted call is about to be made: the first after a request is init, all others are steps, all alike."""
        if self._start is None or self._start.taken != self._taken():
            memory = tuple((address, self._core.read(address, size)) for address, size in self._image.writable)
            self._start = _Start(self._taken(), self._registers(), memory)
            self._step = None
        elif self._step is None:
            self._step = self._registers()

    def _registers(self) -> tuple[int, ...]:
        return tuple(map(self._core.get, self._core.saved))

    def instructions(self, steps: int) -> Instructions | None:
        """What `init` and the `steps` steps of the last run took; None before one."""
        if self._start is None or self._step is None or steps == 0:
            return None
        taken = self._again([self._start.registers, *([self._step] * steps)])
        return Instructions(sum(taken), taken[0], tuple(taken[1:]))

    def _again(self, calls: Sequence[tuple[int, ...]]) -> list[int]:
        """Instructions of calls with these registers, made one after the other on memory as it was before the first."""
        assert self._start is not None
        core, counted = self._make(), [0]

        def block(address: int, size: int) -> None:
            counted[0] += self._lengths.get((address, size)) or self._length(core, address, size)

        core.call_at_blocks(block)
        for address, data in self._start.memory:
            core.write(address, data)
        taken = []
        for registers in calls:
            counted[0] = 0
            for name, value in zip(core.saved, registers, strict=True):
                core.set(name, value)
            core.set("PC", self._begin)
            core.run_to(self._end)
            if core.get("PC") & ~1 != self._end:
                raise DeviceError("a step that ran has not ended when it was counted; instructions are not known")
            taken.append(counted[0])
        return taken

    def first_call(self) -> int | None:
        """What the first counted call after the last request took, where it was the only one; None otherwise."""
        if self._start is None or self._step is not None:
            return None
        return self._again([self._start.registers])[0]

    def _length(self, core: Core, address: int, size: int) -> int:
        """Instructions in a block."""
        found = self._lengths[address, size] = core.count(core.read(address, size))
        return found
