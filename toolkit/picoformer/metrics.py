"""How good an answer is: accuracy, macro F1, perplexity, bits per character, cosine, BLEU and ROUGE; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from picoformer.errors import ConfigError, DataError

Array = NDArray[Any]

IGNORED = -100
"""The label of a row that is not judged: padding. (The number that torch's cross-entropy leaves out.)"""


@dataclass(frozen=True)
class Judgement:
    """How well logits foretell labels. `bits_per_label` is the mean cross-entropy in bits, `perplexity` 2 to its
    power; `bits_per_character` is None for data that is not text."""

    accuracy: float
    macro_f1: float
    bits_per_label: float
    perplexity: float
    bits_per_character: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """Plain JSON types."""
        return asdict(self)


def judge(logits: Array, labels: NDArray[np.int64], characters_per_label: float = 0.0) -> Judgement:
    """Judge logits (n, classes) by labels (n,), or (n, rows, classes) by (n, rows); IGNORED labels do not count.

    `characters_per_label`: mean characters of text that a label stands for, 0 where it is no text. Raises DataError
    for shapes that do not belong together, labels outside the classes, or none that counts.
    """
    if logits.shape[:-1] != labels.shape:
        raise DataError(f"logits of shape {logits.shape} for labels of shape {labels.shape}; give one label per row")
    counted = labels != IGNORED
    wanted = labels[counted]
    if not len(wanted):
        raise DataError(f"no label counts (all are {IGNORED}, or there are none); give labels")
    if wanted.min() < 0 or wanted.max() >= logits.shape[-1]:
        raise DataError(f"labels go from {wanted.min()} to {wanted.max()}, the model has {logits.shape[-1]} classes")
    rows = np.asarray(logits, np.float64)[counted]
    guess = rows.argmax(axis=-1)
    shifted = rows - rows.max(axis=-1, keepdims=True)
    surprise = np.log(np.exp(shifted).sum(axis=-1)) - shifted[np.arange(len(rows)), wanted]
    bits = float(surprise.mean() / np.log(2.0))
    return Judgement(
        accuracy=float((guess == wanted).mean()),
        macro_f1=macro_f1(guess, wanted),
        bits_per_label=bits,
        perplexity=float(2.0 ** min(bits, 1000.0)),
        bits_per_character=bits / characters_per_label if characters_per_label else None,
    )


def macro_f1(guess: Array, labels: Array) -> float:
    """The mean over classes of F1 = 2·hits / (guessed + true); classes that neither guess nor label names are none."""
    count = int(max(guess.max(initial=0), labels.max(initial=0))) + 1
    hits = np.bincount(labels[guess == labels], minlength=count)
    named = np.bincount(guess, minlength=count) + np.bincount(labels, minlength=count)
    return float((2.0 * hits[named > 0] / named[named > 0]).mean())


def confusion(guess: Array, labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """(classes, classes): how often each label, a row, was taken for each class, a column; without IGNORED labels."""
    counted = labels != IGNORED
    pairs = labels[counted] * classes + np.asarray(guess, np.int64)[counted]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def cosine(a: Array, b: Array) -> NDArray[np.float64]:
    """Cosine of the angle between embeddings (n, width), row by row: (n,). A zero row has cosine 0."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 2:
        raise DataError(f"embeddings of shapes {a.shape} and {b.shape}; give both (n, width)")
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.where(norms == 0.0, 1.0, norms), np.float64)


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU in 0 to 100 (Papineni et al. 2002, as sacrebleu defines it), one reference each."""
    _check_texts(hypotheses, references)
    try:
        import sacrebleu
    except ImportError as error:
        raise ConfigError("BLEU needs the library sacrebleu: pip install 'picoformer[text]'") from error
    return float(sacrebleu.corpus_bleu(list(hypotheses), [list(references)]).score)


def rouge(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Mean F-measures of ROUGE-1, ROUGE-2 and ROUGE-L in 0 to 1 (Lin 2004), as rouge-score computes them."""
    _check_texts(hypotheses, references)
    try:
        from rouge_score import rouge_scorer
    except ImportError as error:
        raise ConfigError("ROUGE needs the library rouge-score: pip install 'picoformer[text]'") from error
    kinds = ("rouge1", "rouge2", "rougeL")
    scorer = rouge_scorer.RougeScorer(kinds, use_stemmer=False)
    found = [scorer.score(reference, text) for text, reference in zip(hypotheses, references, strict=True)]
    return {kind: float(np.mean([scores[kind].fmeasure for scores in found])) for kind in kinds}


def _check_texts(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references) or not hypotheses:
        raise DataError(f"{len(hypotheses)} texts for {len(references)} references; give as many of both, at least 1")
