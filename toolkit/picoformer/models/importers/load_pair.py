"""A path to an ImportedPair: a Hugging Face folder of an encoder-decoder, checked before it is believed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from picoformer.errors import ModelError
from picoformer.models.encoder_decoder_config import EncoderDecoderConfig
from picoformer.models.encoder_decoder_weights import encoder_decoder_shapes
from picoformer.models.importers import bart, own_pair, t5
from picoformer.models.importers.folder import find_tokenizer, read_json
from picoformer.models.importers.huggingface import LEFT_OUT, OpenedFolder, check_shapes, open_folder
from picoformer.models.importers.imported import Weights
from picoformer.models.importers.imported_pair import ImportedPair
from picoformer.models.importers.keys import Keys
from picoformer.models.importers.tensors import Tensors

PAIRS: dict[str, Callable[[Keys, Tensors], tuple[EncoderDecoderConfig, Weights]]] = {
    "bart": bart.convert_bart,
    "marian": bart.convert_marian,
    "t5": t5.convert_t5,
    "mt5": t5.convert_mt5,
    own_pair.KIND: own_pair.convert_own,
}
"""model_type → what turns its keys and tensors into ours."""


def is_pair_folder(path: Path) -> bool:
    """Whether a folder's config.json names one of the families here; False for what cannot be read."""
    try:
        return path.is_dir() and read_json(path / "config.json").get("model_type") in PAIRS
    except (ModelError, TypeError):
        return False


def load_pair(path: Path) -> ImportedPair:
    """An encoder-decoder from a Hugging Face folder, or one of our own that `pair_folder.save_pair` wrote.

    Sizes and shapes are checked before memory is taken, numbers for being finite. Raises ModelError for anything amiss,
    one line that names the file and the key or tensor.
    """
    path = Path(path)
    if not path.is_dir():
        raise ModelError(f"{path}: no such folder; give the Hugging Face folder of an encoder-decoder")
    opened = open_folder(path, PAIRS)
    config, weights = PAIRS[opened.kind](opened.keys, opened.tensors)
    opened.keys.close()
    opened.tensors.close(LEFT_OUT)
    check_shapes(path, encoder_decoder_shapes(config), weights)
    begin, eos, pad = special_tokens(opened, config.vocab_size)
    sizes = f"{config.encoder.layers} and {config.decoder.layers} layers of {config.decoder.d_model}"
    source = f"{opened.kind} from {path.name}: {sizes}, {opened.types}"
    return ImportedPair(config, weights, opened.kind, source, opened.sha256, find_tokenizer(path), begin, eos, pad)


def special_tokens(opened: OpenedFolder, vocabulary: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """What the decoder begins with, what ends a text, and what fills one up. T5's decoders begin with its padding."""
    found = {
        name: opened.tokens(f"{name}_token_id", vocabulary)
        for name in ("decoder_start", "forced_bos", "bos", "eos", "pad")
    }
    start = found["decoder_start"] or (found["pad"] if opened.kind in ("t5", "mt5") else found["bos"])
    if not start:
        raise ModelError(
            f"{opened.keys.path}: 'decoder_start_token_id' is missing or outside the vocabulary of {vocabulary}; add it"
        )
    return (start[0], *found["forced_bos"][:1]), found["eos"], (found["pad"] or (0,))[0]
