"""Text over the wire: every bad request is answered with a status, and the device is right afterwards."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from picoformer.decoder.build import DecoderBuild
from picoformer.decoder.sessions import DeviceSession, block_inputs
from picoformer.decoder.verify import verify_decoder
from picoformer.decoder.writing import (
    REFERENCE,
    beam_texts,
    logits_scale,
    open_text,
    sampler_bytes,
    write_text,
)
from picoformer.emulator.session import Session
from picoformer.errors import DeviceError
from picoformer.generation import BeamSettings, IntegerSampler, SamplerSettings, Stopping
from picoformer.link.device import RefusedError
from picoformer.link.messages import Message, Status, Table
from picoformer.link.text import SAMPLER, TextDevice
from picoformer.parity import little_endian
from picoformer.reference import lower_graph
from picoformer.reference.session import integer_session
from text_models import CONTEXT, TOKENS, bridge, built

GREEDY = SamplerSettings(greedy=True)
PROMPT = [1, 40, 41, 42]
FIELDS = ("multiplier", "shift", "reach", "raise_multiplier", "raise_shift", "lower_multiplier", "lower_shift",
          "is_penalized", "top_k", "top_p", "near", "greedy", "is_float", "seed")  # fmt: skip


@pytest.fixture(scope="module", params=["host", ""], ids=["host", "device"])
def opened(request: pytest.FixtureRequest, place: Path, arm_tools: None) -> Iterator[tuple[Session, TextDevice]]:
    with open_text(built(place, "int8x16", "mps2-an386", 3), request.param) as found:
        yield found


@pytest.fixture
def build(place: Path, arm_tools: None) -> DecoderBuild:
    return built(place, "int8x16", "mps2-an386", 3)


@pytest.fixture
def wanted(build: DecoderBuild) -> tuple[int, ...]:
    """What follows PROMPT."""
    return write_text(build, PROMPT, GREEDY, Stopping(4), REFERENCE).generated.tokens


def settings(build: DecoderBuild, chosen: SamplerSettings = GREEDY) -> bytes:
    return sampler_bytes(IntegerSampler.from_settings(chosen, logits_scale(build.build.graph)))


def begin_and_feed(text: TextDevice, build: DecoderBuild, prompt: list[int]) -> None:
    text.begin(settings(build))
    assert text.feed(prompt) == len(prompt)


def is_right(text: TextDevice, build: DecoderBuild, wanted: tuple[int, ...]) -> None:
    """The device writes what the reference writes."""
    begin_and_feed(text, build, PROMPT)
    assert tuple(text.next() for _ in wanted) == wanted


def refused(session: Session, message: Message, payload: bytes, status: Status) -> None:
    with pytest.raises(RefusedError) as caught:
        session.device.ask(message, payload)
    assert caught.value.status == status


def words(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}i", *numbers)


def after(build: DecoderBuild, *tokens: int) -> int:
    """What a request says of the text that it belongs to (SPEC, 0x21), as a signed word."""
    crc = zlib.crc32(settings(build) + words(*tokens))
    return crc - (crc >> 31 << 32)


Opened = tuple[Session, TextDevice]


def test_hello_says_that_it_writes_text(opened: Opened, build: DecoderBuild) -> None:
    session, text = opened
    assert session.device.hello().writes_text
    found = text.begin(settings(build))
    assert (found.context, found.vocabulary, found.slots) == (CONTEXT, TOKENS, 3)


@pytest.mark.parametrize("length", [0, 1, 59, 61, 64])
def test_begin_with_another_length(length: int, opened: Opened, build: DecoderBuild, wanted: tuple[int, ...]) -> None:
    session, text = opened
    refused(session, Message.TEXT_BEGIN, settings(build).ljust(64, b"\0")[:length], Status.BAD_LENGTH)
    is_right(text, build, wanted)


BAD = [
    ("multiplier", 0), ("multiplier", 1 << 31), ("shift", 0), ("shift", 63), ("shift", -1), ("reach", 0xFFFFFFFF),
    ("top_k", -1), ("top_p", 0), ("top_p", 0x80000001), ("near", 0x80000001), ("is_float", 1), ("is_float", -1),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), BAD)
def test_begin_with_settings_out_of_range(
    field: str, value: int, opened: Opened, build: DecoderBuild, wanted: tuple[int, ...]
) -> None:
    session, text = opened
    given = dict(zip(FIELDS, SAMPLER.unpack(settings(build, SamplerSettings(0.8, 5, 0.9))), strict=True))
    refused(session, Message.TEXT_BEGIN, SAMPLER.pack(*{**given, field: value}.values()), Status.OUT_OF_RANGE)
    refused(session, Message.TEXT_FEED, words(0, 1), Status.STALE)  # nothing was begun
    refused(session, Message.TEXT_NEXT, words(0), Status.STALE)
    is_right(text, build, wanted)


@pytest.mark.parametrize("field", ["raise_shift", "lower_shift", "raise_multiplier", "lower_multiplier"])
def test_begin_with_a_penalty_out_of_range(field: str, opened: Opened, build: DecoderBuild) -> None:
    session, _ = opened
    chosen = settings(build, SamplerSettings(repetition_penalty=1.2))
    given = dict(zip(FIELDS, SAMPLER.unpack(chosen), strict=True))
    refused(session, Message.TEXT_BEGIN, SAMPLER.pack(*{**given, field: 0}.values()), Status.OUT_OF_RANGE)


@pytest.mark.parametrize("payload", [b"", b"\0\0\0\0", b"\0\0\0\0\1", b"\0\0\0\0\1\0\0", b"\0\0\0\0\1\0\0\0\1"])
def test_feed_with_another_length(payload: bytes, opened: Opened, build: DecoderBuild, wanted: tuple[int, ...]) -> None:
    session, text = opened
    text.begin(settings(build))
    refused(session, Message.TEXT_FEED, payload, Status.BAD_LENGTH)
    is_right(text, build, wanted)


@pytest.mark.parametrize("token", [-1, TOKENS, 1 << 30, -(1 << 31)])
@pytest.mark.parametrize("at", [0, 3])
def test_feed_with_a_token_out_of_range(
    token: int, at: int, opened: Opened, build: DecoderBuild, wanted: tuple[int, ...]
) -> None:
    """The request is refused whole: the text goes on as if it had not come."""
    session, text = opened
    begin_and_feed(text, build, PROMPT[:2])
    given = [7, 8, 9, 10]
    given[at] = token
    refused(session, Message.TEXT_FEED, words(after(build, *PROMPT[:2]), *given), Status.OUT_OF_RANGE)
    assert text.feed(PROMPT[2:]) == len(PROMPT)
    assert tuple(text.next() for _ in wanted) == wanted


def test_feed_past_the_context(opened: Opened, build: DecoderBuild, wanted: tuple[int, ...]) -> None:
    session, text = opened
    text.begin(settings(build))
    refused(session, Message.TEXT_FEED, words(after(build), *[1] * (CONTEXT + 1)), Status.OUT_OF_RANGE)
    assert text.feed([1] * CONTEXT) == CONTEXT
    refused(session, Message.TEXT_FEED, words(after(build, *[1] * CONTEXT), 1), Status.OUT_OF_RANGE)
    last = text.next()  # what the full context leaves
    assert 0 <= last < TOKENS
    refused(session, Message.TEXT_NEXT, words(after(build, *[1] * CONTEXT, last)), Status.OUT_OF_RANGE)
    is_right(text, build, wanted)


def test_what_is_out_of_place_changes_nothing(opened: Opened, build: DecoderBuild, wanted: tuple[int, ...]) -> None:
    """A request that the line held up, or that came twice, belongs where the text is not any more."""
    session, text = opened
    begin_and_feed(text, build, PROMPT[:2])
    for at in (0, 2, after(build), after(build, *PROMPT[:1]), after(build, *PROMPT)):
        refused(session, Message.TEXT_FEED, words(at, *PROMPT[2:]), Status.STALE)
        refused(session, Message.TEXT_NEXT, words(at), Status.STALE)
    assert text.feed(PROMPT[2:]) == len(PROMPT)
    assert text.next() == wanted[0]
    refused(session, Message.TEXT_NEXT, words(after(build, *PROMPT)), Status.STALE)
    assert tuple(text.next() for _ in wanted[1:]) == wanted[1:]


def test_next_before_its_time(opened: Opened, build: DecoderBuild, wanted: tuple[int, ...]) -> None:
    session, text = opened
    text.begin(settings(build))
    refused(session, Message.TEXT_NEXT, words(after(build)), Status.STALE)
    assert text.feed(PROMPT) == len(PROMPT)
    refused(session, Message.TEXT_NEXT, b"\0", Status.BAD_LENGTH)
    assert text.next() == wanted[0]
    refused(
        session, Message.TEXT_FEED, words(after(build, *PROMPT, wanted[0]), 1), Status.STALE
    )  # it has a token of its own to read
    assert tuple(text.next() for _ in wanted[1:]) == wanted[1:]


@pytest.mark.parametrize("what", ["reset", "write", "run"])
def test_other_requests_end_a_text(what: str, opened: Opened, build: DecoderBuild, wanted: tuple[int, ...]) -> None:
    """They use the memory that its logits and caches lie in."""
    session, text = opened
    session.device.reset()  # else the first write does
    begin_and_feed(text, build, PROMPT)
    decoder = DeviceSession(session.device, build.build.graph)
    if what == "reset":
        session.device.reset()
    else:
        decoder.write([3], 0)
    if what == "run":
        session.device.run()
    refused(session, Message.TEXT_NEXT, words(after(build, *PROMPT)), Status.STALE)
    refused(session, Message.TEXT_FEED, words(after(build, *PROMPT), 1), Status.STALE)
    is_right(text, build, wanted)


def test_a_plain_run_after_a_text_asks_for_its_inputs(opened: Opened, build: DecoderBuild) -> None:
    session, text = opened
    begin_and_feed(text, build, PROMPT)
    with pytest.raises(RefusedError) as caught:
        session.device.run()
    assert caught.value.status == Status.INPUT_MISSING
    with pytest.raises(RefusedError):
        session.device.read_output(0)


def test_a_refused_request_of_text_leaves_a_plain_run_alone(opened: Opened, build: DecoderBuild) -> None:
    session, _ = opened
    decoder = DeviceSession(session.device, build.build.graph)
    decoder.write([3], 0)
    refused(session, Message.TEXT_NEXT, words(0), Status.STALE)
    refused(session, Message.TEXT_FEED, b"\1", Status.BAD_LENGTH)
    result = session.device.run(outputs=True)
    assert result.outputs is not None
    refused(session, Message.TEXT_NEXT, words(0), Status.STALE)
    assert session.device.read_output(0) == result.outputs[0]


def test_after_a_reset_a_device_is_as_new(opened: Opened, build: DecoderBuild) -> None:
    """A search leaves the model at the caches of the last of its beams, and rows in all of them."""
    session, _ = opened
    graph = build.build.graph
    session.device.ask(Message.TEXT_BEAM, beam_request(build, beams=3, tokens=4) + words(*PROMPT))
    session.device.reset()
    decoder, reference = DeviceSession(session.device, graph), integer_session(lower_graph(graph))
    names = [tensor.name for tensor in session.device.tensors(Table.STEPS)]
    for position, token in enumerate(PROMPT):
        decoder.write([token], position)
        result = session.device.run(crc=True)
        reference.run(block_inputs([token], position))
        assert result.step_crcs == tuple(zlib.crc32(little_endian(reference.values[name])) for name in names)


def test_a_board_that_wrote_text_is_verified(build: DecoderBuild) -> None:
    with bridge(build, lambda text: (text.begin(settings(build)), text.feed([9] * 30))) as port:
        report = verify_decoder(build, [PROMPT], 2, port=port, with_onnx=False, least_sqnr_db=0).report
    assert report.passed, report.failures


@pytest.mark.parametrize(
    ("position", "count"),
    [(-1, 1), (0, 0), (0, -1), (0, 9), (CONTEXT, 1), (CONTEXT - 1, 2), (-(1 << 31), 1), (0, -(1 << 31)),
     ((1 << 31) - 1, 1), ((1 << 31) - 1, 8), (0, (1 << 31) - 1)],
)  # fmt: skip
def test_a_plain_run_out_of_place_fails_and_says_so(
    position: int, count: int, opened: Opened, build: DecoderBuild, wanted: tuple[int, ...]
) -> None:
    session, text = opened
    device = session.device
    values = {"tokens": [1] * 8, "position": position, "count": count}
    for index, name in enumerate(build.build.graph.ports[0]):
        device.write_input(index, np.asarray(values[name], "<i4").tobytes())
    with pytest.raises(RefusedError) as caught:
        device.run(crc=True, outputs=True)
    assert caught.value.status == Status.STEP_FAILED
    is_right(text, build, wanted)


@pytest.mark.parametrize("token", [-1, TOKENS, 1 << 30])
def test_a_plain_run_of_a_token_out_of_range_fails(token: int, opened: Opened, build: DecoderBuild) -> None:
    session, _ = opened
    decoder = DeviceSession(session.device, build.build.graph)
    decoder.write([1, token], 0)
    with pytest.raises(RefusedError) as caught:
        session.device.run()
    assert caught.value.status == Status.STEP_FAILED
    decoder.write([1, 2], 0)
    assert session.device.run(outputs=True).outputs is not None


# --- beams --------------------------------------------------------------------------------------------------

BEAM = struct.Struct("<IiIIiiiIii")
BEAM_FIELDS = ("multiplier", "shift", "reach", "grid_multiplier", "grid_shift", "length_penalty", "beams", "early",
               "tokens", "stops")  # fmt: skip


def beam_request(build: DecoderBuild, **fields: int) -> bytes:
    from picoformer.generation import IntegerBeam

    chosen = IntegerBeam.from_settings(BeamSettings(), logits_scale(build.build.graph))
    exponent = chosen.exponent
    given = {"multiplier": exponent.multiplier, "shift": exponent.shift, "reach": exponent.reach,
             "grid_multiplier": chosen.grid_multiplier, "grid_shift": chosen.grid_shift, "length_penalty": 0,
             "beams": 2, "early": 0, "tokens": 4, "stops": 0}  # fmt: skip
    return BEAM.pack(*{**given, **fields}.values())


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"beams": 4}, Status.OUT_OF_RANGE),  # more than there are slots
        ({"beams": 0}, Status.OUT_OF_RANGE),
        ({"beams": -1}, Status.OUT_OF_RANGE),
        ({"tokens": 0}, Status.OUT_OF_RANGE),
        ({"tokens": -5}, Status.OUT_OF_RANGE),
        ({"tokens": 129}, Status.OUT_OF_RANGE),
        ({"tokens": 1 << 30}, Status.OUT_OF_RANGE),
        ({"early": 3}, Status.OUT_OF_RANGE),
        ({"early": 256}, Status.OUT_OF_RANGE),  # float logits
        ({"early": 0x80000000}, Status.OUT_OF_RANGE),
        ({"shift": 64}, Status.OUT_OF_RANGE),
        ({"grid_shift": 0}, Status.OUT_OF_RANGE),
        ({"grid_multiplier": 1}, Status.OUT_OF_RANGE),
        ({"length_penalty": 1 << 27}, Status.OUT_OF_RANGE),
        ({"stops": 4}, Status.BAD_LENGTH),  # no prompt left
        ({"stops": -1}, Status.BAD_LENGTH),
        ({"stops": 1 << 30}, Status.BAD_LENGTH),
    ],
)
def test_beams_out_of_range(
    fields: dict[str, int], status: Status, opened: Opened, build: DecoderBuild, wanted: tuple[int, ...]
) -> None:
    session, text = opened
    refused(session, Message.TEXT_BEAM, beam_request(build, **fields) + words(*PROMPT), status)
    is_right(text, build, wanted)


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (words(), Status.BAD_LENGTH),
        (words(1)[:3], Status.BAD_LENGTH),
        (words(TOKENS), Status.OUT_OF_RANGE),
        (words(1, -1), Status.OUT_OF_RANGE),
        (words(*[1] * (CONTEXT + 1)), Status.OUT_OF_RANGE),
    ],
)
def test_beams_with_a_bad_prompt(payload: bytes, status: Status, opened: Opened, build: DecoderBuild) -> None:
    session, _ = opened
    refused(session, Message.TEXT_BEAM, beam_request(build) + payload, status)
    refused(session, Message.TEXT_BEAM, b"", Status.BAD_LENGTH)


def test_a_search_ends_a_text(opened: Opened, build: DecoderBuild, wanted: tuple[int, ...]) -> None:
    session, text = opened
    begin_and_feed(text, build, PROMPT)
    session.device.ask(Message.TEXT_BEAM, beam_request(build) + words(*PROMPT))
    refused(session, Message.TEXT_NEXT, words(after(build, *PROMPT)), Status.STALE)
    is_right(text, build, wanted)


def test_texts_of_a_search_may_take_several_frames(build: DecoderBuild) -> None:
    chosen = BeamSettings(3, 1.0, "never", 60)
    long, _ = beam_texts(build, [1, 40], chosen, "host")
    assert long == beam_texts(build, [1, 40], chosen, REFERENCE)[0]
    assert sum(4 * len(text.tokens) + 12 for text in long) > 500


def test_a_build_without_beams_has_no_room_for_them(place: Path) -> None:
    build = built(place, "float32", "host")
    with open_text(build, "host") as (session, text):
        request = beam_request(build, beams=1, early=256)
        refused(session, Message.TEXT_BEAM, request + words(*PROMPT), Status.OUT_OF_RANGE)
        with pytest.raises(RefusedError) as caught:
            text.begin(SAMPLER.pack(*[1 << 30, 1, 0, 1 << 30, 1, 1 << 30, 1, 0, 0, 1 << 31, 1 << 31, 1, 0, 0]))
        assert caught.value.status == Status.OUT_OF_RANGE  # made for integers


def test_requests_of_text_are_unknown_to_other_models(tiny_firmware: object) -> None:
    from picoformer.emulator.session import open_device

    firmware, target = tiny_firmware("host")  # type: ignore[operator]
    with open_device(firmware, target) as session:
        with pytest.raises(DeviceError, match="which writes no text"):
            TextDevice(session.device)
        for message in (Message.TEXT_BEGIN, Message.TEXT_FEED, Message.TEXT_NEXT, Message.TEXT_BEAM):
            refused(session, message, words(1), Status.UNKNOWN_TYPE)
