"""The command `generate`: a checkpoint or a build, a prompt and how to choose tokens; text comes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picoformer import __version__
from picoformer.build_folder import Build, Manifest
from picoformer.decoder.build import (
    DecoderBuild,
    beyond_training,
    build_decoder,
    decoder_graphs,
    is_decoder,
    open_decoder,
    record_of,
)
from picoformer.decoder.graph import macs_per_token
from picoformer.decoder.opening import Checkpoint, load_tokenizer, open_checkpoint
from picoformer.decoder.writing import REFERENCE, Cost, beam_texts, write_text
from picoformer.errors import ConfigError
from picoformer.files import cache_root, content_hash, file_hash
from picoformer.generation.request import ENDS, TextRequest, TextWriter, text_behind, utf8
from picoformer.models.importers import ImportedModel
from picoformer.pipeline_stage import code_hash
from picoformer.targets import load_target
from picoformer.verification import Measured, flash_bytes, ram_bytes

if TYPE_CHECKING:
    from picoformer.tokenizers import TextTokenizer

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ModelOptions:
    """Which model, in which numbers, and where it runs: the options of the commands under their names."""

    scheme: str = "int8x16"
    tokenizer: Path | None = None
    calibration: Path | None = None
    context: int = 0
    block: int = 8
    beams: int = 1
    target: str | None = None
    port: str | None = None
    emulator: str = "auto"
    toolchain: str = "auto"
    given: frozenset[str] = frozenset()
    """Those that somebody asked for, which is more than that they have a value."""


@dataclass(frozen=True)
class GenerateOptions(ModelOptions, TextRequest):
    """Which model, and what is asked of it."""


@dataclass(frozen=True)
class Opened:
    """A model to write with, where it runs ("" for the build's target), and its tokenizer, if there is one."""

    build: DecoderBuild
    where: str
    tokenizer: TextTokenizer | None
    notice: str = ""
    """One line about it for somebody to read."""


def generate_files(
    model: Path,
    options: GenerateOptions,
    emit: Callable[[str], None] | None = None,
    progress: Progress | None = None,
    told: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """The record of `generate --json`. `emit` gets the text as it is written, the prompt in front once there is a
    token behind it; without a tokenizer token ids. `told` gets what somebody should know of the model.

    Raises a PicoformerError naming what is wrong with the model, the prompt or the settings.
    """
    settings, strings = options.sampler(), tuple(utf8("--stop", stop) for stop in options.stops)
    options.check()
    opened = open_model(model, options, progress)
    if told is not None and opened.notice:
        told(opened.notice)
    record, tokenizer = opened.build.record, opened.tokenizer
    prompt = options.ids(record.bos, tokenizer)
    stop_tokens = options.stop_tokens(record.eos)
    if options.beams > 1:
        return _search(opened, options, prompt, stop_tokens, emit)
    if strings and tokenizer is None:
        raise ConfigError("--stop needs a tokenizer; give --tokenizer, or stop at token ids with --stop-ids")
    writer = TextWriter(options, prompt, tokenizer, emit)
    written = write_text(
        opened.build, prompt, settings, options.stopping(stop_tokens), opened.where, port=options.port,
        emulator=options.emulator, bytes_of=writer.bytes_of, emit=writer.emit, take=writer.take,
    )  # fmt: skip
    writer.finish()
    found = written.generated
    count = len(found.tokens)
    return {
        "tokens": list(found.tokens),
        "text": None if tokenizer is None else found.text.decode("utf-8", "replace"),
        "end": ENDS[found.end],
        "prompt_tokens": len(prompt),
        "tokens_per_second": count / written.cost.seconds if written.cost.seconds > 0 else None,
        **_figures(opened, written.cost),
    }


def _search(
    opened: Opened,
    options: GenerateOptions,
    prompt: list[int],
    stop_tokens: tuple[int, ...],
    emit: Callable[[str], None] | None,
) -> dict[str, Any]:
    settings = options.search(stop_tokens)
    found, cost = beam_texts(opened.build, prompt, settings, opened.where, port=options.port, emulator=options.emulator)
    tokenizer = opened.tokenizer

    def text_of(tokens: tuple[int, ...]) -> str | None:
        return None if tokenizer is None else text_behind(tokenizer, prompt, tokens, stop_tokens)

    texts: list[dict[str, Any]] = [
        {"tokens": list(text.tokens), "text": text_of(text.tokens), "log_probability": text.log_probability}
        for text in found
    ]
    if emit is not None:
        for text in texts:
            words = text["text"] if text["text"] is not None else " ".join(map(str, text["tokens"]))
            emit(f"{text['log_probability']:9.4f}  {words}\n")
    return {
        "tokens": texts[0]["tokens"],
        "text": texts[0]["text"],
        "texts": texts,
        "prompt_tokens": len(prompt),
        "instructions_of_search": cost.search,
        **_figures(opened, cost),
    }


def _figures(opened: Opened, cost: Cost) -> dict[str, Any]:
    """What the text took, and the build; None where something was not measured."""
    build, target = opened.build.build, None
    ram: dict[str, Any] | None = None
    flash: dict[str, Any] | None = None
    if opened.where == "":
        target = build.target
        sizes = None if target.is_host else build.sizes(target)[0]
        measured = Measured(None, cost.uncounted, cost.stack, cost.emulator)
        ram = dict(vars(ram_bytes(build, target, sizes, measured)))
        flash = dict(vars(flash_bytes(sizes)))
    return {
        "instructions_per_token": cost.per_token,
        "instructions_of_prompt": cost.prompt,
        "instructions_uncounted": cost.uncounted or None,
        "ram_bytes": ram,
        "flash_bytes": flash,
        "model": build.manifest.name,
        "scheme": build.manifest.scheme,
        "target": opened.where or build.manifest.target,
        "context": opened.build.record.context,
        "macs": macs_per_token(build.float_graph),
        "emulator": cost.emulator or None,
    }


def open_model(model: Path, options: ModelOptions, progress: Progress | None = None) -> Opened:
    """A build's folder as it is, or a checkpoint: built for the target, kept in the cache; with no target in memory.

    Raises ConfigError for options that do not go with what `model` is.
    """
    if model.is_dir() and is_decoder(model):
        build = open_decoder(model)
        if build.record.source_tokens:
            raise ConfigError(f"{model}: is an encoder-decoder, which reads a source first; use `picoformer translate`")
        _refuse_other(model, build, options)
        manifest = build.build.manifest
        where = options.target or ("" if options.port is not None else REFERENCE)
        if where not in (REFERENCE, "host", "", manifest.target):
            places = ", ".join(dict.fromkeys([manifest.target, "host"]))
            raise ConfigError(
                f"--target {where}: {model} was built for {manifest.target}; give --target {places} or {REFERENCE}"
            )
        if where == manifest.target or options.port is not None:
            where = ""
        return Opened(build, where, load_tokenizer(options.tokenizer or build.tokenizer, build.record.vocabulary))
    opened = open_checkpoint(model, options.tokenizer, options.calibration)
    notice = beyond_training(opened.model, options.context)
    if options.target in (None, REFERENCE) and options.port is None:
        return Opened(_in_memory(opened, options, progress), REFERENCE, opened.tokenizer, notice)
    if options.target is None:
        raise ConfigError("--port needs --target: the board whose firmware is to be built")
    target = load_target(options.target)
    folder = cache_root() / "decoders" / _key(opened.model, options, opened.tokenizer_file)
    if not is_decoder(folder):
        build_decoder(
            opened.model, target, folder, options.scheme, options.context, options.block, opened.calibration, None,
            opened.tokenizer_file, name=opened.name, toolchain=options.toolchain, progress=progress,
            slots=options.beams,
        )  # fmt: skip
    return Opened(open_decoder(folder), "", opened.tokenizer, notice)


def _refuse_other(model: Path, build: DecoderBuild, options: ModelOptions) -> None:
    """Raise ConfigError for an option that asks for another build than the one in the folder `model`."""
    if "calibration" in options.given:
        raise ConfigError(f"--calibration: {model} is built already; leave it out, or give the checkpoint")
    record = build.record
    built: dict[str, Any] = {"scheme": build.build.manifest.scheme, "context": record.context, "block": record.block}
    if not isinstance(options, GenerateOptions):  # where texts are searched for, beams say how
        built["beams"] = record.slots
    for name, value in built.items():
        asked = getattr(options, name)
        if name in options.given and asked != value:
            raise ConfigError(f"--{name} {asked}: {model} was built with {value}; leave it out, or give the checkpoint")


def _in_memory(opened: Checkpoint, options: ModelOptions, progress: Progress | None) -> DecoderBuild:
    """What the reference needs of a build, without a folder."""
    model, name = opened.model, opened.name
    graphs = decoder_graphs(
        model, options.scheme, options.context, options.block, opened.calibration, None, progress, name
    )  # fmt: skip
    record = record_of(model, graphs, options.context, options.block, options.beams)
    macs = graphs.float_graph.macs
    manifest = Manifest(
        name, options.scheme, REFERENCE, "model", model.sha256, __version__, graphs.float_graph.parameters, macs
    )  # fmt: skip
    return DecoderBuild(Build(Path(), manifest, graphs.float_graph, graphs.graph), record)


def _key(model: ImportedModel, options: ModelOptions, tokenizer: Path | None) -> str:
    """The name of a build in the cache: a hash of all that decides it, this program included."""
    parts: dict[str, Any] = {key: str(value) for key, value in asdict(options).items() if key in _DECIDES}
    parts["checkpoint"] = model.sha256
    parts["program"] = code_hash(())
    for name, path in (("calibration", options.calibration), ("tokenizer", tokenizer)):
        parts[name] = file_hash(path) if path is not None and path.is_file() else ""
    if options.target is not None and Path(options.target).is_file():
        parts["target"] = file_hash(Path(options.target))
    return content_hash(json.dumps(parts, sort_keys=True).encode())[:32]


_DECIDES = ("scheme", "context", "block", "beams", "target", "toolchain")
