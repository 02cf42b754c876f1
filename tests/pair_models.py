"""Encoder-decoders in each scheme, and what every form of them computes of the same sources and texts, step by step."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from c_host import Host
from hugging_face_pairs import example
from picoformer.decoder.graph import COUNT, LOGITS
from picoformer.decoder.sessions import block_inputs
from picoformer.encoder_decoder.graph import Sizes, pair_graph
from picoformer.encoder_decoder.quantize import Pairs, quantize_pair
from picoformer.encoder_decoder.sessions import PairDeviceSession, source_inputs
from picoformer.ir import Graph
from picoformer.ir.operator import Array
from picoformer.parity import little_endian
from picoformer.quantize import QuantizeSettings
from picoformer.reference.session import StateSession

BLOCK, CONTEXT, SOURCE_ROWS = 5, 26, 17
SIZES = Sizes(SOURCE_ROWS, CONTEXT, BLOCK)
BLOCKS = [(0, 1), (1, 5), (6, 3), (9, 1), (10, 1), (11, 4)]
"""(position, count) of the tokens that are decoded."""
TOKENS = sum(count for _, count in BLOCKS)


@functools.cache
def random_pairs(name: str, count: int = 12) -> list[tuple[list[int], list[int]]]:
    """Sources of all lengths and texts of 18 tokens."""
    chance, config = np.random.default_rng(6), example(name).model.config
    return [
        (
            chance.integers(0, config.encoder.vocab_size, 1 + (7 * i) % SOURCE_ROWS).tolist(),
            chance.integers(0, config.vocab_size, 18).tolist(),
        )
        for i in range(count)
    ]


@functools.cache
def float_graph(name: str) -> Graph:
    model = example(name).model
    return pair_graph(model.config, model.weights, SIZES)


@functools.cache
def typed_graph(name: str, scheme: str) -> Graph:
    """Calibrated on random pairs and rounded to nearest."""
    model = example(name).model
    settings = QuantizeSettings(rounding="nearest", bias_correction=False, wide_weights=0.0)
    return quantize_pair(model, Pairs.of(random_pairs(name), model, SIZES), scheme, SIZES, settings)


@dataclass(frozen=True)
class Trace:
    """Of one run: the CRC-32 of every step's output that it had, and the logits, empty behind a source."""

    crcs: tuple[int, ...]
    logits: bytes


def text_of(name: str, index: int) -> tuple[list[int], list[int]]:
    """A source, and the tokens to decode behind it."""
    source, target = random_pairs(name)[index]
    return source, [*example(name).model.begin, *target][:TOKENS]


def reference_traces(
    session: StateSession, steps: Sequence[str], texts: Sequence[tuple[list[int], list[int]]]
) -> list[Trace]:
    """What the numpy executor computes; `steps`: the output of each step of the device."""
    graph, found = session.graph, []
    prologue = [step for step in steps if step in graph.prologue]
    rest = [step for step in steps if step not in graph.prologue]
    for source, tokens in texts:
        session.read_source(source_inputs(graph, source))
        found.append(Trace(tuple(zlib.crc32(little_endian(session.values[step])) for step in prologue), b""))
        for position, count in BLOCKS:
            session.run(block_inputs(tokens[position : position + count], position))
            crcs = tuple(zlib.crc32(little_endian(session.values[step])) for step in rest)
            found.append(Trace(crcs, little_endian(session.values[LOGITS])))
    return found


def host_traces(host: Host, graph: Graph, texts: Sequence[tuple[list[int], list[int]]]) -> list[Trace]:
    """What a model compiled into this process computes."""
    found = []
    prologue = sum(step.name.decode() in graph.prologue for step in host.device.steps[: host.device.step_count])
    inputs: dict[str, bytes] = {}
    for source, tokens in texts:
        inputs |= {name: little_endian(value) for name, value in source_inputs(graph, source).items()}
        inputs |= words(block_inputs([0] * BLOCK, 0)) | {COUNT: bytes(4)}
        outputs = host.pieces(inputs)
        assert all(not data for data in outputs[prologue:])
        found.append(Trace(tuple(map(zlib.crc32, outputs[:prologue])), b""))
        for position, count in BLOCKS:
            part = [*tokens[position : position + count], *[0] * (BLOCK - count)]
            inputs |= words(block_inputs(part, position)) | {COUNT: np.array(count, "<i4").tobytes()}
            outputs = host.pieces(inputs)
            assert all(not data for data in outputs[:prologue])
            found.append(Trace(tuple(map(zlib.crc32, outputs[prologue:])), host.read(host.device.outputs[0])))
    return found


def words(inputs: dict[str, Array]) -> dict[str, bytes]:
    return {name: np.asarray(value).astype("<i4").tobytes() for name, value in inputs.items()}


def device_traces(device: Any, session: PairDeviceSession, texts: Sequence[tuple[list[int], list[int]]]) -> list[Trace]:
    """What a device computes."""
    found = []
    for source, tokens in texts:
        session.write_source(source)
        result = device.run(crc=True, part=range(session.prologue))
        found.append(Trace(result.step_crcs, b""))
        for position, count in BLOCKS:
            session.write(tokens[position : position + count], position)
            result = device.run(crc=True, outputs=True, part=session.steps)
            found.append(Trace(result.step_crcs[session.prologue :], result.outputs[0]))
    return found
