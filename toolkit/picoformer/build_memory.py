"""The memory plan that a build keeps beside its firmware: what lives when, and which steps leave out rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picoformer.errors import ModelError
from picoformer.files import atomic_write_text

if TYPE_CHECKING:
    from picoformer.backends.c import MemoryPlan


def write_memory(plan: MemoryPlan, folder: Path, length: str = "") -> None:
    """Keep the memory plan beside the firmware: its figures as memory.json, its drawing as memory.txt.
    `length`: the input that counts rows, where the model has one."""
    from picoformer.backends.c.drawing import decides, timeline
    from picoformer.backends.c.length import length_of

    lengths = length_of(plan.schedule, length)
    live = [
        {
            "step": step.output,
            "nodes": [node.output for node in step.nodes],
            "bytes": plan.live_in(index),
            "length": lengths.get(step.output, ""),
        }
        for index, step in enumerate(plan.steps)
    ]
    record = {"peak": plan.peak, "lower_bound": plan.lower_bound, "decides": decides(plan), "live": live}
    atomic_write_text(folder / "memory.json", json.dumps(record, indent=1) + "\n")
    atomic_write_text(folder / "memory.txt", timeline(plan) + "\n")


def read_memory(folder: Path) -> dict[str, Any]:
    """The memory plan's figures that a build kept beside its firmware; raises ModelError without them."""
    try:
        record: dict[str, Any] = json.loads((folder / "memory.json").read_text("utf-8"))
        live = [
            {
                "step": str(entry["step"]),
                "nodes": list(map(str, entry["nodes"])),
                "bytes": int(entry["bytes"]),
                "length": str(entry.get("length", "")),
            }
            for entry in record["live"]
        ]
        figures = {"peak": int(record["peak"]), "lower_bound": int(record["lower_bound"])}
        return {**figures, "decides": str(record["decides"]), "live": live}
    except OSError as error:
        raise ModelError(f"{folder}/memory.json cannot be read ({error.strerror}); build again") from None
    except (ValueError, KeyError, TypeError):
        raise ModelError(f"{folder}/memory.json is broken; build again") from None
