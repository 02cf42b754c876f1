"""One small tokenizer of each kind and setting that is covered, trained when a test asks for it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from c_tokenizer import LANGUAGES, training_texts
from picoformer.tokenizers.huggingface_tables import PATTERNS
from picoformer.tokenizers.llama2c import write_tokenizer_bin
from picoformer.tokenizers.sentencepiece_file import read_model
from picoformer.tokenizers.training import train_tokenizer

Builder = Callable[[Path], Path]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _library() -> Any:
    import tokenizers

    return tokenizers


def save_json(folder: Path, tokenizer: Any) -> Path:
    """The path of its tokenizer.json."""
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def _byte_bpe(folder: Path, pre_tokenizer: Callable[[Any], Any], size: int = 1500, **model: Any) -> Path:
    lib = _library()
    tokenizer = lib.Tokenizer(lib.models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer(lib.pre_tokenizers)
    tokenizer.decoder = lib.decoders.ByteLevel()
    alphabet = lib.pre_tokenizers.ByteLevel.alphabet() if size >= 1000 else []
    trainer = lib.trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, show_progress=False, special_tokens=["<|endoftext|>"]
    )
    tokenizer.train_from_iterator(training_texts(), trainer)
    return save_json(folder, tokenizer)


def _pattern(pattern: str) -> Callable[[Any], Any]:
    from tokenizers import Regex

    return lambda p: p.Sequence(
        [p.Split(Regex(pattern), "isolated"), p.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def _piece_bpe(folder: Path, special: list[str], settle: Callable[[Any, Any], None], **model: Any) -> Path:
    lib = _library()
    tokenizer = lib.Tokenizer(lib.models.BPE(unk_token="<unk>", **model))
    settle(lib, tokenizer)
    trainer = lib.trainers.BpeTrainer(vocab_size=1500, show_progress=False, limit_alphabet=100, special_tokens=special)
    tokenizer.train_from_iterator(training_texts(), trainer)
    path = save_json(folder, tokenizer)
    saved = json.loads(path.read_text())  # bytes were special for the trainer only
    saved["added_tokens"] = [entry for entry in saved["added_tokens"] if entry["content"] not in _BYTES]
    path.write_text(json.dumps(saved))
    return path


def _llama(lib: Any, tokenizer: Any) -> None:
    n, d = lib.normalizers, lib.decoders
    tokenizer.normalizer = n.Sequence([n.Prepend("▁"), n.Replace(" ", "▁")])
    tokenizer.decoder = d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse(), d.Strip(" ", 1, 0)])


def _metaspace(scheme: str, split: bool) -> Callable[[Any, Any], None]:
    def settle(lib: Any, tokenizer: Any) -> None:
        tokenizer.pre_tokenizer = lib.pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
        tokenizer.decoder = lib.decoders.Metaspace(prepend_scheme=scheme, split=split)

    return settle


def _bert(folder: Path, **normalizer: Any) -> Path:
    lib = _library()
    tokenizer = lib.Tokenizer(lib.models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = lib.normalizers.BertNormalizer(**normalizer)
    tokenizer.pre_tokenizer = lib.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = lib.decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = lib.trainers.WordPieceTrainer(vocab_size=2000, show_progress=False, special_tokens=special)
    tokenizer.train_from_iterator(training_texts(), trainer)
    tokenizer.post_processor = lib.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return save_json(folder, tokenizer)


def _unigram(folder: Path, split: bool) -> Path:
    lib = _library()
    tokenizer = lib.Tokenizer(lib.models.Unigram())
    _metaspace("always", split)(lib, tokenizer)
    special = ["<unk>", "<s>"]
    trainer = lib.trainers.UnigramTrainer(
        vocab_size=1500, show_progress=False, unk_token="<unk>", special_tokens=special
    )
    # Without words to split at, its trainer takes long.
    texts = training_texts() if split else training_texts()[-300:]
    tokenizer.train_from_iterator(texts, trainer)
    return save_json(folder, tokenizer)


def _character(folder: Path) -> Path:
    return save_json(folder, train_tokenizer("".join(LANGUAGES[:5]), "character"))


def train_sentencepiece(folder: Path, **settings: Any) -> Path:
    """A SentencePiece model; the path of its .model."""
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(training_texts()), model_writer=model, minloglevel=2, num_threads=1, **settings
    )
    path = folder / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return path


LLAMA = {
    "model_type": "bpe",
    "vocab_size": 1000,
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "character_coverage": 0.98,
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
}
"""How Llama's tokenizers were trained, smaller."""


