"""The one interface of all tokenizers on the host."""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from picoformer.errors import DataError
from picoformer.tokenizers.tables import Decode, Flag, TokenizerTables, Vocabulary


def readable(text: str | bytes) -> str:
    """A text as every tokenizer reads it: of bytes that are no UTF-8, and of half surrogate pairs, each maximal part of
    a broken sequence is U+FFFD."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return data.decode("utf-8", "replace")


class TextTokenizer(ABC):
    """A tokenizer of a file. Text is plain: names of special tokens in it are characters like any other.

    kind        byte_bpe, sentencepiece_bpe, wordpiece, unigram or character; "other" for what only the library knows
    bos, eos    the ids at a text's two ends, None where the file names none
    prefix, suffix   the ids that the model expects around a text: [CLS] … [SEP], or <s> alone
    """

    def __init__(
        self, name: str, kind: str, bos: int | None, eos: int | None, prefix: Sequence[int], suffix: Sequence[int]
    ) -> None:
        self.name, self.kind, self.bos, self.eos = name, kind, bos, eos
        self.prefix, self.suffix = tuple(prefix), tuple(suffix)

    @property
    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """What each id stands for."""

    @abstractmethod
    def _encode(self, text: str) -> list[int]:
        """The ids of a text without half surrogate pairs."""

    @abstractmethod
    def tables(self) -> TokenizerTables:
        """What a device needs to give the same ids. UnsupportedError names what it cannot compute exactly."""

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary)

    def encode(self, text: str | bytes) -> list[int]:
        """The ids of a text, without those around it."""
        return self._encode(readable(text))

    def encode_sequence(self, text: str | bytes) -> list[int]:
        """The ids of a text with those that the model expects around it."""
        return [*self.prefix, *self.encode(text), *self.suffix]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that ids stand for. DataError for an id outside the vocabulary."""
        stream = self.stream()
        return b"".join(stream.feed_bytes(i) for i in ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids: their bytes as UTF-8, each broken part as U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def stream(self) -> Stream:
        """A decoder that is fed ids one by one."""
        return Stream(self)

    def check_vocabulary(self, size: int) -> None:
        """DataError unless a model with `size` rows in its embedding goes with this tokenizer.

        Models often have a few rows more than their tokenizer has tokens; fewer cannot be.
        """
        if size < self.vocab_size:
            raise DataError(
                f"{self.name}: the tokenizer has {self.vocab_size} tokens, the model's vocabulary {size}; "
                "give the tokenizer that the model was trained with"
            )


class Stream:
    """Ids to text as they come: what `feed` returns, joined, and `end` behind it, is what `decode` gives of all."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._name, self._vocabulary, self._started = tokenizer.name, tokenizer.vocabulary, False
        self._text = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """The characters that are complete with this id, often none."""
        return self._text.decode(self.feed_bytes(token))

    def end(self) -> str:
        """What a text that breaks off in the middle of a character ends with."""
        return self._text.decode(b"", final=True)

    def feed_bytes(self, token: int) -> bytes:
        """The bytes that this id adds."""
        vocabulary = self._vocabulary
        if not 0 <= token < len(vocabulary):
            raise DataError(f"{self._name}: id {token} is outside the vocabulary of {len(vocabulary)} tokens")
        piece, flags, rule = vocabulary.pieces[token], vocabulary.flags[token], vocabulary.decode
        if flags & Flag.CONTROL:
            return b""
        if not self._started:
            if rule is Decode.STRIP_ANY or (rule in (Decode.STRIP, Decode.STRIP_RUN) and not flags & Flag.BYTE):
                piece = piece.removeprefix(b" ")
            elif rule is Decode.STRIP_ALL and not flags & Flag.BYTE:
                piece = piece.replace(b" ", b"")
            elif rule is Decode.WORDS and flags & Flag.CONTINUES:
                piece = b"##" + piece
        elif rule is Decode.WORDS and not flags & (Flag.CONTINUES | Flag.JOINED):
            piece = b" " + piece
        self._started = self._started or rule is not Decode.STRIP_RUN or bool(piece)
        return piece
