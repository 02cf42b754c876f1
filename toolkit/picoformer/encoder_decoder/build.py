"""Building an encoder-decoder: from a Hugging Face folder to graphs, C and firmware, as a language model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from picoformer.build_folder import BUILD_MARKS, refuse_to_replace, write_build
from picoformer.decoder.build import RECORD, DecoderBuild, DecoderGraphs, DecoderRecord
from picoformer.decoder.opening import load_tokenizer
from picoformer.decoder.quantize import DECODER_SCHEMES
from picoformer.encoder_decoder.graph import Sizes, pair_graph
from picoformer.encoder_decoder.quantize import Pairs, quantize_pair
from picoformer.encoder_decoder.sessions import pair_session
from picoformer.errors import ConfigError, DataError
from picoformer.generation import SamplerSettings, Stopping, generate
from picoformer.models.importers.imported_pair import ImportedPair
from picoformer.models.importers.load_pair import load_pair
from picoformer.targets import Target

if TYPE_CHECKING:
    from picoformer.quantize import QuantizeSettings
    from picoformer.tokenizers import TextTokenizer

TokenPairs = Sequence[tuple[Sequence[int], Sequence[int]]]
Progress = Callable[[str, int, int], None]
WRITTEN = 24
"""Pairs that a model writes where none are given."""
BLOCK = 1
"""Tokens of a text read together: what it begins with is short, and its memory is that of a block."""


def sizes_of(model: ImportedPair, source: int, context: int, block: int = BLOCK) -> Sizes:
    """What was asked for; 0 is what the model was trained for."""
    config = model.config
    return Sizes(source or config.encoder.sequence, context or config.decoder.sequence, block)


def pair_graphs(
    model: ImportedPair,
    scheme: str,
    sizes: Sizes,
    pairs: TokenPairs | None = None,
    settings: QuantizeSettings | None = None,
    progress: Progress | None = None,
    name: str = "encoder_decoder",
) -> DecoderGraphs:
    """The float graph and that in a scheme. Without `pairs` of token ids the model writes texts for random sources.

    Raises ConfigError for a scheme or sizes that cannot be, DataError for pairs that the model does not know.
    """
    if scheme not in DECODER_SCHEMES:
        raise ConfigError(f"scheme '{scheme}' is not for text; use one of {', '.join(DECODER_SCHEMES)}")
    float_graph = pair_graph(model.config, model.weights, sizes, name=name)
    if scheme == "float32":
        return DecoderGraphs(float_graph, float_graph, "")
    told = f"{len(pairs or ())} pairs that were given"
    if pairs is None:
        if progress:
            progress("the model writes calibration text", 0, 1)
        pairs, told = written_pairs(model, sizes), f"{WRITTEN} texts that the model wrote for random sources"
    chosen = Pairs.of(pairs, model, sizes)
    tick = None if progress is None else lambda done, total: progress("calibrating", done, total)
    typed = quantize_pair(model, chosen, scheme, sizes, settings, tick)
    return DecoderGraphs(float_graph, typed.replace(name=name), told)


def written_pairs(model: ImportedPair, sizes: Sizes, seed: int = 0) -> TokenPairs:
    """Random sources of all lengths and the texts that the float model draws for them at temperature 1."""
    session = pair_session(pair_graph(model.config, model.weights, Sizes(sizes.source, sizes.context)), model.pad)
    chance, found = np.random.default_rng(seed), []
    most = max(1, min(sizes.context - len(model.begin), 32))
    for index in range(WRITTEN):
        length = 1 + index * (sizes.source - 1) // max(1, WRITTEN - 1)
        source = chance.integers(0, model.config.encoder.vocab_size, length).tolist()
        session.read_source(source)
        settings = SamplerSettings(seed=int(chance.integers(0, 1 << 31)))
        text = generate(session, model.begin, settings, None, Stopping(most, model.eos))
        found.append((source, list(text.tokens)))
    return found


def read_pairs(path: Path, tokenizer: TextTokenizer | None, eos: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The pairs of a text file, a source and a text in each line with a tab between, as token ids; the text ends with
    the first of `eos`. Raises DataError naming the line that is none, ConfigError without a tokenizer."""
    if tokenizer is None:
        raise ConfigError(f"{path}: pairs are text; give --tokenizer too")
    ending = list(eos[:1])
    return [
        (tokenizer.encode_sequence(source), [*tokenizer.encode(text), *ending]) for source, text in read_lines(path)
    ]


