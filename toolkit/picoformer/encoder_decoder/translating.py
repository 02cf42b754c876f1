"""The command `translate`: sources in, texts out, by the reference, in firmware on this machine, or on a board."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picoformer import __version__
from picoformer.build_folder import Build, Manifest
from picoformer.decoder.build import DecoderBuild, is_decoder, open_decoder
from picoformer.decoder.opening import load_tokenizer
from picoformer.decoder.sessions import context_of
from picoformer.decoder.writing import (
    REFERENCE,
    check_beams,
    device_beams,
    logits_scale,
    open_text,
    runs_on,
    sampler_bytes,
)
from picoformer.encoder_decoder.build import pair_graphs, read_lines, read_pairs, record_of, sizes_of
from picoformer.encoder_decoder.sessions import PairDeviceSession, check_source, pair_session
from picoformer.errors import ConfigError
from picoformer.generation import (
    BeamSettings,
    IntegerBeam,
    IntegerSampler,
    SamplerSettings,
    Stopping,
    beam_search,
    generate,
)
from picoformer.generation.loop import write
from picoformer.models.importers.load_pair import load_pair

if TYPE_CHECKING:
    from picoformer.tokenizers import TextTokenizer

Progress = Callable[[str, int, int], None]
Translate = Callable[[Sequence[int]], tuple[int, ...]]
"""The tokens of a source → those of its text, what ends it included."""


@dataclass(frozen=True)
class TranslateOptions:
    """The options of the command under their names."""

    texts: tuple[str, ...] = ()
    source_ids: tuple[int, ...] | None = None
    pairs: Path | None = None
    tokens: int = 128
    length_penalty: float = 1.0
    scheme: str = "int8x16"
    tokenizer: Path | None = None
    calibration: Path | None = None
    source: int = 0
    context: int = 0
    beams: int = 1
    target: str | None = None
    port: str | None = None
    emulator: str = "auto"


def translate_files(
    model: Path, options: TranslateOptions, emit: Callable[[str], None] | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """The record of `translate --json`: `texts`, each with its source and tokens; with `pairs` how many are exactly
    those of the file. Raises a PicoformerError naming what is wrong with the model, a source or an option."""
    lines = _lines(options)
    build, where, tokenizer = _opened(model, options, progress)
    record = build.record
    sources, wanted = _sources(options, lines, tokenizer)
    for _, ids in sources:
        check_source(build.build.graph, ids)
    stopping = Stopping(options.tokens, record.eos)
    found: list[dict[str, Any]] = []
    begun = time.monotonic()
    with translator(build, where, stopping, options) as translate:
        for index, (source, ids) in enumerate(sources):
            if progress:
                progress("translating", index, len(sources))
            tokens = translate(ids)
            text = None if tokenizer is None else tokenizer.decode(t for t in tokens if t not in record.eos)
            found.append({"source": source, "tokens": list(tokens), "text": text})
            if emit is not None and not wanted:
                emit((text if text is not None else " ".join(map(str, tokens))) + "\n")
    exact = sum(one["text"] == text for one, text in zip(found, wanted, strict=True)) if wanted else None
    return {
        "texts": found,
        "pairs": len(wanted) or None,
        "exact": exact,
        "exact_share": None if exact is None else exact / len(wanted),
        "seconds": time.monotonic() - begun,
        "model": build.build.manifest.name,
        "scheme": build.build.manifest.scheme,
        "target": where or build.build.manifest.target,
    }


@contextlib.contextmanager
def translator(build: DecoderBuild, where: str, stopping: Stopping, options: TranslateOptions) -> Iterator[Translate]:
    """What translates one source after the other, greedily or by a beam search. `where` as for `write_text`."""
    graph, record = build.build.graph, build.record
    scale, greedy = logits_scale(graph), SamplerSettings(greedy=True)
    beams = BeamSettings(options.beams, options.length_penalty, False, stopping.max_tokens, stopping.tokens)
    if where == REFERENCE:
        session = pair_session(graph, record.pad)

        def by_reference(source: Sequence[int]) -> tuple[int, ...]:
            session.read_source(source)
            if options.beams > 1:
                return beam_search(session, record.begin, beams, scale)[0].tokens
            return generate(session, record.begin, greedy, scale, stopping).tokens

        yield by_reference
        return
    integers = IntegerBeam.from_settings(beams, scale)
    if options.beams > 1:
        check_beams(build, integers)
    room = context_of(graph) - len(record.begin) + 1
    board = build.build.target if options.port is not None else runs_on(build.build.target, where)
    prologue = sum(step.output in graph.prologue for step in build.build.steps(board))
    with open_text(build, where, options.port, options.emulator) as (device, text):
        reader = PairDeviceSession(device.device, graph, prologue, record.pad)

        def by_device(source: Sequence[int]) -> tuple[int, ...]:
            reader.read_source(source)
            if options.beams > 1:
                return device_beams(text, graph, integers, record.begin)[0].tokens
            text.begin(sampler_bytes(IntegerSampler.from_settings(greedy, scale)))
            text.feed(record.begin)
            return write(text.next, room, stopping).tokens

        yield by_device


def _lines(options: TranslateOptions) -> list[tuple[str, str]]:
    """The sources that are text, and what each should become, "" where nobody says."""
    given = [bool(options.texts), options.source_ids is not None, options.pairs is not None]
    if sum(given) != 1:
        raise ConfigError("give what to translate: texts, or --source-ids, or --pairs, and one of these alone")
    return read_lines(options.pairs) if options.pairs is not None else [(text, "") for text in options.texts]


def _sources(
    options: TranslateOptions, lines: Sequence[tuple[str, str]], tokenizer: TextTokenizer | None
) -> tuple[list[tuple[str | None, list[int]]], list[str]]:
    """Each source as text, if it is one, and token ids; and what the texts of pairs should be."""
    if options.source_ids is not None:
        return [(None, list(options.source_ids))], []
    if tokenizer is None:
        raise ConfigError("text needs a tokenizer; give --tokenizer, or --source-ids")
    sources: list[tuple[str | None, list[int]]] = [(text, tokenizer.encode_sequence(text)) for text, _ in lines]
    return sources, [text for _, text in lines] if options.pairs is not None else []


def _opened(
    model: Path, options: TranslateOptions, progress: Progress | None
) -> tuple[DecoderBuild, str, TextTokenizer | None]:
    """A build's folder as it is, or a checkpoint's in memory, for the reference; where it runs, and its tokenizer."""
    if model.is_dir() and is_decoder(model):
        build = open_decoder(model)
        if not build.record.source_tokens:
            raise ConfigError(f"{model}: is a language model, which reads no source; use `picoformer generate`")
        target = build.build.manifest.target
        where = options.target or ("" if options.port is not None else REFERENCE)
        if where not in (REFERENCE, "host", "", target):
            raise ConfigError(f"--target {where}: {model} was built for {target}; give that, host or {REFERENCE}")
        if options.calibration is not None:
            raise ConfigError(f"--calibration: {model} is built already; leave it out, or give the checkpoint")
        where = "" if where == target or options.port is not None else where
        return build, where, load_tokenizer(options.tokenizer or build.tokenizer, build.record.vocabulary)
    imported = load_pair(model)
    if options.target not in (None, REFERENCE) or options.port is not None:
        raise ConfigError(f"{model}: is a checkpoint; `picoformer build` it first, then translate with the build")
    tokenizer = load_tokenizer(options.tokenizer or imported.tokenizer, imported.config.vocab_size)
    pairs = None if options.calibration is None else read_pairs(options.calibration, tokenizer, imported.eos)
    sizes, name = sizes_of(imported, options.source, options.context), model.name or "encoder_decoder"
    graphs = pair_graphs(imported, options.scheme, sizes, pairs, None, progress, name)
    graph = graphs.float_graph
    manifest = Manifest(
        name, options.scheme, REFERENCE, "model", imported.sha256, __version__, graph.parameters, graph.macs
    )
    record = record_of(imported, graphs, sizes, 1)
    return DecoderBuild(Build(Path(), manifest, graph, graphs.graph), record), REFERENCE, tokenizer
