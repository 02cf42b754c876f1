"""The memory that an image needs and a board has; who does not fit is refused before a compiler starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from picoformer.backends.c import Draft, MemoryPlan
from picoformer.errors import FitError
from picoformer.firmware import SizeReport
from picoformer.targets import MemoryRegion, Target

BIGGEST = 3
MARGIN = 0.1
"""Code and wire may turn out smaller than estimated by this share."""


@dataclass(frozen=True)
class Need:
    """What an image needs of one memory region, in bytes; `parts` are its contents by name, the biggest first."""

    memory: str
    """"flash" or "RAM"."""
    region: str
    needed: int
    available: int
    parts: tuple[tuple[str, int], ...]
    estimated: int = 0
    """The part of `needed` that only the compiler knows exactly."""

    @property
    def fits(self) -> bool:
        """Whether it is enough."""
        return self.needed <= self.available

    @property
    def surely_too_large(self) -> bool:
        """Whether it is not enough even where the estimate is too high: within its margin the linker decides."""
        return self.needed - MARGIN * self.estimated > self.available

    def __str__(self) -> str:
        biggest = ", ".join(f"{name} {size:,}" for name, size in self.parts[:BIGGEST])
        return (
            f"{self.memory} ({self.region}) needs {self.needed:,} bytes and has {self.available:,}; biggest: {biggest}"
        )


def needs(draft: Draft, target: Target, sizes: SizeReport) -> tuple[Need, ...]:
    """What the image of a draft, estimated at `sizes`, needs of a board's flash and of its RAM; of another memory too,
    where the constants go there."""
    flash, ram = sizes.flash, sizes.ram
    code, data = target.region("code"), target.region("data")
    weights = target.weights_region(draft.weights_bytes)
    apart = [] if weights is code else [_need("flash", weights, draft.weights_bytes, constants(draft), 0)]
    beside = flash.total - sum(need.needed for need in apart)
    inside = constants(draft) if not apart else []
    kept = [("keys and values", draft.state_bytes)]
    return (
        _need("flash", code, beside, inside + _beside(sizes, "flash"), flash.code + flash.runtime),
        *apart,
        _need("RAM", data, ram.total, fullest_step(draft.plan) + kept + _beside(sizes, "RAM"), ram.runtime),
    )


def _need(memory: str, region: MemoryRegion, needed: int, parts: list[tuple[str, int]], estimated: int) -> Need:
    biggest = sorted((part for part in parts if part[1]), key=lambda part: -part[1])
    return Need(memory, region.name, needed, region.length, tuple(biggest), estimated)


def _beside(sizes: SizeReport, memory: str) -> list[tuple[str, int]]:
    """What is in a memory beside the model's own constants and values."""
    if memory == "flash":
        return [("code of the operators", sizes.flash.code), ("wire and port", sizes.flash.runtime)]
    return [("stack", sizes.ram.stack), ("wire and port", sizes.ram.runtime)]


def constants(draft: Draft) -> list[tuple[str, int]]:
    """The arrays in a model's weights.c: what each is, and its bytes."""
    return [(array.note.partition(", ")[0], array.values.nbytes) for array in draft.parts.arrays.values()]


def fullest_step(plan: MemoryPlan) -> list[tuple[str, int]]:
    """The values alive at the call that needs the most RAM, with their bytes; scratch is named after its step."""
    output = plan.schedule.step_of(plan.fullest).output if plan.fullest >= 0 else "the outputs"
    return [(value.value or f"scratch for {output}", value.bytes) for value in plan.alive(plan.fullest)]


def refuse_misfit(draft: Draft, target: Target, sizes: SizeReport, mend: Callable[[], str]) -> None:
    """Raise FitError when an image cannot fit the board: which memory, its biggest contents, and what would mend it."""
    short = [need for need in needs(draft, target, sizes) if need.surely_too_large]
    if short:
        raise misfit(target, short, mend())


def misfit(target: Target, short: list[Need], mend: str) -> FitError:
    """The error for memory that is too small."""
    return FitError(f"the model does not fit {target.name}: {'; '.join(map(str, short))}; {mend}")
