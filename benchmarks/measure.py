"""One line of the table: a model in a scheme on a core, built, run in the emulator, and compared with the reference."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.backends.c import Draft, draft_c, write_c
from picoformer.build_folder import quantize_model
from picoformer.cycles import Cycles, count_cycles
from picoformer.emulator.session import Session, open_device
from picoformer.errors import FitError
from picoformer.firmware import FirmwareBuild, build_firmware
from picoformer.importing import import_model
from picoformer.ir import Graph
from picoformer.ops.fixedpoint import dequantize
from picoformer.parity import sqnr_db
from picoformer.quantize import SCHEMES, QuantizeSettings
from picoformer.reference import lower_graph, run_float, run_integer
from picoformer.targets import Target, load_target
from picoformer.verification import Runner

FLOAT = "float32"


def measure_model(
    path: Path, calibration: np.ndarray, test: np.ndarray, scheme: str, boards: Sequence[str], quality: bool
) -> list[dict[str, Any]]:
    """The lines of a model in one scheme on several boards; `quality`: with the SQNR over all of `test`."""
    floats = import_model(path)
    (name,) = floats.inputs
    graph = floats
    if scheme != FLOAT:
        chosen = SCHEMES[scheme]
        settings = QuantizeSettings(activations=chosen.activations, weights=chosen.weights)
        graph = quantize_model(floats, {name: _fit(floats, name, calibration)}, settings)
    inputs = {name: _fit(floats, name, test)}
    expected = run_float(floats, inputs) if scheme == FLOAT else run_integer(lower_graph(graph), inputs)
    lines = []
    for board in map(load_target, boards):
        try:
            line = measure(graph, {name: inputs[name][:1]}, {n: expected[n][:1] for n in graph.outputs}, board)
        except FitError as error:
            print(f"{graph.name}, {scheme}: no line for {board.name}: {error}", file=sys.stderr)
            continue
        line |= {"scheme": scheme, "sqnr_db": _sqnr(floats, graph, inputs, expected) if quality else None}
        lines.append(line)
    return lines


def _fit(graph: Graph, name: str, samples: np.ndarray) -> np.ndarray:
    """Samples in the shape of the graph's input, which has a batch of one."""
    return samples.reshape(len(samples), *graph.types[name].shape)


def _sqnr(floats: Graph, graph: Graph, inputs: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> float | None:
    (output,) = graph.outputs
    quant = graph.types[output].quant
    if quant is None:
        return None
    return sqnr_db(run_float(floats, inputs)[output], dequantize(found[output], quant))


def measure(
    graph: Graph, inputs: dict[str, np.ndarray], expected: dict[str, np.ndarray], board: Target
) -> dict[str, Any]:
    """Build a typed graph for a board and run one sample; integer outputs have to be those `expected`."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        draft = draft_c(graph, board.isa)
        write_c(draft, folder / "source")
        build = build_firmware(folder / "source", board, folder / "out")
        with open_device(build, board, profile=True) as session:
            found = Runner(session, graph, len(draft.plan.steps), board.name, None)(inputs).outputs
            for name in graph.outputs:
                if graph.types[name].quant is not None and not np.array_equal(found[name], expected[name]):
                    raise SystemExit(f"{graph.name} on {board.name}: output {name} is not that of the reference")
            return _line(draft, build, session, board)


def _line(draft: Draft, build: FirmwareBuild, session: Session, board: Target) -> dict[str, Any]:
    counts, profile, stack = session.instructions, session.profile, session.device.stack().used
    if counts is None or profile is None:
        raise SystemExit(f"{board.name}: {session.uncounted or 'no profile'}")
    cycles = count_cycles(build.elf, board, profile, session.device.calls)
    flash, ram = build.sizes.flash, build.sizes.ram
    return {
        "target": board.name,
        "cpu": board.cpu,
        "macs": draft.graph.macs,
        "instructions": counts.total,
        "cycles": None if isinstance(cycles, str) else {"low": cycles.total[0], "high": cycles.total[1]},
        "ram_bytes": {"arena": ram.arena, "stack": stack, "data": ram.data, "total": ram.arena + stack + ram.data},
        "flash_bytes": {"model": flash.model, "code": flash.code, "total": flash.model + flash.code},
        "flash_runtime_bytes": flash.runtime,
        "per_operator": _by_operator(draft, counts.per_step, cycles),
    }


def _by_operator(draft: Draft, instructions: Sequence[int], cycles: Cycles | str) -> dict[str, dict[str, int]]:
    sums: dict[str, dict[str, int]] = {}
    for index, step in enumerate(draft.plan.steps):
        entry = sums.setdefault(step.kind, {"instructions": 0, "macs": 0})
        entry["instructions"] += instructions[index]
        entry["macs"] += step.macs(draft.graph)
        if not isinstance(cycles, str):
            low, high = cycles.per_step[index]
            entry["cycles_low"] = entry.get("cycles_low", 0) + low
            entry["cycles_high"] = entry.get("cycles_high", 0) + high
    return sums
