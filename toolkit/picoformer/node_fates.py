"""What becomes of each node of an ONNX file: an operator, part of one, a constant, nothing, or a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from picoformer.errors import PicoformerError
from picoformer.ir import Graph

Verdict = Literal["kept", "fused", "folded", "dropped", "refused", "behind", "covered"]
"""`kept`: an operator computes its output. `fused`: it is part of one. `folded`: it is a constant. `dropped`: nothing
needs it, or it only passes its input on. `refused`: it is not covered. `behind`: it hangs on a node that is refused.
`covered`: it could be, but the file is refused before it is looked at."""

MOVES = ("Concat", "Reshape", "Slice", "Transpose")


@dataclass(frozen=True)
class Fate:
    """What becomes of a node. `kind` and `into`: the operator that computes its output or takes it up, and what that
    operator's output is called. `reason`: why it is refused, and what would mend it."""

    name: str
    op: str
    output: str
    verdict: Verdict
    kind: str = ""
    into: str = ""
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """As `inspect --json` prints it, without what does not apply."""
        said = {"kind": self.kind, "into": self.into, "reason": self.reason}
        kept = {key: value for key, value in said.items() if value}
        return {"name": self.name, "op": self.op, "output": self.output, "fate": self.verdict, **kept}


def node_fates(
    path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> tuple[list[Fate], PicoformerError | None]:
    """The fate of every node of an ONNX file, in its order, and the error that a build would end with.

    Raises ModelError when the file cannot be read at all.
    """
    from picoformer.frontends.onnx import COVERED, Trace, load_onnx
    from picoformer.frontends.onnx_load import SHAPE_OPERATORS, parse_model, standings
    from picoformer.passes.order import refusals, refuse_left_over, rewritten

    nodes = list(standings(parse_model(path), COVERED))
    trace, final, loaded = Trace(), None, None
    left: dict[str, str] = {}
    error: PicoformerError | None = None
    try:
        loaded = load_onnx(path, dict(shapes or {}), trace)
        final = rewritten(loaded)
        left = {node.output: reason for node, reason in refusals(final)}
        refuse_left_over(final)
    except PicoformerError as caught:
        error = caught
    fates = []
    for standing in nodes:
        node = standing.node
        outputs = [name for name in node.output if name]
        output = outputs[0] if outputs else ""
        this = (node.name, standing.key, output)
        values = [trace.values[name] for name in outputs if name in trace.values]
        if output in trace.refused:
            fates.append(Fate(*this, "refused", reason=str(trace.refused[output])))
        elif not standing.covered:
            fates.append(Fate(*this, "refused", reason=f"the operator {standing.key} is not covered"))
        elif not standing.depends or standing.key in SHAPE_OPERATORS or (values and not any(values)):
            fates.append(Fate(*this, "folded"))
        elif loaded is None or final is None:
            there = bool(values) or not trace.refused
            fates.append(Fate(*this, "covered" if there else "behind"))
        elif not values:
            fates.append(Fate(*this, "dropped"))
        else:
            fates.append(_followed(this, values[0], loaded, final, left))
    return fates, error


def _followed(this: tuple[str, str, str], value: str, loaded: Graph, final: Graph, left: Mapping[str, str]) -> Fate:
    """The fate of a node that was read as `value`: the operator that computes it, or the nearest below that does."""
    if found := _operator(value, loaded, final):
        kind = final.producers[found].op.kind
        if found in left:
            return Fate(*this, "refused", kind, found, left[found])
        return Fate(*this, "kept" if found in (value, f"{value}_normalized") else "fused", kind, found)
    if value not in loaded.producers:
        return Fate(*this, "dropped")
    seen, below = {value}, [value]
    while below:
        readers = [node.output for name in below for node in loaded.consumers.get(name, ()) if node.output not in seen]
        for name in readers:
            if found := _operator(name, loaded, final):
                return Fate(*this, "fused", final.producers[found].op.kind, found)
        below = list(dict.fromkeys(readers))
        seen.update(below)
    return Fate(*this, "dropped")


def _operator(value: str, loaded: Graph, final: Graph) -> str:
    """The output of the operator that computes a value of the loaded graph, or was made in its place; "" if none."""
    if value in final.producers:
        return value
    made = [name for name in final.producers if name.startswith(f"{value}_") and name not in loaded.types]
    return next((name for name in reversed(made) if final.producers[name].op.kind not in MOVES), "")
