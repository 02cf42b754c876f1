"""The command `generate`: a checkpoint or a build, a prompt and how to choose tokens; text comes out."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picoformer import __version__
from picoformer.build_folder import Build, Manifest
from picoformer.decoder.build import (
    DecoderBuild,
    DecoderRecord,
    beginning,
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
from picoformer.generation import BeamSettings, End, SamplerSettings, Stopping
from picoformer.models.importers import ImportedModel
from picoformer.pipeline_stage import code_hash
from picoformer.targets import load_target
from picoformer.verification import Measured, flash_bytes, ram_bytes

if TYPE_CHECKING:
    from picoformer.tokenizers import TextTokenizer

Progress = Callable[[str, int, int], None]
ENDS = {
    End.MAX_TOKENS: "as many tokens as asked for",
    End.STOP_TOKEN: "a stop token",
    End.STOP_STRING: "a stop string",
    End.CALLER: "interrupted",
    End.CONTEXT: "the context is full",
}


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
class GenerateOptions(ModelOptions):
    """What to continue, how to choose, and when to end."""

    prompt: str | None = None
    prompt_ids: tuple[int, ...] | None = None
    tokens: int = 128
    greedy: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    length_penalty: float = 1.0
    early_stopping: str = "false"
    stops: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] | None = None


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
    settings, strings = _sampler(options), tuple(_utf8("--stop", stop) for stop in options.stops)
    _check_options(options)
    opened = open_model(model, options, progress)
    if told is not None and opened.notice:
        told(opened.notice)
    record, tokenizer = opened.build.record, opened.tokenizer
    prompt = _prompt(options, record, tokenizer)
    stop_tokens = record.eos if options.stop_ids is None else options.stop_ids
    if options.beams > 1:
        return _search(opened, options, prompt, stop_tokens, emit)
    if strings and tokenizer is None:
        raise ConfigError("--stop needs a tokenizer; give --tokenizer, or stop at token ids with --stop-ids")
    stopping = Stopping(options.tokens, stop_tokens, strings)
    bytes_of = None if tokenizer is None else _bytes_behind(tokenizer, prompt)
    characters = codecs.getincrementaldecoder("utf-8")("replace")

    before = options.prompt or ""

    def say(text: str) -> None:
        nonlocal before
        if emit is not None:
            emit(before + text)
            before = ""

    def take(data: bytes) -> None:
        say(characters.decode(data))

    def emit_token(token: int) -> None:
        if tokenizer is None:
            say(f"{token} ")

    written = write_text(
        opened.build, prompt, settings, stopping, opened.where, port=options.port, emulator=options.emulator,
        bytes_of=bytes_of, emit=emit_token, take=take,
    )  # fmt: skip
    say(characters.decode(b"", final=True))
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


def _check_options(options: GenerateOptions) -> None:
    """Raise ConfigError for options that would do nothing."""
    if "" in options.stops:
        raise ConfigError("--stop is empty; give the text to end at")
    if options.greedy:
        _refuse_idle(
            options, ("temperature", "top_k", "top_p", "min_p"), "--greedy, which draws no token; leave it out"
        )
    if options.beams == 1:
        _refuse_idle(options, ("length_penalty", "early_stopping"), "one beam; leave it out, or give --beams 2 or more")
        return
    if options.stops:
        raise ConfigError("--stop does not go with --beams: texts of a search end at tokens, see --stop-ids")
    drawn = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    given = next((name for name, unset in drawn.items() if getattr(options, name) != unset), None)
    if given is not None:
        raise ConfigError(f"--{given.replace('_', '-')} does not go with --beams, which draw no token; leave one out")


def _refuse_idle(options: GenerateOptions, names: Sequence[str], beside: str) -> None:
    """Raise ConfigError for one of the options `names` that was asked for."""
    found = next((name for name in names if name in options.given), None)
    if found is not None:
        raise ConfigError(f"--{found.replace('_', '-')} does nothing with {beside}")


def _utf8(option: str, text: str) -> bytes:
    """The bytes of a text of the command line, whose bytes that are no UTF-8 arrive as half surrogate pairs."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError(f"{option} holds bytes that are no UTF-8; convert it") from None


def _bytes_behind(tokenizer: TextTokenizer, prompt: Sequence[int]) -> Callable[[int], bytes]:
    """What each token adds to a text behind `prompt`; tokens that only the model has, to fill up its table, nothing."""
    stream = tokenizer.stream()

    def bytes_of(token: int) -> bytes:
        return stream.feed_bytes(token) if token < tokenizer.vocab_size else b""

    for token in prompt:
        bytes_of(token)
    return bytes_of


def _search(
    opened: Opened,
    options: GenerateOptions,
    prompt: list[int],
    stop_tokens: tuple[int, ...],
    emit: Callable[[str], None] | None,
) -> dict[str, Any]:
    early: Any = {"false": False, "true": True, "never": "never"}[options.early_stopping]
    settings = BeamSettings(options.beams, options.length_penalty, early, options.tokens, tuple(stop_tokens))
    found, cost = beam_texts(opened.build, prompt, settings, opened.where, port=options.port, emulator=options.emulator)
    tokenizer = opened.tokenizer

    def text_of(tokens: tuple[int, ...]) -> str | None:
        if tokenizer is None:
            return None
        bytes_of = _bytes_behind(tokenizer, prompt)
        return b"".join(bytes_of(token) for token in tokens if token not in stop_tokens).decode("utf-8", "replace")

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


def _sampler(options: GenerateOptions) -> SamplerSettings:
    return SamplerSettings(
        options.temperature, options.top_k, options.top_p, options.min_p, options.repetition_penalty, options.seed,
        options.greedy,
    )  # fmt: skip


def _prompt(options: GenerateOptions, record: DecoderRecord, tokenizer: TextTokenizer | None) -> list[int]:
    """The ids to continue: those given, or those of the text, behind the token that begins a text."""
    if options.prompt is not None and options.prompt_ids is not None:
        raise ConfigError("--prompt and --prompt-ids are both what to continue; give one")
    if options.prompt_ids is not None:
        if not options.prompt_ids:
            raise ConfigError("--prompt-ids is empty; give at least one token")
        return list(options.prompt_ids)
    if options.prompt is None or options.prompt == "":
        if record.bos is None:
            raise ConfigError("this model has no token that begins a text; give --prompt or --prompt-ids")
        return [record.bos]
    if tokenizer is None:
        raise ConfigError("--prompt needs a tokenizer; give --tokenizer, or --prompt-ids")
    return [*beginning(tokenizer, record.bos), *tokenizer.encode(_utf8("--prompt", options.prompt))]


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
