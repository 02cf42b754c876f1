"""Tiny language models of every family, their decode steps in each scheme, and 64 steps of decoding in any form."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hugging_face
import test_llama2c
from c_host import Host
from picoformer.decoder.graph import COUNT, LOGITS, POSITION, TOKENS, decoder_graph
from picoformer.decoder.quantize import quantize_decoder, step_graph
from picoformer.decoder.sessions import block_inputs
from picoformer.ir import Graph
from picoformer.ir.operator import Array
from picoformer.models.config import TransformerConfig
from picoformer.models.imported_module import build_module
from picoformer.models.importers import ImportedModel, load_decoder
from picoformer.models.transformer import Transformer
from picoformer.parity import little_endian
from picoformer.quantize import QuantizeSettings
from picoformer.reference.session import StateSession

BLOCK, STEPS, CONTEXT = 8, 64, 72
"""Tokens of a run at most; tokens that are decoded; positions of the caches."""
VOCABULARY = 53

OWN = {
    "own_post_norm": {"norm_position": "post", "final_norm": False, "positions": "sinusoidal", "scale_embedding": True},
    "own_low_rank": {"embedding_rank": 5, "ranks": ((4, 0, 5, 3, 0, 6), (0, 3, 0, 0, 7, 5))},
    "own_tied_gated": {"tied_head": True, "gated": True, "activation": "silu", "kv_heads": 1, "head_bias": True},
    "own_no_positions": {"positions": "none", "norm": "rms", "attention_bias": False, "activation": "relu"},
}
"""Models of our own, trained nowhere: what differs from layers of GPT-2's kind."""

NAMES = [*hugging_face.CASES, *(f"llama2c_{name}" for name in test_llama2c.SHAPES), *OWN]


@dataclass(frozen=True)
class Example:
    """A model, and its logits (64, vocabulary) for `tokens` as torch computes them over the whole text."""

    model: ImportedModel
    tokens: list[int]
    logits: Array


def _own(**keys: Any) -> tuple[ImportedModel, Any]:
    sizes = {"vocab_size": VOCABULARY, "classes": VOCABULARY, "sequence": CONTEXT, "causal": True, "pooling": "none"}
    config = TransformerConfig.uniform(2, 3, 25, 18, **{**sizes, **keys})
    module = Transformer(config, seed=3).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(20.0 if name == "embedding.token.weight" else 2.0)
            else:
                parameter.add_(torch.randn(parameter.shape) * 0.2)
    weights = {name: value.detach().numpy() for name, value in module.state_dict().items()}
    return ImportedModel(config, weights, "picoformer", "a test", "0" * 64, None, None, ()), module


@functools.cache
def example(name: str) -> Example:
    """One of NAMES."""
    with tempfile.TemporaryDirectory() as place:
        if name in OWN:
            torch.manual_seed(4)
            model, theirs = _own(**OWN[name])
        elif name.startswith("llama2c_"):
            shape = test_llama2c.SHAPES[name.removeprefix("llama2c_")]
            test_llama2c.write(Path(place) / "model.bin", shape, test_llama2c.random_weights(shape), 1)
            model = load_decoder(Path(place) / "model.bin")
            theirs = build_module(model)
        else:
            theirs = hugging_face.save(hugging_face.CASES[name], Path(place))
            model = load_decoder(Path(place))
    tokens = np.random.default_rng(1).integers(0, model.config.vocab_size, STEPS)
    with torch.no_grad():
        found = theirs(torch.from_numpy(tokens)[None])
        logits = (found if isinstance(found, torch.Tensor) else found.logits)[0].numpy()
    assert float(logits.std()) > 0.3  # logits near zero would hide mistakes
    return Example(model, tokens.tolist(), logits)


def runs() -> list[tuple[int, int]]:
    """(position, count) of 64 tokens, in blocks of all sizes and one by one."""
    sizes = [5, 8, 1, 3, 7, 2, 8, *[1] * 30]
    assert sum(sizes) == STEPS
    return [(sum(sizes[:index]), size) for index, size in enumerate(sizes)]


@functools.cache
def float_step(name: str, block: int = BLOCK) -> Graph:
    """The float decode step of a model."""
    model = example(name).model
    return decoder_graph(model.config, model.weights, block, CONTEXT)


@functools.cache
def typed_step(name: str, scheme: str) -> Graph:
    """The decode step of a model in an integer scheme, calibrated on random tokens and rounded to nearest."""
    model = example(name).model
    windows = np.random.default_rng(2).integers(0, model.config.vocab_size, (8, 24)).astype(np.int32)
    settings = QuantizeSettings(rounding="nearest", bias_correction=False)
    return step_graph(quantize_decoder(model.config, model.weights, windows, scheme, CONTEXT, settings), BLOCK, CONTEXT)


def decode(session: StateSession, tokens: Sequence[int], blocks: Sequence[tuple[int, int]]) -> list[Array]:
    """The logits of the last token of each block, (vocabulary,)."""
    found = []
    for position, count in blocks:
        part = tokens[position : position + count]
        found.append(session.run(block_inputs(part, position))[LOGITS][-1])
    return found


@dataclass(frozen=True)
class Trace:
    """Of one run: the CRC-32 of every step's output, the caches included, and the logits."""

    crcs: tuple[int, ...]
    logits: bytes


def reference_trace(session: StateSession, steps: Sequence[str], tokens: Sequence[int]) -> list[Trace]:
    """What the numpy executor computes in `runs()`; `steps`: the output of each step of the device."""
    found = []
    for position, count in runs():
        session.run(block_inputs(tokens[position : position + count], position))
        values = [little_endian(session.values[step]) for step in steps]
        found.append(Trace(tuple(map(zlib.crc32, values)), little_endian(session.values[LOGITS])))
    return found


def host_trace(host: Host, tokens: Sequence[int]) -> list[Trace]:
    """What a model compiled into this process computes in `runs()`."""
    found = []
    for position, count in runs():
        part = [*tokens[position : position + count], *[0] * (BLOCK - count)]
        words = {TOKENS: np.array(part, "<i4"), POSITION: np.array(position, "<i4"), COUNT: np.array(count, "<i4")}
        outputs = list(host.pieces({name: value.tobytes() for name, value in words.items()}))
        logits = host.read(host.device.outputs[0])
        found.append(Trace(tuple(map(zlib.crc32, outputs)), logits))
    return found


def device_trace(device: Any, write: Callable[[Sequence[int], int], None], tokens: Sequence[int]) -> list[Trace]:
    """What a device computes in `runs()`; `write` is that of its DeviceSession."""
    found = []
    for position, count in runs():
        write(tokens[position : position + count], position)
        result = device.run(crc=True, outputs=True)
        found.append(Trace(result.step_crcs, result.outputs[0]))
    return found


def with_config(model: ImportedModel, **keys: Any) -> ImportedModel:
    """A model with keys of its configuration changed."""
    return dataclasses.replace(model, config=dataclasses.replace(model.config, **keys))
