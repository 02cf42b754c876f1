"""The seam to a model: tokens in, logits of the last one out, with as many states (slots) as a search needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from picoformer.errors import DataError
from picoformer.generation.scores import Array


class Session(Protocol):
    """What a decoder has to offer; `slots`, `context` and `vocabulary` bound slots, positions and tokens."""

    slots: int
    context: int
    vocabulary: int

    def decode(self, tokens: Sequence[int], position: int, slot: int = 0) -> Array:
        """Feed tokens at `position` and on to a slot: the logits (V,) behind the last of them, int16 or float32."""
        ...

    def copy_state(self, source: int, target: int) -> None:
        """Make slot `target` what slot `source` is."""
        ...


def check_prompt(session: Session, prompt: Sequence[int]) -> None:
    """DataError for a prompt that is empty, longer than the context, or has a token outside the vocabulary."""
    if not prompt:
        raise DataError("the prompt has no token: begin with one, the model's first token, say")
    if len(prompt) > session.context:
        raise DataError(f"the prompt has {len(prompt)} tokens, the model's context {session.context}: shorten it")
    for token in prompt:
        if not 0 <= token < session.vocabulary:
            raise DataError(f"token {token} of the prompt is outside the vocabulary, 0 to {session.vocabulary - 1}")
