"""What a tokenizer.json computes, as tables; what a device would not compute exactly is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from picoformer.tokenizers.tables import (
    SPACE_SYMBOL,
    ByteBpe,
    Flag,
    Pairs,
    PieceBpe,
    Prefix,
    Runs,
    Spaces,
    Split,
    TokenizerTables,
    Unigram,
    refuse,
)
from picoformer.tokenizers.unicode_classes import classes_of_patterns, digits
from picoformer.tokenizers.wordpiece_tables import wordpiece

if TYPE_CHECKING:
    from picoformer.tokenizers.huggingface import JsonTokenizer

LETTERS = ((1, r"\p{L}"), (2, r"\p{N}"), (3, r"\s"))
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|@| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BLOOM = r"[^(\s|[.,!?…。，、।۔،])]"
PATTERNS: dict[str, tuple[Split, tuple[tuple[int, str], ...], int]] = {
    GPT2: (Split.GPT2, LETTERS, 1),
    _GPT4.replace("@", r"\p{N}"): (Split.GPT4, LETTERS, 1),
    _GPT4.replace("@", r"\p{N}{1,3}"): (Split.GPT4, LETTERS, 3),
    f" ?{BLOOM}+": (Split.RUNS, ((1, BLOOM),), 1),
}
"""Patterns of byte-level BPE that the C knows: (split, classes, longest number)."""


def tables_of(tokenizer: JsonTokenizer) -> TokenizerTables:
    """The tables of a tokenizer.json."""
    for entry in tokenizer.parsed["added_tokens"]:
        if not entry["special"]:
            raise refuse(tokenizer.name, f"the added token '{entry['content']}', which is no special one,")
    model = MODELS[tokenizer.kind](tokenizer)
    return TokenizerTables(tokenizer.kind, tokenizer.vocabulary, model, tokenizer.prefix, tokenizer.suffix)


def _pairs(tokenizer: JsonTokenizer) -> Pairs:
    model = tokenizer.parsed["model"]
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise refuse(tokenizer.name, f"{key} = {model[key]!r}")
    vocabulary = model["vocab"]
    rows = []
    for rank, (left, right) in enumerate(model["merges"]):
        rows.append((vocabulary[left], vocabulary[right], vocabulary[left + right], rank))
    return Pairs.of(rows)


def _byte_bpe(tokenizer: JsonTokenizer) -> ByteBpe:
    from picoformer.tokenizers.huggingface import byte_alphabet, steps

    parsed, name = tokenizer.parsed, tokenizer.name
    if parsed["normalizer"] is not None:
        raise refuse(name, f"the normalizer {parsed['normalizer']['type']}")
    if parsed["model"].get("byte_fallback"):
        raise refuse(name, "byte_fallback with byte-level BPE")
    split, longest, prefix_space = Split.NONE, 1, False
    classes: tuple[tuple[int, str], ...] = ()
    digit_runs: Runs = ()
    before = steps(parsed["pre_tokenizer"], "pretokenizers")
    for i, step in enumerate(before):
        match step:
            case {"type": "Digits", "individual_digits": True} if i == 0:
                digit_runs = digits()
            case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False} if (
                pattern in PATTERNS and split is Split.NONE
            ):
                split, classes, longest = PATTERNS[pattern]
            case {"type": "ByteLevel", "add_prefix_space": prefix_space, "use_regex": use_regex} if (
                i == len(before) - 1 and not (use_regex and split) and not (prefix_space and split)
            ):
                if use_regex:
                    split, classes, longest = PATTERNS[GPT2]
            case _:
                shown = step.get("pattern", {}).get("Regex", "") if step["type"] == "Split" else ""
                raise refuse(name, f"the pre-tokenizer {step['type']} {shown}".rstrip() + f" (step {i + 1})")
    vocabulary = parsed["model"]["vocab"]
    alphabet = {byte: character for character, byte in byte_alphabet().items()}
    ids = tuple(vocabulary.get(alphabet[byte], -1) for byte in range(256))
    unknown = parsed["model"].get("unk_token")
    if min(ids) < 0 and unknown is not None:
        raise refuse(name, f"an unknown token ('{unknown}') for {ids.count(-1)} bytes without a token")
    known = set(byte_alphabet())
    whole = parsed["model"].get("ignore_merges")
    words = tuple(i for token, i in vocabulary.items() if known.issuperset(token)) if whole else ()
    return ByteBpe(
        ids, _pairs(tokenizer), split, classes_of_patterns(classes), digit_runs, longest, bool(prefix_space), words
    )


def _spaces(tokenizer: JsonTokenizer) -> Spaces:
    """How the normalizer and pre-tokenizer treat spaces, where they are those of a SentencePiece model."""
    from picoformer.tokenizers.huggingface import steps

    normalizer = steps(tokenizer.parsed["normalizer"], "normalizers")
    before = steps(tokenizer.parsed["pre_tokenizer"], "pretokenizers")
    prefix, escaped, split = Prefix.NONE, False, False
    for i, step in enumerate(normalizer):
        match step:
            case {"type": "Prepend", "prepend": prepend} if prepend == SPACE_SYMBOL and i == 0:
                prefix = Prefix.ALWAYS
            case {"type": "Replace", "pattern": {"String": " "}, "content": content} if content == SPACE_SYMBOL:
                escaped = True
            case _:
                raise refuse(tokenizer.name, f"the normalizer {step['type']} (step {i + 1})")
    for i, step in enumerate(before):
        match step:
            case {"type": "Metaspace", "replacement": symbol, "prepend_scheme": scheme} if (
                symbol == SPACE_SYMBOL and i == 0 and prefix is Prefix.NONE
            ):
                escaped, split = True, bool(step.get("split", True))
                prefix = Prefix.NONE if scheme == "never" else Prefix.UNLESS
            case _:
                raise refuse(tokenizer.name, f"the pre-tokenizer {step['type']} (step {i + 1})")
    if prefix is not Prefix.NONE and not escaped:
        raise refuse(tokenizer.name, f"the normalizer Prepend without one that replaces ' ' by '{SPACE_SYMBOL}'")
    return Spaces(prefix, False, escaped, split)


def _characters(vocabulary: dict[str, int], spaces: Spaces) -> dict[int, int]:
    """The tokens of one character, U+2581 as a space where it stands for one."""
    space = {SPACE_SYMBOL: " "} if spaces.escaped else {}
    return {
        ord(space.get(name, name)): i
        for name, i in vocabulary.items()
        if len(name) == 1 and not (spaces.escaped and name == " ")
    }


def _piece_bpe(tokenizer: JsonTokenizer) -> PieceBpe:
    model, name = tokenizer.parsed["model"], tokenizer.name
    if model.get("ignore_merges"):
        raise refuse(name, "ignore_merges without byte-level BPE")
    spaces = _spaces(tokenizer)
    vocabulary, pairs = model["vocab"], _pairs(tokenizer)
    unknown = vocabulary.get(model.get("unk_token"), -1)
    byte_ids = None
    if model.get("byte_fallback"):
        missing = [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in vocabulary]
        if missing:
            raise refuse(name, f"byte_fallback without the token {missing[0]}")
        byte_ids = tuple(vocabulary[f"<0x{byte:02X}>"] for byte in range(256))
    stiff = {unknown, *(byte_ids or ())}
    for left, right, _, _ in pairs.rows:
        if left in stiff or right in stiff:
            raise refuse(name, "a merge of the unknown token or of a byte token")
    return PieceBpe(spaces, _characters(vocabulary, spaces), pairs, byte_ids, unknown, bool(model.get("fuse_unk")))


def _character(tokenizer: JsonTokenizer) -> PieceBpe:
    parsed, name = tokenizer.parsed, tokenizer.name
    match parsed["pre_tokenizer"]:
        case {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}:
            pass
        case _:
            raise refuse(name, "a vocabulary of whole words")
    if parsed["normalizer"] is not None:
        raise refuse(name, f"the normalizer {parsed['normalizer']['type']}")
    vocabulary = parsed["model"]["vocab"]
    spaces = Spaces(escaped=False)
    unknown = vocabulary.get(parsed["model"]["unk_token"])
    if unknown is None:
        raise refuse(name, "a tokenizer of characters without an unknown token")
    return PieceBpe(spaces, _characters(vocabulary, spaces), unknown=unknown, fuse_unknown=False)


def _unigram(tokenizer: JsonTokenizer) -> Unigram:
    model, name = tokenizer.parsed["model"], tokenizer.name
    for step in (tokenizer.parsed["normalizer"] or {}).get("normalizers", [tokenizer.parsed["normalizer"] or {}]):
        if step.get("type") == "Precompiled":
            raise refuse(name, "the normalizer Precompiled", "give the SentencePiece .model that it was made from")
    if model.get("byte_fallback"):
        raise refuse(name, "byte_fallback with Unigram")
    if model["unk_id"] is None:
        raise refuse(name, "Unigram without an unknown token")
    spaces = _spaces(tokenizer)
    scores = np.array([score for _, score in model["vocab"]], np.float64)
    kept = [i for i, (piece, _) in enumerate(model["vocab"]) if piece and not (spaces.escaped and " " in piece)]
    for i in kept:
        if scores[i] > 0 or 0 < -scores[i] < np.finfo(np.float64).tiny or scores[i] < -(2.0**100):
            raise refuse(name, f"token {i} with the score {scores[i]:g}")
        if spaces.escaped and SPACE_SYMBOL in model["vocab"][i][0] and tokenizer.vocabulary.flags[i] & Flag.CONTROL:
            raise refuse(name, f"the special token '{model['vocab'][i][0]}'")
    unknown_cost = np.float64(10.0) - scores.min()
    return Unigram(
        spaces,
        tuple(kept),
        tuple(np.abs(scores[kept]).view(np.uint64).tolist()),
        int(unknown_cost.view(np.uint64)),
        model["unk_id"],
        twice=True,
    )


MODELS: dict[str, Any] = {
    "byte_bpe": _byte_bpe,
    "sentencepiece_bpe": _piece_bpe,
    "character": _character,
    "wordpiece": wordpiece,
    "unigram": _unigram,
}
"""Kind → what reads its tables."""
