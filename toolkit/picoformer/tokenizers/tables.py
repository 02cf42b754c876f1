"""What a tokenizer computes, as tables that a device can hold: the description between the files and the C.

SPEC.md, "Text", says what each field means; firmware/include/picoformer/tokenizer.h has the same fields.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from itertools import pairwise

from picoformer.errors import UnsupportedError
from picoformer.tokenizers.charsmap import CharsMap

SPACE_SYMBOL = "\N{LOWER ONE EIGHTH BLOCK}"
"""U+2581, what SentencePiece writes for a space."""


class Flag(IntFlag):
    """What an id is, beside its bytes (PF_TOKEN_*)."""

    CONTROL = 1
    BYTE = 2
    CONTINUES = 4
    JOINED = 8


class Decode(IntEnum):
    """What happens to spaces at the start of a decoded text (PF_DECODE_*)."""

    PLAIN = 0
    STRIP = 1
    STRIP_ANY = 2
    STRIP_RUN = 3
    STRIP_ALL = 4
    WORDS = 5


class Split(IntEnum):
    """Into which words a byte-level BPE cuts a text (PF_SPLIT_*)."""

    NONE = 0
    GPT2 = 1
    GPT4 = 2
    RUNS = 3


class Prefix(IntEnum):
    """Whether a text gets a space in front (PF_PREFIX_*)."""

    NONE = 0
    ALWAYS = 1
    UNLESS = 2


@dataclass(frozen=True)
class Vocabulary:
    """The bytes that each id stands for, and what it is."""

    pieces: tuple[bytes, ...]
    flags: tuple[int, ...]
    decode: Decode

    def __len__(self) -> int:
        return len(self.pieces)


@dataclass(frozen=True)
class Pairs:
    """Merges of a BPE: (left, right, merged, rank), ascending by left and right, each pair once."""

    rows: tuple[tuple[int, int, int, int], ...] = ()

    @classmethod
    def of(cls, rows: Iterable[tuple[int, int, int, int]]) -> Pairs:
        """Sorted; of two rows with one pair the later stays, as in a dictionary."""
        return cls(tuple(sorted({row[:2]: row for row in rows}.values())))

    @property
    def merged_is_rank(self) -> bool:
        """Whether comparing merged ids compares ranks: then the device needs no table of ranks."""
        by_rank = sorted({(rank, merged) for _, _, merged, rank in self.rows})
        return all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(by_rank))


Runs = tuple[tuple[int, int], ...]
"""Character classes: (first code point, class), ascending; class 0 below the first."""


@dataclass(frozen=True)
class ByteBpe:
    """Byte-level BPE: `byte_ids` has the token of each byte, −1 where it has none and is left out; `words` are tokens
    that are taken whole where a word is one."""

    byte_ids: tuple[int, ...]
    pairs: Pairs
    split: Split
    classes: Runs = ()
    digits: Runs = ()
    longest_number: int = 1
    prefix_space: bool = False
    words: tuple[int, ...] = ()


@dataclass(frozen=True)
class Spaces:
    """How SentencePiece makes characters of a text, and libraries that follow it."""

    prefix: Prefix = Prefix.NONE
    remove_extra: bool = False
    escaped: bool = True
    split: bool = False
    map: CharsMap = field(default_factory=CharsMap)


@dataclass(frozen=True)
class PieceBpe:
    """BPE over characters; without pairs, a tokenizer of characters. `characters`: code point → id."""

    spaces: Spaces
    characters: dict[int, int]
    pairs: Pairs = field(default_factory=Pairs)
    byte_ids: tuple[int, ...] | None = None
    unknown: int = -1
    fuse_unknown: bool = True


class Word(IntFlag):
    """What WordPiece makes of a character (PF_WORD_*)."""

    LETTER = 0
    SPACE = 1
    PUNCTUATION = 2
    DELETED = 4
    SPACED = 8
    MAPPED = 16


class Map(IntEnum):
    """How a mapped character is kept (PF_MAP_*)."""

    DELTA = 0
    SEQUENCE = 1
    HANGUL = 2


@dataclass(frozen=True)
class WordPiece:
    """WordPiece behind BERT's normalization. `map` and `map_values`: runs of mapped characters; `order`: combining
    classes of those that stay."""

    starts: tuple[int, ...]
    continuations: tuple[int, ...]
    characters: Runs
    map: Runs
    map_values: tuple[int, ...]
    sequences: tuple[str, ...]
    order: Runs
    unknown: int
    longest_word: int


@dataclass(frozen=True)
class Unigram:
    """Unigram: `costs` has minus the score of each of `pieces`, as bit patterns of floats: of 64 bits if `twice`, else
    of 32."""

    spaces: Spaces
    pieces: tuple[int, ...]
    costs: tuple[int, ...]
    unknown_cost: int
    unknown: int
    twice: bool
    byte_ids: tuple[int, ...] | None = None
    fuse_unknown: bool = True


Model = ByteBpe | PieceBpe | WordPiece | Unigram


@dataclass(frozen=True)
class TokenizerTables:
    """A tokenizer as a device has it. `prefix` and `suffix`: ids that the model expects around a text."""

    kind: str
    vocabulary: Vocabulary
    model: Model
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()


def refuse(
    path: object, what: str, mend: str = "use it on the host, or train one that has no such thing"
) -> UnsupportedError:
    """The error for what a device cannot compute exactly."""
    return UnsupportedError(f"{path}: {what} is not covered on a device; {mend}")
