"""Writing text with a build: on the reference, in firmware on this machine, in an emulator, or on a board."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from picoformer.build_folder import HOST
from picoformer.decoder.build import DecoderBuild
from picoformer.decoder.graph import LOGITS
from picoformer.decoder.sessions import ReferenceSession, check_tokens, context_of
from picoformer.emulator.session import Session as DeviceSession
from picoformer.emulator.session import open_device
from picoformer.errors import DataError
from picoformer.generation import BeamSettings, Generated, IntegerBeam, IntegerSampler, SamplerSettings, Stopping
from picoformer.generation.beam import EARLY_STOPPING, BeamText
from picoformer.generation.loop import generate, write
from picoformer.ir import Graph
from picoformer.link.text import SAMPLER, TextDevice
from picoformer.ops.graph_file import graph_identity
from picoformer.reference import lower_graph
from picoformer.reference.session import float_session, integer_session
from picoformer.targets import Target, load_target, stand_in

REFERENCE = "reference"
"""The name of the numpy executors where a target's name could stand."""


@dataclass(frozen=True)
class Cost:
    """What text took: instructions of the prompt and, a token on average, of what followed, or of a whole search;
    seconds on the clock of this machine. None: not counted."""

    seconds: float
    emulator: str = ""
    uncounted: str = "the reference is not counted"
    stack: int | None = None
    prompt: int | None = None
    per_token: float | None = None
    search: int | None = None


@dataclass(frozen=True)
class Written:
    """A text that was generated, and what it took."""

    generated: Generated
    cost: Cost


def vocabulary_of(graph: Graph) -> int:
    """How many logits a token has."""
    return graph.types[LOGITS].shape[-1]


def logits_scale(graph: Graph) -> float | None:
    """The scale of int16 logits; None for float ones."""
    quant = graph.types[LOGITS].quant
    return None if quant is None else quant.per_tensor_scale


def reference_session(graph: Graph) -> ReferenceSession:
    """The float or the integer meaning of a decode step, whichever the graph has."""
    is_integer = graph.types[LOGITS].quant is not None
    return ReferenceSession(integer_session(lower_graph(graph)) if is_integer else float_session(graph))


def write_text(
    build: DecoderBuild,
    prompt: Sequence[int],
    settings: SamplerSettings,
    stopping: Stopping,
    where: str = "",
    *,
    port: str | None = None,
    emulator: str = "auto",
    bytes_of: Callable[[int], bytes] | None = None,
    emit: Callable[[int], bool | None] | None = None,
    take: Callable[[bytes], None] | None = None,
) -> Written:
    """Continue a prompt of token ids. `where`: "reference", "host", or "" for the target that was built for.

    `emit` gets every new token as it comes, `take` its text once that is certain. Raises DataError for a prompt that
    does not fit, DeviceError.
    """
    graph = build.build.graph
    check_tokens(graph, prompt, 0)
    if where == REFERENCE:
        begun = time.monotonic()
        found = generate(
            reference_session(graph), prompt, settings, logits_scale(graph), stopping, bytes_of=bytes_of, emit=emit,
            take=take,
        )  # fmt: skip
        return Written(found, Cost(time.monotonic() - begun))
    with open_text(build, where, port, emulator) as (device, text):
        begun = time.monotonic()
        text.begin(sampler_bytes(IntegerSampler.from_settings(settings, logits_scale(graph))))
        fed: list[int | None] = []
        text.feed(prompt, lambda: fed.append(_last_call(device)))
        of_prompt = None if None in fed else sum(count for count in fed if count is not None)
        counts: list[int] = []

        def next_token() -> int:
            token = text.next()
            if (count := _last_call(device)) is not None:
                counts.append(count)
            return token

        room = context_of(graph) - len(prompt) + 1
        found = write(next_token, room, stopping, bytes_of=bytes_of, emit=emit, take=take)
        seconds = time.monotonic() - begun
        # The first token is drawn from what the prompt left; each of the others took a step of the model.
        steps = counts[1:]
        per_token = float(np.mean(steps)) if steps else None
        stack = device.device.stack().used
        cost = Cost(seconds, device.emulator, device.uncounted, stack, of_prompt, per_token)
        return Written(found, cost)


