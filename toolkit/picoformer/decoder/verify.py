"""Verifying a decoder's build: the same texts step by step through every form of it, firmware last."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.decoder.build import DecoderBuild, open_decoder
from picoformer.decoder.graph import LOGITS, TOKENS, macs_per_token, token_macs
from picoformer.decoder.opening import token_rows
from picoformer.decoder.sessions import block_inputs, check_tokens, context_of
from picoformer.decoder.writing import runs_on
from picoformer.emulator.interface import Instructions
from picoformer.emulator.session import open_device
from picoformer.encoder_decoder.sessions import PairDeviceSession, check_source, source_inputs, source_rows
from picoformer.errors import DataError
from picoformer.firmware import SizeReport
from picoformer.ir import Graph
from picoformer.ir.operator import Array
from picoformer.ops.graph_file import graph_identity
from picoformer.parity import (
    FLOAT_DEVICE_TOLERANCE,
    FLOAT_TOLERANCE,
    Difference,
    Link,
    OperatorCost,
    ParityReport,
    compare,
    first_element,
    little_endian,
)
from picoformer.reference import lower_graph
from picoformer.reference.session import StateSession, float_session, integer_session
from picoformer.targets import Target
from picoformer.verification import LEAST_SQNR_DB, Measured, Verification, counted_cycles, flash_bytes, ram_bytes

Progress = Callable[[str, int, int, float], None]


_RIGHT_WHEN_ASKED_AGAIN = ": other bytes, which were the right ones when they were asked for again"


@dataclass(frozen=True)
class Run:
    """One block of a text: `tokens` from `position` on; or, of an encoder-decoder, the `source` of what follows."""

    tokens: tuple[int, ...]
    position: int
    source: tuple[int, ...] = ()


@dataclass
class Form:
    """What one form of the model gave, run by run: logits (vocabulary,), and for integers CRCs of each step."""

    name: str
    logits: list[Array] = field(default_factory=list)
    crcs: list[tuple[int, ...]] = field(default_factory=list)
    failure: str = ""


def runs_of(
    texts: Sequence[Sequence[int]], block: int, prompt: int, sources: Sequence[Sequence[int]] = ()
) -> list[Run]:
    """Each text from position 0: its source, if it has one, `prompt` tokens by blocks, then the rest one by one."""
    runs = []
    for index, text in enumerate(texts):
        at = 0
        if sources:
            runs.append(Run((), 0, tuple(int(token) for token in sources[index])))
        while at < len(text):
            size = min(block, prompt - at) if at < prompt else 1
            runs.append(Run(tuple(int(token) for token in text[at : at + size]), at))
            at += size
    return runs


def verify_decoder(
    build: DecoderBuild,
    texts: Sequence[Sequence[int]],
    prompt: int = 0,
    *,
    port: str | None = None,
    emulator: str = "auto",
    least_sqnr_db: float = LEAST_SQNR_DB,
    with_onnx: bool = True,
    progress: Progress | None = None,
    sources: Sequence[Sequence[int]] = (),
) -> Verification:
    """Run `texts` of token ids through float ONNX, float graph, integer reference, host and target.

    The first `prompt` tokens of each go in blocks. `sources`: of an encoder-decoder that of each text.
    Integer forms must be equal in every step's bytes.
    """
    graph, float_graph = build.build.graph, build.build.float_graph
    for text in texts:
        check_tokens(graph, list(text), 0)
    if not texts:
        raise DataError("there is no text to verify with; give one")
    for source in sources:
        check_source(graph, list(source))
    if bool(graph.source) != bool(sources) or (sources and len(sources) != len(texts)):
        raise DataError(f"{len(texts)} texts and {len(sources)} sources do not go with this model")
    runs = runs_of(texts, graph.types[TOKENS].shape[0], prompt, sources)
    scheme = build.build.manifest.scheme

    def tick(what: str, done: int) -> None:
        if progress:
            progress(what, done, len(runs), 0.0)

    forms: list[Form] = []
    if with_onnx:
        forms.append(_onnx_form(build, runs, tick))
    forms.append(_run_form("float graph", float_session(float_graph), runs, (), tick))
    target = build.build.target
    boards = [runs_on(target, "host")] if target.is_host else [runs_on(target, "host"), runs_on(target)]
    quantized = scheme != "float32"
    if quantized:
        session = integer_session(lower_graph(graph))
        steps = [step.output for step in build.build.steps(boards[-1])]
        forms.append(_run_form("reference", session, runs, steps, tick))
    measured: Measured | None = None
    costs: tuple[OperatorCost, ...] = ()
    reference = forms[-1] if quantized else None
    for board in boards:
        line = None if board.is_host else port
        form, measured, costs = _device_form(build, board, runs, reference, line, emulator, tick)
        forms.append(form)
    links, failures = _links(graph, forms, quantized, least_sqnr_db)
    assert measured is not None
    sizes: SizeReport | None = None if target.is_host else build.build.sizes(target)[0]
    counted = measured.instructions
    report = ParityReport(
        build.build.manifest.name,
        scheme,
        target.name if port is None else port,
        len(runs),
        macs_per_token(float_graph),
        tuple(links),
        None if counted is None else counted.total,
        costs,
        ram_bytes(build.build, target, sizes, measured),
        flash_bytes(sizes),
        tuple(failures),
    )
    board = boards[-1]
    return Verification(
        report,
        {},
        (),
        measured.uncounted,
        None if sizes is None else sizes.flash.runtime,
        "" if board.is_library else build.build.firmware(board).compiler,
        measured.emulator,
        "" if board is target or board.is_host else board.name,
        measured.cycles or "cycles are modelled for whole inferences only",
    )


def _run_form(
    name: str, session: StateSession, runs: Sequence[Run], steps: Sequence[str], tick: Callable[[str, int], None]
) -> Form:
    form = Form(name)
    for index, run in enumerate(runs):
        tick(f"running the {name}", index)
        _compute(session, run)
        if not run.source:
            form.logits.append(session.values[LOGITS][-1])
        own = [step for step in steps if (step in session.graph.prologue) == bool(run.source)]
        if steps:
            form.crcs.append(tuple(zlib.crc32(little_endian(session.values[step])) for step in own))
    tick(f"running the {name}", len(runs))
    return form


def _compute(session: StateSession, run: Run) -> None:
    if run.source:
        session.read_source(source_inputs(session.graph, run.source))
    else:
        session.run(block_inputs(run.tokens, run.position))


def _onnx_form(build: DecoderBuild, runs: Sequence[Run], tick: Callable[[str, int], None]) -> Form:
    """The float file, which takes one token at a time, under onnxruntime."""
    from picoformer.backends.onnx.runtime import OnnxSession

    graph = build.build.float_graph
    session = OnnxSession(build.build.float_onnx)
    states = {before: np.zeros(graph.types[before].shape, np.float32) for before, _ in graph.states}
    form, given = Form("float onnx"), dict[str, Array]()
    for index, run in enumerate(runs):
        tick("running the float onnx", index)
        if run.source:  # the file has no prologue: it reads the source with every token
            given = source_inputs(graph, run.source)
            continue
        for offset, token in enumerate(run.tokens):
            outputs = session.run({**block_inputs([token], run.position + offset), **given, **states})
            states = {before: outputs[after] for before, after in graph.states}
        form.logits.append(outputs[LOGITS][-1])
    return form


def _device_form(
    build: DecoderBuild,
    board: Target,
    runs: Sequence[Run],
    reference: Form | None,
    port: str | None,
    emulator: str,
    tick: Callable[[str, int], None],
) -> tuple[Form, Measured, tuple[OperatorCost, ...]]:
    """A device's logits and CRCs; it stops at the first step whose bytes are not the reference's, and names it."""
    graph = build.build.graph
    form = Form(port or board.name)
    firmware: Any = None if board.is_library else build.build.firmware(board)
    steps = build.build.steps(board)
    with open_device(firmware, board, port, identity=graph_identity(graph)[:16], emulator=emulator) as session:
        session.device.reset()  # a board may hold rows of another text
        prologue = sum(step.output in graph.prologue for step in steps)
        decoder = PairDeviceSession(session.device, graph, prologue)
        of_source: Instructions | None = None
        cycles = None
        for index, run in enumerate(runs):
            tick(f"running on {form.name}", index)
            decoder.write_run(run.tokens, run.position, run.source)
            part = range(prologue) if run.source else decoder.steps
            result = session.device.run(crc=reference is not None, outputs=True, part=part)
            assert result.outputs is not None
            cycles = cycles or (None if run.source else counted_cycles(result))
            if run.source:
                of_source = session.instructions
            else:
                form.logits.append(decoder.logits(result.outputs[0]))
            if reference is not None:
                assert result.step_crcs is not None
                form.crcs.append(result.step_crcs[part.start :])
                both = enumerate(zip(form.crcs[-1], reference.crcs[index], strict=True), part.start)
                wrong = next((i for i, pair in both if pair[0] != pair[1]), None)
                if wrong is not None:
                    decoder.write_run(run.tokens, run.position, run.source)  # the caches get the same rows again
                    expected = _reference_value(graph, runs[: index + 1], steps[wrong].output)
                    found = session.device.run_for_step(wrong, expected.nbytes)
                    place = Difference(0, wrong, steps[wrong].name, steps[wrong].output)
                    element = first_element(place, expected, found).element
                    form.failure = (
                        f"reference → {form.name}: step {wrong} '{place.node}', tensor '{place.tensor}', at position "
                        f"{run.position} of run {index}{element or _RIGHT_WHEN_ASKED_AGAIN}"
                    )
                    break
        tick(f"running on {form.name}", len(runs))
        counted = _together(of_source, session.instructions)
        measured = Measured(counted, session.uncounted, session.device.stack().used, session.emulator, cycles)
    costs = tuple(
        OperatorCost(
            step.output, step.kind, None if counted is None else counted.per_step[i], token_macs(graph, step.nodes)
        )
        for i, step in enumerate(steps)
    )
    return form, measured, costs


def _together(source: Instructions | None, last: Instructions | None) -> Instructions | None:
    """What reading a source and the last run behind it took; steps that the one has not, the other has."""
    if source is None or last is None:
        return last
    steps = [*source.per_step, *last.per_step[len(source.per_step) :]]
    return Instructions(source.total + last.total, source.init + last.init, tuple(steps))


def _reference_value(graph: Graph, runs: Sequence[Run], name: str) -> Array:
    """A value of the last of `runs`, computed once more."""
    session = integer_session(lower_graph(graph))
    for run in runs:
        _compute(session, run)
    return session.values[name]


def _links(graph: Graph, forms: Sequence[Form], quantized: bool, least_sqnr_db: float) -> tuple[list[Link], list[str]]:
    links, failures = [], []
    quant = graph.types[LOGITS].quant

    def link(a: Form, b: Form) -> Link:
        count = min(len(a.logits), len(b.logits))
        return compare(a.name, b.name, np.stack(a.logits[:count]), np.stack(b.logits[:count]), quant=quant)

    for a, b in pairwise(forms):
        found = link(a, b)
        is_float = a.logits[0].dtype.kind == b.logits[0].dtype.kind == "f"
        if is_float:
            on_device = b.name not in ("float graph", "float onnx")
            limit = (FLOAT_DEVICE_TOLERANCE if on_device else FLOAT_TOLERANCE) * max(
                1e-30, max(float(np.abs(x).max()) for x in a.logits)
            )
            if found.max_abs is None or found.max_abs > limit:
                failures.append(f"{a.name} → {b.name}: logits are apart by {found.max_abs}, over {limit:.3g}")
        elif found.equal is False and not b.failure:
            failures.append(f"{a.name} → {b.name}: logits differ")
        if b.failure:
            failures.append(b.failure)
        links.append(found)
    if quantized:
        links.append(link(forms[0], forms[-1]))
        end = links[-1]
        if end.sqnr_db is not None and end.sqnr_db < least_sqnr_db:
            failures.append(
                f"{end.source} → {end.to}: {end.sqnr_db:.1f} dB is below {least_sqnr_db:g}: quantization lost the "
                "model; calibrate with --calibration on text like what it will see"
            )
    return links, failures


def verify_decoder_files(
    folder: Path,
    inputs: Path,
    port: str | None = None,
    limit: int = 0,
    progress: Progress | None = None,
    least_sqnr_db: float = LEAST_SQNR_DB,
    emulator: str = "auto",
) -> Verification:
    """`verify_decoder` on files: a build folder, and texts as the array `tokens` (texts, length) of an .npz; of an
    encoder-decoder also `source` (texts, tokens) and, where they are not all as long, `source_length` (texts,).

    The first half of each text goes in blocks, as a prompt does, the rest token by token.
    """
    build = open_decoder(folder)
    rows = token_rows(inputs)
    texts = (rows[:limit] if limit else rows).tolist()
    graph = build.build.graph
    if rows.shape[1] > context_of(graph):
        raise DataError(
            f"{inputs}: texts of {rows.shape[1]} tokens are more than the context of {context_of(graph)}; shorten the "
            "texts"
        )
    for index, text in enumerate(texts):
        try:
            check_tokens(graph, text, 0)
        except DataError as error:
            raise DataError(f"{inputs}: text {index}: {error}") from None
    half = rows.shape[1] // 2
    sources = source_rows(inputs, len(texts)) if graph.source else []
    return verify_decoder(
        build, texts, half, port=port, emulator=emulator, least_sqnr_db=least_sqnr_db, progress=progress,
        sources=sources,
    )  # fmt: skip
