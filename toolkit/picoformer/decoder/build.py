"""Building a language model: from a checkpoint to a folder with graphs, C, firmware, and what belongs to its text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from picoformer.build_folder import BUILD_MARKS, Build, open_build, refuse_to_replace, write_build
from picoformer.decoder.calibration import SAMPLES, WINDOW, text_windows, written_windows
from picoformer.decoder.graph import LOGITS, decoder_graph
from picoformer.decoder.quantize import DECODER_SCHEMES, quantize_decoder, step_graph
from picoformer.decoder.sessions import context_of
from picoformer.errors import ConfigError, FitError, ModelError, UnsupportedError
from picoformer.generation.request import beginning
from picoformer.ir import Graph
from picoformer.ir.operator import Array
from picoformer.models.importers import ImportedModel
from picoformer.targets import Target

if TYPE_CHECKING:
    from picoformer.backends.c import TextExample
    from picoformer.compress.settings import QatSettings
    from picoformer.quantize import QuantizeSettings

RECORD = "decoder.json"
BLOCK = 8
"""Tokens of a prompt that are read together by default."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class DecoderRecord:
    """What a build's decoder.json says of its text: the checkpoint it came from, and its special tokens."""

    family: str
    source: str
    context: int
    block: int
    vocabulary: int
    bos: int | None
    eos: tuple[int, ...]
    tokenizer: str
    """Name of the tokenizer's file in the folder; empty without one."""
    calibration: str
    slots: int = 1
    """Texts that the firmware keeps side by side: beams."""
    source_tokens: int = 0
    """Tokens of a source at most, of an encoder-decoder; 0 for a model that reads none."""
    begin: tuple[int, ...] = ()
    """What an encoder-decoder's text begins with."""
    pad: int = 0
    """What fills up its source."""

    def check(self) -> None:
        """Raise ValueError for a value that no build writes."""
        sizes = {"context": self.context, "block": self.block, "vocabulary": self.vocabulary, "slots": self.slots}
        for key, size in sizes.items():
            if type(size) is not int or size < 1:
                raise ValueError(f"{key} = {size!r}")
        for token in (*self.eos, *self.begin, self.pad, *(() if self.bos is None else (self.bos,))):
            if type(token) is not int or not 0 <= token < self.vocabulary:
                raise ValueError(f"token {token!r} of a vocabulary of {self.vocabulary}")
        if (
            type(self.source_tokens) is not int
            or self.source_tokens < 0
            or bool(self.begin) != bool(self.source_tokens)
        ):
            raise ValueError(f"source_tokens = {self.source_tokens!r}, and a text begins with {list(self.begin)}")
        if not isinstance(self.tokenizer, str) or Path(self.tokenizer).name != self.tokenizer:
            raise ValueError(f"a tokenizer {self.tokenizer!r} outside its folder")

    def figures(self) -> dict[str, object]:
        """What a person may want to know of it beside the build."""
        source = {"source": self.source_tokens} if self.source_tokens else {}
        return {
            **source, "context": self.context, "block": self.block, "beams": self.slots,
            "calibration": self.calibration,
        }  # fmt: skip


@dataclass(frozen=True)
class DecoderBuild:
    """A build folder of a language model."""

    build: Build
    record: DecoderRecord

    @property
    def tokenizer(self) -> Path | None:
        """The tokenizer's file, if there is one."""
        return self.build.folder / self.record.tokenizer if self.record.tokenizer else None


def is_decoder(folder: Path) -> bool:
    """Whether a build folder holds a language model that goes on token by token."""
    return (folder / RECORD).is_file()


def open_decoder(folder: Path) -> DecoderBuild:
    """Read the build folder of a language model; raises ModelError when something in it is missing or broken."""
    try:
        fields: dict[str, Any] = json.loads((folder / RECORD).read_text("utf-8"))
        record = DecoderRecord(**{**fields, **{key: tuple(fields.get(key, ())) for key in ("eos", "begin")}})
        record.check()
    except FileNotFoundError:
        raise ModelError(f"{folder}: is no language model's build (no {RECORD}); build one from a checkpoint") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder}/{RECORD} is broken ({error}); build again") from None
    build = DecoderBuild(open_build(folder), record)
    graph = build.build.graph
    if not graph.states or graph.types[LOGITS].shape[-1] != record.vocabulary or context_of(graph) != record.context:
        raise ModelError(f"{folder}: its graph and {RECORD} do not go together; build again")
    return build


@dataclass(frozen=True)
class DecoderGraphs:
    """The float decode step and the one in the scheme (the same for float32), and the calibration in words."""

    float_graph: Graph
    graph: Graph
    calibration: str


def decoder_graphs(
    model: ImportedModel,
    scheme: str,
    context: int = 0,
    block: int = BLOCK,
    calibration: Array | None = None,
    settings: QuantizeSettings | None = None,
    progress: Progress | None = None,
    name: str = "decoder",
    training: QatSettings | None = None,
) -> DecoderGraphs:
    """A checkpoint's decode step. `calibration`: tokens of a text, int (n,), or windows of one, (windows, length);
    without any the model writes its own. With `training` the integers are trained on them too.

    `context` 0 is what the model was trained for. Raises ConfigError for a scheme or sizes that cannot be.
    """
    if scheme not in DECODER_SCHEMES:
        raise ConfigError(f"scheme '{scheme}' is not for language models; use one of {', '.join(DECODER_SCHEMES)}")
    context = context or model.config.sequence
    float_graph = decoder_graph(model.config, model.weights, block, context, name=name)
    if scheme == "float32":
        return DecoderGraphs(float_graph, float_graph, "")
    windows, told = calibration_windows(model, context, calibration, progress)
    tick = None if progress is None else lambda done, total: progress("calibrating", done, total)
    typed = quantize_decoder(model.config, model.weights, windows, scheme, context, settings, tick, training)
    return DecoderGraphs(float_graph, step_graph(typed, block, context).replace(name=name), told)


