"""A text as the inputs of a model: tokens, cut or filled up to what it takes, with a mask, types and a length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from picoformer.errors import DataError, ModelError
from picoformer.raspberry_pi.manifest import TextInput
from picoformer.raspberry_pi.onnx_session import Array, OnnxSession, Port

if TYPE_CHECKING:
    from picoformer.tokenizers import TextTokenizer

MOST_CHARACTERS = 1 << 20
"""Of one text."""


@dataclass(frozen=True)
class Encoded:
    """The model's inputs for a text, how many tokens it has, and whether some were cut off at the end."""

    inputs: dict[str, Array]
    tokens: int
    is_cut: bool


class TextEncoder:
    """Text to inputs. Raises ModelError where the model has no input that the bundle names."""

    def __init__(self, text: TextInput, tokenizer: TextTokenizer, session: OnnxSession) -> None:
        self._text, self._tokenizer = text, tokenizer
        self._ports = {port.name: port for port in session.inputs}
        named = [name for name in (text.ids, text.mask, text.types, text.length) if name is not None]
        for name in named:
            if name not in self._ports:
                raise ModelError(
                    f"the bundle gives text to the input '{name[:80]}', and its model has none; pack again"
                )
        for name in self._ports:
            if name not in named:
                raise ModelError(f"the model's input '{name}' gets nothing from a text; pack again")
        rows = self._ports[text.ids].shape[-1:] or (1,)
        self._fixed = rows[0]
        """How many tokens the model takes, None for any number."""
        self.longest = text.max_length if self._fixed is None else min(self._fixed, text.max_length)

    def encode(self, text: str) -> Encoded:
        """The inputs of a text. Raises DataError for one that is too long to look at, or has no token."""
        if len(text) > MOST_CHARACTERS:
            raise DataError(f"the text has {len(text)} characters; give at most {MOST_CHARACTERS}")
        tokenizer = self._tokenizer
        prefix, suffix, ids = tokenizer.prefix, tokenizer.suffix, tokenizer.encode(text)
        room = self.longest - len(prefix) - len(suffix)
        if room < 1:
            raise ModelError(f"{self.longest} tokens have no room for a text; pack again with a larger length")
        row = [*prefix, *ids[:room], *suffix]
        if not row:
            raise DataError("the text has no token; give one with words in it")
        count = len(row)
        length = count if self._fixed is None else self._fixed
        text_input, inputs = self._text, {}
        filled = np.full(length, text_input.pad, np.int64)
        filled[:count] = row
        inputs[text_input.ids] = self._shaped(text_input.ids, filled)
        if text_input.mask is not None:
            inputs[text_input.mask] = self._shaped(text_input.mask, (np.arange(length) < count).astype(np.int64))
        if text_input.types is not None:
            inputs[text_input.types] = self._shaped(text_input.types, np.zeros(length, np.int64))
        if text_input.length is not None:
            port = self._ports[text_input.length]
            inputs[port.name] = np.full([1] * len(port.shape), count, port.dtype)
        return Encoded(inputs, count, len(ids) > room)

    def _shaped(self, name: str, row: Array) -> Array:
        port: Port = self._ports[name]
        return row.reshape([1] * (len(port.shape) - 1) + [-1]).astype(port.dtype)
