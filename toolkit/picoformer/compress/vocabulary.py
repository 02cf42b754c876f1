"""Vocabulary pruning: keep the tokens that a corpus uses, in the tokenizer, the token table and the head."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from picoformer.compress.count import count_bytes, count_parameters
from picoformer.errors import ConfigError, DataError
from picoformer.models.transformer import Transformer

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class VocabularyReport:
    """Sizes before and after. Bytes are of int8 constants; `corpus_tokens` is the corpus in tokens."""

    tokens_before: int
    tokens_after: int
    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int
    corpus_tokens_before: int
    corpus_tokens_after: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class SmallerVocabulary:
    """A model and its tokenizer, and for each old token its new one, -1 where it went: (vocabulary before,)."""

    model: Transformer
    tokenizer: Tokenizer
    new_ids: NDArray[np.int64]
    report: VocabularyReport

    def remap(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Old ids as new ones; negative ids (labels that are not judged) stay. Raises DataError for one that went."""
        if ids.size and int(ids.max()) >= len(self.new_ids):
            raise DataError(f"token {ids.max()} is outside the vocabulary of {len(self.new_ids)}")
        found: NDArray[np.int64] = np.where(ids < 0, ids, self.new_ids[np.maximum(ids, 0)])
        if ((found < 0) & (ids >= 0)).any():
            raise DataError(f"token {ids[(found < 0) & (ids >= 0)][0]} is gone; tokenize the text again")
        return found


def prune_vocabulary(
    model: Transformer, tokenizer: Tokenizer, corpus: Iterable[str], min_count: int = 1
) -> SmallerVocabulary:
    """Keep the tokens that occur `min_count` times in `corpus`, with all that they are merged from; `model` and
    `tokenizer` stay.

    A byte-level BPE keeps all its bytes, so that every text still comes back as it was; with min_count = 1 the corpus
    has the same tokens as before, under new ids. A tokenizer of whole words (or characters) keeps its unknown token,
    which all that went becomes. Special tokens stay. Logits of tokens that stay do not change. Raises ConfigError for
    a tokenizer of another kind, DataError for one that does not fit the model or a corpus without tokens.
    """
    from tokenizers import Tokenizer

    if not model.config.vocab_size:
        raise DataError("the model takes no tokens; it has no vocabulary to prune")
    before = json.loads(tokenizer.to_str())
    texts = list(corpus)
    counts = np.zeros(model.config.vocab_size, np.int64)
    for text in texts:
        ids = np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int64)
        if ids.size and int(ids.max()) >= len(counts):
            raise DataError(
                f"the tokenizer gives token {ids.max()}, the model has vocab_size = {len(counts)}; give the tokenizer "
                "that it was trained with"
            )
        counts += np.bincount(ids, minlength=len(counts))
    if not counts.any():
        raise DataError("the corpus holds no token; give the text that the model is for")
    used = {int(token) for token in np.flatnonzero(counts >= min_count)}
    kept = _kept_ids(before, used)
    if max(kept) >= model.config.vocab_size:
        raise DataError(f"the tokenizer has token {max(kept)}, the model vocab_size = {model.config.vocab_size}")
    new_ids = np.full(model.config.vocab_size, -1, np.int64)
    new_ids[sorted(kept)] = np.arange(len(kept))
    smaller_tokenizer = Tokenizer.from_str(json.dumps(_shrink_tokenizer(before, new_ids)))
    smaller = take_tokens(model, np.flatnonzero(new_ids >= 0))
    after = sum(len(smaller_tokenizer.encode(text, add_special_tokens=False).ids) for text in texts)
    report = VocabularyReport(
        model.config.vocab_size,
        len(kept),
        count_parameters(model.config),
        count_parameters(smaller.config),
        count_bytes(model.config),
        count_bytes(smaller.config),
        int(counts.sum()),
        after,
    )
    return SmallerVocabulary(smaller, smaller_tokenizer, new_ids, report)


