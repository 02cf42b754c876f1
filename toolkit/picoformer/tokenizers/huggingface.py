"""tokenizer.json, by the library tokenizers: encoding, and what each id stands for."""

from __future__ import annotations

import json
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from picoformer.errors import DataError
from picoformer.tokenizers.interface import TextTokenizer
from picoformer.tokenizers.tables import Decode, Flag, TokenizerTables, Vocabulary, refuse
from picoformer.tokenizers.training import load_tokenizer

MAX_CONFIG = 4 << 20
ENDS = {
    "bos": ("<s>", "<|begin_of_text|>", "<|endoftext|>", "[CLS]"),
    "eos": ("</s>", "<|end_of_text|>", "<|endoftext|>", "[SEP]"),
}
"""What the tokens at a text's ends are called where no tokenizer_config.json says it."""

CLEANED = (
    *((f" {mark}", mark) for mark in ".?!,"),
    (" ' ", "'"),
    *((f" {end}", end) for end in ("n't", "'m")),
    (" do not", " don't"),
    *((f" {end}", end) for end in ("'s", "'ve", "'re")),
)
"""What the library's cleanup replaces, in this order, token by token."""

KINDS = {"WordPiece": "wordpiece", "Unigram": "unigram", "WordLevel": "character"}


@cache
def byte_alphabet() -> dict[str, int]:
    """The characters that byte-level BPE writes for bytes (Radford et al. 2019): what is printable in Latin-1 as it is,
    the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(rest)}


def steps(part: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """A normalizer, pre-tokenizer or decoder as the list of its steps; `key` is what a Sequence calls them."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        return [step for inner in part[key] for step in steps(inner, key)]
    return [part]


class JsonTokenizer(TextTokenizer):
    """A tokenizer.json. Names of special tokens in a text are text."""

    def __init__(self, path: Path) -> None:
        self.library = load_tokenizer(path)
        self.library.no_padding()
        self.library.no_truncation()
        self.library.encode_special_tokens = True
        self.parsed: dict[str, Any] = json.loads(self.library.to_str())
        pre_tokenizers = [step["type"] for step in steps(self.parsed["pre_tokenizer"], "pretokenizers")]
        kind = KINDS.get(self.parsed["model"]["type"])
        if kind is None:
            kind = "byte_bpe" if "ByteLevel" in pre_tokenizers else "sentencepiece_bpe"
        around = self.library.encode("a")
        inner = [i for i, special in enumerate(around.special_tokens_mask) if not special] or [0]
        super().__init__(
            str(path),
            kind,
            self._end(path, "bos"),
            self._end(path, "eos"),
            around.ids[: inner[0]],
            around.ids[inner[-1] + 1 :],
        )

    def _end(self, path: Path, which: str) -> int | None:
        """The id of bos or eos: what tokenizer_config.json beside the file calls it, else a usual name."""
        config = path.parent / "tokenizer_config.json"
        names: list[Any] = list(ENDS[which])
        if config.is_file() and config.stat().st_size <= MAX_CONFIG:
            try:
                named = json.loads(config.read_text("utf-8"))
                if not isinstance(named, dict):
                    raise ValueError("it is no table")
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{config}: not a tokenizer's settings ({error}); save it again or remove it"
                ) from error
            token = named.get(f"{which}_token", ...)
            if isinstance(token, dict):
                token = token.get("content")
            if token is not ...:
                names = [token]
        for name in names:
            if isinstance(name, str) and (found := self.library.token_to_id(name)) is not None:
                return int(found)
        return None

    def _encode(self, text: str) -> list[int]:
        return list(self.library.encode(text, add_special_tokens=False).ids)

    def tables(self) -> TokenizerTables:
        from picoformer.tokenizers.huggingface_tables import tables_of

        return tables_of(self)

    @cached_property
    def tokens(self) -> tuple[str | None, ...]:
        """The name of each id, None for those between that have none."""
        vocabulary = self.library.get_vocab(with_added_tokens=True)
        size = max(vocabulary.values(), default=-1) + 1
        names: list[str | None] = [None] * size
        for name, i in vocabulary.items():
            names[i] = name
        return tuple(names)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        decoder = steps(self.parsed["decoder"], "decoders")
        types = [step["type"] for step in decoder]
        special = {entry["id"] for entry in self.parsed["added_tokens"] if entry["special"]}
        rule = Decode.PLAIN
        if "WordPiece" in types:
            rule = Decode.WORDS
        elif "Metaspace" in types:
            (step,) = decoder
            rule = Decode.PLAIN if step["prepend_scheme"] == "never" else Decode.STRIP_ALL
        elif "Strip" in types:
            rule = Decode.STRIP_ANY
        pieces, flags = [], []
        for i, token in enumerate(self.tokens):
            if token is None or i in special:
                pieces.append((token or "").encode())
                flags.append(int(Flag.CONTROL))
                continue
            piece, flag = self._piece(token, decoder)
            pieces.append(piece)
            flags.append(int(flag))
        return Vocabulary(tuple(pieces), tuple(flags), rule)

    def _piece(self, token: str, decoder: list[dict[str, Any]]) -> tuple[bytes, int]:
        """The bytes of a token, and its flags, by the decoder's steps."""
        flag = 0
        for step in decoder:
            match step:
                case {"type": "ByteLevel"}:
                    alphabet = byte_alphabet()
                    known = all(c in alphabet for c in token)
                    return (bytes(alphabet[c] for c in token) if known else token.encode()), 0
                case {"type": "ByteFallback"}:
                    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
                        try:
                            return bytes([int(token[3:5], 16)]), Flag.BYTE
                        except ValueError:
                            pass
                case {"type": "Replace", "pattern": {"String": old}, "content": new}:
                    token = token.replace(old, new)
                case {"type": "Metaspace", "replacement": symbol}:
                    token = token.replace(symbol, " ")
                case {"type": "WordPiece", "prefix": prefix, "cleanup": cleanup}:
                    return self._word_piece(token, prefix, cleanup)
                case {"type": "Fuse"}:
                    pass
                case {"type": "Strip", "content": " ", "start": 1, "stop": 0}:
                    pass
                case _:
                    raise refuse(self.name, f"the decoder {step['type']}")
        return token.encode(), flag

    def _word_piece(self, token: str, prefix: str, cleanup: bool) -> tuple[bytes, int]:
        """The bytes of a token of WordPiece. The library's cleanup takes the space before '.' and others away."""
        if token.startswith(prefix):
            return token[len(prefix) :].encode(), Flag.CONTINUES
        behind, alone = f" {token}", token
        if cleanup:
            for old, new in CLEANED:
                behind, alone = behind.replace(old, new), alone.replace(old, new)
        if alone != token or behind not in (token, f" {token}"):
            raise refuse(self.name, f"the token '{token}', which decoding cleans,")
        return token.encode(), 0 if behind.startswith(" ") else Flag.JOINED
