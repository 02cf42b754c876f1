"""ONNX's own node tests on our C: python benchmarks/conformance.py writes conformance.txt.

Every case goes through the front door and the passes to float32 C, is compiled for this machine and compared with the
numbers that come with it, by the tolerance that comes with it. A case that is refused as it is, is tried with its last
inputs fixed as constants, as weights and shapes are in a file; the list says which. A case that only reshapes computes
nothing, so its result is added to itself ("doubled"); of a case with several outputs the first may be all that there is
an operator for ("first output"). What is refused even so is tried with every input fixed: "folded" is what the importer
works out by itself, which shows nothing of C. Numbers of 16 and 64 bits are computed in float32, integers in int32, and
compared in the type of the case; minus infinity in a constant is the lowest float32.
"""

from __future__ import annotations

import logging
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from picoformer.errors import PicoformerError
from picoformer.frontends.onnx import load_onnx
from picoformer.frontends.onnx_fix import with_constants
from picoformer.onnx_backend import prepare
from picoformer.passes import optimize
from picoformer.reference import run_float

LIST = Path(__file__).parent / "conformance.txt"
DOUBLED, FIRST = CHANGES = ("doubled", "first output")
"""How a case may have been changed."""
RAN = ("C", "folded")
"""What a case may have come to where its numbers were compared."""
REASONS = (
    (r"are not covered: (\w[\w.]*)", r"operator \1"),
    (r"uses opset \d+, in which ([\w, ]+?) may differ", r"newer or older form of \1"),
    (r"uses opset (\d+)", r"opset \1"),
    (r"input '[^']*' is (\w+); float", r"input of type \1"),
    (r"is already quantized", "quantized"),
    (r"has the input '.*?' of no elements|has shape \[[^]]*\]; every axis", "axis of length 0 or unknown"),
    (r"is dynamic in|has no shape at all", "axis of length 0 or unknown"),
    (r"is not a tensor", "sequences and optionals"),
    (r"computes '(\w+)' outside", r"\1 that is not part of a larger operator"),
    (r"does not depend on the inputs|computes nothing", "computes nothing"),
    (r"draws random numbers", "random numbers"),
    (r"\((\w+), output '[^']*'\):? (.*?)[;:]", r"form of \1: \2"),
    (r"\((\w+)\) ([^;:]*)", r"form of \1: \2"),
)
"""What an error says → the class it is counted under."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case: "C", "folded", "refused", "wrong" or "crashed"; which inputs were fixed and how it was
    changed; why."""

    case: str
    came_to: str
    constants: tuple[str, ...] = ()
    detail: str = ""

    @property
    def line(self) -> str:
        """As the list has it."""
        why = reason_class(self.detail) if self.came_to == "folded" else " ".join(self.constants)
        return "  ".join(filter(None, (self.case, self.came_to, why)))


def node_cases() -> list[Any]:
    """The node tests that come with the installed onnx."""
    from onnx.backend.test import loader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(loader.load_model_tests(kind="node"))


def judge(case: Any) -> Outcome:
    """Run one case in the first of its forms that is covered."""
    arrays = [_array(value) for value in case.data_sets[0][0]]
    wanted = [_array(value) for value in case.data_sets[0][1]]
    # An optional input that is left out has no value; what is no tensor cannot be fixed.
    names = [value.name for value in case.model.graph.input]
    given = dict(zip(names, arrays, strict=False))
    reason = ""
    for constants in _forms(names, given):
        try:
            found, how = _in_c(case.model, given, constants)
        except PicoformerError as error:
            reason = reason or str(error)
            if "uses opset" in reason:
                return Outcome(case.name, "refused", detail=reason)
            if "operators that are not covered" in reason and len(case.model.graph.node) == 1:
                break  # nor with weights that are fixed
            continue
        return _compare(case, found, [2 * one if DOUBLED in how else one for one in wanted], "C", (*constants, *how))
    if all(isinstance(value, np.ndarray) for value in (*arrays, *wanted)) and names:
        try:
            found = _folded(case.model, given, wanted)
        except PicoformerError:
            pass
        else:
            outcome = _compare(case, found, [_finite(one) for one in wanted], "folded", ())
            return replace(outcome, detail=reason) if outcome.came_to == "folded" else outcome
    return Outcome(case.name, "refused", detail=reason)


