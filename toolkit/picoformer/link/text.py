"""A device that writes text: what it is asked for token by token, or for a whole beam search."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from picoformer.errors import DeviceError
from picoformer.link.device import Device
from picoformer.link.messages import Message

SAMPLER = struct.Struct("<IiIIiIiiiIIiiQ")
"""A pf_sampler_settings: see `SamplerIntegers`."""
_BEAM = struct.Struct("<IiIIiiiIii")
_TEXT = struct.Struct("<qi")
_REBUILD = "rebuild its firmware"
MOST_TOKENS_A_FRAME = 256
"""Tokens of a prompt that a request carries, where a frame has room for so many."""


@dataclass(frozen=True)
class TextHello:
    """What a device that begins a text says of itself."""

    context: int
    vocabulary: int
    slots: int


class TextDevice:
    """Text on a device. Raises DeviceError when its firmware has no language model, or refuses."""

    def __init__(self, device: Device) -> None:
        if not device.hello().writes_text:
            raise DeviceError(f"the device runs '{device.hello().name}', which writes no text; flash a decoder's build")
        self._device = device
        self._vocabulary = 0
        self.after = 0
        """CRC-32 of the settings and all tokens so far: a request that belongs elsewhere is refused."""

    def begin(self, settings: bytes) -> TextHello:
        """Forget the text so far; `settings` are those of SAMPLER."""
        hello = TextHello(*_unpacked("<III", self._device.ask(Message.TEXT_BEGIN, settings)))
        self._vocabulary, self.after = hello.vocabulary, zlib.crc32(settings)
        return hello

    def feed(self, tokens: Sequence[int], told: Callable[[], None] | None = None) -> int:
        """Let it read tokens, in as many requests as it takes, `told` being called after each; returns the position of
        the next."""
        most = min((self._device.hello().frame_bytes - 6) // 4, MOST_TOKENS_A_FRAME)
        position = 0
        for start in range(0, len(tokens), most):
            part = struct.pack(f"<{len(tokens[start : start + most])}i", *tokens[start : start + most])
            answer = self._device.ask(Message.TEXT_FEED, struct.pack("<I", self.after) + part)
            position = _unpacked("<II", answer)[0]  # and cycles
            self.after = zlib.crc32(part, self.after)
            if told is not None:
                told()
        return position

    def next(self) -> int:
        """Let it draw the next token, after it has read the one that it drew last."""
        answer = self._device.ask(Message.TEXT_NEXT, struct.pack("<I", self.after))
        token = _unpacked("<iI", answer)[0]  # and cycles
        if not 0 <= token < self._vocabulary:
            raise DeviceError(f"the device drew token {token} of a vocabulary of {self._vocabulary}; {_REBUILD}")
        self.after = zlib.crc32(answer[:4], self.after)
        return token

    def beam(
        self, settings: tuple[int, ...], stop_tokens: Sequence[int], prompt: Sequence[int]
    ) -> list[tuple[int, tuple[int, ...]]]:
        """Texts with their scores in 2^-24 nats, the best first. `settings`: multiplier, shift and reach of the
        exponent, multiplier and shift of the grid, length penalty, beams, early stopping (+ 256 for float logits),
        longest text."""
        words = [*stop_tokens, *prompt]
        request = _BEAM.pack(*settings, len(stop_tokens)) + struct.pack(f"<{len(words)}i", *words)
        if len(request) > self._device.hello().frame_bytes - 2:
            raise DeviceError(f"{len(prompt)} tokens of prompt do not fit one frame of the device; shorten the prompt")
        data = self._device.ask_again(Message.TEXT_BEAM, request)
        try:
            found, at = [], 8
            for _ in range(struct.unpack_from("<I", data)[0]):
                score, length = _TEXT.unpack_from(data, at)
                at += _TEXT.size
                found.append((score, struct.unpack_from(f"<{length}i", data, at)))
                at += 4 * length
        except struct.error:
            raise DeviceError(f"the device's texts are cut short; {_REBUILD}") from None
        if not found:
            raise DeviceError(f"the device found no text; {_REBUILD}")
        return found


def _unpacked(form: str, data: bytes) -> tuple[int, ...]:
    if len(data) != struct.calcsize(form):
        raise DeviceError(f"the device answered {len(data)} bytes where {struct.calcsize(form)} belong; {_REBUILD}")
    return struct.unpack(form, data)
