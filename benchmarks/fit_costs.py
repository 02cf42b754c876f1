"""Fit the estimates to counted runs: python benchmarks/fit_costs.py [--stale|--runtime] [--toolchain gcc|zig] [CPU …]

Writes toolkit/picoformer/estimate/costs.json. For every emulated core and compiler one image per scheme, with many
small models in it, runs in QEMU; each of its steps is a sample. Given names of cores or a compiler, only those are
measured anew; with --stale only those whose kernels have changed since, with --runtime only the wire and the port.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from cost_code import Code, keeping_relocations, reached
from cost_models import SHAPES, float_graphs, operators, side_by_side, windows
from scipy.optimize import nnls

from picoformer import firmware
from picoformer.backends.c import Draft, draft_c, write_c
from picoformer.build_folder import with_full_length
from picoformer.cycles import count_cycles
from picoformer.emulator.session import open_device
from picoformer.emulator.symbols import symbol_address
from picoformer.estimate import made_up
from picoformer.estimate.calls import Call, calls_of
from picoformer.estimate.costs import ALIKE, COSTS, toolchain_key
from picoformer.estimate.fingerprint import kernels_fingerprint
from picoformer.estimate.formulas import terms_of
from picoformer.estimate.sizes import described_bytes, padding_bytes
from picoformer.files import atomic_write_text
from picoformer.firmware import FirmwareBuild, build_firmware
from picoformer.ir import DType, Graph
from picoformer.ops import Activation, Linear
from picoformer.quantize import SCHEMES, QuantizeSettings, quantize
from picoformer.quantize.observe import observe
from picoformer.quantize.ptq import build_typed
from picoformer.reference import run_float
from picoformer.targets import Target, list_targets, load_target
from picoformer.verification import Runner

ENOUGH = 400_000
"""Bytes of flash and of RAM that a board needs for these images."""
COMPILERS = ("gcc", "zig")
"""Whose code is measured: what `build` takes where it is installed, and what it takes where that is missing."""
FRAMES = (320, 1040)
SMALL_STEP = 3000
"""Instructions: of much smaller steps the relative error counts less, since no model's cost is in them."""
OPERATOR_SHAPES = ((12, 20), (40, 17), (7, 64))
WINDOW_SHAPES = ((9, 8), (12, 5), (6, 19))
SMALL = ("tiny",)


@dataclass
class Samples:
    """What was measured of one core."""

    steps: dict[str, list[tuple[list[float], int, dict[str, tuple[int, int]]]]] = field(default_factory=dict)
    """Variant of a call → (terms, instructions, cycles) of each step that makes such calls and no others."""
    depth: dict[str, int] = field(default_factory=dict)
    floors: list[int] = field(default_factory=list)
    sections: dict[str, int] = field(default_factory=dict)
    functions: dict[str, list[str]] = field(default_factory=dict)
    always: set[str] = field(default_factory=set)
    structs: dict[str, int] = field(default_factory=dict)
    text: list[tuple[int, int]] = field(default_factory=list)
    """(steps, bytes of the model's functions) of each image."""


def boards() -> list[Target]:
    """An emulated board with room for these images of each core."""
    found: dict[str, Target] = {}
    for name in list_targets():
        board = load_target(name)
        if board.is_host or board.emulator is None or board.emulator.kind != "qemu":
            continue
        if min(board.region("code").length, board.region("data").length) >= ENOUGH:
            found.setdefault(toolchain_key(board), board)
    return list(found.values())


def typed_graphs(board: Target, whole: Graph) -> Iterable[tuple[str, Graph]]:
    """The models in every scheme, and in int8 with 16 bits here and there, where other kernels and tables run."""
    base = QuantizeSettings(rounding="nearest", bias_correction=False, widen=0.0)
    samples = made_up.made_up_samples(whole, 2)
    for name, scheme in SCHEMES.items():
        settings = replace(base, activations=scheme.activations, weights=scheme.weights)
        yield name, quantize(whole, samples, run_float, settings)
    yield "int8, wide inputs", quantize(whole, samples, run_float, replace(base, inputs=DType.INT16))
    seen = observe(whole, samples, run_float)
    for name, values in wide_activations(whole).items():
        if not values:
            continue
        yield f"int8, {name}", build_typed(whole, seen, base, dict.fromkeys(values, DType.INT16))
    if "fpu" in " ".join(board.toolchain.flags):
        yield "float32", whole


def wide_activations(graph: Graph) -> dict[str, list[str]]:
    """Values that have 16 bits where a table of an activation comes right behind a linear layer: what the table reads,
    what it gives, or both."""
    pairs = [
        (node.inputs[0], node.output)
        for node in graph.nodes
        if isinstance(node.op, Activation)
        and node.inputs[0] in graph.producers
        and isinstance(graph.producers[node.inputs[0]].op, Linear)
    ]
    reads, gives = [read for read, _ in pairs], [given for _, given in pairs]
    return {"wide sums": reads, "wide results": gives, "wide sums and results": [*reads, *gives]}


