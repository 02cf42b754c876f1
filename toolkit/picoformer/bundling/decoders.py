"""A language model to its step of one token as ONNX, with the greedy text that it must write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from picoformer.bundling.options import BundleOptions
from picoformer.bundling.sources import DECODER, WITH_WEIGHTS, Progress, Source, arm_spelling, refuse_other_scheme
from picoformer.bundling.weights import rounded_weights
from picoformer.decoder.build import decoder_graphs, open_decoder
from picoformer.decoder.graph import LOGITS
from picoformer.decoder.opening import load_tokenizer, open_checkpoint
from picoformer.decoder.quantize import step_graph
from picoformer.decoder.sessions import ReferenceSession, context_of, real_logits
from picoformer.decoder.writing import logits_scale, reference_session
from picoformer.errors import ConfigError
from picoformer.generation import SamplerSettings, Stopping
from picoformer.generation.loop import generate
from picoformer.generation.request import beginning
from picoformer.ir import Graph
from picoformer.ir.operator import Array

GREEDY = 16
"""Tokens of the text that a bundle is checked by."""
PROMPT = 12
TEXT = "Once upon a time"


@dataclass(frozen=True)
class Decoder:
    """The step, its special tokens and its tokenizer's file."""

    step: Graph
    bos: int | None
    eos: tuple[int, ...]
    tokenizer: Path | None

    @property
    def vocabulary(self) -> int:
        return self.step.types[LOGITS].shape[-1]

    @property
    def context(self) -> int:
        return context_of(self.step)

    @property
    def scale(self) -> float | None:
        return logits_scale(self.step)


def decoder_of_checkpoint(model: Path, options: BundleOptions, progress: Progress | None) -> Source:
    """A Hugging Face folder, a llama2.c .bin or a .safetensors of ours."""
    if options.shapes:
        raise ConfigError("--shape says nothing about a language model; see --context")
    scheme = options.scheme or "float32"
    if options.calibration is not None:
        raise ConfigError(
            "--calibration says nothing about a language model's checkpoint, of which a bundle rounds weights alone; "
            "leave it out, or `build` it with the calibration and give that folder"
        )
    opened = open_checkpoint(model, options.tokenizer, None)
    step = decoder_graphs(opened.model, "float32", options.context, 1, None, None, progress, opened.name).graph
    written, meant = (step, step) if scheme == "float32" else rounded_weights(step, scheme)
    decoder = Decoder(meant, opened.model.bos, tuple(opened.model.eos), opened.tokenizer_file)
    judge = "picoformer's float graph" + ("" if scheme == "float32" else WITH_WEIGHTS)
    return _source(decoder, written, opened.name, scheme, opened.model.sha256, judge)


def decoder_of_build(folder: Path, options: BundleOptions) -> Source:
    """The folder that `build` wrote of a language model: the integers that its firmware has."""
    refuse_other_scheme(options, folder)
    build = open_decoder(folder)
    own, record = build.build.manifest.scheme, build.record
    is_float = options.scheme == "float32"
    if options.scheme is not None and not is_float and DECODER[options.scheme] != own:
        raise ConfigError(f"--scheme {options.scheme}: {folder} was built with {own}; leave it out, or give the model")
    if options.context not in (0, record.context):
        raise ConfigError(f"--context {options.context}: {folder} was built with {record.context}; leave it out")
    graph = build.build.float_graph if is_float else build.build.graph
    tokenizer = options.tokenizer or build.tokenizer
    load_tokenizer(tokenizer, record.vocabulary)
    decoder = Decoder(step_graph(graph, 1, record.context), record.bos, record.eos, tokenizer)
    name, scheme = build.build.manifest.name, "float32" if is_float else own
    judge = "picoformer's float graph" if scheme == "float32" else "picoformer's integers"
    return _source(decoder, decoder.step, name, scheme, build.build.manifest.source_sha256, judge)


def _source(decoder: Decoder, written: Graph, name: str, scheme: str, sha256: str, judge: str) -> Source:
    from picoformer.backends.onnx.export import onnx_bytes

    content = onnx_bytes(written, {"scheme": scheme, "source_sha256": sha256}, spelling=arm_spelling(written))
    return Source(name, content, scheme, sha256, _no_answers, judge, decoder.step, decoder)


def _no_answers(_: Any) -> dict[str, Array]:
    raise AssertionError("a language model's step is asked token by token")


def parity_of(decoder: Decoder) -> tuple[dict[str, Array], tuple[str, ...]]:
    """(prompt, the logits behind each of its tokens, the greedy tokens behind it; the text that the prompt is of)."""
    prompt, texts = _prompt(decoder)
    session: ReferenceSession = reference_session(decoder.step)
    logits = [real_logits(decoder.step, session.decode([token], at)) for at, token in enumerate(prompt)]
    most = min(GREEDY, decoder.context - len(prompt) + 1)
    tokens = generate(
        reference_session(decoder.step), prompt, SamplerSettings(greedy=True), decoder.scale, Stopping(most)
    ).tokens
    return {
        "prompt": np.asarray(prompt, np.int64),
        "logits": np.stack(logits).astype(np.float32),
        "tokens": np.asarray(tokens, np.int64),
    }, texts


def _prompt(decoder: Decoder) -> tuple[list[int], tuple[str, ...]]:
    room = max(1, decoder.context // 2)
    if decoder.tokenizer is not None:
        tokenizer = load_tokenizer(decoder.tokenizer, decoder.vocabulary)
        assert tokenizer is not None
        ids = [*beginning(tokenizer, decoder.bos), *tokenizer.encode(TEXT)]
        if 0 < len(ids) <= room:
            return ids, (TEXT,)
    begin = [] if decoder.bos is None else [decoder.bos]
    made_up = np.random.default_rng(0).integers(0, decoder.vocabulary, PROMPT).tolist()
    return [*begin, *made_up][: min(room, PROMPT)], ()