def _in_c(model: onnx.ModelProto, given: dict[str, Any], constants: Sequence[str]) -> tuple[Any, tuple[str, ...]]:
    """(outputs, how the model had to be changed) with some inputs fixed. Raises PicoformerError."""
    fixed = {name: given[name] for name in constants}
    changes: list[tuple[tuple[str, ...], onnx.ModelProto]] = [((), model), ((DOUBLED,), _doubled(model))]
    if len(model.graph.output) > 1:
        changes.append(((FIRST,), _first(model)))
    errors: list[PicoformerError] = []
    for how, changed in changes:
        if DOUBLED in how and "computes nothing" not in str(errors[0]):
            continue
        try:
            ready = prepare(changed, constants=fixed)
            return ready.run({name: given[name] for name in ready.library.graph.inputs}), how
        except PicoformerError as error:
            errors.append(error)
    raise errors[0]


def _first(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with its first output only: the others are what training wants, or an attention's insides."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.output[1:]
    return changed


def _doubled(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with its outputs added to themselves, so that one that only reshapes has something to compute."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for value in changed.graph.output:
        name = f"conformance_{value.name}"
        changed.graph.node.append(onnx.helper.make_node("Add", [value.name, value.name], [name]))
        value.name = name
    return changed


def _array(value: Any) -> Any:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _finite(array: Any) -> Any:
    """`array` as a graph keeps it: without minus infinity."""
    if array.dtype not in (np.float16, np.float32, np.float64):
        return array
    with np.errstate(over="ignore"):
        return np.maximum(array, np.finfo(np.float32).min, dtype=np.float64).astype(array.dtype)


def _forms(names: Sequence[str], given: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Which inputs to fix, fewest first: none, the integers, then the last ones."""
    yield ()
    fixable = [isinstance(given.get(name), np.ndarray) for name in names]
    numbers = tuple(name for name, able in zip(names, fixable, strict=True) if able and given[name].dtype.kind in "iub")
    if numbers and len(numbers) < len(names):
        yield numbers
    for kept in range(len(names) - 1, 0, -1):
        if all(fixable[kept:]):
            yield tuple(names[kept:])


def _folded(model: onnx.ModelProto, given: dict[str, Any], wanted: Sequence[Any]) -> tuple[Any, ...]:
    """The outputs of a model with nothing but constants, worked out by the importer: each is added to an input of
    zeros, so that there is a graph at all."""
    changed = with_constants(model, given)
    inputs, outputs = [], []
    for index, (value, array) in enumerate(zip(model.graph.output, wanted, strict=True)):
        number, zeros, result = (f"conformance_{role}_{index}" for role in ("number", "zeros", "result"))
        inputs.append(onnx.helper.make_tensor_value_info(zeros, onnx.TensorProto.FLOAT, array.shape))
        outputs.append(onnx.helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, array.shape))
        changed.graph.node.append(onnx.helper.make_node("Cast", [value.name], [number], to=onnx.TensorProto.FLOAT))
        changed.graph.node.append(onnx.helper.make_node("Add", [number, zeros], [result]))
    changed.graph.input.extend(inputs)
    del changed.graph.output[:]
    changed.graph.output.extend(outputs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(changed.SerializeToString())
        graph = optimize(load_onnx(path))
    found = run_float(graph, {name: np.zeros((1, *graph.types[name].shape), np.float32) for name in graph.inputs})
    return tuple(
        found[output.name][0].astype(array.dtype).reshape(array.shape)
        for output, array in zip(outputs, wanted, strict=True)
    )


def _compare(case: Any, found: Sequence[Any], wanted: Sequence[Any], way: str, constants: tuple[str, ...]) -> Outcome:
    wanted = wanted[:1] if FIRST in constants else wanted
    for index, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        a, b = (np.asarray(value) for value in (ours, theirs))
        if a.shape != b.shape or a.dtype != b.dtype:
            detail = f"output {index} is {a.dtype}{list(a.shape)}, not {b.dtype}{list(b.shape)}"
            return Outcome(case.name, "wrong", constants, detail)
        a, b = a.astype(np.float64), b.astype(np.float64)
        if not np.allclose(a, b, rtol=case.rtol, atol=case.atol, equal_nan=True):
            distance = np.abs(a - b).max(initial=0.0)
            return Outcome(case.name, "wrong", constants, f"output {index} is off by {distance:g}")
    return Outcome(case.name, way, constants)


def reason_class(detail: str) -> str:
    """A refusal without the names of the case."""
    for pattern, name in REASONS:
        match = re.search(pattern, detail)
        if match:
            return match.expand(name).replace("\n", " ")[:100]
    return detail.partition(":")[2].strip()[:80] or detail[:80]


def operators_of(case: Any) -> set[str]:
    """The standard operators in a case, with their domain where it is another."""
    return {f"{n.domain}.{n.op_type}" if n.domain not in ("", "ai.onnx") else n.op_type for n in case.model.graph.node}


def run(cases: Sequence[Any]) -> list[Outcome]:
    """Judge the cases; what is not a PicoformerError is a crash, our fault."""
    logging.disable(logging.WARNING)
    found = []
    for case in cases:
        try:
            found.append(judge(case))
        except Exception as error:  # the list must say so, and go on
            found.append(Outcome(case.name, "crashed", detail=f"{type(error).__name__}: {error}"[:300]))
    return found


def page(cases: Sequence[Any], outcomes: Sequence[Outcome]) -> str:
    """The tracked list."""
    counts = Counter(one.came_to for one in outcomes)
    fixed = sum(1 for one in outcomes if one.came_to == "C" and {*one.constants} - {*CHANGES})
    kinds: dict[str, set[str]] = {way: set() for way in RAN}
    for case, one in zip(cases, outcomes, strict=True):
        if one.came_to in RAN and not case.name.endswith("_expanded") and "_expanded_" not in case.name:
            kinds[one.came_to] |= operators_of(case)
    refused = Counter(reason_class(one.detail) for one in outcomes if one.came_to == "refused")
    words = (__doc__ or "").split("\n\n", 1)[1].strip().splitlines()
    lines = [f"# {line}".rstrip() for line in words]
    lines += [
        "#",
        f"# onnx {onnx.__version__}: {len(outcomes)} node tests",
        f"# {counts['C']} ran in C and passed, {fixed} of them with inputs fixed",
        f"# {counts['folded']} passed folded",
        f"# {counts['wrong']} wrong, {counts['crashed']} crashed",
        f"# {counts['refused']} refused, for the reasons at the end",
        f"# operators in C: {len(kinds['C'])}: {', '.join(sorted(kinds['C']))}",
        f"# operators folded only: {', '.join(sorted(kinds['folded'] - kinds['C']))}",
        "",
        "[passed: case, where it ran, the inputs that were fixed or why it has no C]",
        *(one.line for one in outcomes if one.came_to in RAN),
        "",
        "[refused: how many, why]",
        *(f"{count:4}  {reason}" for reason, count in sorted(refused.items(), key=lambda item: (-item[1], item[0]))),
        *(f"{one.case}  {one.came_to}  {one.detail}" for one in outcomes if one.came_to in ("wrong", "crashed")),
    ]
    return "\n".join(lines) + "\n"


def passed_cases(text: str) -> dict[str, str]:
    """Case → where it ran, of a list that `page` wrote."""
    section = text.partition("[passed")[2].partition("]\n")[2].partition("\n\n")[0]
    return {line.split("  ")[0]: line.split("  ")[1] for line in section.splitlines() if line}


def main() -> int:
    """Judge all cases and write the list; 1 when a case is wrong or crashed."""
    began = time.monotonic()
    cases = node_cases()
    outcomes = run(cases)
    text = page(cases, outcomes)
    LIST.write_text(text, encoding="utf-8")
    print("\n".join(line for line in text.splitlines() if line.startswith("#")))
    bad = [one for one in outcomes if one.came_to in ("wrong", "crashed")]
    for one in bad:
        print(f"{one.case}: {one.came_to}: {' '.join(one.constants)} {one.detail}")
    print(f"{time.monotonic() - began:.0f} s; {LIST}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