def measure(board: Target, graph: Graph, samples: Samples, scratch: Path, toolchain: str) -> FirmwareBuild:
    """Build a graph for a board, run it once, and add what its steps take to `samples`."""
    draft = draft_c(graph, board.isa, tile="none")
    write_c(draft, scratch / "source")
    with mock.patch.object(firmware, "choose_compiler", keeping_relocations):
        build = build_firmware(scratch / "source", board, scratch / "out", toolchain=toolchain)
    code = reached(build.elf, build.map, draft.parts.functions)
    _add_code(samples, code, draft, build.elf)
    inputs = with_full_length(graph, made_up.made_up_samples(graph, 1, seed=3))
    with open_device(build, board, profile=True) as session:
        Runner(session, graph, len(draft.rows), board.name, None)(inputs)
        counts, profile, stack = session.instructions, session.profile, session.device.stack().used
    if counts is None or profile is None:
        raise SystemExit(f"{board.name}: {session.uncounted or 'no profile'}")
    cycles = {}
    for cpu in ALIKE.get(board.cpu, (board.cpu,)):
        found = count_cycles(build.elf, board.model_copy(update={"cpu": cpu}), profile)
        cycles |= {} if isinstance(found, str) else {cpu: found.per_step}
    top = symbol_address(build.elf, "pf_stack_top")
    deepest = 0
    for index, calls in enumerate(calls_of(draft)):
        depth = top - profile[index + 1].lowest_store
        deepest = max(deepest, depth)
        for call in calls:
            samples.depth[call.variant] = max(depth, samples.depth.get(call.variant, 0))
        terms = _terms(calls)
        if terms is not None:
            ranges = {cpu: steps[index] for cpu, steps in cycles.items()}
            samples.steps.setdefault(calls[0].variant, []).append((terms, counts.per_step[index], ranges))
    if stack > deepest:
        samples.floors.append(stack)
    return build


def _terms(calls: tuple[Call, ...]) -> list[float] | None:
    """The summed terms of a step's calls, where all are of one kind."""
    if len({call.variant for call in calls}) != 1:
        return None
    found = [terms_of(call.function, call.sizes) for call in calls]
    if any(terms is None for terms in found):
        return None
    return [
        sum(column) for column in zip(*(np.array(t) * c.times for t, c in zip(found, calls, strict=True)), strict=True)
    ]


def _add_code(samples: Samples, code: Code, draft: Draft, elf: Path) -> None:
    from elftools.elf.elffile import ELFFile

    samples.sections |= code.sections
    samples.functions |= code.functions
    samples.always |= set(code.always)
    samples.text.append((len(draft.rows), code.model_text))
    with elf.open("rb") as stream:
        table: Any = ELFFile(stream).get_section_by_name(".symtab")
        sizes = {symbol.name: symbol["st_size"] for symbol in table.iter_symbols() if symbol["st_size"]}
    samples.structs |= {s.type: sizes[s.symbol] for s in draft.parts.structs if s.symbol in sizes}


def fit(rows: list[tuple[list[float], int, dict[str, tuple[int, int]]]]) -> dict[str, Any]:
    """Coefficients that are not negative, by least squares of the relative error; and the largest such error of a
    step that is not small."""
    terms = np.array([row[0] for row in rows])
    counted = np.array([row[1] for row in rows], float)
    fitted: dict[str, Any] = {"samples": len(rows)}
    coefficients = _solve(terms, counted)
    fitted["instructions"] = _rounded(coefficients)
    off = np.abs(terms @ coefficients - counted) / np.maximum(counted, SMALL_STEP)
    fitted["worst"] = round(float(off.max()), 4)
    fitted["cycles"] = {
        cpu: [_rounded(_solve(terms, np.array([row[2][cpu][column] for row in rows], float))) for column in (0, 1)]
        for cpu in rows[0][2]
    }
    return fitted