def calibration_windows(
    model: ImportedModel, context: int, calibration: Array | None, progress: Progress | None = None
) -> tuple[Array, str]:
    """Tokens to calibrate on, (windows, length), and what they are in words. See `decoder_graphs`."""
    window = min(context, WINDOW)
    if calibration is None:
        if progress:
            progress("the model writes calibration text", 0, 1)
        return written_windows(model, window), f"{SAMPLES} windows of {window} tokens that the model wrote"
    given = np.asarray(calibration)
    windows = given[:, :window] if given.ndim == 2 else text_windows(given, window)
    return windows, f"{len(windows)} windows of {window} tokens of the given text"


def record_of(
    model: ImportedModel, graphs: DecoderGraphs, context: int, block: int, slots: int, tokenizer: str = ""
) -> DecoderRecord:
    """What there is to say of a build of `model`; `context` 0 is what the model was trained for."""
    config = model.config
    return DecoderRecord(
        model.family, model.source, context or config.sequence, block, config.vocab_size, model.bos, tuple(model.eos),
        tokenizer, graphs.calibration, slots,
    )  # fmt: skip


def build_decoder(
    model: ImportedModel,
    target: Target,
    out: Path,
    scheme: str = "int8x16",
    context: int = 0,
    block: int = BLOCK,
    calibration: Array | None = None,
    settings: QuantizeSettings | None = None,
    tokenizer: Path | None = None,
    prefix: str = "model",
    name: str = "decoder",
    toolchain: str = "auto",
    progress: Progress | None = None,
    slots: int = 1,
    training: QatSettings | None = None,
) -> DecoderBuild:
    """Write the build folder `out` of a language model, whole or not at all. See `decoder_graphs`.

    `tokenizer`: a file to keep beside the model. Raises FitError when the target has no room for it.
    """
    from picoformer.backends.c import check_prefix
    from picoformer.backends.onnx.export import onnx_bytes

    check_prefix(prefix)
    refuse_to_replace(out, BUILD_MARKS)
    refuse_early(model, target, scheme, context or model.config.sequence, slots)
    graphs = decoder_graphs(model, scheme, context, block, calibration, settings, progress, name, training)
    files: dict[str, bytes] = {}
    if tokenizer is not None:
        files["tokenizer" + tokenizer.suffix] = tokenizer.read_bytes()
    record = record_of(model, graphs, context, block, slots, next(iter(files), ""))
    files[RECORD] = (json.dumps(asdict(record), indent=1) + "\n").encode()
    content = onnx_bytes(decoder_graph(model.config, model.weights, 1, record.context, name=name))
    built = write_build(
        content,
        graphs.float_graph,
        graphs.graph,
        scheme,
        target,
        out,
        prefix,
        progress=progress,
        toolchain=toolchain,
        source_sha256=model.sha256,
        files=files,
        slots=slots,
        text=text_example(model, tokenizer),
    )
    return DecoderBuild(built, record)


def text_example(model: ImportedModel, tokenizer: Path | None) -> TextExample:
    """What the generated C is to know of a model's text. A tokenizer that a device cannot have is left out."""
    from picoformer.backends.c import TextExample
    from picoformer.tokenizers import load_text_tokenizer

    begin = () if model.bos is None else (model.bos,)
    if tokenizer is None:
        return TextExample(begin)
    loaded = load_text_tokenizer(tokenizer)
    try:
        return TextExample(tuple(beginning(loaded, model.bos)), loaded.tables())
    except UnsupportedError:
        return TextExample(begin)


def beyond_training(model: ImportedModel, context: int) -> str:
    """One line where a context, which positions allow, is longer than the texts that a model learned from; else ""."""
    trained = model.config.sequence
    if context <= trained or model.config.positions in ("learned", "sinusoidal"):
        return ""
    return (
        f"a context of {context} is more than the {trained} positions the model was trained for; text past them may be "
        "poor"
    )


def refuse_early(model: ImportedModel, target: Target, scheme: str, context: int, slots: int) -> None:
    """Raise FitError where constants or caches alone are more than a board has, before anything is calibrated."""
    if target.is_host or scheme not in DECODER_SCHEMES:
        return
    config = model.config
    bits = {"float32": 32, "int8x16": 8, "int4x16": 4}[scheme]
    constants = sorted(((weight.size * bits // 8, name) for name, weight in model.weights.items()), reverse=True)
    width = config.head_dim * sum(config.key_heads)
    caches = 2 * slots * context * width * (4 if scheme == "float32" else 2)
    total = sum(size for size, _ in constants)
    flash, ram = target.weights_region(total), target.region("data")
    short = []
    if total > flash.length:
        largest = ", ".join(f"{name} {size:,}" for size, name in constants[:3])
        short.append(
            f"flash ({flash.name}) has {flash.length:,} bytes, the constants take {total:,} at least; biggest: "
            f"{largest}"
        )
    if caches > ram.length:
        fits = max(0, (ram.length - target.stack_bytes) * context // caches)
        short.append(
            f"RAM ({ram.name}) has {ram.length:,} bytes, keys and values of {context} tokens take {caches:,}; "
            f"only a --context below {fits} can fit"
        )
    if short:
        raise FitError(
            f"the model does not fit {target.name}: {'; '.join(short)}; take --scheme int4x16, a smaller model, or a "
            "board with more memory"
        )