def read_lines(path: Path) -> list[tuple[str, str]]:
    """(source, text) of each line of a file. Raises DataError naming the line that has not exactly one tab."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a text file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is no UTF-8; convert the text") from None
    found = []
    for number, line in enumerate(lines, 1):
        source, tab, text = line.partition("\t")
        if not tab or not source or not text or "\t" in text:
            raise DataError(f"{path}: line {number} is not a source, a tab and a text; mend or remove it")
        found.append((source, text))
    if not found:
        raise DataError(f"{path}: holds no pair; write a source, a tab and a text in each line")
    return found


def record_of(
    model: ImportedPair, graphs: DecoderGraphs, sizes: Sizes, slots: int, tokenizer: str = ""
) -> DecoderRecord:
    """What there is to say of a build of `model`."""
    return DecoderRecord(
        model.family, model.source, sizes.context, sizes.block, model.config.vocab_size, None, tuple(model.eos),
        tokenizer, graphs.calibration, slots, sizes.source, tuple(model.begin), model.pad,
    )  # fmt: skip


def build_pair(
    model: ImportedPair,
    target: Target,
    out: Path,
    scheme: str = "int8x16",
    sizes: Sizes | None = None,
    pairs: TokenPairs | None = None,
    settings: QuantizeSettings | None = None,
    tokenizer: Path | None = None,
    prefix: str = "model",
    name: str = "encoder_decoder",
    toolchain: str = "auto",
    progress: Progress | None = None,
    slots: int = 1,
) -> DecoderBuild:
    """Write the build folder `out` of an encoder-decoder, whole or not at all. See `pair_graphs`.

    `tokenizer`: a file to keep beside the model. Raises FitError when the target has no room for it.
    """
    from picoformer.backends.c import TextExample, check_prefix
    from picoformer.backends.onnx.export import onnx_bytes

    check_prefix(prefix)
    refuse_to_replace(out, BUILD_MARKS)
    sizes = sizes or sizes_of(model, 0, 0)
    graphs = pair_graphs(model, scheme, sizes, pairs, settings, progress, name)
    files: dict[str, bytes] = {}
    if tokenizer is not None:
        files["tokenizer" + tokenizer.suffix] = tokenizer.read_bytes()
    record = record_of(model, graphs, sizes, slots, next(iter(files), ""))
    files[RECORD] = (json.dumps(asdict(record), indent=1) + "\n").encode()
    one = pair_graph(model.config, model.weights, replace(sizes, block=1), name=name)
    built = write_build(
        onnx_bytes(one), graphs.float_graph, graphs.graph, scheme, target, out, prefix,
        progress=progress, toolchain=toolchain, source_sha256=model.sha256, files=files, slots=slots,
        text=TextExample(tuple(model.begin)),
    )  # fmt: skip
    return DecoderBuild(built, record)


def build_pair_files(
    model: Path,
    target: Target,
    out: Path,
    scheme: str,
    calibration: Path | None,
    settings: QuantizeSettings | None,
    prefix: str,
    toolchain: str,
    options: Mapping[str, Any],
    progress: Progress | None = None,
) -> DecoderBuild:
    """`build_pair` on files. `options`: source, context, block, beams and tokenizer, as the command has them."""
    imported = load_pair(model)
    path = options["tokenizer"] or imported.tokenizer
    tokenizer = load_tokenizer(path, min(imported.config.vocab_size, imported.config.encoder.vocab_size))
    pairs = None if calibration is None else read_pairs(calibration, tokenizer, imported.eos)
    sizes = sizes_of(imported, options["source"], options["context"], options["block"])
    kept = path if path is not None and path.is_file() else None
    return build_pair(
        imported, target, out, scheme, sizes, pairs, settings, kept, prefix, model.name or "encoder_decoder", toolchain,
        progress, options["beams"],
    )  # fmt: skip
