"""What `verify` found: the record, and the JSON object printed of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """How far form `to` of a model is from form `source`: all samples, the worst output if there are several.

    `equal` is None between forms of which equality is not asked (a float is on one side at least).
    `max_abs` is in real units, `max_steps` in steps of the integer grid (None where neither side stands on
    one); `sqnr_db` is 10·log10(Σ a² / Σ (a − b)²), None where there is no difference; `top1_agreement` is
    the part of the rows whose largest element (last axis) is at the same place. A figure that was not
    measured is None.
    """

    source: str
    to: str
    equal: bool | None
    max_abs: float | None
    cosine: float | None
    sqnr_db: float | None
    top1_agreement: float | None
    max_steps: float | None = None

    def to_json(self) -> dict[str, object]:
        """The object that `verify --json` prints for a link."""
        return {
            "from": self.source,
            "to": self.to,
            "equal": self.equal,
            "max_abs": self.max_abs,
            "cosine": self.cosine,
            "sqnr_db": self.sqnr_db,
            "top1_agreement": self.top1_agreement,
        }


@dataclass(frozen=True)
class OperatorCost:
    """Instructions and multiply-accumulates of one step of one inference."""

    name: str
    op: str
    instructions: int | None
    macs: int

    def to_json(self) -> dict[str, object]:
        """The object that stands in `per_operator`."""
        return {"name": self.name, "op": self.op, "instructions": self.instructions, "macs": self.macs}


@dataclass(frozen=True)
class RamBytes:
    """Bytes of RAM; None: not measured."""

    arena: int | None = None
    stack: int | None = None
    data: int | None = None
    total: int | None = None


@dataclass(frozen=True)
class FlashBytes:
    """Bytes of flash; None: not measured."""

    model: int | None = None
    code: int | None = None
    total: int | None = None


@dataclass(frozen=True)
class ParityReport:
    """What `verify` says of a model on a target. A figure that was not measured is None."""

    model: str
    scheme: str
    target: str
    samples: int
    macs: int
    links: tuple[Link, ...]
    instructions_per_inference: int | None = None
    per_operator: tuple[OperatorCost, ...] = ()
    ram: RamBytes = RamBytes()
    flash: FlashBytes = FlashBytes()
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True when every integer link is equal and nothing failed on the way."""
        return not self.failures and all(link.equal is not False for link in self.links)

    def to_json(self) -> dict[str, object]:
        """The one object that `verify --json` prints."""
        return {
            "model": self.model,
            "scheme": self.scheme,
            "target": self.target,
            "samples": self.samples,
            "macs": self.macs,
            "links": [link.to_json() for link in self.links],
            "instructions": {
                "per_inference": self.instructions_per_inference,
                "per_operator": [cost.to_json() for cost in self.per_operator],
            },
            "ram_bytes": dict(vars(self.ram)),
            "flash_bytes": dict(vars(self.flash)),
        }
