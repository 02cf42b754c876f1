"""What a model's inputs and outputs are for: where a text goes in, and which task its outputs look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from picoformer.bundling.options import BundleOptions
from picoformer.errors import ConfigError
from picoformer.raspberry_pi.manifest import Classes, Embedding, TextInput
from picoformer.raspberry_pi.onnx_session import Array, Port
from picoformer.tokenizers import TextTokenizer

IDS = ("input_ids", "ids", "tokens", "token_ids", "x")
MASKS = ("attention_mask", "input_mask", "mask")
TYPES = ("token_type_ids", "segment_ids")
LENGTHS = ("valid_length", "length", "lengths")
EMBEDDINGS = ("sentence_embedding", "embedding", "embeddings", "pooler_output", "last_hidden_state", "hidden", "pooled")
"""What inputs and outputs are called; the first that is there."""
MAX_LENGTH = 512
LABEL_CHARACTERS = 200


def text_input(
    inputs: Sequence[Port], tokenizer: TextTokenizer | None, options: BundleOptions, pad: int, stored_length: int
) -> TextInput | None:
    """How a text goes in; None without a tokenizer. Raises ConfigError where the model takes something else."""
    if tokenizer is None:
        if options.max_length:
            raise ConfigError("--max-length says nothing without a tokenizer; give --tokenizer, or leave it out")
        return None
    names = {port.name: port for port in inputs}
    whole = [port.name for port in inputs if port.dtype in ("int64", "int32") and 1 <= len(port.shape) <= 2]
    ids = next((name for name in IDS if name in whole), whole[0] if len(whole) == 1 else None)
    if ids is None:
        known = ", ".join(f"'{port.name}' {port.dtype}" for port in inputs)
        raise ConfigError(f"--tokenizer: the model has no input for token ids (it has {known}); leave it out")
    mask, types, length = (_first(kind, names) for kind in (MASKS, TYPES, LENGTHS))
    taken = {ids, mask, types, length}
    other = next((name for name in names if name not in taken), None)
    if other is not None:
        raise ConfigError(
            f"--tokenizer: nobody says what the input '{other}' is of a text; export the model without it, or leave "
            "--tokenizer out"
        )
    fixed = names[ids].shape[-1]
    longest = options.max_length or stored_length or MAX_LENGTH
    longest = longest if fixed is None else min(longest, fixed) if not options.max_length else longest
    if fixed is not None and longest > fixed:
        raise ConfigError(f"--max-length {longest}: the model takes {fixed} tokens; give that at most")
    around = len(tokenizer.prefix) + len(tokenizer.suffix)
    if longest <= around:
        raise ConfigError(f"--max-length {longest} has no room beside the {around} tokens around a text; give more")
    return TextInput(ids, mask, types, length, longest, pad)


def _first(kind: Sequence[str], names: Mapping[str, Port]) -> str | None:
    return next((name for name in kind if name in names), None)


def task_of(outputs: Sequence[Port], options: BundleOptions) -> str:
    """The task that is asked for, or that the outputs look like: one row of scores called logits or with names given
    classifies, what is called an embedding is one, anything else is run."""
    if options.task is not None:
        return options.task
    if options.classes is not None:
        return "classify"
    if options.pooling is not None:
        return "embed"
    if len(outputs) == 1 and outputs[0].name in ("logits", "scores", "probabilities") and _is_row(outputs[0]):
        return "classify"
    return "embed" if any(port.name in EMBEDDINGS for port in outputs) else "run"


def _is_row(port: Port) -> bool:
    return bool(port.shape) and port.shape[-1] not in (None, 1) and port.size == port.shape[-1]


def output_of(outputs: Sequence[Port], options: BundleOptions, likely: Sequence[str]) -> Port:
    """The output that matters. Raises ConfigError where there are several and none is named."""
    names = {port.name: port for port in outputs}
    if options.output is not None:
        if options.output not in names:
            raise ConfigError(f"--output-name {options.output}: the model has {', '.join(names)}")
        return names[options.output]
    found = next((names[name] for name in likely if name in names), None)
    if found is None and len(outputs) > 1:
        raise ConfigError(f"the model has the outputs {', '.join(names)}; say which one with --output-name")
    return found or outputs[0]


def classes_of(
    outputs: Sequence[Port], options: BundleOptions, rows: Sequence[Array], has_labels: bool, output: Port
) -> Classes:
    """How classes are scored; `rows`: what the sample's outputs are. Raises ConfigError for rows that are no scores."""
    if any(row.size != row.shape[-1] for row in rows if row.ndim) or not rows:
        raise ConfigError(f"output '{output.name}' is {list(rows[0].shape)}, not one row of scores; give --task run")
    scores = options.scores or ("probabilities" if all(map(_sums_to_one, rows)) else "logits")
    return Classes(output.name, scores, "labels.txt" if has_labels else None)


def _sums_to_one(row: Array) -> bool:
    return bool(row.min() >= 0 and abs(float(row.sum(dtype=np.float64)) - 1) < 1e-3)


def embedding_of(options: BundleOptions, output: Port, rows: Sequence[Array], text: TextInput | None) -> Embedding:
    """Which vector; where the output has several rows, their mean unless something else is asked for."""
    has_rows = any(row.size != row.shape[-1] for row in rows if row.ndim) or (
        text is not None and len(output.shape) == 3 and output.shape[-2] != 1
    )
    pooling = options.pooling or ("mean" if has_rows else "none")
    if pooling == "mean" and text is not None and not has_rows:
        raise ConfigError(f"--pooling mean: output '{output.name}' has one row already; leave it out")
    return Embedding(output.name, pooling, options.normalize)


def read_labels(given: str | None) -> tuple[str, ...]:
    """Names of the classes, out of a text file with one a line, or separated by commas. Raises ConfigError."""
    if given is None:
        return ()
    path = Path(given)
    if "," not in given and not path.is_file():
        raise ConfigError(f"--classes {given}: there is no such file; give one, or the names as a,b,c")
    try:
        lines = path.read_text("utf-8").splitlines() if path.is_file() else given.split(",")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--classes {given}: cannot be read as text ({error}); give one name a line") from None
    names = tuple(line.strip() for line in lines if line.strip())
    wrong = next((name for name in names if not name.isprintable() or len(name) > LABEL_CHARACTERS), None)
    if wrong is not None or len(set(names)) != len(names) or not names:
        raise ConfigError(f"--classes {given}: every class needs a name of its own that prints, one a line")
    return names
