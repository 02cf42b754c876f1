"""A Hugging Face or sentence-transformers folder to an ImportedEncoder; without torch, unless its file is torch's."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picoformer.errors import ModelError
from picoformer.models.config import TransformerConfig
from picoformer.models.importers import albert, bert, distilbert
from picoformer.models.importers.encoder_parts import TASKS, Encoder, Task, labels_of, unknown_task
from picoformer.models.importers.folder import files_digest, find_tokenizer, read_json, read_tensors
from picoformer.models.importers.huggingface import check_weights
from picoformer.models.importers.imported import Weights
from picoformer.models.importers.keys import Keys
from picoformer.models.importers.sentence import MODULES, Sentence, read_sentence
from picoformer.models.importers.tensors import Stored, Tensors

Converter = Callable[[Keys, Tensors, Task, bool], Encoder]

ENCODERS: dict[str, Converter] = {
    "bert": bert.convert_bert,
    "roberta": bert.convert_roberta,
    "xlm-roberta": bert.convert_roberta,
    "camembert": bert.convert_roberta,
    "distilbert": distilbert.convert,
    "albert": albert.convert,
}
"""model_type → what turns its keys and tensors into ours."""

BUFFERS = re.compile(r"(^|\.)embeddings\.(position_ids|token_type_ids)$")
"""Tensors of older files that are no weights."""
HEADS = re.compile(
    r"^(cls\.|lm_head\.|classifier\.|qa_outputs\.|pre_classifier\.|vocab_\w+\.|predictions\.|sop_classifier\.)|"
    r"^(\w+\.)?pooler\."
)
"""Tensors of heads: those of other tasks are left out."""
OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}
"""How files converted from TensorFlow call a norm's gain and bias."""


@dataclass(frozen=True)
class ImportedEncoder:
    """An encoder; `weights` are float32, finite, with the names and shapes of `weight_shapes(config)`."""

    config: TransformerConfig
    weights: Weights
    family: str
    task: str
    source: str  # for people: what was read, and what was left out of it
    sha256: str  # over all files that were read
    tokenizer: Path | None
    labels: tuple[str, ...]  # names of the classes, where the task has some
    longest: int  # tokens of the longest text that it was made for


def is_encoder(path: Path) -> bool:
    """Whether a path is the folder of an encoder: its config.json names one of ENCODERS, or it has modules.json."""
    if (path / MODULES).is_file():
        return True
    if not (path / "config.json").is_file():
        return False
    return read_json(path / "config.json").get("model_type") in ENCODERS


def load_encoder(folder: Path, task: str = "", pairs: bool | None = None) -> ImportedEncoder:
    """The encoder in a folder. `task`: one of TASKS, where the folder leaves it open or another one is wanted. `pairs`:
    whether texts may be two, told apart by segment ids; None: where the model knows segments, but for sentence vectors.

    Sizes and shapes are checked before memory is taken, numbers for being finite. Raises ModelError for anything amiss,
    one line that names the file and the key or tensor.
    """
    sentence = read_sentence(folder)
    body = folder if sentence is None else sentence.folder
    path = body / "config.json"
    values = read_json(path)
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in ENCODERS:
        raise ModelError(
            f"{path}: model_type = {kind!r} is no encoder that is covered; known are {', '.join(ENCODERS)}"
        )
    keys = Keys(path, values)
    chosen = _task(keys, task, sentence)
    is_sentence = sentence is not None and not task
    infos, files = read_tensors(body, with_torch=True)
    tensors = Tensors(body, _renamed(body, infos))
    found = ENCODERS[kind](keys, tensors, chosen, not is_sentence if pairs is None else pairs)
    config = found.config
    labels = labels_of(keys) if chosen.is_classes else ()
    keys.close()
    left = [name for name in tensors.left() if HEADS.search(name)]
    tensors.close(re.compile(f"{BUFFERS.pattern}|{HEADS.pattern}"))
    if sentence is not None and is_sentence:
        config = dataclasses.replace(config, pooling=sentence.pooling, normalize=sentence.normalize)
    check_weights(body, config, found.weights)
    longest = min(config.sequence, sentence.longest) if sentence is not None and sentence.longest else config.sequence
    parts = ", ".join(sorted({info.dtype for info in infos.values()}))
    others = sorted({name.split(".")[0] for name in left})
    notes = (
        f"{kind} from {folder.name}: {config.layers} layers of {config.d_model}, {parts}",
        found.note,
        f"left out, as {chosen.name} does not use it: {', '.join(others)}" if others else "",
    )
    read = [path, *files, *(sentence.files if sentence is not None else ())]
    return ImportedEncoder(
        config, found.weights, kind, chosen.name, "; ".join(note for note in notes if note), files_digest(read),
        find_tokenizer(folder), labels, longest,
    )  # fmt: skip


def _task(keys: Keys, asked: str, sentence: Sentence | None) -> Task:
    """The task that is asked for, that of a sentence encoder, or the one of the class in `architectures`."""
    if asked:
        if asked not in TASKS:
            raise ModelError(f"unknown task '{asked}'; use one of {', '.join(TASKS)}")
        return TASKS[asked]
    if sentence is not None:
        return TASKS["embedding"]
    found: Any = keys.value("architectures", default=None)
    if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], str):
        raise unknown_task(keys.path, found)
    ends = [task for task in TASKS.values() if task.architecture and found[0].endswith(task.architecture)]
    if not ends:
        raise unknown_task(keys.path, found[0])
    return ends[0]


def _renamed(folder: Path, infos: dict[str, Stored]) -> dict[str, Stored]:
    """Tensors under today's names."""
    found: dict[str, Stored] = {}
    for name, info in infos.items():
        new = name
        for old, today in OLD_NAMES.items():
            new = new.removesuffix(old) + today if new.endswith(old) else new
        if new in found:
            raise ModelError(f"{folder}: has both an old and a new name for tensor '{new}'; get the checkpoint again")
        found[new] = info
    return found