def beam_texts(
    build: DecoderBuild,
    prompt: Sequence[int],
    settings: BeamSettings,
    where: str = "",
    *,
    port: str | None = None,
    emulator: str = "auto",
) -> tuple[list[BeamText], Cost]:
    """The best texts that a beam search finds, the best first; `where` as for `write_text`."""
    graph = build.build.graph
    check_tokens(graph, prompt, 0)
    integers = IntegerBeam.from_settings(settings, logits_scale(graph))
    begun = time.monotonic()
    if where == REFERENCE:
        found = integers.search(reference_session(graph), prompt)
        return found, Cost(time.monotonic() - begun)
    check_beams(build, integers)
    with open_text(build, where, port, emulator) as (device, text):
        begun = time.monotonic()
        texts = device_beams(text, graph, integers, prompt)
        seconds, count = time.monotonic() - begun, _last_call(device)
        cost = Cost(seconds, device.emulator, device.uncounted, device.device.stack().used, search=count)
    return texts, cost


def check_beams(build: DecoderBuild, integers: IntegerBeam) -> None:
    """Raise DataError for a search that the build's firmware has no room for, ConfigError for one that cannot be."""
    from picoformer.backends.c.emit import BEAM_STOP_TOKENS, LONGEST_BEAM

    settings = integers.settings
    if settings.beams > build.record.slots:
        raise DataError(
            f"{settings.beams} beams need a firmware built with --beams {settings.beams}; this one has room for "
            f"{build.record.slots}"
        )
    if settings.max_tokens > LONGEST_BEAM or len(settings.stop_tokens) > BEAM_STOP_TOKENS:
        raise DataError(
            f"a search on a device writes up to {LONGEST_BEAM} tokens and looks for {BEAM_STOP_TOKENS} stop tokens, "
            f"not {settings.max_tokens} and {len(settings.stop_tokens)}; lower --tokens, or take --target reference"
        )
    integers.check(vocabulary_of(build.build.graph))


def device_beams(text: TextDevice, graph: Graph, integers: IntegerBeam, prompt: Sequence[int]) -> list[BeamText]:
    """The texts of a whole search on a device, the best first."""
    settings, exponent, scale = integers.settings, integers.exponent, logits_scale(graph)
    text.begin(sampler_bytes(IntegerSampler.from_settings(SamplerSettings(greedy=True), scale)))
    words = (
        exponent.multiplier,
        exponent.shift,
        exponent.reach,
        integers.grid_multiplier,
        integers.grid_shift,
        integers.length_penalty,
        settings.beams,
        EARLY_STOPPING[settings.early_stopping] | (256 if scale is None else 0),
        settings.max_tokens,
    )
    return [BeamText(tokens, score) for score, tokens in text.beam(words, settings.stop_tokens, prompt)]


def sampler_bytes(sampler: IntegerSampler) -> bytes:
    """The settings of a sampler as the wire carries them."""
    exponent = sampler.exponent
    return SAMPLER.pack(
        exponent.multiplier,
        exponent.shift,
        exponent.reach,
        sampler.raise_multiplier,
        sampler.raise_shift,
        sampler.lower_multiplier,
        sampler.lower_shift,
        int(sampler.is_penalized),
        sampler.top_k,
        sampler.top_p,
        sampler.near,
        int(sampler.greedy),
        int(sampler.is_float),
        sampler.seed,
    )


@contextlib.contextmanager
def open_text(
    build: DecoderBuild, where: str = "", port: str | None = None, emulator: str = "auto"
) -> Iterator[tuple[DeviceSession, TextDevice]]:
    """The build's firmware on the machine that `where` names, or on a serial port."""
    target = build.build.target
    board = target if port is not None else runs_on(target, where)
    firmware: Any = None if board.is_library else build.build.firmware(board)
    identity = graph_identity(build.build.graph)[:16]
    with open_device(firmware, board, port, identity=identity, emulator=emulator) as device:
        yield device, TextDevice(device.device)


def runs_on(target: Target, where: str = "") -> Target:
    """What a build's firmware runs on here: this machine, or the target or what stands in for it."""
    return load_target(HOST) if where == HOST else stand_in(target)


def _last_call(device: DeviceSession) -> int | None:
    return device.running.last_call() if device.running else None
