"""The wire over a bad line, against real firmware: every exchange is right or reported; none is wrong, none hangs."""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import device_fixture
from conftest import TinyFirmware
from faulty_transport import EVERYTHING, Faults, FaultyTransport
from picoformer.decoder.build import DecoderBuild
from picoformer.decoder.sessions import DeviceSession
from picoformer.decoder.writing import logits_scale, reference_session, sampler_bytes
from picoformer.emulator.interface import Running
from picoformer.emulator.session import emulator_for
from picoformer.errors import DeviceError
from picoformer.generation import IntegerSampler, SamplerSettings, Stopping
from picoformer.generation.loop import generate
from picoformer.link.device import Device
from picoformer.link.messages import Message, Table
from picoformer.link.text import TextDevice
from picoformer.link.transport import Transport
from picoformer.targets import Target, load_target
from text_models import built

Check = Callable[[Device, random.Random], None]

LOSSES = Faults(drop=0.05, double=0.05, flip=0.05)
"""What never has to end in an error."""


class Board:
    """Firmware that can be started anew while a line leads to it."""

    def __init__(self, build: object, target: Target) -> None:
        self._build, self._target = build, target
        self._running: Running | None = None

    def start(self) -> Transport:
        """Begin anew."""
        self.close()
        self._running = emulator_for(self._target, count=False).start(self._build.elf, self._target)  # type: ignore[attr-defined]
        return self._running.transport

    def close(self) -> None:
        """End it."""
        if self._running is not None:
            self._running.close()


def device_on(line: Transport, waits: float) -> Device:
    """With the waits of a fast line, as long as `waits` says."""
    return Device(
        line, repeat_seconds=0.02 * waits, poke_seconds=0.05 * waits, reply_seconds=5 * waits, run_seconds=20 * waits,
        repeats=12, restarts=6,
    )  # fmt: skip


# --- exchanges: each raises AssertionError if what came back is wrong -------------------------------------------


def greet(device: Device, chance: random.Random) -> None:
    name = device.exchange.ask(Message.HELLO)[36:].decode()
    assert name == device.hello().name


def describe(device: Device, chance: random.Random) -> None:
    table = chance.choice(list(Table))
    device._tables.clear()
    wanted = [["pixels", "scale"], ["inverted", "looked_up"], ["looked_up", "sums", "inverted"]][table]
    assert [tensor.name for tensor in device.tensors(table)] == wanted


def _write(device: Device, chance: random.Random) -> list[bytes]:
    values = [chance.randbytes(2000), chance.randbytes(4)]
    for index, data in enumerate(values):
        device.write_input(index, data)
    return device_fixture.expected_steps(*values)


def run(device: Device, chance: random.Random) -> None:
    steps = _write(device, chance)
    result = device.run(crc=True, outputs=True)
    assert result.step_crcs == tuple(map(zlib.crc32, steps))
    assert result.outputs == (steps[2], steps[0])


def run_and_read(device: Device, chance: random.Random) -> None:
    steps = _write(device, chance)
    device.run()
    for index in (1, 0):
        assert device.read_output(index) == (steps[2], steps[0])[index]


def fetch(device: Device, chance: random.Random) -> None:
    steps, index = _write(device, chance), chance.randrange(3)
    assert device.run_for_step(index) == steps[index]


def stack(device: Device, chance: random.Random) -> None:
    found = device.stack()
    assert found.size is None or found.used is not None


def half_a_frame(device: Device, chance: random.Random) -> None:
    """A host dies in the middle of a frame, and another one comes."""
    device.exchange._transport.write(b"\5" + bytes([7, 1, 3, 9]), 1.0)


PLAIN: list[Check] = [greet, describe, run, run, run_and_read, fetch, stack, half_a_frame]


def text_exchanges(build: DecoderBuild) -> list[Check]:
    """Texts of a language model, each of which is as many exchanges as it has requests."""
    graph = build.build.graph
    scale = logits_scale(graph)
    prompts = [[1, 40, 41, 42], [1, 40], [1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]]
    choices = [SamplerSettings(greedy=True), SamplerSettings(0.9, 20, 0.9, 0.01, 1.3, 6)]
    reference = {
        (i, j): generate(reference_session(graph), prompt, chosen, scale, Stopping(6)).tokens
        for i, prompt in enumerate(prompts)
        for j, chosen in enumerate(choices)
    }
    first = [reference_session(graph).decode(prompt, 0) for prompt in prompts]
    second = [_two_blocks(reference_session(graph), prompt) for prompt in prompts]

    def write(device: Device, chance: random.Random) -> None:
        prompt, chosen = chance.randrange(len(prompts)), chance.randrange(len(choices))
        text = TextDevice(device)
        text.begin(sampler_bytes(IntegerSampler.from_settings(choices[chosen], scale)))
        half = chance.randrange(1, len(prompts[prompt]))
        text.feed(prompts[prompt][:half])
        assert text.feed(prompts[prompt][half:]) == len(prompts[prompt])
        for token in reference[prompt, chosen]:
            assert text.next() == token

    def decode(device: Device, chance: random.Random) -> None:
        """Runs that leave rows of a cache for the next."""
        prompt = chance.randrange(len(prompts))
        device.reset()
        session = DeviceSession(device, graph)
        assert (session.decode(prompts[prompt], 0) == first[prompt]).all()
        assert (session.decode([7], len(prompts[prompt])) == second[prompt]).all()

    return [greet, write, write, decode, half_a_frame]