def _solve(terms: np.ndarray, counted: np.ndarray) -> np.ndarray:
    weight = 1 / (counted + SMALL_STEP)
    weighted = terms * weight[:, None]
    scale = np.abs(weighted).max(axis=0)
    scale[scale == 0] = 1
    coefficients, _ = nnls(weighted / scale, counted * weight)
    return np.asarray(coefficients / scale)


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def measure_core(board: Target, graphs: dict[str, Graph], scratch: Path, toolchain: str) -> dict[str, Any]:
    """Everything the estimates know of a core with one compiler."""
    samples = Samples()
    encoders = {name: graph for name, graph in graphs.items() if name in SHAPES}
    pieces = {name: graph for name, graph in graphs.items() if name not in SHAPES}
    for part, some in (("encoders", encoders), ("operators", pieces)):  # all at once are larger than some boards
        for number, (scheme, graph) in enumerate(typed_graphs(board, side_by_side(some, "costs"))):
            begun = time.monotonic()
            measure(board, graph, samples, scratch / f"{part}{number}", toolchain)
            print(f"  {part}, {scheme}: {time.monotonic() - begun:.1f} s", file=sys.stderr)
    compiler, runtime = measure_runtime(board, graphs, samples, scratch, toolchain)
    used = sorted({name for names in samples.functions.values() for name in names} | samples.always)
    index = {name: number for number, name in enumerate(used)}
    steps, text = np.array([[1, row[0]] for row in samples.text]), np.array([row[1] for row in samples.text])
    fixed, each = np.linalg.lstsq(steps, text, rcond=None)[0]
    return {
        "compiler": compiler,
        "kernels": kernels_fingerprint(tuple(board.isa)),
        "target": board.name,
        "cpu": board.cpu,
        "isa": list(board.isa),
        "flags": [board.toolchain.optimize, *board.toolchain.flags],
        "model_text": {"fixed": round(float(fixed)), "per_step": round(float(each), 2)},
        "structs": dict(sorted(samples.structs.items())),
        "runtime": runtime,
        "stack": {"floor": min(samples.floors, default=0), "depth": dict(sorted(samples.depth.items()))},
        "sections": [[name, samples.sections[name]] for name in used],
        "always": sorted(index[name] for name in samples.always),
        "functions": {name: [index[s] for s in found] for name, found in sorted(samples.functions.items())},
        "costs": {variant: fit(rows) for variant, rows in sorted(samples.steps.items())},
    }


def measure_runtime(
    board: Target, graphs: dict[str, Graph], samples: Samples, scratch: Path, toolchain: str
) -> tuple[str, dict[str, float]]:
    """The compiler's version, and what wire and port take beside a model, by two images with frames of two lengths."""
    small = made_up.made_up_graph(side_by_side({name: graphs[name] for name in SMALL}, "small"), "int8")
    builds = []
    for size in FRAMES:
        framed = board.model_copy(update={"frame_bytes": size})
        builds.append(measure(framed, small, samples, scratch / f"small{size}", toolchain))
    short, long = (build.sizes for build in builds)
    draft = draft_c(small, board.isa)
    per_byte = (long.ram.runtime - short.ram.runtime) / (FRAMES[1] - FRAMES[0])
    return builds[0].compiler, {
        "flash": long.flash.runtime - described_bytes(draft) - padding_bytes(draft),
        "data": long.ram.data,
        "ram": round(short.ram.runtime - FRAMES[0] * per_byte),
        "ram_per_frame_byte": round(per_byte, 3),
    }


def _arguments() -> argparse.Namespace:
    reader = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    reader.add_argument("cores", nargs="*", help="CPUs or boards; all where none is named")
    reader.add_argument("--toolchain", choices=COMPILERS, help="only the code of this compiler")
    reader.add_argument("--stale", action="store_true", help="only those that were measured on other kernels")
    reader.add_argument("--runtime", action="store_true", help="only what wire and port take beside a model")
    wanted = reader.parse_args()
    known = {name for board in boards() for name in (board.cpu, board.name)}
    if unknown := set(wanted.cores) - known:
        reader.error(f"no such core: {', '.join(sorted(unknown))}; use some of {', '.join(sorted(known))}")
    return wanted


def main() -> None:
    """Measure every core with every compiler, or those that are asked for; the file is written after each."""
    from run import version_of

    wanted = _arguments()
    known = json.loads(COSTS.read_text("utf-8"))["cores"] if COSTS.is_file() else {}
    pairs = {toolchain_key(board, kind): (board, kind) for board in boards() for kind in COMPILERS}
    cores = {key: known[key] for key in pairs if key in known}
    graphs = float_graphs() | {f"{rows} x {width}": operators(rows, width) for rows, width in OPERATOR_SHAPES}
    graphs |= {f"windows {side} x {channels}": windows(side, channels) for side, channels in WINDOW_SHAPES}
    for key, (board, kind) in pairs.items():
        is_named = not wanted.cores or board.cpu in wanted.cores or board.name in wanted.cores
        is_stale = known.get(key, {}).get("kernels") != kernels_fingerprint(tuple(board.isa))
        if not is_named or wanted.toolchain not in (None, kind) or (wanted.stale and not is_stale):
            continue
        print(f"{key}: {board.name}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            if wanted.runtime and key in cores:
                _, cores[key]["runtime"] = measure_runtime(board, graphs, Samples(), Path(folder), kind)
                _write(cores, pairs)
                continue
            emulator = {"emulator": version_of(board.emulator.program)}  # type: ignore[union-attr]
            cores[key] = emulator | measure_core(board, graphs, Path(folder), kind)
        worst = max(cores[key]["costs"].items(), key=lambda item: item[1]["worst"])
        print(f"  worst fit: {worst[0]} {worst[1]['worst']:.1%}", file=sys.stderr)
        _write(cores, pairs)


def _write(cores: dict[str, Any], order: Iterable[str]) -> None:
    text = json.dumps({"cores": {key: cores[key] for key in order if key in cores}}, separators=(",", ":"))
    atomic_write_text(COSTS, text.replace('},"', '},\n"') + "\n")


if __name__ == "__main__":
    main()
