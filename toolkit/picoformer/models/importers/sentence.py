"""A sentence-transformers folder: modules.json says what stands behind the encoder, pooling and a norm to length 1."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picoformer.errors import ModelError
from picoformer.models.importers.folder import read_json, read_json_value
from picoformer.models.importers.keys import Keys

MODULES, LENGTHS = "modules.json", ("sentence_bert_config.json", "sentence_roberta_config.json",
                                    "sentence_distilbert_config.json", "sentence_albert_config.json")  # fmt: skip
POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}
"""A flag of 1_Pooling/config.json → our pooling; all others are refused when set."""
HARMLESS = {"include_prompt"}


@dataclass(frozen=True)
class Sentence:
    """How a sentence's vector comes from the rows, the longest sentence in tokens (0: not said), what was read."""

    folder: Path
    """Where config.json and the weights lie."""
    pooling: str
    normalize: bool
    longest: int
    files: tuple[Path, ...]


def read_sentence(folder: Path) -> Sentence | None:
    """What modules.json of a folder says; None without one. Raises ModelError for modules that are not covered."""
    path = folder / MODULES
    if not path.is_file():
        return None
    modules = read_json_value(path)
    plain = isinstance(modules, list) and 2 <= len(modules) <= 8 and all(isinstance(one, dict) for one in modules)
    if not plain:
        raise ModelError(f"{path}: is no list of modules; get it again")
    kinds = [str(one.get("type")).rsplit(".", 1)[-1] for one in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ModelError(
            f"{path}: its modules are {', '.join(kinds)[:120]}; covered are Transformer, Pooling and then Normalize or "
            "nothing"
        )
    places = [_place(path, folder, one.get("path")) for one in modules]
    pooling_path = places[1] / "config.json"
    body = places[0]
    lengths = [body / name for name in LENGTHS if (body / name).is_file()]
    longest = 0
    for name in lengths[:1]:
        keys = Keys(name, read_json(name))
        if keys.value("do_lower_case", default=None):
            raise ModelError(f"{name}: 'do_lower_case' = true is not covered; let the tokenizer lower the case")
        longest = keys.integer("max_seq_length", default=1 << 20)
    pooling = _pooling(pooling_path)
    return Sentence(body, pooling, len(kinds) == 3, longest, (path, pooling_path, *lengths[:1]))


def _place(path: Path, folder: Path, name: Any) -> Path:
    """The folder of a module, inside `folder`."""
    plain = isinstance(name, str) and not set(name) & set("/\\:\0") and name not in (".", "..")
    if not plain:
        raise ModelError(f"{path}: a module lies in {name!r}; it must be a folder beside modules.json")
    return folder / name if name else folder


def _pooling(path: Path) -> str:
    values = read_json(path)
    on = [name for name, value in values.items() if name.startswith("pooling_mode") and value]
    named = [name for name in on if name == "pooling_mode"]
    if named:  # newer files name the mode
        modes = {"mean": "mean", "cls": "first"}
        if values["pooling_mode"] not in modes or len(on) > 1:
            raise ModelError(
                f"{path}: 'pooling_mode' = {values['pooling_mode']!r} is not covered; only mean and cls are"
            )
        pooling = modes[values["pooling_mode"]]
    elif len(on) != 1 or on[0] not in POOLINGS:
        raise ModelError(
            f"{path}: pools by {', '.join(on)[:120] or 'nothing'}; covered is one of {', '.join(POOLINGS)}"
        )
    else:
        pooling = POOLINGS[on[0]]
    known = {"word_embedding_dimension", "embedding_dimension", *HARMLESS}
    for name, value in values.items():
        if name not in known and not name.startswith("pooling_mode") and value:
            raise ModelError(f"{path}: '{name}' = {value!r} is not known and may change what comes out; remove it")
    if values.get("include_prompt") is False:
        raise ModelError(f"{path}: 'include_prompt' = false leaves tokens out of the mean; only true is covered")
    return pooling