def take_tokens(model: Transformer, tokens: NDArray[np.int64]) -> Transformer:
    """A model (eval mode) of these `tokens` only, in this order: rows of the token table, and of the head where it
    foretells tokens (tied, or pooling "none" and as many classes as tokens)."""
    config = model.config
    if not len(tokens):
        raise DataError("no token is left; keep at least one")
    foretells = config.tied_head or (config.pooling == "none" and config.classes == config.vocab_size)
    weights = dict(model.state_dict())
    names = ["embedding.token.weight"]
    if foretells and not config.tied_head:
        names += ["head.weight", *(["head.bias"] if config.head_bias else [])]
    if config.tied_head_bias:
        names.append("head_bias")
    for name in names:
        weights[name] = weights[name][tokens.tolist()]
    rank = config.embedding_rank
    if rank * (len(tokens) + config.d_model) >= len(tokens) * config.d_model and rank:
        weights["embedding.token.weight"] = (
            weights["embedding.token.weight"] @ weights.pop("embedding.token_expand.weight").T
        )
        rank = 0
    smaller_config = dataclasses.replace(
        config, vocab_size=len(tokens), classes=len(tokens) if foretells else config.classes, embedding_rank=rank
    )
    smaller = Transformer(smaller_config, seed=None).to(next(model.parameters()).dtype)
    smaller.load_state_dict(weights)
    return smaller.eval()


def _kept_ids(tokenizer: Mapping[str, Any], used: set[int]) -> set[int]:
    """Tokens in use, those they are merged from, bytes, and special tokens."""
    kind = tokenizer["model"]["type"]
    vocabulary: dict[str, int] = tokenizer["model"].get("vocab", {}) if kind in ("BPE", "WordLevel") else {}
    special = {int(token["id"]) for token in tokenizer.get("added_tokens") or ()}
    unknown = tokenizer["model"].get("unk_token")
    if unknown in vocabulary:
        special.add(vocabulary[unknown])
    if kind == "WordLevel":
        return used | special
    byte_level = _names(tokenizer.get("pre_tokenizer")) >= {"ByteLevel"}
    if kind != "BPE" or not (byte_level or tokenizer["model"].get("byte_fallback")):
        raise ConfigError(
            f"the tokenizer's model is {kind}{'' if kind != 'BPE' else ' without bytes'}; its vocabulary can be pruned "
            "for a byte-level BPE or for whole words (WordLevel)"
        )
    single = {id_ for name, id_ in vocabulary.items() if (len(name) == 1 if byte_level else _is_byte(name))}
    parents: dict[int, set[int]] = {}
    for left, right in map(_pair, tokenizer["model"]["merges"]):
        parents.setdefault(vocabulary[left + right], set()).update((vocabulary[left], vocabulary[right]))
    kept, waiting = set(), list(used | special | single)
    while waiting:
        token = waiting.pop()
        if token not in kept:
            kept.add(token)
            waiting.extend(parents.get(token, ()))
    return kept


def _shrink_tokenizer(before: Mapping[str, Any], new_ids: NDArray[np.int64]) -> dict[str, Any]:
    """The tokenizer.json with the kept tokens under their new ids, and the merges that make one of them."""
    after: dict[str, Any] = copy.deepcopy(dict(before))
    model = after["model"]
    model["vocab"] = {
        name: int(new_ids[id_])
        for name, id_ in sorted(model["vocab"].items(), key=lambda item: item[1])
        if id_ < len(new_ids) and new_ids[id_] >= 0
    }
    if "merges" in model:
        model["merges"] = [
            merge
            for merge in model["merges"]
            if all(part in model["vocab"] for part in (*_pair(merge), "".join(_pair(merge))))
        ]
    for token in after.get("added_tokens") or ():
        token["id"] = int(new_ids[token["id"]])
    padding = after.get("padding")
    if padding and "pad_id" in padding:
        padding["pad_id"] = int(new_ids[padding["pad_id"]])
    _renumber(after.get("post_processor"), new_ids)
    return after


def _renumber(part: Any, new_ids: NDArray[np.int64]) -> None:
    """New ids for the special tokens that a post-processor adds, wherever it names them, in place."""
    if isinstance(part, list):
        for item in part:
            _renumber(item, new_ids)
    elif isinstance(part, dict):
        for key, value in part.items():
            if key == "ids":  # TemplateProcessing
                part[key] = [int(new_ids[token]) for token in value]
            elif key in ("sep", "cls"):  # BertProcessing and RobertaProcessing: [token, id]
                part[key] = [value[0], int(new_ids[value[1]])]
            else:
                _renumber(value, new_ids)


def _pair(merge: Any) -> tuple[str, str]:
    """A merge, which older files write as one text with a space between."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _names(part: Any) -> set[str]:
    """The types of a pre-tokenizer and of those inside it."""
    if not isinstance(part, dict):
        return set()
    return {part["type"]}.union(*(_names(inner) for inner in part.get("pretokenizers", ())))


def _is_byte(name: str) -> bool:
    """Whether a token is one of <0x00> to <0xFF>, or a single character."""
    return len(name) == 1 or (len(name) == 6 and name.startswith("<0x") and name.endswith(">"))
