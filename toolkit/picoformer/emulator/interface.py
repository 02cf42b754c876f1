"""What every emulator offers: a byte pipe to the firmware, its process, instruction counts if it can."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from picoformer.link.transport import Transport
from picoformer.targets import Target


@dataclass(frozen=True)
class Instructions:
    """Instructions the last run executed: `init`, each step (or each call of it), and their sum `total`. Not cycles."""

    total: int
    init: int
    per_step: tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """Instructions from address `start` to before `end` that ran one after the other `executed` times, `taken` of them
    not followed by what stands at `end`: a branch was taken."""

    start: int
    end: int
    executed: int
    taken: int


@dataclass(frozen=True)
class Region:
    """What init or one step executed, but for the call that enters it; `lowest_store` is the lowest address of the
    stack it wrote to, where the call found the stack's end if it wrote to none."""

    blocks: tuple[Block, ...]
    lowest_store: int


class Running(Protocol):
    """Firmware that runs."""

    transport: Transport
    name: str
    """What runs it, with its version."""
    uncounted: str
    """Why instructions are not counted; empty when they are."""

    def instructions(self, steps: int) -> Instructions | None:
        """Counts of the last run, which made `steps` calls of the model's step; None when not counted."""

    def last_call(self) -> int | None:
        """Instructions of the last counted call alone; None when not counted."""

    def post_mortem(self) -> str:
        """What became of the process: how it ended and its last words."""

    def close(self) -> None:
        """End the process if it still runs, and release everything; may be called twice."""


class Emulator(Protocol):
    """A way to run firmware."""

    def start(self, elf: Path, target: Target) -> Running:
        """Start `elf`; ToolError when a program is missing, DeviceError when the firmware does not come
        up."""
