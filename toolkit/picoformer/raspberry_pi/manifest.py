"""What a bundle says of its model (bundle.json): the task, how text becomes numbers and numbers an answer."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from picoformer.raspberry_pi.json_fields import LONGEST_WORD, NAME, Fields

FORMAT = 1
TASKS = ("run", "classify", "embed", "generate")
POOLINGS = ("none", "first", "mean")
SCORES = ("logits", "probabilities")
RULES = ("close", "labels", "likeness")
MOST_TOKENS = 1 << 20
MOST_BYTES = 1 << 34
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TextInput:
    """How a text becomes inputs: `ids` takes the tokens, `mask` ones where they are, `types` zeros, `length` how many
    there are; None where the model has no such input. Where the model's length is fixed, `pad` fills it up."""

    ids: str
    mask: str | None = None
    types: str | None = None
    length: str | None = None
    max_length: int = 512
    pad: int = 0


@dataclass(frozen=True)
class Classes:
    """Which output scores the classes, as logits or as probabilities, and the file of their names, one a line."""

    output: str
    scores: str = "logits"
    labels: str | None = None


@dataclass(frozen=True)
class Embedding:
    """Which output is the vector, or the rows whose mean over the tokens or whose first is; of length 1 or not."""

    output: str
    pooling: str = "none"
    normalize: bool = True


@dataclass(frozen=True)
class Decoding:
    """A language model's step of one token. A state goes out under its second name and in again under its first.

    `logits_scale`: what one step of 16-bit logits stands for; None where they are float. `sampling`: what holds where
    nobody says otherwise, under the names of `generate`'s options.
    """

    context: int
    vocabulary: int
    bos: int | None
    eos: tuple[int, ...]
    states: tuple[tuple[str, str], ...]
    logits_scale: float | None = None
    sampling: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Parity:
    """A sample with the answers that the source model gives, in the file: see `checking`.

    rule        close: outputs within `bound` · max|reference|; labels: those equal; likeness: cosine at least `bound`
    texts       what the sample's tokens are to come from, where it is of texts
    """

    file: str
    rule: str
    bound: float
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileRecord:
    """Size and SHA-256 of a file in the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The whole of bundle.json."""

    name: str
    task: str
    scheme: str
    model: str
    parity: Parity
    tokenizer: str | None = None
    text: TextInput | None = None
    classify: Classes | None = None
    embed: Embedding | None = None
    generate: Decoding | None = None
    provenance: dict[str, str] = field(default_factory=dict)
    files: dict[str, FileRecord] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"format": FORMAT, **asdict(self)}


def read_manifest(value: Any) -> Manifest:
    """The inverse of `Manifest.to_json`. Raises ValueError naming the first field that cannot be."""
    fields = Fields(value)
    version = fields.whole("format", 0, 1 << 31)
    if version != FORMAT:
        raise ValueError(f"'format' is {version}, and this program reads {FORMAT}")
    name, task = fields.word("name"), fields.word("task", TASKS)
    scheme, model = fields.word("scheme"), fields.file("model")
    parity = _parity(fields.part("parity"))
    tokenizer = fields.maybe("tokenizer", fields.file)
    text = fields.maybe("text", lambda key: _text(fields.part(key)))
    classify = fields.maybe("classify", lambda key: _classes(fields.part(key)))
    embed = fields.maybe("embed", lambda key: _embedding(fields.part(key)))
    generate = fields.maybe("generate", lambda key: _decoding(fields.part(key)))
    provenance = fields.part("provenance")
    origin = {key[:LONGEST_WORD]: provenance.word(key) for key in provenance.keys()[:64]}
    provenance.end()
    files = _files(fields.part("files"))
    fields.end()
    parts = {"classify": classify, "embed": embed, "generate": generate}
    if task in parts and parts[task] is None:
        raise ValueError(f"'task' is {task}, and '{task}' says nothing")
    if text is not None and tokenizer is None:
        raise ValueError("'text' says how tokens go in, and 'tokenizer' names none")
    labels = None if classify is None else classify.labels
    for wanted in (model, parity.file, tokenizer, labels):
        if wanted is not None and wanted not in files:
            raise ValueError(f"'files' has no '{wanted}'")
    return Manifest(
        name, task, scheme, model, parity, tokenizer, text, classify, embed, generate, origin, files
    )  # fmt: skip


def _parity(fields: Fields) -> Parity:
    file, rule = fields.file("file"), fields.word("rule", RULES)
    bound = fields.real("bound", 0, 1)
    texts = fields.items("texts", 64)
    if not all(isinstance(text, str) and len(text) <= 4096 for text in texts):
        raise ValueError("'parity.texts' holds something that is no short text")
    fields.end()
    return Parity(file, rule, bound, tuple(texts))


def _text(fields: Fields) -> TextInput:
    ids = fields.word("ids")
    mask, types, length = (fields.maybe(key, fields.word) for key in ("mask", "types", "length"))
    found = TextInput(
        ids, mask, types, length, fields.whole("max_length", 1, MOST_TOKENS), fields.whole("pad", 0, (1 << 31) - 1)
    )
    fields.end()
    return found


def _classes(fields: Fields) -> Classes:
    found = Classes(fields.word("output"), fields.word("scores", SCORES), fields.maybe("labels", fields.file))
    fields.end()
    return found


def _embedding(fields: Fields) -> Embedding:
    found = Embedding(fields.word("output"), fields.word("pooling", POOLINGS), fields.truth("normalize"))
    fields.end()
    return found


def _decoding(fields: Fields) -> Decoding:
    context, vocabulary = fields.whole("context", 1, MOST_TOKENS), fields.whole("vocabulary", 1, 1 << 24)
    bos = fields.maybe("bos", lambda key: fields.whole(key, 0, vocabulary - 1))
    eos = fields.items("eos", 64)
    if not all(type(token) is int and 0 <= token < vocabulary for token in eos):
        raise ValueError("'generate.eos' holds something that is no token of the vocabulary")
    states = fields.items("states", 4096)
    for pair in states:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair)):
            raise ValueError("'generate.states' holds something that is no pair of names")
    scale = fields.maybe("logits_scale", lambda key: fields.real(key, 1e-30, 1e30))
    sampling = fields.take("sampling")
    if not isinstance(sampling, dict):
        raise ValueError("'generate.sampling' is no object")
    fields.end()
    pairs = tuple((before, after) for before, after in states)
    return Decoding(context, vocabulary, bos, tuple(eos), pairs, scale, sampling)


def _files(fields: Fields) -> dict[str, FileRecord]:
    found = {}
    names = fields.keys()
    if len(names) > 64:
        raise ValueError("'files' names more than 64")
    for name in names:
        if not NAME.fullmatch(name):
            raise ValueError(f"'files' has {name[:80]!r}, which is no name of a file in the bundle")
        record = fields.part(name)
        size, digest = record.whole("bytes", 0, MOST_BYTES), record.word("sha256")
        if not DIGEST.fullmatch(digest):
            raise ValueError(f"'files.{name}.sha256' is no SHA-256")
        record.end()
        found[name] = FileRecord(size, digest)
    return found
