"""Prompt in, text out: the loop of greedy and sampled generation (firmware/text/generate.c does the same)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from picoformer.errors import ConfigError
from picoformer.generation.random_numbers import RandomNumbers
from picoformer.generation.sampler import IntegerSampler
from picoformer.generation.session import Session, check_prompt
from picoformer.generation.settings import SamplerSettings, Stopping
from picoformer.generation.stop_strings import StopStrings


class End(Enum):
    """Why a text ended; the numbers are those of C's pf_end."""

    MAX_TOKENS = 1
    STOP_TOKEN = 2
    STOP_STRING = 3
    CALLER = 4
    CONTEXT = 5


@dataclass(frozen=True)
class Generated:
    """New tokens, the stop token included; text up to a stop string, empty where nobody said what bytes tokens are."""

    tokens: tuple[int, ...]
    text: bytes
    end: End


def generate(
    session: Session,
    prompt: Sequence[int],
    settings: SamplerSettings,
    logits_scale: float | None,
    stopping: Stopping = Stopping(),  # noqa: B008 - frozen
    *,
    bytes_of: Callable[[int], bytes] | None = None,
    emit: Callable[[int], bool | None] | None = None,
    take: Callable[[bytes], None] | None = None,
) -> Generated:
    """Continue `prompt`. `emit` is told every new token and ends the text by answering true; `bytes_of` says what a
    token is in bytes, which stop strings need, and `take` then gets the bytes of text that are certain. Stop tokens
    have no text. `logits_scale` as for IntegerSampler."""
    check_prompt(session, prompt)
    sampler = IntegerSampler.from_settings(settings, logits_scale)
    numbers = RandomNumbers(settings.seed)
    text: list[int] = list(prompt)
    fed = 0

    def next_token() -> int:
        nonlocal fed
        logits = session.decode(text[fed:], fed)
        fed = len(text)
        text.append(sampler.sample(logits, text, numbers))
        return text[-1]

    return write(next_token, session.context - len(prompt) + 1, stopping, bytes_of=bytes_of, emit=emit, take=take)


def write(
    next_token: Callable[[], int],
    room: int,
    stopping: Stopping,
    *,
    bytes_of: Callable[[int], bytes] | None = None,
    emit: Callable[[int], bool | None] | None = None,
    take: Callable[[bytes], None] | None = None,
) -> Generated:
    """Take tokens from `next_token` until the text ends; the context has room for `room` of them. See `generate`."""
    if stopping.strings and bytes_of is None:
        raise ConfigError("stop strings without a tokenizer: tokens have no bytes to compare")
    stops = StopStrings(stopping.strings)
    tokens: list[int] = []
    text = b""
    most = min(stopping.max_tokens, room)
    while True:
        token = next_token()
        tokens.append(token)
        is_stop = token in stopping.tokens
        if bytes_of is not None and not is_stop:
            certain = stops.feed(bytes_of(token))
            text += certain
            if take is not None:
                take(certain)
        is_enough = emit is not None and bool(emit(token))
        end = _end(is_stop, stops.is_complete, is_enough, len(tokens), most, stopping.max_tokens)
        if end is not None:
            rest = stops.finish()
            if take is not None:
                take(rest)
            return Generated(tuple(tokens), text + rest, end)


def _end(is_stop: bool, is_complete: bool, is_enough: bool, made: int, most: int, max_tokens: int) -> End | None:
    """Why the text ends here, if it does; `most` is max_tokens or what the context has room for."""
    if is_stop:
        return End.STOP_TOKEN
    if is_complete:
        return End.STOP_STRING
    if is_enough:
        return End.CALLER
    if made < most:
        return None
    return End.MAX_TOKENS if most == max_tokens else End.CONTEXT