def _two_blocks(session: object, prompt: list[int]) -> object:
    session.decode(prompt, 0)  # type: ignore[attr-defined]
    return session.decode([7], len(prompt))  # type: ignore[attr-defined]


# --- many of them --------------------------------------------------------------------------------------------


def exchange_all(
    board: Board, checks: list[Check], faults: Faults, seed: int, requests: int, waits: float = 1.0
) -> Counter[str]:
    """Exchanges until so many requests were made; a new host begins every now and then, and after an error."""
    chance, found = random.Random(seed), Counter[str]()
    line = FaultyTransport(board.start(), faults, seed, board.start)
    try:
        device = device_on(line, waits)
        while found["requests"] < requests:
            check = chance.choice(checks)
            resent, begun = device.exchange.resent, device.exchange.asked
            try:
                check(device, chance)
                found["at once" if device.exchange.resent == resent else "after repeats"] += 1
            except AssertionError:
                raise AssertionError(f"seed {seed}: {check.__name__} was wrong after {dict(found)}") from None
            except DeviceError as error:
                found["reported"] += 1
                found[f"{type(error).__name__} in {check.__name__}"] += 1
            found["requests"] += device.exchange.asked - begun
            if chance.random() < 0.03:
                device = device_on(line, waits)
    finally:
        board.close()
    found.update({f"line: {name}": times for name, times in line.happened.items()})
    print(f"seed {seed}: {dict(found)}")
    return found


@pytest.fixture
def tiny(tiny_firmware: TinyFirmware) -> Board:
    return Board(*tiny_firmware("host"))


@pytest.fixture(scope="module")
def language_model(place: Path, arm_tools: None) -> DecoderBuild:
    return built(place, "int8x16", "mps2-an386", 3)


def host_board(build: DecoderBuild) -> Board:
    target = load_target("host")
    return Board(build.build.firmware(target), target)


def test_what_is_lost_doubled_or_damaged_is_asked_for_again(tiny: Board) -> None:
    """No request is carried out twice, so that none has to be reported."""
    found = exchange_all(tiny, PLAIN, LOSSES, 1, 600)
    assert found["reported"] == 0
    assert found["after repeats"] > 50


def test_a_text_on_a_bad_line_is_the_text(language_model: DecoderBuild) -> None:
    found = exchange_all(host_board(language_model), text_exchanges(language_model), LOSSES, 2, 600)
    assert found["reported"] == 0
    assert found["after repeats"] > 20


@pytest.mark.parametrize("seed", [3, 4])
def test_everything_at_once_is_right_or_reported(seed: int, tiny: Board) -> None:
    found = exchange_all(tiny, PLAIN, EVERYTHING, seed, 500)
    assert found["at once"] + found["after repeats"] > 8 * found["reported"]


def test_texts_with_everything_at_once_are_right_or_reported(language_model: DecoderBuild) -> None:
    found = exchange_all(host_board(language_model), text_exchanges(language_model), EVERYTHING, 5, 500)
    assert found["at once"] + found["after repeats"] > 2 * found["reported"]


@pytest.mark.parametrize("target", ["mps2-an386", "mps2-an385-m0"])
def test_a_board_on_a_bad_line(target: str, arm_tools: None, tiny_firmware: TinyFirmware) -> None:
    """The same in an emulated UART, which is slower."""
    found = exchange_all(Board(*tiny_firmware(target)), PLAIN, EVERYTHING, 6, 80, waits=8)
    assert found["at once"] + found["after repeats"] > 4 * found["reported"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 14))
def test_thousands_of_exchanges(seed: int, tiny: Board, language_model: DecoderBuild) -> None:
    """1,800 requests to a plain model and 700 to a language model, for each of four seeds: 10,000 in all."""
    found = exchange_all(tiny, PLAIN, EVERYTHING, seed, 1800)
    found += exchange_all(host_board(language_model), text_exchanges(language_model), EVERYTHING.scaled(0.5), seed, 700)
    assert found["line: reset"] > 0
    assert found["at once"] + found["after repeats"] > 4 * found["reported"]