def _tokenizer_bin(folder: Path) -> Path:
    """llama2.c's export of a SentencePiece model: the pieces with spaces, and what decoding the two ends would give."""
    pieces = read_model(train_sentencepiece(folder, **LLAMA)).pieces
    names = [piece.replace("▁", " ") for piece, _, _ in pieces]
    names[1:3] = ["\n<s>\n", "\n</s>\n"]
    path = folder / "tokenizer.bin"
    write_tokenizer_bin(path, [(name.encode(), score) for name, (_, score, _) in zip(names, pieces, strict=True)])
    return path


GPT2, QWEN, LLAMA3, BLOOM = PATTERNS

CASES: dict[str, Builder] = {
    "gpt2": partial(_byte_bpe, pre_tokenizer=lambda p: p.ByteLevel(add_prefix_space=False)),
    "gpt2_pattern": partial(_byte_bpe, pre_tokenizer=_pattern(GPT2)),
    "roberta": partial(_byte_bpe, pre_tokenizer=lambda p: p.ByteLevel(add_prefix_space=True)),
    "digits": partial(
        _byte_bpe, pre_tokenizer=lambda p: p.Sequence([p.Digits(True), p.ByteLevel(add_prefix_space=True)])
    ),
    "qwen": partial(_byte_bpe, pre_tokenizer=_pattern(QWEN)),
    "llama3": partial(_byte_bpe, pre_tokenizer=_pattern(LLAMA3), ignore_merges=True),
    "bloom": partial(_byte_bpe, pre_tokenizer=_pattern(BLOOM)),
    "bytes_unsplit": partial(
        _byte_bpe, pre_tokenizer=lambda p: p.ByteLevel(add_prefix_space=False, use_regex=False), ignore_merges=True
    ),
    "bytes_missing": partial(_byte_bpe, pre_tokenizer=lambda p: p.ByteLevel(add_prefix_space=False), size=700),
    "llama_json": partial(
        _piece_bpe, special=["<unk>", "<s>", "</s>", *_BYTES], settle=_llama, byte_fallback=True, fuse_unk=True
    ),
    "metaspace_always": partial(_piece_bpe, special=["<unk>"], settle=_metaspace("always", True), fuse_unk=True),
    "metaspace_first": partial(_piece_bpe, special=["<unk>"], settle=_metaspace("first", False)),
    "metaspace_never": partial(_piece_bpe, special=["<unk>"], settle=_metaspace("never", True)),
    "character": _character,
    "llama": partial(train_sentencepiece, **LLAMA),
    "bpe_nfkc": partial(train_sentencepiece, model_type="bpe", vocab_size=1500),
    "bpe_nfkc_cf": partial(
        train_sentencepiece,
        model_type="bpe",
        vocab_size=1500,
        normalization_rule_name="nfkc_cf",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
    ),
    "characters_nfkc": partial(train_sentencepiece, model_type="char", vocab_size=400, character_coverage=0.98),
    "llama2c": _tokenizer_bin,
    "bert": _bert,
    "bert_cased": partial(_bert, lowercase=False),
    "bert_accents": partial(_bert, lowercase=True, strip_accents=False, clean_text=False),
    "bert_case": partial(_bert, lowercase=False, strip_accents=True, handle_chinese_chars=False),
    "unigram_json": partial(_unigram, split=True),
    "unigram_unsplit": partial(_unigram, split=False),
    "t5": partial(train_sentencepiece, model_type="unigram", vocab_size=2000),
    "unigram_bytes": partial(train_sentencepiece, **LLAMA | {"model_type": "unigram", "vocab_size": 1500}),
    "unigram_long": partial(
        train_sentencepiece,
        model_type="unigram",
        vocab_size=1500,
        split_by_whitespace=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="nfkc",
    ),
}
"""Name → what trains it in a folder."""
