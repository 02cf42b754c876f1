"""What somebody asks of a language model, as `generate` words it: a prompt, how to choose, and when to end."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from picoformer.errors import ConfigError
from picoformer.generation.loop import End
from picoformer.generation.settings import BeamSettings, SamplerSettings, Stopping

if TYPE_CHECKING:
    from picoformer.tokenizers import TextTokenizer

ENDS = {
    End.MAX_TOKENS: "as many tokens as asked for",
    End.STOP_TOKEN: "a stop token",
    End.STOP_STRING: "a stop string",
    End.CALLER: "interrupted",
    End.CONTEXT: "the context is full",
}


@dataclass(frozen=True)
class TextRequest:
    """What to continue, how to choose, and when to end: the options of the command under their names."""

    prompt: str | None = None
    prompt_ids: tuple[int, ...] | None = None
    tokens: int = 128
    greedy: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    beams: int = 1
    length_penalty: float = 1.0
    early_stopping: str = "false"
    stops: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] | None = None
    given: frozenset[str] = frozenset()
    """Those that somebody asked for, which is more than that they have a value."""

    def sampler(self) -> SamplerSettings:
        """How one token is chosen. Raises ConfigError for a value that cannot be."""
        return SamplerSettings(
            self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty, self.seed, self.greedy
        )

    def search(self, stop_tokens: Sequence[int]) -> BeamSettings:
        """How a beam search goes. Raises ConfigError for a value that cannot be."""
        early: Any = {"false": False, "true": True, "never": "never"}[self.early_stopping]
        return BeamSettings(self.beams, self.length_penalty, early, self.tokens, tuple(stop_tokens))

    def stopping(self, stop_tokens: Sequence[int]) -> Stopping:
        """When a text ends. Raises ConfigError for a value that cannot be."""
        return Stopping(self.tokens, tuple(stop_tokens), tuple(utf8("--stop", stop) for stop in self.stops))

    def stop_tokens(self, eos: Sequence[int]) -> tuple[int, ...]:
        """The tokens to end at; `eos` are those that end the model's own texts."""
        return tuple(eos) if self.stop_ids is None else self.stop_ids

    def check(self) -> None:
        """Raise ConfigError for options that would do nothing."""
        if "" in self.stops:
            raise ConfigError("--stop is empty; give the text to end at")
        if self.greedy:
            self._refuse_idle(
                ("temperature", "top_k", "top_p", "min_p"), "--greedy, which draws no token; leave it out"
            )
        if self.beams == 1:
            self._refuse_idle(("length_penalty", "early_stopping"), "one beam; leave it out, or give --beams 2 or more")
            return
        if self.stops:
            raise ConfigError("--stop does not go with --beams: texts of a search end at tokens, see --stop-ids")
        drawn = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
        given = next((name for name, unset in drawn.items() if getattr(self, name) != unset), None)
        if given is not None:
            raise ConfigError(
                f"--{given.replace('_', '-')} does not go with --beams, which draw no token; leave one out"
            )

    def _refuse_idle(self, names: Sequence[str], beside: str) -> None:
        """Raise ConfigError for one of the options `names` that was asked for."""
        found = next((name for name in names if name in self.given), None)
        if found is not None:
            raise ConfigError(f"--{found.replace('_', '-')} does nothing with {beside}")

    def ids(self, bos: int | None, tokenizer: TextTokenizer | None) -> list[int]:
        """The ids to continue: those given, or those of the text, behind the token that begins a text."""
        if self.prompt is not None and self.prompt_ids is not None:
            raise ConfigError("--prompt and --prompt-ids are both what to continue; give one")
        if self.prompt_ids is not None:
            if not self.prompt_ids:
                raise ConfigError("--prompt-ids is empty; give at least one token")
            return list(self.prompt_ids)
        if self.prompt is None or self.prompt == "":
            if bos is None:
                raise ConfigError("this model has no token that begins a text; give --prompt or --prompt-ids")
            return [bos]
        if tokenizer is None:
            raise ConfigError("--prompt needs a tokenizer; give --tokenizer, or --prompt-ids")
        return [*beginning(tokenizer, bos), *tokenizer.encode(utf8("--prompt", self.prompt))]


class TextWriter:
    """A text as it is written: tokens to bytes, bytes to characters, the prompt in front once there is a token behind.

    `bytes_of`, `take` and `emit` are for `generation.loop.write`; without a tokenizer token ids are what is emitted.
    The `emit` that is given gets the text, and ends it by answering true.
    """

    def __init__(
        self, request: TextRequest, ids: Sequence[int], tokenizer: TextTokenizer | None,
        emit: Callable[[str], bool | None] | None,
    ) -> None:  # fmt: skip
        self._emit, self._tokenizer = emit, tokenizer
        self._before = request.prompt or ""
        self._is_enough = False
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self.bytes_of = None if tokenizer is None else bytes_behind(tokenizer, ids)

    def take(self, data: bytes) -> None:
        """Bytes of text that are certain."""
        self._say(self._characters.decode(data))

    def emit(self, token: int) -> bool:
        """A token that was chosen; answers whether somebody has enough."""
        if self._tokenizer is None:
            self._say(f"{token} ")
        return self._is_enough

    def finish(self) -> None:
        """The text is over."""
        self._say(self._characters.decode(b"", final=True))

    def _say(self, text: str) -> None:
        if self._emit is not None:
            self._is_enough = bool(self._emit(self._before + text)) or self._is_enough
            self._before = ""


def utf8(option: str, text: str) -> bytes:
    """The bytes of a text of the command line, whose bytes that are no UTF-8 arrive as half surrogate pairs."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError(f"{option} holds bytes that are no UTF-8; convert it") from None


def beginning(tokenizer: TextTokenizer, bos: int | None) -> list[int]:
    """The ids in front of a text: those that its tokenizer puts there. Where these are none, texts of SentencePiece's
    begin with the model's own token all the same."""
    begin = [] if bos is None else [bos]
    if tokenizer.prefix:
        return list(tokenizer.prefix)
    return begin if tokenizer.kind in ("sentencepiece_bpe", "unigram") else []


def bytes_behind(tokenizer: TextTokenizer, prompt: Sequence[int]) -> Callable[[int], bytes]:
    """What each token adds to a text behind `prompt`; tokens that only the model has, to fill up its table, nothing."""
    stream = tokenizer.stream()

    def bytes_of(token: int) -> bytes:
        return stream.feed_bytes(token) if token < tokenizer.vocab_size else b""

    for token in prompt:
        bytes_of(token)
    return bytes_of


def text_behind(
    tokenizer: TextTokenizer, prompt: Sequence[int], tokens: Sequence[int], stop_tokens: Sequence[int]
) -> str:
    """The characters of the tokens of a search, without those that end a text."""
    bytes_of = bytes_behind(tokenizer, prompt)
    return b"".join(bytes_of(token) for token in tokens if token not in stop_tokens).decode("utf-8", "replace")
